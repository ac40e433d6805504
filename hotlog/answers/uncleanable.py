"""What cannot be cleaned of a compacted topic, told as a configuration that only who asks for it by its name is told.

Kafka has a metric for it and no request; `hotlog topic describe` has nothing but requests.

Invariants: the value is JSON, {partition: why}, of the partitions that are here; nobody can set it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hotlog.answers.config_entries import DEFAULT, Entry
from hotlog.answers.config_resources import Kind
from hotlog.kernel.configdef import KIND_CODES

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = "hotlog.uncleanable"


def uncleanable_entries(broker: Broker, resource: Any) -> list[Entry]:
    """The entry, where a request names it for a topic that is there."""
    topic = broker.topic(resource.resource_name) if resource.resource_type == Kind.TOPIC else None
    if topic is None or KEY not in (resource.configuration_keys or ()):
        return []
    found = {}
    for index in range(len(topic.partitions)):
        partition = broker.partition(topic.name, index)
        if partition is not None and partition.uncleanable:
            found[index] = partition.uncleanable
    return [
        Entry(
            KEY,
            json.dumps(found),
            DEFAULT,
            True,
            False,
            (),
            KIND_CODES["string"],
            "Partitions whose log cannot be cleaned, and why.",
        )
    ]
