"""Partitions: the one face of a partition over both tiers, the rule of what is committed, and what this node hosts."""
