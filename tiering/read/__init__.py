"""Reads of the cold tier in a broker: from an offset to whole batches, and readahead."""
