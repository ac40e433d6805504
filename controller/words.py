"""Committed changes in words, for the log.

Invariants: pure; a broker's setting is named without its value, which may be a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from controller.image import ALL_BROKERS, ClusterImage
from controller.records import (
    BrokerConfigsChanged,
    FeaturesFinalized,
    NamedConfigsChanged,
    PartitionsAdded,
    Record,
    TopicConfigsChanged,
    TopicCreated,
    TopicDeleted,
)


def words(record: Record, image: ClusterImage) -> str | None:
    """What `record` did; `image` is that after it.  None: nothing that people would want to read."""
    match record:
        case TopicCreated():
            settings = "".join(f", {name}={text}" for name, text in record.configs.items())
            return f"topic {record.name} ({record.topic_id}) is created with {len(record.partitions)} partitions{settings}"
        case TopicDeleted():
            return f"topic {_name(record.topic_id, image)} is deleted"
        case PartitionsAdded():
            return f"topic {_name(record.topic_id, image)} has {len(record.partitions)} partitions more"
        case TopicConfigsChanged():
            return f"topic {_name(record.topic_id, image)}: {_changes(record.configs)}"
        case NamedConfigsChanged():
            return f"{record.kind.value} {record.name!r}: {_changes(record.configs)}"
        case BrokerConfigsChanged():
            whose = "all brokers" if record.node_id == ALL_BROKERS else f"broker {record.node_id}"
            changes = ", ".join(f"{name} {'taken away' if text is None else 'set'}" for name, text in record.configs.items())
            return f"{whose}: {changes}"
        case FeaturesFinalized():
            return "features: " + ", ".join(f"{name} is at level {level}" for name, level in record.levels.items())
        case _:
            return None


def _changes(configs: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} taken away" if text is None else f"{name}={text}" for name, text in configs.items())


def _name(topic_id: UUID, image: ClusterImage) -> str:
    topic = image.topics_by_id.get(topic_id) or image.doomed.get(topic_id)
    return f"{topic.name} ({topic_id})" if topic is not None else str(topic_id)
