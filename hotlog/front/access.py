"""Which permissions each API asks for: an operation on a kind of resource, and where a request names the resources.

Source: Kafka 4.3, Security, "Operations and Resources on Protocols"; codes as in AclOperation and ResourceType.  Produce asks for no
IdempotentWrite (KIP-679).  The partitions of a fetch session were named by the request that put them there.

Invariants: every API that is served has a row, empty where Kafka asks for nothing (a test compares them with ApiVersions); a request that
answers about everything, such as a list, names everything that is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from enum import IntEnum
from typing import Any, NamedTuple
from uuid import UUID

from hotlog.broker.broker import Broker
from hotlog.kernel.errors import HotlogError

CLUSTER_NAME = "kafka-cluster"  # the one resource of its kind
GROUP_KEYS, TRANSACTION_KEYS = 0, 1  # FindCoordinatorRequest.key_type
TOPIC_CONFIGS, BROKER_CONFIGS, LOGGER_CONFIGS, CLIENT_METRICS, GROUP_CONFIGS = 2, 4, 8, 16, 32  # ConfigResource.Type


class Operation(IntEnum):
    """What is done (AclOperation)."""

    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    CLUSTER_ACTION = 9
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11
    IDEMPOTENT_WRITE = 12


class Resource(IntEnum):
    """What it is done to (ResourceType)."""

    TOPIC = 2
    GROUP = 3
    CLUSTER = 4
    TRANSACTIONAL_ID = 5


Names = Callable[[Broker, Any], Iterable[str]]  # (broker, decoded request) -> names of resources


class Need(NamedTuple):
    """One permission.  Whoever may do `unless` to the cluster needs no other for it."""

    operation: Operation
    resource: Resource
    names: Names
    unless: Operation | None = None


def _cluster(broker: Broker, request: Any) -> Iterable[str]:
    return (CLUSTER_NAME,)


def _topic(broker: Broker, name: str | UUID | None) -> Iterable[str]:
    """The name of a topic that is named or given by id; nothing for an id that nobody has, which is answered as such."""
    if isinstance(name, UUID):
        known = broker.topic_by_id(name)
        return () if known is None else (known.name,)
    return () if name is None else (name,)


def _topics_in(field: str) -> Names:
    def names(broker: Broker, request: Any) -> Iterable[str]:
        for topic in getattr(request, field) or ():
            yield from _topic(broker, _named(topic))

    return names


def _named(topic: Any) -> str | UUID | None:
    """The name or id in a structure of the wire, whatever its version calls it."""
    for field in ("name", "topic", "topic_id"):
        value: str | UUID | None = getattr(topic, field, None)
        if value is not None:
            return value
    return None


def _fetched(broker: Broker, request: Any) -> Iterable[str]:
    for topic in dict.fromkeys(topic for topic, _ in request.partitions):
        yield from _topic(broker, topic)


def _described(broker: Broker, request: Any) -> Iterable[str]:
    """The topics of Metadata and DescribeTopicPartitions: those that are named, or all."""
    return _topics_in("topics")(broker, request) if request.topics else tuple(broker.image.topics)


def _made_by_metadata(broker: Broker, request: Any) -> Iterable[str]:
    if not broker.settings.flag("auto.create.topics.enable") or not getattr(request, "allow_auto_topic_creation", True):
        return ()
    return (name for name in _topics_in("topics")(broker, request) if broker.topic(name) is None)


def _deleted(broker: Broker, request: Any) -> Iterable[str]:
    return _topics_in("topics")(broker, request) if hasattr(request, "topics") else request.topic_names


def _group(broker: Broker, request: Any) -> Iterable[str]:
    return (request.group_id,)


def _groups_in(field: str) -> Names:
    def names(broker: Broker, request: Any) -> Iterable[str]:
        return tuple(getattr(request, field))

    return names


def _groups_there(broker: Broker, request: Any) -> Iterable[str]:
    return broker.groups.kept_ids()


def _offset_groups(broker: Broker, request: Any) -> Iterable[str]:
    return (group.group_id for group in request.groups) if hasattr(request, "groups") else (request.group_id,)


def _offset_topics(broker: Broker, request: Any) -> Iterable[str]:
    for part in request.groups if hasattr(request, "groups") else (request,):
        if part.topics is not None:
            yield from _topics_in("topics")(broker, part)
            continue
        with suppress(HotlogError):  # a group that is not kept here is answered as such
            yield from dict.fromkeys(topic for topic, _ in broker.groups.offsets(part.group_id))


def _topics_subscribed(broker: Broker, request: Any) -> Iterable[str]:
    return request.subscribed_topic_names or ()


def _coordinated(kind: int) -> Names:
    def names(broker: Broker, request: Any) -> Iterable[str]:
        if getattr(request, "key_type", GROUP_KEYS) != kind:
            return ()
        return request.coordinator_keys if hasattr(request, "coordinator_keys") else (request.key,)

    return names


def _transactions_in(field: str) -> Names:
    def names(broker: Broker, request: Any) -> Iterable[str]:
        return tuple(getattr(request, field))

    return names


def _transactions_there(broker: Broker, request: Any) -> Iterable[str]:
    return (txn.transactional_id for txn in broker.transactions.all())


def _clients_transaction(broker: Broker, request: Any) -> Iterable[str]:
    """Of AddPartitionsToTxn as clients send it; brokers may act on the cluster."""
    return (request.v3_and_below_transactional_id,) if hasattr(request, "v3_and_below_transactional_id") else ()


def _clients_topics(broker: Broker, request: Any) -> Iterable[str]:
    return (topic.name for topic in getattr(request, "v3_and_below_topics", ()))


def _brokers_transactions(broker: Broker, request: Any) -> Iterable[str]:
    return (CLUSTER_NAME,) if hasattr(request, "transactions") else ()


def _transaction(broker: Broker, request: Any) -> Iterable[str]:
    return () if request.transactional_id is None else (request.transactional_id,)


def _cluster_without_transaction(broker: Broker, request: Any) -> Iterable[str]:
    return (CLUSTER_NAME,) if request.transactional_id is None else ()


def _configs_of(*kinds: int) -> Names:
    def names(broker: Broker, request: Any) -> Iterable[str]:
        found = (one for one in request.resources if one.resource_type in kinds)
        return (one.resource_name if one.resource_type in (TOPIC_CONFIGS, GROUP_CONFIGS) else CLUSTER_NAME for one in found)

    return names


_TOPICS, _BROKERS = _configs_of(TOPIC_CONFIGS), _configs_of(BROKER_CONFIGS, LOGGER_CONFIGS, CLIENT_METRICS)
_READ_GROUP = (Need(Operation.READ, Resource.GROUP, _group),)
_ALTER_CLUSTER = (Need(Operation.ALTER, Resource.CLUSTER, _cluster),)
_DESCRIBE_CLUSTER = (Need(Operation.DESCRIBE, Resource.CLUSTER, _cluster),)
_ALTER_CONFIGS = (
    Need(Operation.ALTER_CONFIGS, Resource.TOPIC, _TOPICS),
    Need(Operation.ALTER_CONFIGS, Resource.CLUSTER, _BROKERS),
    Need(Operation.ALTER_CONFIGS, Resource.GROUP, _configs_of(GROUP_CONFIGS)),
)

NEEDS: Mapping[int, tuple[Need, ...]] = {
    0: (
        Need(Operation.WRITE, Resource.TRANSACTIONAL_ID, _transaction),
        Need(Operation.WRITE, Resource.TOPIC, _topics_in("topics")),
    ),
    1: (Need(Operation.READ, Resource.TOPIC, _fetched, unless=Operation.CLUSTER_ACTION),),
    2: (Need(Operation.DESCRIBE, Resource.TOPIC, _topics_in("topics")),),
    3: (
        Need(Operation.DESCRIBE, Resource.TOPIC, _described),
        Need(Operation.CREATE, Resource.TOPIC, _made_by_metadata, unless=Operation.CREATE),
    ),
    8: (*_READ_GROUP, Need(Operation.READ, Resource.TOPIC, _topics_in("topics"))),
    9: (
        Need(Operation.DESCRIBE, Resource.GROUP, _offset_groups),
        Need(Operation.DESCRIBE, Resource.TOPIC, _offset_topics),
    ),
    10: (
        Need(Operation.DESCRIBE, Resource.GROUP, _coordinated(GROUP_KEYS)),
        Need(Operation.DESCRIBE, Resource.TRANSACTIONAL_ID, _coordinated(TRANSACTION_KEYS)),
    ),
    11: _READ_GROUP,
    12: _READ_GROUP,
    13: _READ_GROUP,
    14: _READ_GROUP,
    15: (Need(Operation.DESCRIBE, Resource.GROUP, _groups_in("groups")),),
    16: (Need(Operation.DESCRIBE, Resource.GROUP, _groups_there, unless=Operation.DESCRIBE),),
    18: (),
    19: (Need(Operation.CREATE, Resource.TOPIC, _topics_in("topics"), unless=Operation.CREATE),),
    20: (Need(Operation.DELETE, Resource.TOPIC, _deleted),),
    21: (Need(Operation.DELETE, Resource.TOPIC, _topics_in("topics")),),
    22: (
        Need(Operation.WRITE, Resource.TRANSACTIONAL_ID, _transaction),
        Need(Operation.IDEMPOTENT_WRITE, Resource.CLUSTER, _cluster_without_transaction),
    ),
    23: (Need(Operation.DESCRIBE, Resource.TOPIC, _topics_in("topics"), unless=Operation.CLUSTER_ACTION),),
    24: (
        Need(Operation.WRITE, Resource.TRANSACTIONAL_ID, _clients_transaction),
        Need(Operation.WRITE, Resource.TOPIC, _clients_topics),
        Need(Operation.CLUSTER_ACTION, Resource.CLUSTER, _brokers_transactions),
    ),
    25: (Need(Operation.WRITE, Resource.TRANSACTIONAL_ID, _transaction), *_READ_GROUP),
    26: (Need(Operation.WRITE, Resource.TRANSACTIONAL_ID, _transaction),),
    27: (Need(Operation.CLUSTER_ACTION, Resource.CLUSTER, _cluster, unless=Operation.ALTER),),
    28: (
        Need(Operation.WRITE, Resource.TRANSACTIONAL_ID, _transaction),
        *_READ_GROUP,
        Need(Operation.READ, Resource.TOPIC, _topics_in("topics")),
    ),
    32: (
        Need(Operation.DESCRIBE_CONFIGS, Resource.TOPIC, _TOPICS),
        Need(Operation.DESCRIBE_CONFIGS, Resource.CLUSTER, _BROKERS),
        Need(Operation.DESCRIBE_CONFIGS, Resource.GROUP, _configs_of(GROUP_CONFIGS)),
    ),
    33: _ALTER_CONFIGS,
    34: _ALTER_CLUSTER,
    35: _DESCRIBE_CLUSTER,
    37: (Need(Operation.ALTER, Resource.TOPIC, _topics_in("topics")),),
    42: (Need(Operation.DELETE, Resource.GROUP, _groups_in("groups_names")),),
    43: _ALTER_CLUSTER,
    44: _ALTER_CONFIGS,
    45: _ALTER_CLUSTER,
    46: _DESCRIBE_CLUSTER,
    47: (Need(Operation.DELETE, Resource.GROUP, _group), Need(Operation.READ, Resource.TOPIC, _topics_in("topics"))),
    48: (Need(Operation.DESCRIBE_CONFIGS, Resource.CLUSTER, _cluster),),
    50: _DESCRIBE_CLUSTER,
    55: _DESCRIBE_CLUSTER,
    57: _ALTER_CLUSTER,
    60: _DESCRIBE_CLUSTER,
    61: (Need(Operation.READ, Resource.TOPIC, _topics_in("topics")),),
    64: _ALTER_CLUSTER,
    65: (Need(Operation.DESCRIBE, Resource.TRANSACTIONAL_ID, _transactions_in("transactional_ids")),),
    66: (Need(Operation.DESCRIBE, Resource.TRANSACTIONAL_ID, _transactions_there),),
    68: (*_READ_GROUP, Need(Operation.DESCRIBE, Resource.TOPIC, _topics_subscribed)),
    69: (Need(Operation.DESCRIBE, Resource.GROUP, _groups_in("group_ids")),),
    71: (),
    72: (),
    74: (Need(Operation.DESCRIBE_CONFIGS, Resource.CLUSTER, _cluster),),
    75: (Need(Operation.DESCRIBE, Resource.TOPIC, _described),),
    80: _ALTER_CLUSTER,
    81: _ALTER_CLUSTER,
}
