"""Changes of the cluster as values: what any node may ask the active controller for.

    change.plan(image, scope) -> Plan(records, results)      a result for each item of the change, in order

The records are what the metadata log gets, in one commit; a refused item has none and spares the others.

Invariants: pure; a plan is made of the newest image, by the node that commits it; items are judged one by one, each with those before it in
place; a change that creates or registers carries the id that it gives, so that asking twice (an answer was lost) does it once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple
from uuid import UUID

from kio.schema.errors import ErrorCode

from controller.config_rules import (
    ConfigChange,
    Scope,
    plan_broker_configs,
    plan_topic_configs,
    step_broker_configs,
    step_topic_configs,
)
from controller.features import FeatureUpdate, plan_features
from controller.image import ClusterImage, Draft
from controller.named_config_rules import plan_named_configs, step_named_configs
from controller.records import BrokerStarted, NamedKind, ProducerIdsAllocated, Record, Replicas, TopicPurged
from controller.topic_rules import NewTopic, plan_create, plan_delete, plan_partitions, topic_by_id, topic_by_name
from hotlog.kernel.errors import HotlogError
from hotlog.wire.error_codes import Refused, code_for

PRODUCER_ID_BLOCK = 1000


@dataclass(frozen=True)
class Result:
    """What became of one item of a change."""

    TYPE: ClassVar[str]
    VERSION: ClassVar[int] = 1


@dataclass(frozen=True)
class Accepted(Result):
    """It is done, or was done before."""

    TYPE = "accepted"


@dataclass(frozen=True)
class IdsAllocated(Result):
    """Producer ids [start, end) are the asking node's."""

    TYPE = "ids-allocated"
    start: int
    end: int


@dataclass(frozen=True)
class Refusal(Result):
    """It is not done, for the reason that Kafka's error code says."""

    TYPE = "refusal"
    code: ErrorCode
    message: str


class Plan(NamedTuple):
    """What a change makes of an image."""

    records: tuple[Record, ...]
    results: tuple[Result, ...]


@dataclass(frozen=True, kw_only=True)
class Change(ABC):
    """Root of all changes."""

    TYPE: ClassVar[str]
    VERSION: ClassVar[int] = 1

    @abstractmethod
    def plan(self, image: ClusterImage, scope: Scope) -> Plan:
        """The records that do it after `image`, and a result for each item."""


Rule = Callable[[ClusterImage], Record | None]


def _planned(image: ClusterImage, rules: Iterable[Rule], *, are_apart: bool = False) -> Plan:
    """Each rule against the image that those before it leave (`are_apart`: which makes no difference); one that raises refuses its item."""
    records: list[Record] = []
    results: list[Result] = []
    draft: Draft | None = None
    for rule in rules:
        try:
            record = rule(image)  # which looks and keeps nothing: the next item's record may go into the same tables
        except HotlogError as why:
            results.append(Refusal(code_for(why), str(why)))
            continue
        results.append(Accepted())
        if record is not None:
            records.append(record)
            if not are_apart:
                draft = draft or Draft(image)
                draft.apply(record)
                image = draft.view()
    return Plan(tuple(records), tuple(results))


@dataclass(frozen=True, kw_only=True)
class CreateTopics(Change):
    """Create topics, each with the id that it is to have."""

    TYPE = "create-topics"
    topics: tuple[tuple[UUID, NewTopic], ...]

    def plan(self, image: ClusterImage, scope: Scope) -> Plan:
        given: set[UUID] = set()  # in this change

        def rule(topic_id: UUID, wanted: NewTopic) -> Rule:
            def create(now: ClusterImage) -> Record | None:
                there = now.topics.get(wanted.name)
                if there is not None and there.topic_id == topic_id:
                    return None
                if topic_id in image.topics_by_id or topic_id in image.doomed or topic_id in given:
                    raise Refused(ErrorCode.invalid_request, f"topic id {topic_id} was given out before; no topic gets it again")
                record = plan_create(now, wanted, topic_id, scope)
                given.add(topic_id)
                return record

            return create

        return _planned(image, [rule(topic_id, wanted) for topic_id, wanted in self.topics])


@dataclass(frozen=True, kw_only=True)
class DeleteTopics(Change):
    """Delete topics for clients; their data is given up afterwards (PurgeTopics)."""

    TYPE = "delete-topics"
    topic_ids: tuple[UUID, ...]

    def plan(self, image: ClusterImage, scope: Scope) -> Plan:
        planned: set[UUID] = set()

        def rule(topic_id: UUID) -> Rule:
            def delete(now: ClusterImage) -> Record | None:
                if topic_id in planned:  # named twice
                    return None
                record = plan_delete(topic_by_id(now, topic_id), scope)
                planned.add(topic_id)
                return record

            return delete

        return _planned(image, [rule(topic_id) for topic_id in self.topic_ids], are_apart=True)


@dataclass(frozen=True, kw_only=True)
class PurgeTopics(Change):
    """Say that the data of deleted topics was given up in both tiers."""

    TYPE = "purge-topics"
    topic_ids: tuple[UUID, ...]

    def plan(self, image: ClusterImage, scope: Scope) -> Plan:
        def rule(topic_id: UUID) -> Rule:
            return lambda now: TopicPurged(topic_id=topic_id) if topic_id in now.doomed else None

        return _planned(image, [rule(topic_id) for topic_id in self.topic_ids], are_apart=True)


class MorePartitions(NamedTuple):
    """A topic that is to have that many `partitions`; `assigned` are the replicas of the added ones (None: the controller places them)."""

    name: str
    partitions: int
    assigned: tuple[Replicas, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class CreatePartitions(Change):
    """Grow topics (KIP-195)."""

    TYPE = "create-partitions"
    topics: tuple[MorePartitions, ...]

    def plan(self, image: ClusterImage, scope: Scope) -> Plan:
        def rule(wanted: MorePartitions) -> Rule:
            return lambda now: plan_partitions(now, topic_by_name(now, wanted.name), wanted.partitions, wanted.assigned, scope)

        return _planned(image, [rule(wanted) for wanted in self.topics])


class TopicConfigs(NamedTuple):
    """All own settings of a topic."""

    name: str
    configs: Mapping[str, str | None]


class BrokerConfigs(NamedTuple):
    """All dynamic settings of a broker, or of all of them (ALL_BROKERS)."""

    node_id: int
    configs: Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class AlterConfigs(Change):
    """Replace the settings of topics, then of brokers: the results come in that order."""

    TYPE = "alter-configs"
    topics: tuple[TopicConfigs, ...] = ()
    brokers: tuple[BrokerConfigs, ...] = ()

    def plan(self, image: ClusterImage, scope: Scope) -> Plan:
        def of_topic(wanted: TopicConfigs) -> Rule:
            return lambda now: plan_topic_configs(topic_by_name(now, wanted.name), wanted.configs, scope)

        def of_broker(wanted: BrokerConfigs) -> Rule:
            return lambda now: plan_broker_configs(now, wanted.node_id, wanted.configs, scope)

        return _planned(image, [*map(of_topic, self.topics), *map(of_broker, self.brokers)])


class TopicSteps(NamedTuple):
    """Some own settings of a topic."""

    name: str
    steps: tuple[ConfigChange, ...]


class BrokerSteps(NamedTuple):
    """Some dynamic settings of a broker, or of all of them (ALL_BROKERS)."""

    node_id: int
    steps: tuple[ConfigChange, ...]


@dataclass(frozen=True, kw_only=True)
class IncrementalAlterConfigs(Change):
    """Change some settings of topics, then of brokers (KIP-339): the results come in that order."""

    TYPE = "incremental-alter-configs"
    topics: tuple[TopicSteps, ...] = ()
    brokers: tuple[BrokerSteps, ...] = ()

    def plan(self, image: ClusterImage, scope: Scope) -> Plan:
        def of_topic(wanted: TopicSteps) -> Rule:
            return lambda now: step_topic_configs(topic_by_name(now, wanted.name), wanted.steps, scope)

        def of_broker(wanted: BrokerSteps) -> Rule:
            return lambda now: step_broker_configs(now, wanted.node_id, wanted.steps, scope)

        return _planned(image, [*map(of_topic, self.topics), *map(of_broker, self.brokers)])


class NamedConfigs(NamedTuple):
    """All settings of a group or a subscription of client metrics."""

    kind: NamedKind
    name: str
    configs: Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class AlterNamedConfigs(Change):
    """Replace settings of what has them by name."""

    TYPE = "alter-named-configs"
    resources: tuple[NamedConfigs, ...]

    def plan(self, image: ClusterImage, scope: Scope) -> Plan:
        def rule(wanted: NamedConfigs) -> Rule:
            return lambda now: plan_named_configs(now, wanted.kind, wanted.name, wanted.configs, scope)

        return _planned(image, map(rule, self.resources))


class NamedSteps(NamedTuple):
    """Some settings of a group or a subscription of client metrics."""

    kind: NamedKind
    name: str
    steps: tuple[ConfigChange, ...]


@dataclass(frozen=True, kw_only=True)
class StepNamedConfigs(Change):
    """Change some settings of what has them by name (KIP-339)."""

    TYPE = "step-named-configs"
    resources: tuple[NamedSteps, ...]

    def plan(self, image: ClusterImage, scope: Scope) -> Plan:
        def rule(wanted: NamedSteps) -> Rule:
            return lambda now: step_named_configs(now, wanted.kind, wanted.name, wanted.steps, scope)

        return _planned(image, map(rule, self.resources))


@dataclass(frozen=True, kw_only=True)
class UpdateFeatures(Change):
    """Finalize levels of features: one item, all of it or nothing."""

    TYPE = "update-features"
    updates: tuple[FeatureUpdate, ...]

    def plan(self, image: ClusterImage, scope: Scope) -> Plan:
        return _planned(image, [lambda now: plan_features(now, self.updates)])


@dataclass(frozen=True, kw_only=True)
class RegisterBroker(Change):
    """A broker process began.  It takes the node's place from one of `own` lives, and from no other.

    With `raises_epochs` each partition that it leads gets the next leader epoch.
    """

    TYPE = "register-broker"
    node_id: int
    incarnation: UUID
    rack: str
    raises_epochs: bool
    own: tuple[UUID, ...]

    def plan(self, image: ClusterImage, scope: Scope) -> Plan:
        def register(now: ClusterImage) -> Record | None:
            last = now.brokers.get(self.node_id)
            if last is not None and last.incarnation == self.incarnation:
                return None
            if last is not None and last.incarnation not in self.own:
                raise Refused(
                    ErrorCode.duplicate_broker_registration,
                    f"broker {self.node_id} is registered by another data directory, in its life {last.incarnation}",
                )
            return BrokerStarted(
                node_id=self.node_id, incarnation=self.incarnation, rack=self.rack, raises_epochs=self.raises_epochs
            )

        return _planned(image, [register])


@dataclass(frozen=True, kw_only=True)
class AllocateProducerIds(Change):
    """A block of producer ids that nobody has had."""

    TYPE = "allocate-producer-ids"
    node_id: int

    def plan(self, image: ClusterImage, scope: Scope) -> Plan:
        start, end = image.producer_id_next, image.producer_id_next + PRODUCER_ID_BLOCK
        return Plan((ProducerIdsAllocated(node_id=self.node_id, start=start, end=end),), (IdsAllocated(start, end),))


CHANGES: dict[str, type[Change]] = {
    change.TYPE: change
    for change in (
        CreateTopics, DeleteTopics, PurgeTopics, CreatePartitions, AlterConfigs, IncrementalAlterConfigs, AlterNamedConfigs,
        StepNamedConfigs, UpdateFeatures, RegisterBroker, AllocateProducerIds,
    )
}  # fmt: skip
