"""Topics that the cluster itself needs, and how they are made."""

from __future__ import annotations

GROUPS_TOPIC, TRANSACTIONS_TOPIC = "__consumer_offsets", "__transaction_state"
INTERNAL_TOPICS = frozenset({GROUPS_TOPIC, TRANSACTIONS_TOPIC})
# As Kafka's GroupMetadataManager: compacted, and here never tiered (it is small, and the newest value is what counts).
GROUPS_TOPIC_CONFIGS = {"cleanup.policy": "compact", "segment.bytes": "104857600", "remote.storage.enable": "false"}
# As Kafka's TransactionCoordinatorConfigs; with segment.bytes from transaction.state.log.segment.bytes.
TRANSACTIONS_TOPIC_CONFIGS = {"cleanup.policy": "compact", "remote.storage.enable": "false"}
