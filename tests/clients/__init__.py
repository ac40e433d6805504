"""Real Kafka clients, unchanged, against a real `hotlog serve`."""
