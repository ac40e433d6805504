"""ClusterImage: the cluster as a pure fold of the metadata log.

Invariants: an image and all in it are frozen, so a reader holds one for as long as it likes; `fold(image, a + b) ==
fold(fold(image, a), b)`; unchanged topics are the same objects in the next image, and `touched_since` names those that are not;
`topics` and `topics_by_id` hold the same values; a deleted topic stays in `doomed` until its data was given up.  What is derived from all
topics is counted once, and from then on handed from image to image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple
from uuid import UUID

from controller.records import (
    BrokerConfigsChanged,
    BrokerStarted,
    ControllerClaimed,
    FeaturesFinalized,
    NamedConfigsChanged,
    NamedKind,
    PartitionsAdded,
    ProducerIdsAllocated,
    Record,
    Replicas,
    TopicConfigsChanged,
    TopicCreated,
    TopicDeleted,
    TopicPurged,
)
from hotlog.kernel.errors import Corrupt

ALL_BROKERS = -1
RECENT_FOLDS_MAX, RECENT_NAMES_MAX = 64, 4096  # what an image remembers of how it was made


@dataclass(frozen=True, kw_only=True)
class PartitionImage:
    """One partition: who holds it, who leads it at which epoch."""

    replicas: Replicas
    leader: int
    leader_epoch: int


@dataclass(frozen=True, kw_only=True)
class TopicImage:
    """One topic.  `configs` are its own settings as text; `created_ms` is wall time, for people."""

    topic_id: UUID
    name: str
    partitions: tuple[PartitionImage, ...]
    configs: Mapping[str, str]
    created_ms: int


@dataclass(frozen=True, kw_only=True)
class BrokerImage:
    """One broker as it last registered."""

    node_id: int
    incarnation: UUID
    rack: str


class Touched(NamedTuple):
    """The topics whose image changed by the records from offset `start` on, up to the next of these or to the image's own offset."""

    start: int
    names: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class ClusterImage:
    """Everything the metadata log says up to (not including) `offset`."""

    offset: int = 0
    controller_epoch: int = 0
    controller_id: int = -1
    topics: Mapping[str, TopicImage] = field(default_factory=dict)
    doomed: Mapping[UUID, TopicImage] = field(default_factory=dict)
    brokers: Mapping[int, BrokerImage] = field(default_factory=dict)
    broker_configs: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    features: Mapping[str, int] = field(default_factory=dict)  # those that were changed (controller.features)
    features_epoch: int = 0  # rises with each change of them
    group_configs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    client_metrics_configs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    producer_id_next: int = 0
    recent: tuple[Touched, ...] = field(
        default=(), compare=False, repr=False
    )  # the last folds that it was made by, without a gap

    def named_configs(self, kind: NamedKind) -> Mapping[str, Mapping[str, str]]:
        """Settings by name, of those that have any."""
        return self.group_configs if kind is NamedKind.GROUP else self.client_metrics_configs

    @cached_property
    def topics_by_id(self) -> Mapping[UUID, TopicImage]:
        return {topic.topic_id: topic for topic in self.topics.values()}

    @cached_property
    def flat_names(self) -> Mapping[str, str]:
        """Names of topics by what metrics make of them (KIP-37)."""
        return {flat_name(name): name for name in self.topics}

    @cached_property
    def partition_count(self) -> int:
        """Of all topics."""
        return sum(len(topic.partitions) for topic in self.topics.values())

    def touched_since(self, offset: int) -> set[str] | None:
        """Names of the topics that came, changed or went since the image of `offset`; None if that is not known any more: all may have."""
        names: set[str] = set()
        at = self.offset
        for touched in reversed(self.recent):
            if at <= offset:
                break
            names |= touched.names
            at = touched.start
        return names if at <= offset else None


def flat_name(name: str) -> str:
    """A topic's name as metrics have it."""
    return name.replace(".", "_")


def fold(image: ClusterImage, records: Iterable[Record]) -> ClusterImage:
    """The image after `records`.

    Raises:
        Corrupt: a record that cannot follow what came before it.
    """
    draft = Draft(image)
    for record in records:
        draft.apply(record)
    return draft.image()


class Draft:
    """A mutable copy that takes many records, so that a fold of n records copies each table once."""

    def __init__(self, image: ClusterImage) -> None:
        self._base = image
        self._touched: set[str] = set()
        self.offset = image.offset
        self.controller = (image.controller_epoch, image.controller_id)
        self.topics = dict(image.topics)
        self.topics_by_id = dict(image.topics_by_id)
        self.flat_names = dict(image.flat_names)
        self.partition_count = image.partition_count
        self.doomed = dict(image.doomed)
        self.brokers = dict(image.brokers)
        self.broker_configs = dict(image.broker_configs)
        self.features = dict(image.features)
        self.features_epoch = image.features_epoch
        self.named_configs = {kind: dict(image.named_configs(kind)) for kind in NamedKind}
        self.producer_id_next = image.producer_id_next

    def image(self) -> ClusterImage:
        """The image after all records: this draft takes no more."""
        return self._made(self._recent())

    def view(self) -> ClusterImage:
        """The image so far, to look at until the next record is applied: it shares this draft's tables."""
        return self._made(())

    def _made(self, recent: tuple[Touched, ...]) -> ClusterImage:
        image = ClusterImage(
            offset=self.offset,
            controller_epoch=self.controller[0],
            controller_id=self.controller[1],
            topics=self.topics,
            doomed=self.doomed,
            brokers=self.brokers,
            broker_configs=self.broker_configs,
            features=self.features,
            features_epoch=self.features_epoch,
            group_configs=self.named_configs[NamedKind.GROUP],
            client_metrics_configs=self.named_configs[NamedKind.CLIENT_METRICS],
            producer_id_next=self.producer_id_next,
            recent=recent,
        )
        derived = {"topics_by_id": self.topics_by_id, "flat_names": self.flat_names, "partition_count": self.partition_count}
        vars(image).update(derived)  # where the cached properties look first
        return image

    def _recent(self) -> tuple[Touched, ...]:
        before, start = self._base.recent, self._base.offset
        if self.offset == start:
            return before
        recent = (*before[1 - RECENT_FOLDS_MAX :], Touched(start, frozenset(self._touched)))
        count = sum(len(touched.names) for touched in recent)
        while count > RECENT_NAMES_MAX:
            count -= len(recent[0].names)
            recent = recent[1:]
        return recent

    def apply(self, record: Record) -> None:
        _APPLY[type(record)](self, record)
        self.offset += 1

    def topic(self, topic_id: UUID) -> TopicImage:
        topic = self.topics_by_id.get(topic_id)
        if topic is None:
            raise Corrupt(f"metadata record {self.offset} names topic id {topic_id}, which does not exist then")
        return topic

    def put(self, topic: TopicImage) -> None:
        """A topic as it is now."""
        before = self.topics.get(topic.name)
        self.partition_count += len(topic.partitions) - (len(before.partitions) if before is not None else 0)
        self.topics[topic.name] = self.topics_by_id[topic.topic_id] = topic
        self.flat_names[flat_name(topic.name)] = topic.name
        self._touched.add(topic.name)

    def controller_claimed(self, record: ControllerClaimed) -> None:
        if record.epoch <= self.controller[0]:
            raise Corrupt(f"controller epoch {record.epoch} at {self.offset} is not above {self.controller[0]}")
        self.controller = (record.epoch, record.node_id)

    def broker_started(self, record: BrokerStarted) -> None:
        node = record.node_id
        self.brokers[node] = BrokerImage(node_id=node, incarnation=record.incarnation, rack=record.rack)
        if not record.raises_epochs:
            return
        for topic in list(self.topics.values()):
            if any(partition.leader == node for partition in topic.partitions):
                raised = tuple(_raised(partition) if partition.leader == node else partition for partition in topic.partitions)
                self.put(replace(topic, partitions=raised))

    def topic_created(self, record: TopicCreated) -> None:
        if record.name in self.topics:
            raise Corrupt(f"topic {record.name} is created at {self.offset} though it exists")
        if record.topic_id in self.topics_by_id or record.topic_id in self.doomed:
            raise Corrupt(f"topic id {record.topic_id} is given out again at {self.offset}")
        self.put(
            TopicImage(
                topic_id=record.topic_id,
                name=record.name,
                partitions=_partitions(record.partitions),
                configs=record.configs,
                created_ms=record.created_ms,
            )
        )

    def topic_deleted(self, record: TopicDeleted) -> None:
        topic = self.topic(record.topic_id)
        del self.topics[topic.name], self.topics_by_id[topic.topic_id]
        if self.flat_names.get(flat_name(topic.name)) == topic.name:
            del self.flat_names[flat_name(topic.name)]
        self.partition_count -= len(topic.partitions)
        self._touched.add(topic.name)
        self.doomed[record.topic_id] = topic

    def topic_purged(self, record: TopicPurged) -> None:
        self.doomed.pop(record.topic_id, None)

    def partitions_added(self, record: PartitionsAdded) -> None:
        topic = self.topic(record.topic_id)
        self.put(replace(topic, partitions=topic.partitions + _partitions(record.partitions)))

    def topic_configs_changed(self, record: TopicConfigsChanged) -> None:
        topic = self.topic(record.topic_id)
        self.put(replace(topic, configs=_merged(topic.configs, record.configs)))

    def broker_configs_changed(self, record: BrokerConfigsChanged) -> None:
        merged = _merged(self.broker_configs.get(record.node_id, {}), record.configs)
        self.broker_configs.pop(record.node_id, None)
        if merged:
            self.broker_configs[record.node_id] = merged

    def features_finalized(self, record: FeaturesFinalized) -> None:
        self.features.update(record.levels)
        self.features_epoch = self.offset + 1

    def named_configs_changed(self, record: NamedConfigsChanged) -> None:
        table = self.named_configs[record.kind]
        merged = _merged(table.pop(record.name, {}), record.configs)
        if merged:
            table[record.name] = merged

    def producer_ids_allocated(self, record: ProducerIdsAllocated) -> None:
        if record.start < self.producer_id_next or record.end <= record.start:
            raise Corrupt(f"producer ids [{record.start}, {record.end}) at {self.offset} begin below {self.producer_id_next}")
        self.producer_id_next = record.end


def _raised(partition: PartitionImage) -> PartitionImage:
    return replace(partition, leader_epoch=partition.leader_epoch + 1)


def _partitions(assigned: tuple[Replicas, ...]) -> tuple[PartitionImage, ...]:
    return tuple(PartitionImage(replicas=replicas, leader=replicas[0], leader_epoch=0) for replicas in assigned)


def _merged(old: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    merged = {name: text for name, text in old.items() if name not in changes}
    merged.update({name: text for name, text in changes.items() if text is not None})
    return dict(sorted(merged.items()))


_APPLY: dict[type[Record], Callable[[Draft, Any], None]] = {
    ControllerClaimed: Draft.controller_claimed,
    BrokerStarted: Draft.broker_started,
    TopicCreated: Draft.topic_created,
    TopicDeleted: Draft.topic_deleted,
    TopicPurged: Draft.topic_purged,
    PartitionsAdded: Draft.partitions_added,
    TopicConfigsChanged: Draft.topic_configs_changed,
    BrokerConfigsChanged: Draft.broker_configs_changed,
    FeaturesFinalized: Draft.features_finalized,
    NamedConfigsChanged: Draft.named_configs_changed,
    ProducerIdsAllocated: Draft.producer_ids_allocated,
}
