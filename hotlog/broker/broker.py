"""The broker: what this node hosts, and every change to it.

A change to topics goes through the metadata log first; that commit is the instant at which it is true.  Its effects (directories,
manifests, settings) follow by hotlog.broker.hosting, which compares the newest image with what is hosted, so that a crash between commit
and effect is repaired by the same code at the next start.

Invariants: a partition is served only while the image has it; a change is answered after its local effects; no log is deleted
unless the metadata log says that its topic (by id) was deleted; a store that is away stops changes, never serving.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from kio.schema.errors import ErrorCode

from controller.image import ALL_BROKERS, ClusterImage, TopicImage, fold
from controller.records import Record, Replicas, TopicCreated
from controller.service import Controller
from controller.words import words
from hotlog.apis.fetch.cold_reads import Fetches
from hotlog.broker import topic_rules as rules
from hotlog.broker.hosting import Hosting, Partition
from hotlog.broker.metadata_bytes import TopicBytes
from hotlog.coordinators.service import GroupCoordinator
from hotlog.kernel.condition import Condition
from hotlog.kernel.errors import AlreadyExists, Fenced, ForeignStore, HotlogError, NotFound, Retry
from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.kafka_keys import KAFKA_KEYS
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import BROKER_KEYS, Settings
from hotlog.kernel.topic_config import TOPIC_KEYS, TopicConfig
from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog
from hotlog.wire.error_codes import Refused
from hotlog.world.ports import Clock, Disk, Entropy

if TYPE_CHECKING:
    from tiering.tier import ColdTier

LOG = logging.getLogger(__name__)
CREATIONS_MAX = 256  # auto-creations under way
CREATE_WAIT_S = 0.5  # how long a request waits for one
LOOKS_MAX = 8  # at once
CREATE_AGAIN_S = 1.0  # after one that the store did not answer


class Broker:
    """One node.  `controller` is open; `advertised` is what clients are told to connect to (set once the listener is bound)."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        disk: Disk,
        entropy: Entropy,
        metrics: Metrics,
        logs: LogManager,
        controller: Controller,
        tier: ColdTier | None = None,
    ) -> None:
        self.static_settings = settings
        self.settings = settings
        self.clock = clock
        self.disk = disk
        self.entropy = entropy
        self.metrics = metrics
        self.logs = logs
        self.controller = controller
        self.tier = tier
        self.node_id = controller.node_id
        self.advertised: tuple[str, int] = ("127.0.0.1", 9092)
        self.transactions_refused = 0
        self.is_ready = False
        self.produce_requests = 0  # so far
        self.looks = asyncio.Semaphore(LOOKS_MAX)  # into batches, in disk threads: they leave some for the disk
        self.large_batches = asyncio.Lock()  # held while one is opened at the door: only one has the memory for it
        self.topic_bytes = TopicBytes()
        self._lock = asyncio.Lock()
        self.ids_refused = Condition(LOG)
        self._creations: dict[str, asyncio.Task[TopicImage]] = {}  # auto-creation under way, by topic
        self._create_again_at = 0.0
        self.fetches = Fetches(self)
        self.groups = GroupCoordinator(
            settings=lambda: self.settings,
            clock=clock,
            entropy=entropy,
            log_of=self._groups_log,
            ensure_topic=self._ensure_groups_topic,
            partition_count=self._groups_partitions,
            topic_partitions=self._topic_partitions,
        )
        self._hosting = Hosting(logs=logs, controller=controller, tier=tier, forget_topic=self.groups.forget_topic)

    # What is there

    @property
    def hosting_version(self) -> int:
        """Goes up whenever a partition begins or ends to be served."""
        return self._hosting.partitions.version

    @property
    def cluster_id(self) -> str:
        return self.controller.cluster_id

    @property
    def rack(self) -> str:
        return self.settings.text("broker.rack")

    @property
    def image(self) -> ClusterImage:
        """The newest committed metadata this node knows; hold it for a whole request."""
        return self.controller.image

    def partition(self, topic: str, index: int) -> Partition | None:
        return self._hosting.partitions.get((topic, index))

    def topic(self, name: str) -> TopicImage | None:
        return self.image.topics.get(name)

    def topic_by_id(self, topic_id: UUID) -> TopicImage | None:
        return self.image.topics_by_id.get(topic_id)

    def hosted(self) -> list[Partition]:
        return list(self._hosting.partitions.values())

    def config_of(self, topic: TopicImage) -> TopicConfig:
        """The topic's settings, resolved over this broker's."""
        return self._hosting.config_of(topic, self.settings)

    # Life

    async def start(self) -> None:
        """Open logs and cold tier, and make what is hosted agree with the image."""
        self._apply_broker_configs()
        await self.logs.open(cluster_id=self.cluster_id, config_of=self._config_of_partition)
        if self.tier is not None:
            await self.tier.start()
        async with self._lock:
            await self._reconcile()
            await self._hosting.mend(self.image)
            await self._reconcile()
        await self.groups.start()
        led_elsewhere = sum(part.leader != self.node_id for topic in self.image.topics.values() for part in topic.partitions)
        if led_elsewhere:
            LOG.warning(
                "%d partitions are led by another node than node.id=%d and are not served here", led_elsewhere, self.node_id
            )
        self.is_ready = True

    async def close(self) -> None:
        """Stop serving, flush, close; nothing durable depends on this being called."""
        self.is_ready = False
        for creation in list(self._creations.values()):
            creation.cancel()
        await self.groups.close()
        await self.fetches.close()
        if self.tier is not None:
            await self.tier.close()
        await self.logs.close()
        await self.controller.close()

    async def tick(self) -> bool:
        """Upkeep: claim the controller if the store was away, repeat effects that failed.  True if something was done."""
        try:
            done = await self.controller.tick()
        except ForeignStore as foreign:
            LOG.critical("nothing more is written to the object store: %s", foreign)
            await self._hosting.leave_store()
            done = True
        async with self._lock:
            await self._hosting.mend(self.image)
            done = await self._reconcile() or done
        return await self._hosting.purge_cold(self.image) or done

    # Changes

    def _scope(self) -> rules.Scope:
        return rules.Scope(self.settings, self.node_id, self.clock.now_ms())

    async def _commit(self, decide: Callable[[ClusterImage], Sequence[Record]]) -> ClusterImage:
        """Commit, then bring what is hosted up to it.  A change whose outcome is unknown is still followed once it is known."""
        committed: Sequence[Record] = ()

        def noted(image: ClusterImage) -> Sequence[Record]:
            nonlocal committed
            committed = decide(image)
            return committed

        try:
            image = await self.controller.commit(noted)
        except Fenced as deposed:
            raise Refused(ErrorCode.not_controller, str(deposed)) from None
        except Retry as weather:
            raise Refused(ErrorCode.request_timed_out, f"metadata cannot change now: {weather}") from weather
        for record in committed:
            LOG.info("%s", words(record, image))
        async with self._lock:
            await self._reconcile()
        return image

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
        wanted = rules.NewTopic(name, partitions, replication_factor, dict(configs or {}), assignments)
        (outcome,) = await self.create_topics([wanted], validate_only=validate_only)
        if isinstance(outcome, HotlogError):
            raise outcome
        return outcome

    async def create_topics(
        self, wanted: Sequence[rules.NewTopic], *, validate_only: bool = False
    ) -> list[TopicImage | HotlogError]:
        """Create several topics in one commit: for each, in order, the topic or why not.

        Raises:
            Refused: metadata cannot change now; none was created.  OutcomeUnknown.
        """
        named = [(topic, self.entropy.uuid()) for topic in wanted]
        outcomes: list[TopicCreated | HotlogError] = []

        def decide(image: ClusterImage) -> list[Record]:
            nonlocal outcomes
            outcomes = rules.plan_creates(image, named, self._scope())
            return [record for record in outcomes if isinstance(record, TopicCreated)]

        if validate_only:
            decide(self.image)
            return [outcome if isinstance(outcome, HotlogError) else _as_image(outcome) for outcome in outcomes]
        self._hosting.fresh.update(topic_id for _, topic_id in named)
        image = await self._commit(decide)
        return [outcome if isinstance(outcome, HotlogError) else image.topics_by_id[outcome.topic_id] for outcome in outcomes]

    async def delete_topic(self, topic_id: UUID) -> None:
        """Delete for clients now; both tiers' data follow (objects after their grace).

        Raises:
            NotFound, Refused
        """
        (refusal,) = await self.delete_topics([topic_id])
        if refusal is not None:
            raise refusal

    async def delete_topics(self, topic_ids: Sequence[UUID]) -> list[HotlogError | None]:
        """Delete several topics in one commit: for each, in order, why not, or None.

        Raises:
            Refused: metadata cannot change now; none was deleted.  OutcomeUnknown.
        """
        refusals: list[HotlogError | None] = []

        def decide(image: ClusterImage) -> list[Record]:
            nonlocal refusals
            records: dict[UUID, Record] = {}
            refusals = []
            for topic_id in topic_ids:
                try:
                    records[topic_id] = rules.plan_delete(image, _by_id(image, topic_id), self._scope())
                except HotlogError as refusal:
                    refusals.append(refusal)
                else:
                    refusals.append(None)
            return list(records.values())

        await self._commit(decide)
        return refusals

    async def create_partitions(
        self, name: str, count: int, assigned: Sequence[Replicas] | None = None, *, validate_only: bool = False
    ) -> None:
        """Grow a topic to `count` partitions.

        Raises:
            NotFound, Refused
        """

        def decide(image: ClusterImage) -> list[Record]:
            return [rules.plan_partitions(image, _by_name(image, name), count, assigned, self._scope())]

        if validate_only:
            decide(self.image)
        else:
            await self._commit(decide)

    async def alter_configs(self, name: str, configs: Mapping[str, str | None], *, validate_only: bool = False) -> None:
        """Replace a topic's own settings by `configs`.

        Raises:
            NotFound, InvalidConfig
        """
        await self._alter(lambda image: rules.plan_topic_configs(_by_name(image, name), configs, self._scope()), validate_only)

    async def step_configs(self, name: str, changes: Sequence[rules.ConfigChange], *, validate_only: bool = False) -> None:
        """Change some of a topic's own settings (KIP-339)."""

        def plan(image: ClusterImage) -> Record | None:
            topic = _by_name(image, name)
            config = self.config_of(topic)
            effective = {key: TOPIC_KEYS[key].text(value) for key, value in config.values.items()}
            wanted = rules.stepped(topic.configs, effective, changes, TOPIC_KEYS)
            return rules.plan_topic_configs(topic, wanted, self._scope())

        await self._alter(plan, validate_only)

    async def alter_broker_configs(self, node_id: int, configs: Mapping[str, str | None], *, validate_only: bool = False) -> None:
        """Replace the dynamic settings of this broker, or of all (ALL_BROKERS).

        Raises:
            InvalidConfig, Refused
        """
        await self._alter(lambda image: rules.plan_broker_configs(image, node_id, configs, self._scope()), validate_only)

    async def step_broker_configs(
        self, node_id: int, changes: Sequence[rules.ConfigChange], *, validate_only: bool = False
    ) -> None:
        """Change some dynamic settings of this broker, or of all."""

        def plan(image: ClusterImage) -> Record | None:
            effective = {key: BROKER_KEYS[key].text(value) for key, value in self.settings.values.items()}
            wanted = rules.stepped(image.broker_configs.get(node_id, {}), effective, changes, {**KAFKA_KEYS, **BROKER_KEYS})
            return rules.plan_broker_configs(image, node_id, wanted, self._scope())

        await self._alter(plan, validate_only)

    async def _alter(self, plan: Callable[[ClusterImage], Record | None], validate_only: bool) -> None:
        if validate_only:
            plan(self.image)
            return

        def decide(image: ClusterImage) -> list[Record]:
            record = plan(image)
            return [] if record is None else [record]

        await self._commit(decide)

    async def allocate_producer_id(self) -> int:
        """A producer id that is given out once, ever.

        Raises:
            NotReady, StoreUnavailable, OutcomeUnknown, Fenced: none is left; the answer has no place for the reason, so the log says it once.
        """
        try:
            producer_id = await self.controller.allocate_producer_id()
        except HotlogError as why:
            self.ids_refused.begins(
                f"new idempotent producers are refused: no producer ids are left here, and the store gives none: {why}"
            )
            raise
        self.ids_refused.ends("new idempotent producers get ids again")
        return producer_id

    # Effects

    def _apply_broker_configs(self) -> None:
        dynamic = self.image.broker_configs
        own = {**dynamic.get(ALL_BROKERS, {}), **dynamic.get(self.node_id, {})}
        own = {name: text for name, text in own.items() if name in BROKER_KEYS}  # others are only told
        given = {**self.static_settings.given, **own}
        if given != dict(self.settings.given):
            self.settings = Settings.resolve(given)

    def _config_of_partition(self, tp: TopicPartition) -> TopicConfig:
        topic = self.topic(tp.topic)
        return self.config_of(topic) if topic is not None else rules.topic_config({}, self.settings)

    async def _reconcile(self) -> bool:
        before = self.settings
        self._apply_broker_configs()
        if before is not self.settings and self.tier is not None:
            self.tier.reconfigure(self.settings)
        return await self._hosting.reconcile(self.image, self.settings)

    # For the group coordinator

    def _groups_log(self, index: int) -> PartitionLog | None:
        partition = self.partition(rules.GROUPS_TOPIC, index)
        return partition.log if partition is not None else None

    def _groups_partitions(self) -> int:
        topic = self.topic(rules.GROUPS_TOPIC)
        return len(topic.partitions) if topic is not None else 0

    def _topic_partitions(self, name: str) -> int:
        topic = self.topic(name)
        return len(topic.partitions) if topic is not None else 0

    async def _ensure_groups_topic(self) -> None:
        await self.ensure_topic(rules.GROUPS_TOPIC)

    async def ensure_topic(self, name: str) -> TopicImage:
        """The topic, created with defaults if it is missing (auto-creation; internal topics with what they need).

        Waits a moment only: a connection's requests are answered in order, and a store that is away must not hold up the fetches behind this
        one.  Creation goes on; whoever asks again finds the topic, or is refused at once until it is there.

        Raises:
            Refused (REQUEST_TIMED_OUT when it takes longer), InvalidConfig
        """
        topic = self.topic(name)
        if topic is not None:
            return topic
        creation, wait_s = self._creations.get(name), 0.0
        if creation is None:
            if self.clock.monotonic() < self._create_again_at or len(self._creations) >= CREATIONS_MAX:
                raise Refused(
                    ErrorCode.request_timed_out, f"topic {name!r} cannot be created now: the object store did not answer"
                )
            creation, wait_s = asyncio.get_running_loop().create_task(self._auto_create(name)), CREATE_WAIT_S
            self._creations[name] = creation
            creation.add_done_callback(lambda task: self._creation_done(name, task))
        await asyncio.wait([creation], timeout=wait_s)
        if not creation.done():
            raise Refused(ErrorCode.request_timed_out, f"topic {name!r} is being created; the object store has not answered yet")
        return creation.result()

    def _creation_done(self, name: str, creation: asyncio.Task[TopicImage]) -> None:
        self._creations.pop(name, None)
        failure = None if creation.cancelled() else creation.exception()
        if isinstance(failure, Refused) and failure.code is ErrorCode.request_timed_out:
            self._create_again_at = self.clock.monotonic() + CREATE_AGAIN_S

    async def _auto_create(self, name: str) -> TopicImage:
        count, configs = -1, {}
        if name == rules.GROUPS_TOPIC:
            count, configs = self.settings.number("offsets.topic.num.partitions"), rules.GROUPS_TOPIC_CONFIGS
        try:
            return await self.create_topic(name, count, configs, replication_factor=1)
        except (Refused, AlreadyExists):
            topic = self.topic(name)  # somebody else was first
            if topic is None:
                raise
            return topic


def _as_image(record: Record) -> TopicImage:
    return next(iter(fold(ClusterImage(), [record]).topics.values()))


def _by_id(image: ClusterImage, topic_id: UUID) -> TopicImage:
    topic = image.topics_by_id.get(topic_id)
    if topic is None:
        raise NotFound(f"no topic has the id {topic_id}")
    return topic


def _by_name(image: ClusterImage, name: str) -> TopicImage:
    if not name:
        raise Refused(ErrorCode.invalid_request, "a topic's name is not empty; there are no defaults of all topics")
    topic = image.topics.get(name)
    if topic is None:
        raise NotFound(f"topic {name!r} does not exist")
    return topic


__all__ = ["Broker", "Partition"]
