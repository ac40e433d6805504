"""Copies to the cold tier: which segment is next, the check of its batches, its object, the commit of its row."""
