"""One fetch over many partitions and both tiers: sessions, rounds, what wakes a poll, cold reads that outlive it."""
