"""The Java client's own half of what Kafka applications need: transactions, a group of the new protocol, the admin client; in one process.

Tour.java says what it was told, at each step; here stands what Apache Kafka 4.3 tells it (HOTLOG_CLIENTS_AGAINST=kafka proves that).
"""

from __future__ import annotations

import json
import uuid

from tests.clients.conftest import not_here
from tests.tools.cache import ToolMissing
from tests.tools.clients import java_command, run_client

EXPECTED = {
    "nodes": 1, "cluster": True, "features": True, "validated only": True, "again": "TopicExistsException", "partitions": 2,
    "segment.ms": "1234567 DYNAMIC_TOPIC_CONFIG", "cleanup.policy": "delete,compact DYNAMIC_TOPIC_CONFIG",
    "retention.ms": "604800000 DEFAULT_CONFIG",
    "open since": 2, "transaction": "Ongoing 2", "listed": True, "last stable": 2, "high watermark": 3,
    "read committed": "one one two two", "offsets": True, "fenced": "InvalidProducerEpochException",
    "group": "Consumer Stable uniform", "members": 1, "assigned": 2, "in list": True,
    "moved": "1 moved", "left": 1, "gone": "GroupIdNotFoundException",
    "earliest": 0, "low watermark": 2, "earliest after": 2, "on disk": "[0, 1]", "deleted": True,
}  # fmt: skip


def test_the_java_client_does_all_that_it_can(bootstrap: str, topic: str) -> None:
    try:
        command = java_command("Tour")
    except ToolMissing as missing:
        not_here("java", missing)
    wanted = {"topic": topic, "group": f"group-{topic}", "transactional_id": uuid.uuid4().hex}
    assert json.loads(run_client([*command, bootstrap, json.dumps(wanted)])) == EXPECTED
