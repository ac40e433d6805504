"""The cold tier: segment objects, manifests, upload, cold reads, cache, export, cost."""
