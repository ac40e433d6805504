"""Helpers that fetch and start other people's programs for tests and the bench: Apache Kafka, kcat, kafkajs, franz-go."""
