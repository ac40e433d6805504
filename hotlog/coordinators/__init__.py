"""Consumer groups: pure state machines, and the shards that run them on a keyed log."""
