"""The records of the metadata log: what can happen to a cluster.  Drawn in docs/formats/metadata.md.

A record is a frozen value with a type name and a version.  Its bytes are JSON: metadata is small, and whoever has only the
bucket left must be able to read it with the tools at hand.

Invariants: pure; `parse(form(record)) == record`; a record is written in its VERSION and read in that and the one before it
(UPGRADES); an unknown type or a newer version is refused by name, never skipped, since a fold that leaves a
record out is another cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar
from uuid import UUID

from controller.forms import Family, Json
from hotlog.kernel.versions import Upgrade

Replicas = tuple[int, ...]  # node ids, the preferred leader first


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


class NamedKind(Enum):
    """What has configurations by a name alone: it need not be there."""

    GROUP = "group"
    CLIENT_METRICS = "client-metrics"


@dataclass(frozen=True, kw_only=True)
class NamedConfigsChanged(Record):
    """Settings of a group or of a subscription of client metrics; None takes one away."""

    TYPE = "named-configs-changed"
    kind: NamedKind
    name: str
    configs: Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class FeaturesFinalized(Record):
    """Levels of features, for all brokers and clients; 0: not used."""

    TYPE = "features-finalized"
    levels: Mapping[str, int]


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
        BrokerConfigsChanged, NamedConfigsChanged, FeaturesFinalized, ProducerIdsAllocated,
    )
}  # fmt: skip


# Of a type: version -> what makes the fields of the next version of it.
UPGRADES: dict[str, dict[int, Upgrade[Json]]] = {}
_RECORDS = Family("metadata record", TYPES, UPGRADES)


def form(record: Record) -> Json:
    """The record as JSON values."""
    return _RECORDS.form(record)


def parse(body: Any) -> Record:
    """The record that `form` made these JSON values of, now or in an earlier version of it.

    Raises:
        UnknownVersion: a type or a version that only a newer program can know.  Corrupt: a missing, extra or ill-typed field.
    """
    record: Record = _RECORDS.parse(body)
    return record
