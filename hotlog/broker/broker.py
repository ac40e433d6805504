"""The broker: what this node hosts, and every change to it.

A change to topics goes through the metadata log first; that commit is the instant at which it is true.  Its effects (directories,
manifests, settings) follow by hotlog.broker.image_effects, which compares the newest image with what is hosted, so that a crash between commit
and effect is repaired by the same code at the next start.

Invariants: a partition is served only while the image has it; a change is answered after its local effects; no log is deleted
unless the metadata log says that its topic (by id) was deleted; a store that is away stops changes, never serving.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from kio.schema.errors import ErrorCode

from controller.changes import (
    Change,
    CreatePartitions,
    CreateTopics,
    DeleteTopics,
    MorePartitions,
    Refusal,
    Result,
    UpdateFeatures,
)
from controller.config_rules import topic_config
from controller.features import FeatureUpdate
from controller.image import ClusterImage, TopicImage, fold
from controller.internal_topics import GROUPS_TOPIC, TRANSACTIONS_TOPIC
from controller.metadata import NOT_OURS, Metadata
from controller.records import Replicas
from controller.topic_rules import NewTopic
from hotlog.broker.auto_creation import AutoCreation
from hotlog.broker.hanging import HangingTransactions
from hotlog.broker.image_effects import ImageEffects
from hotlog.broker.kept import Kept
from hotlog.broker.polls import Polls
from hotlog.coordinators.service import GroupCoordinator
from hotlog.coordinators.transactions import Needs, TransactionCoordinator
from hotlog.kernel.addresses import PLAINTEXT
from hotlog.kernel.condition import Condition
from hotlog.kernel.errors import Fenced, HotlogError, NotFound, Retry
from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log.manager import LogManager
from hotlog.observe.client_telemetry import ClientTelemetry
from hotlog.partitions.hosting import Hosting, Partitions
from hotlog.partitions.partition import Partition
from hotlog.wire.error_codes import Refused, error_for
from hotlog.world.ports import Clock, Disk, Entropy

if TYPE_CHECKING:
    from tiering.tier import ColdTier

LOG = logging.getLogger(__name__)
LOOKS_MAX = 8  # at once


class Broker:
    """One node.  `metadata` is open; `advertised` is where clients are told to go, by the listener they came by (set once the listeners are bound)."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        disk: Disk,
        entropy: Entropy,
        metrics: Metrics,
        logs: LogManager,
        metadata: Metadata,
        tier: ColdTier | None = None,
    ) -> None:
        self.static_settings = settings
        self.settings = settings
        self.clock = clock
        self.disk = disk
        self.entropy = entropy
        self.metrics = metrics
        self.logs = logs
        self.metadata = metadata
        self.tier = tier
        self.node_id = metadata.node_id
        self.advertised: Mapping[str, tuple[str, int]] = {PLAINTEXT: ("127.0.0.1", 9092)}
        self.is_ready = False
        self.produce_requests = 0  # so far
        self.looks = asyncio.Semaphore(LOOKS_MAX)  # into batches, in disk threads: they leave some for the disk
        self.large_batches = asyncio.Lock()  # held while one is opened at the door: only one has the memory for it
        self.served: tuple[tuple[int, int, int], ...] = ()  # (API key, first version, last version); set by who dispatches
        self.reply_backlog_bytes = 0  # of replies that slow clients have not taken; kept by the connections
        self.polls = Polls()
        self.telemetry = ClientTelemetry(clock, entropy)
        self.kept = Kept(self)
        self.hanging = HangingTransactions(self)
        self._lock = asyncio.Lock()
        self.ids_refused = Condition(LOG)
        self._auto_creation = AutoCreation(clock, settings=lambda: self.settings, find=self.topic, create=self.create_topic)
        self.groups = GroupCoordinator(
            settings=lambda: self.settings,
            clock=clock,
            entropy=entropy,
            partition_of=lambda index: self.partition(GROUPS_TOPIC, index),
            ensure_topic=partial(self._ensure_internal_topic, GROUPS_TOPIC),
            partition_count=partial(self._topic_partitions, GROUPS_TOPIC),
            image=lambda: self.image,
            hosting_version=lambda: self.hosted_places.version,
        )
        self.transactions = TransactionCoordinator(
            settings=lambda: self.settings,
            clock=clock,
            entropy=entropy,
            partition_of=lambda index: self.partition(TRANSACTIONS_TOPIC, index),
            ensure_topic=partial(self._ensure_internal_topic, TRANSACTIONS_TOPIC),
            image=lambda: self.image,
            hosting_version=lambda: self.hosted_places.version,
            needs=Needs(self.allocate_producer_id, self.hanging.mark_all),
        )
        self._hosting = Hosting(logs=logs, metadata=metadata, tier=tier)
        self.hosted_places: Partitions = (
            self._hosting.partitions
        )  # what is served, and which topics' partitions came or went when
        self._effects = ImageEffects(self._hosting, metadata, forget_topic=self.groups.forget_topic)

    # What is there

    @property
    def cluster_id(self) -> str:
        return self.metadata.cluster_id

    @property
    def rack(self) -> str:
        return self.settings.text("broker.rack")

    @property
    def image(self) -> ClusterImage:
        """The newest committed metadata this node knows; hold it for a whole request."""
        return self.metadata.image

    def partition(self, topic: str, index: int) -> Partition | None:
        return self._hosting.partitions.get((topic, index))

    def table(self) -> Mapping[tuple[str, int], Partition]:
        """The partitions that are here by topic and number, for who looks up many."""
        return self.hosted_places

    def table_by_id(self) -> Mapping[tuple[UUID, int], Partition]:
        """The same by the topic's id."""
        return self.hosted_places.by_id

    def topic(self, name: str) -> TopicImage | None:
        return self.image.topics.get(name)

    def topic_by_id(self, topic_id: UUID) -> TopicImage | None:
        return self.image.topics_by_id.get(topic_id)

    def hosted(self) -> list[Partition]:
        return list(self._hosting.partitions.values())

    def config_of(self, topic: TopicImage) -> TopicConfig:
        """The topic's settings, resolved over this broker's."""
        return self._effects.config_of(topic, self.settings)

    # Life

    async def start(self) -> None:
        """Open logs and cold tier, and make what is hosted agree with the image."""
        self.settings = self.metadata.settings
        await self.logs.open(cluster_id=self.cluster_id, config_of=self._config_of_partition)
        if self.tier is not None:
            await self.tier.start()
        async with self._lock:
            await self._reconcile()
            if await self._effects.mend(self.image):
                await self._reconcile()
        await self.groups.start()
        await self.transactions.start()
        await self.hanging.tick()
        led_elsewhere = sum(part.leader != self.node_id for topic in self.image.topics.values() for part in topic.partitions)
        if led_elsewhere:
            LOG.warning(
                "%d partitions are led by another node than node.id=%d and are not served here", led_elsewhere, self.node_id
            )
        self.is_ready = True

    async def close(self) -> None:
        """Stop serving, flush, close; nothing durable depends on this being called."""
        self.is_ready = False
        self._auto_creation.cancel()
        await self.transactions.close()
        await self.groups.close()
        await self.kept.close()
        if self.tier is not None:
            await self.tier.close()
        await self.logs.close()
        await self.metadata.close()

    async def tick(self) -> bool:
        """Upkeep: join the cluster if the store was away, follow its metadata, repeat effects that failed.  True if something was done."""
        try:
            done = await self.metadata.tick()
        except NOT_OURS as foreign:
            LOG.critical("nothing more is written to the object store: %s", foreign)
            await self._hosting.leave_store()
            done = True
        async with self._lock:
            await self._effects.mend(self.image)
            done = await self._reconcile() or done
        return await self._effects.purge_cold(self.image) or done

    # Changes

    async def submit(self, change: Change) -> tuple[Result, ...]:
        """Have `change` committed, then bring what is hosted up to it; a result for each item.

        A change whose outcome is unknown is still followed once it is known.

        Raises:
            Refused: metadata cannot change now; nothing was.  OutcomeUnknown.
        """
        try:
            answer = await self.metadata.submit(change)
        except Fenced as deposed:
            raise Refused(ErrorCode.not_controller, str(deposed)) from None
        except Retry as weather:
            raise Refused(ErrorCode.request_timed_out, f"metadata cannot change now: {weather}") from weather
        async with self._lock:
            await self._reconcile()
        return answer.results

    async def submit_one(self, change: Change, *, validate_only: bool = False) -> None:
        """Have a change of one item committed, as `submit`; with `validate_only` nothing is changed.

        Raises:
            Refused, InvalidConfig, NotFound: why it is not done.  OutcomeUnknown.
        """
        (result,) = self.metadata.plan(change).results if validate_only else await self.submit(change)
        if isinstance(result, Refusal):
            raise error_for(result.code, result.message)

    async def create_topic(
        self,
        name: str,
        partitions: int = -1,
        configs: Mapping[str, str | None] | None = None,
        *,
        replication_factor: int = -1,
        assignments: Sequence[tuple[int, Replicas]] = (),
        validate_only: bool = False,
    ) -> TopicImage:
        """Create a topic; -1 means this broker's default.  With `validate_only` nothing is created, the would-be topic is returned.

        Raises:
            Refused, InvalidConfig: with Kafka's code and the reason.
        """
        wanted = NewTopic(name, partitions, replication_factor, dict(configs or {}), tuple(assignments))
        (outcome,) = await self.create_topics([wanted], validate_only=validate_only)
        if isinstance(outcome, HotlogError):
            raise outcome
        return outcome

    async def create_topics(self, wanted: Sequence[NewTopic], *, validate_only: bool = False) -> list[TopicImage | HotlogError]:
        """Create several topics in one commit: for each, in order, the topic or why not.

        Raises:
            Refused: metadata cannot change now; none was created.  OutcomeUnknown.
        """
        named = tuple((self.entropy.uuid(), topic) for topic in wanted)
        change = CreateTopics(topics=named)
        if validate_only:
            plan = self.metadata.plan(change)
            results, image = plan.results, fold(ClusterImage(), plan.records)
        else:
            results = await self._submit_new(change)
            image = self.image
        return [
            error_for(result.code, result.message) if isinstance(result, Refusal) else _created(image, topic_id, topic.name)
            for (topic_id, topic), result in zip(named, results, strict=True)
        ]

    async def _submit_new(self, change: CreateTopics) -> tuple[Result, ...]:
        """As `submit`; until a topic is known not to be made, it may have begun here."""
        ids = [topic_id for topic_id, _ in change.topics]
        self._hosting.fresh.update(ids)
        try:
            results = await self.submit(change)
        except Refused:
            self._hosting.fresh.difference_update(ids)
            raise
        self._hosting.fresh.difference_update(
            topic_id for topic_id, result in zip(ids, results, strict=True) if isinstance(result, Refusal)
        )
        return results

    async def delete_topics(self, topic_ids: Sequence[UUID]) -> list[HotlogError | None]:
        """Delete topics for clients now, in one commit: for each, in order, why not, or None.  Both tiers' data follow (objects after their grace).

        Raises:
            Refused: metadata cannot change now; none was deleted.  OutcomeUnknown.
        """
        results = await self.submit(DeleteTopics(topic_ids=tuple(topic_ids)))
        return [error_for(result.code, result.message) if isinstance(result, Refusal) else None for result in results]

    async def create_partitions(
        self, name: str, count: int, assigned: Sequence[Replicas] | None = None, *, validate_only: bool = False
    ) -> None:
        """Grow a topic to `count` partitions.

        Raises:
            NotFound, Refused
        """
        wanted = MorePartitions(name, count, tuple(assigned) if assigned is not None else None)
        await self.submit_one(CreatePartitions(topics=(wanted,)), validate_only=validate_only)

    async def update_features(self, updates: Sequence[FeatureUpdate], *, validate_only: bool = False) -> None:
        """Finalize levels of features, all of them or none.

        Raises:
            Refused
        """
        await self.submit_one(UpdateFeatures(updates=tuple(updates)), validate_only=validate_only)

    async def allocate_producer_id(self) -> int:
        """A producer id that is given out once, ever.

        Raises:
            NotReady, StoreUnavailable, OutcomeUnknown, Fenced: none is left; the answer has no place for the reason, so the log says it once.
        """
        try:
            producer_id = await self.metadata.allocate_producer_id()
        except HotlogError as why:
            self.ids_refused.begins(
                f"new idempotent producers are refused: no producer ids are left here, and the store gives none: {why}"
            )
            raise
        self.ids_refused.ends("new idempotent producers get ids again")
        return producer_id

    # Effects

    def _config_of_partition(self, tp: TopicPartition) -> TopicConfig:
        topic = self.topic(tp.topic)
        return self.config_of(topic) if topic is not None else topic_config({}, self.settings)

    async def _reconcile(self) -> bool:
        before, self.settings = self.settings, self.metadata.settings
        if before is not self.settings and self.tier is not None:
            self.tier.reconfigure(self.settings)
        return await self._effects.reconcile(self.image, self.settings)

    # For the coordinators

    def _topic_partitions(self, name: str) -> int:
        topic = self.topic(name)
        return len(topic.partitions) if topic is not None else 0

    async def _ensure_internal_topic(self, name: str) -> None:
        """The topic is there, and what of it is led here is open: whoever made it may still be at that."""
        topic = await self.ensure_topic(name)
        if any(part.leader == self.node_id and self.partition(name, at) is None for at, part in enumerate(topic.partitions)):
            async with self._lock:
                await self._reconcile()

    async def ensure_topic(self, name: str) -> TopicImage:
        """The topic, created with defaults if it is missing (auto-creation; internal topics with what they need).

        Raises:
            Refused (REQUEST_TIMED_OUT when it takes longer than a moment; it goes on), InvalidConfig
        """
        return await self._auto_creation.ensure(name)


def _created(image: ClusterImage, topic_id: UUID, name: str) -> TopicImage | HotlogError:
    """The topic that a change made, unless somebody has deleted it since."""
    return image.topics_by_id.get(topic_id) or NotFound(f"topic {name!r} was deleted")
