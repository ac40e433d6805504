"""Keys and bytes of what lies in the bucket: object names, segment objects, batches in a window of them.  Pure."""
