"""The doors: one file per Kafka API, its number first."""
