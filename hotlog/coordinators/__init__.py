"""Keepers of group state."""
