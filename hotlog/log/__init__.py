"""The hot log: Kafka's on-disk format on local NVMe, batches opaque."""
