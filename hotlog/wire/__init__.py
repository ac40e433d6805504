"""The language spoken on the wire: frames, batches, records, API structures."""
