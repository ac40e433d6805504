"""Parquet export of a log."""
