"""What may be done to topics: requests against an image and the settings, answered with metadata records or Kafka's refusals.

Rules: org.apache.kafka.controller.ReplicationControlManager (behaviour, not code), KIP-37 for names that collide in metrics, KIP-195 for
partitions.

Invariants: pure; a refusal names the thing, its value and what is allowed; what is accepted here cannot fail when it is applied,
short of the disk or the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from kio.schema.errors import ErrorCode

from controller.config_rules import Scope, check_tiering, topic_config
from controller.image import ClusterImage, TopicImage, flat_name
from controller.internal_topics import GROUPS_TOPIC, INTERNAL_TOPICS
from controller.records import PartitionsAdded, Replicas, TopicCreated, TopicDeleted
from hotlog.kernel.errors import Invalid, NotFound
from hotlog.kernel.ids import parse_topic_name
from hotlog.kernel.limits import PARTITIONS_PER_BROKER_MAX, PARTITIONS_PER_TOPIC_MAX
from hotlog.wire.error_codes import Refused


class NewTopic(NamedTuple):
    """A topic somebody wants.  -1 means the broker's default; `assignments` are (partition, replicas) or empty."""

    name: str
    partitions: int = -1
    replication_factor: int = -1
    configs: Mapping[str, str | None] = {}
    assignments: tuple[tuple[int, Replicas], ...] = ()


def plan_create(image: ClusterImage, wanted: NewTopic, topic_id: UUID, scope: Scope) -> TopicCreated:
    """The record that creates `wanted`.

    Raises:
        Refused, InvalidConfig
    """
    _check_new_name(image, wanted.name)
    partitions = _assignment(wanted, scope)
    hosted = image.partition_count
    if hosted + len(partitions) > PARTITIONS_PER_BROKER_MAX:
        raise Refused(
            ErrorCode.policy_violation,
            f"topic {wanted.name} with {len(partitions)} partitions would bring this broker to {hosted + len(partitions)};"
            f" at most {PARTITIONS_PER_BROKER_MAX} are allowed",
        )
    check_tiering(wanted.configs, {}, scope.settings)
    config = topic_config(wanted.configs, scope.settings)
    return TopicCreated(
        topic_id=topic_id,
        name=wanted.name,
        partitions=partitions,
        configs=dict(sorted(config.overrides.items())),
        created_ms=scope.now_ms,
    )


def check_name(name: str) -> None:
    """That a topic may have this name at all.

    Raises:
        Refused: INVALID_TOPIC_EXCEPTION
    """
    try:
        parse_topic_name(name)
    except Invalid as problem:
        raise Refused(ErrorCode.invalid_topic_exception, str(problem)) from None


def _check_new_name(image: ClusterImage, name: str) -> None:
    check_name(name)
    if name in image.topics:
        raise Refused(ErrorCode.topic_already_exists, f"topic {name!r} already exists")
    twin = image.flat_names.get(flat_name(name))
    if twin is not None:
        raise Refused(
            ErrorCode.invalid_topic_exception,
            f"topic {name!r} collides with the existing topic {twin!r}: they differ only in '.' and '_', which metrics cannot tell",
        )


def _assignment(wanted: NewTopic, scope: Scope) -> tuple[Replicas, ...]:
    if wanted.assignments:
        return _manual_assignment(wanted, scope)
    count = scope.settings.number("num.partitions") if wanted.partitions == -1 else wanted.partitions
    if not 1 <= count <= PARTITIONS_PER_TOPIC_MAX:
        raise Refused(
            ErrorCode.invalid_partitions,
            f"topic {wanted.name!r} cannot have {count} partitions; 1 to {PARTITIONS_PER_TOPIC_MAX} are allowed, or -1 for the default",
        )
    replicas = wanted.replication_factor
    if replicas == -1:
        replicas = scope.settings.number("default.replication.factor")
    if replicas != 1:
        raise Refused(
            ErrorCode.invalid_replication_factor,
            f"topic {wanted.name!r} cannot have replication factor {replicas}: this cluster has 1 broker, so 1 is allowed, or -1",
        )
    return ((scope.node_id,),) * count


def _manual_assignment(wanted: NewTopic, scope: Scope) -> tuple[Replicas, ...]:
    if wanted.partitions != -1 or wanted.replication_factor != -1:
        raise Refused(
            ErrorCode.invalid_request,
            f"topic {wanted.name!r} is given a manual assignment, so partitions and replication factor must be -1",
        )
    indexes = sorted(index for index, _ in wanted.assignments)
    if indexes != list(range(len(indexes))):
        raise Refused(
            ErrorCode.invalid_replica_assignment,
            f"topic {wanted.name!r} is assigned partitions {indexes[:20]}; they must be 0 to {len(indexes) - 1}, each once",
        )
    if len(indexes) > PARTITIONS_PER_TOPIC_MAX:
        raise Refused(
            ErrorCode.invalid_partitions, f"topic {wanted.name!r}: at most {PARTITIONS_PER_TOPIC_MAX} partitions are allowed"
        )
    return _checked_replicas(wanted.name, [replicas for _, replicas in sorted(wanted.assignments)], scope)


def _checked_replicas(name: str, assigned: Sequence[Replicas], scope: Scope) -> tuple[Replicas, ...]:
    for index, replicas in enumerate(assigned):
        if tuple(replicas) != (scope.node_id,):
            raise Refused(
                ErrorCode.invalid_replica_assignment,
                f"topic {name!r} partition {index} is assigned to {list(replicas)}; the only broker is {scope.node_id}",
            )
    return tuple(tuple(replicas) for replicas in assigned)


def plan_delete(topic: TopicImage, scope: Scope) -> TopicDeleted:
    """The record that deletes `topic`."""
    if not scope.settings.flag("delete.topic.enable"):
        raise Refused(ErrorCode.topic_deletion_disabled, "topic deletion is disabled: delete.topic.enable=false")
    if topic.name in INTERNAL_TOPICS:
        raise Refused(
            ErrorCode.policy_violation,
            f"topic {topic.name!r} is internal: with it would go what all groups, or all transactions, have come to",
        )
    return TopicDeleted(topic_id=topic.topic_id)


def plan_partitions(
    image: ClusterImage, topic: TopicImage, count: int, assigned: Sequence[Replicas] | None, scope: Scope
) -> PartitionsAdded:
    """The record that grows `topic` to `count` partitions (KIP-195)."""
    now = len(topic.partitions)
    if count <= now:
        words = "has as many" if count == now else f"has {now}, and partitions cannot be taken away"
        raise Refused(ErrorCode.invalid_partitions, f"topic {topic.name!r} cannot be brought to {count} partitions: it {words}")
    hosted = image.partition_count
    if count > PARTITIONS_PER_TOPIC_MAX or hosted + count - now > PARTITIONS_PER_BROKER_MAX:
        raise Refused(
            ErrorCode.invalid_partitions,
            f"topic {topic.name!r} cannot have {count} partitions; at most {PARTITIONS_PER_TOPIC_MAX} per topic and"
            f" {PARTITIONS_PER_BROKER_MAX} per broker are allowed",
        )
    if topic.name == GROUPS_TOPIC:
        raise Refused(
            ErrorCode.policy_violation, f"topic {topic.name!r} cannot grow: groups are found by its number of partitions"
        )
    if assigned is not None and len(assigned) != count - now:
        raise Refused(
            ErrorCode.invalid_replica_assignment,
            f"topic {topic.name!r}: {count - now} partitions are added, {len(assigned)} assignments are given",
        )
    added = ((scope.node_id,),) * (count - now) if assigned is None else _checked_replicas(topic.name, assigned, scope)
    return PartitionsAdded(topic_id=topic.topic_id, partitions=added)


def check_reassignment(image: ClusterImage, name: str, index: int, replicas: Sequence[int] | None) -> None:
    """That a partition may be given these replicas, where it stays (None: that it is not given others any more).  KIP-455.

    Raises:
        NotFound, Refused
    """
    topic = image.topics.get(name)
    if topic is None:
        raise NotFound(f"topic {name!r} does not exist")
    if not 0 <= index < len(topic.partitions):
        raise NotFound(f"topic {name!r} has no partition {index}")
    if replicas is None:
        raise Refused(ErrorCode.no_reassignment_in_progress, f"topic {name!r} partition {index} is not being reassigned")
    now = topic.partitions[index].replicas
    if tuple(replicas) != now:
        raise Refused(
            ErrorCode.invalid_replica_assignment,
            f"topic {name!r} partition {index} cannot be assigned to {list(replicas[:20])}: it stays on {list(now)}",
        )


def topic_by_id(image: ClusterImage, topic_id: UUID) -> TopicImage:
    """The topic of that id.

    Raises:
        NotFound
    """
    topic = image.topics_by_id.get(topic_id)
    if topic is None:
        raise NotFound(f"no topic has the id {topic_id}")
    return topic


def topic_by_name(image: ClusterImage, name: str) -> TopicImage:
    """The topic of that name.

    Raises:
        NotFound, Refused
    """
    if not name:
        raise Refused(ErrorCode.invalid_request, "a topic's name is not empty; there are no defaults of all topics")
    topic = image.topics.get(name)
    if topic is None:
        raise NotFound(f"topic {name!r} does not exist")
    return topic
