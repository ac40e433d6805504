"""What may be done to topics: requests against an image and the settings, answered with metadata records or Kafka's refusals.

Rules: org.apache.kafka.controller.ReplicationControlManager and ConfigurationControlManager (behaviour, not code), KIP-37 for names
that collide in metrics, KIP-195 for partitions, KIP-339 for incremental changes.

Invariants: pure; a refusal names the thing, its value and what is allowed; what is accepted here cannot fail when it is applied,
short of the disk or the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from kio.schema.errors import ErrorCode

from controller.image import ALL_BROKERS, ClusterImage, TopicImage, fold
from controller.records import (
    BrokerConfigsChanged,
    PartitionsAdded,
    Record,
    Replicas,
    TopicConfigsChanged,
    TopicCreated,
    TopicDeleted,
)
from hotlog.kernel.configdef import ConfigKey
from hotlog.kernel.errors import HotlogError, Invalid, InvalidConfig
from hotlog.kernel.ids import parse_topic_name
from hotlog.kernel.limits import PARTITIONS_PER_BROKER_MAX, PARTITIONS_PER_TOPIC_MAX
from hotlog.kernel.settings import BROKER_KEYS, Settings, broker_key
from hotlog.kernel.topic_config import TopicConfig, check_change
from hotlog.wire.error_codes import Refused

GROUPS_TOPIC = "__consumer_offsets"
INTERNAL_TOPICS = frozenset({GROUPS_TOPIC, "__transaction_state"})
# As Kafka's GroupMetadataManager: compacted, and here never tiered (it is small, and the newest value is what counts).
GROUPS_TOPIC_CONFIGS = {"cleanup.policy": "compact", "segment.bytes": "104857600", "remote.storage.enable": "false"}

CONFIG_CHARS_MAX = 1024
_PROTECTING = ("listener", "sasl.", "ssl.")  # with these in force a client would be asked who it is

SET, DELETE, APPEND, SUBTRACT = 0, 1, 2, 3  # IncrementalAlterConfigs operations (KIP-339)


class NewTopic(NamedTuple):
    """A topic somebody wants.  -1 means the broker's default; `assignments` are (partition, replicas) or empty."""

    name: str
    partitions: int = -1
    replication_factor: int = -1
    configs: Mapping[str, str | None] = {}
    assignments: Sequence[tuple[int, Replicas]] = ()


class ConfigChange(NamedTuple):
    """One step of an incremental change."""

    name: str
    operation: int
    value: str | None


class Scope(NamedTuple):
    """What rules are applied against, besides the image."""

    settings: Settings
    node_id: int
    now_ms: int


def topic_config(configs: Mapping[str, str | None], settings: Settings) -> TopicConfig:
    """Own `configs` over the broker's defaults.

    Raises:
        InvalidConfig
    """
    _check_sizes(configs)
    return TopicConfig.resolve(configs, settings.topic_defaults(), is_tiering=settings.flag("remote.log.storage.system.enable"))


def _check_tiering(wanted: Mapping[str, str | None], before: Mapping[str, str], settings: Settings) -> None:
    """Nobody may switch on what this broker has not got; what a topic said before is not the fault of who changes something else."""
    key = "remote.storage.enable"
    is_asked = str(wanted.get(key)).strip().lower() == "true" and wanted.get(key) != before.get(key)
    if is_asked and not settings.flag("remote.log.storage.system.enable"):
        raise InvalidConfig(f"{key}=true is refused while remote.log.storage.system.enable=false on this broker")


def _check_sizes(configs: Mapping[str, str | None]) -> None:
    """Values are kept as they were given, in an object of bounded size."""
    for name, text in configs.items():
        if text is not None and len(text) > CONFIG_CHARS_MAX:
            raise InvalidConfig(f"{name[:100]} has a value of {len(text)} characters; at most {CONFIG_CHARS_MAX} are allowed")


def plan_create(image: ClusterImage, wanted: NewTopic, topic_id: UUID, scope: Scope) -> TopicCreated:
    """The record that creates `wanted`.

    Raises:
        Refused, InvalidConfig
    """
    _check_new_name(image, wanted.name)
    partitions = _assignment(wanted, scope)
    hosted = sum(len(topic.partitions) for topic in image.topics.values())
    if hosted + len(partitions) > PARTITIONS_PER_BROKER_MAX:
        raise Refused(
            ErrorCode.policy_violation,
            f"topic {wanted.name} with {len(partitions)} partitions would bring this broker to {hosted + len(partitions)};"
            f" at most {PARTITIONS_PER_BROKER_MAX} are allowed",
        )
    _check_tiering(wanted.configs, {}, scope.settings)
    config = topic_config(wanted.configs, scope.settings)
    return TopicCreated(
        topic_id=topic_id,
        name=wanted.name,
        partitions=partitions,
        configs=dict(sorted(config.overrides.items())),
        created_ms=scope.now_ms,
    )


def plan_creates(image: ClusterImage, wanted: Sequence[tuple[NewTopic, UUID]], scope: Scope) -> list[TopicCreated | HotlogError]:
    """For each topic, in order, the record that creates it or why not; each is judged with those before it in place."""
    outcomes: list[TopicCreated | HotlogError] = []
    for topic, topic_id in wanted:
        try:
            record = plan_create(image, topic, topic_id, scope)
        except HotlogError as refusal:
            outcomes.append(refusal)
        else:
            outcomes.append(record)
            image = fold(image, [record])
    return outcomes


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
    if "." in name or "_" in name:
        flat = name.replace(".", "_")
        twin = next((other for other in image.topics if other.replace(".", "_") == flat), None)
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


def plan_delete(image: ClusterImage, topic: TopicImage, scope: Scope) -> TopicDeleted:
    """The record that deletes `topic`."""
    if not scope.settings.flag("delete.topic.enable"):
        raise Refused(ErrorCode.topic_deletion_disabled, "topic deletion is disabled: delete.topic.enable=false")
    if topic.name in INTERNAL_TOPICS:
        raise Refused(ErrorCode.policy_violation, f"topic {topic.name!r} is internal: deleting it would lose all groups' offsets")
    return TopicDeleted(topic_id=topic.topic_id)


def plan_partitions(
    image: ClusterImage, topic: TopicImage, count: int, assigned: Sequence[Replicas] | None, scope: Scope
) -> PartitionsAdded:
    """The record that grows `topic` to `count` partitions (KIP-195)."""
    now = len(topic.partitions)
    if count <= now:
        words = "has as many" if count == now else f"has {now}, and partitions cannot be taken away"
        raise Refused(ErrorCode.invalid_partitions, f"topic {topic.name!r} cannot be brought to {count} partitions: it {words}")
    hosted = sum(len(other.partitions) for other in image.topics.values())
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


def plan_topic_configs(topic: TopicImage, wanted: Mapping[str, str | None], scope: Scope) -> Record | None:
    """The record that makes `wanted` the topic's own settings, or None if they are already.

    Raises:
        InvalidConfig
    """
    wanted = _given(wanted)
    _check_tiering(wanted, topic.configs, scope.settings)
    before, after = topic_config(topic.configs, scope.settings), topic_config(wanted, scope.settings)
    if before.remote_enabled and not after.remote_enabled and "remote.storage.enable" not in wanted:
        # Turned off only by who says so: what the store has of a topic that becomes compacted stays readable.
        after = topic_config({**wanted, "remote.storage.enable": "true"}, scope.settings)
    check_change(before, after)
    if topic.name == GROUPS_TOPIC and (not after.is_compacted or after.is_deleted or after.remote_enabled):
        raise InvalidConfig(f"topic {topic.name!r} must keep cleanup.policy=compact and remote.storage.enable=false")
    changes = _difference(topic.configs, after.overrides)
    return TopicConfigsChanged(topic_id=topic.topic_id, configs=changes) if changes else None


def plan_broker_configs(image: ClusterImage, node_id: int, wanted: Mapping[str, str | None], scope: Scope) -> Record | None:
    """The record that makes `wanted` the dynamic settings of `node_id` (ALL_BROKERS: the cluster's default).

    As in Kafka a key that nobody knows is kept and told, and a value or a key that cannot be is INVALID_REQUEST.  None of those that act
    names code to load; those that would in Kafka, or would protect something, are refused.

    Raises:
        InvalidConfig: something is too long.  Refused
    """
    if node_id not in (ALL_BROKERS, scope.node_id):
        raise Refused(ErrorCode.invalid_request, f"broker {node_id} does not exist; the only broker is {scope.node_id}")
    _check_sizes(wanted)
    own = _given(wanted)
    try:
        for name, text in own.items():
            _check_broker_key(name, text)
        acting = {name: text for name, text in own.items() if name in BROKER_KEYS}
        Settings.resolve({**scope.settings.given, **acting})  # relations hold as well
    except InvalidConfig as wrong:
        raise Refused(ErrorCode.invalid_request, str(wrong)) from None
    changes = _difference(image.broker_configs.get(node_id, {}), own)
    return BrokerConfigsChanged(node_id=node_id, configs=changes) if changes else None


def _check_broker_key(name: str, text: str) -> None:
    key = broker_key(name)
    if name.startswith(_PROTECTING) or (key is not None and key.kind in ("class", "password")) or name == "metric.reporters":
        if text.strip():
            raise InvalidConfig(f"{name} does nothing on this broker, and to accept it would say that it does")
    elif key is not None:
        if not key.dynamic:
            raise InvalidConfig(f"{name} cannot be changed while the broker runs: set it in its file and restart")
        key.parse(text)


def _given(wanted: Mapping[str, str | None]) -> dict[str, str]:
    """The values of a change; null is none (Kafka's ConfigurationControlManager)."""
    empty = sorted(name for name, text in wanted.items() if text is None)
    if empty:
        raise Refused(ErrorCode.invalid_request, f"null is no value for {', '.join(empty)}")
    return {name: text for name, text in wanted.items() if text is not None}


def _difference(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    changes: dict[str, str | None] = {name: None for name in before if name not in after}
    changes.update({name: text for name, text in after.items() if before.get(name) != text})
    return dict(sorted(changes.items()))


def stepped(
    own: Mapping[str, str], effective: Mapping[str, str | None], changes: Sequence[ConfigChange], keys: Mapping[str, ConfigKey]
) -> dict[str, str | None]:
    """Own settings after incremental `changes` (KIP-339); `effective` is what APPEND and SUBTRACT begin from.

    Raises:
        InvalidConfig, Refused
    """
    result: dict[str, str | None] = dict(own)
    seen: set[str] = set()
    for change in changes:
        if change.name in seen:
            raise Refused(ErrorCode.invalid_request, f"configuration {change.name!r} is changed twice in one request")
        seen.add(change.name)
        if change.operation == DELETE:
            result.pop(change.name, None)  # what nobody knows is gone already
        elif change.operation == SET:
            result[change.name] = change.value
        else:
            result[change.name] = _listed(change, result.get(change.name, effective.get(change.name)), keys)
    return result


def _listed(change: ConfigChange, current: str | None, keys: Mapping[str, ConfigKey]) -> str:
    key = keys.get(change.name)
    if key is None:
        raise InvalidConfig(f"unknown configuration {change.name!r}")
    if change.operation not in (APPEND, SUBTRACT):
        raise Refused(ErrorCode.invalid_request, f"operation {change.operation} on {change.name}; 0 to 3 are known")
    if key.kind != "list":
        raise InvalidConfig(f"{change.name} is not a list: only SET and DELETE are allowed")
    now = [part.strip() for part in (current or "").split(",") if part.strip()]
    given = [part.strip() for part in (change.value or "").split(",") if part.strip()]
    if change.operation == APPEND:
        return ",".join([*now, *(part for part in given if part not in now)])
    return ",".join(part for part in now if part not in given)
