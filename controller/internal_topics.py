"""Topics that the cluster itself needs, and how they are made."""

from __future__ import annotations

GROUPS_TOPIC = "__consumer_offsets"
INTERNAL_TOPICS = frozenset({GROUPS_TOPIC, "__transaction_state"})
# As Kafka's GroupMetadataManager: compacted, and here never tiered (it is small, and the newest value is what counts).
GROUPS_TOPIC_CONFIGS = {"cleanup.policy": "compact", "segment.bytes": "104857600", "remote.storage.enable": "false"}
