"""The records of the metadata log: what can happen to a cluster.  Drawn in docs/formats/metadata.md.

A record is a frozen value with a type name and a version.  Its bytes are JSON: metadata is small, and whoever has only the
bucket left must be able to read it with the tools at hand.

Invariants: pure; `parse(form(record)) == record`; an unknown type or a newer version is Corrupt, never skipped, since a fold
that leaves a record out is another cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar
from uuid import UUID

from hotlog.kernel.errors import Corrupt

Replicas = tuple[int, ...]  # node ids, the preferred leader first
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Record:
    """Root of all records."""

    TYPE: ClassVar[str]
    VERSION: ClassVar[int] = 1


@dataclass(frozen=True, kw_only=True)
class ControllerClaimed(Record):
    """A node became the active controller; every earlier epoch is fenced."""

    TYPE = "controller-claimed"
    epoch: int
    node_id: int


@dataclass(frozen=True, kw_only=True)
class BrokerStarted(Record):
    """A broker process began.  With `raises_epochs`, each partition that it leads gets the next leader epoch: an older
    process of the same node that is still alive can then commit nothing to a manifest."""

    TYPE = "broker-started"
    node_id: int
    incarnation: UUID
    rack: str
    raises_epochs: bool


@dataclass(frozen=True, kw_only=True)
class TopicCreated(Record):
    """A topic, its partitions and its own settings.  `created_ms` is wall time, for people."""

    TYPE = "topic-created"
    topic_id: UUID
    name: str
    partitions: tuple[Replicas, ...]
    configs: Mapping[str, str]
    created_ms: int


@dataclass(frozen=True, kw_only=True)
class TopicDeleted(Record):
    """The topic is gone for clients; its data may still have to be removed (until TopicPurged)."""

    TYPE = "topic-deleted"
    topic_id: UUID


@dataclass(frozen=True, kw_only=True)
class TopicPurged(Record):
    """The data of a deleted topic has been given up in both tiers."""

    TYPE = "topic-purged"
    topic_id: UUID


@dataclass(frozen=True, kw_only=True)
class PartitionsAdded(Record):
    """More partitions, appended after those that exist."""

    TYPE = "partitions-added"
    topic_id: UUID
    partitions: tuple[Replicas, ...]


@dataclass(frozen=True, kw_only=True)
class TopicConfigsChanged(Record):
    """Own settings of a topic; None takes one away."""

    TYPE = "topic-configs-changed"
    topic_id: UUID
    configs: Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class BrokerConfigsChanged(Record):
    """Dynamic settings of one node, or of all (node_id -1: the cluster-wide default); None takes one away."""

    TYPE = "broker-configs-changed"
    node_id: int
    configs: Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class ProducerIdsAllocated(Record):
    """Producer ids [start, end) are this node's to give out and nobody else's, for ever."""

    TYPE = "producer-ids-allocated"
    node_id: int
    start: int
    end: int


TYPES: dict[str, type[Record]] = {
    record.TYPE: record
    for record in (
        ControllerClaimed, BrokerStarted, TopicCreated, TopicDeleted, TopicPurged, PartitionsAdded, TopicConfigsChanged,
        BrokerConfigsChanged, ProducerIdsAllocated,
    )
}  # fmt: skip


def form(record: Record) -> Json:
    """The record as JSON values."""
    body: Json = {"type": record.TYPE, "version": record.VERSION}
    for field in fields(record):
        value = getattr(record, field.name)
        body[field.name] = str(value) if isinstance(value, UUID) else _plain(value)
    return body


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return dict(value) if isinstance(value, Mapping) else value


def parse(body: Any) -> Record:
    """The record that `form` made these JSON values of.

    Raises:
        Corrupt: an unknown type, a newer version, or a missing, extra or ill-typed field.
    """
    if not isinstance(body, dict):
        raise Corrupt(f"metadata record is a {type(body).__name__}, not an object")
    kind = TYPES.get(str(body.get("type")))
    if kind is None:
        raise Corrupt(f"metadata record of unknown type {body.get('type')!r}")
    if body.get("version") != kind.VERSION:
        raise Corrupt(f"metadata record {kind.TYPE} has version {body.get('version')!r}; this program reads {kind.VERSION}")
    given = {name: value for name, value in body.items() if name not in ("type", "version")}
    wanted = {field.name: str(field.type) for field in fields(kind)}
    if given.keys() != wanted.keys():
        raise Corrupt(f"metadata record {kind.TYPE} has fields {sorted(given)}; expected {sorted(wanted)}")
    try:
        return kind(**{name: _PARSERS[wanted[name]](value) for name, value in given.items()})
    except (TypeError, ValueError, AttributeError) as problem:
        raise Corrupt(f"metadata record {kind.TYPE} cannot be read: {problem}") from None


def _int(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not an integer")
    return value


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is not true or false")
    return value


def _replicas(value: Any) -> tuple[Replicas, ...]:
    return tuple(tuple(_int(node) for node in replicas) for replicas in value)


def _configs(value: Any) -> dict[str, str]:
    return {_str(name): _str(text) for name, text in value.items()}


def _config_changes(value: Any) -> dict[str, str | None]:
    return {_str(name): None if text is None else _str(text) for name, text in value.items()}


_PARSERS: dict[str, Any] = {
    "int": _int,
    "str": _str,
    "bool": _bool,
    "UUID": lambda value: UUID(_str(value)),
    "tuple[Replicas, ...]": _replicas,
    "Mapping[str, str]": _configs,
    "Mapping[str, str | None]": _config_changes,
}
