"""Reads of the cold tier without a broker: large ranges in order, to a sink."""
