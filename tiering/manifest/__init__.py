"""What a partition's cold tier consists of: the root manifest, its archive pages, every change of it, and its place in the store."""
