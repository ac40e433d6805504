"""Hotlog: a Kafka-compatible log service whose history lives, with its indexes, in an object store."""

__version__ = "0.1.0"
