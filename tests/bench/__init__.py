"""The bench: the same client and workload against Hotlog and Apache Kafka in turn. Run with `python -m tests.bench`."""
