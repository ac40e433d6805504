"""Produce: its short way."""
