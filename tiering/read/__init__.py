"""The way out of the cold tier in a broker: from an offset to whole batches, and readahead."""
