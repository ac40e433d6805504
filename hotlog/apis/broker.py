"""The broker: what this node hosts, and every change to it.

A change to topics goes through the metadata log first; that commit is the instant at which it is true.  Its effects (directories,
manifests, settings) follow by `_reconcile`, which compares the newest image with what is hosted, so that a crash between commit
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
from controller.records import Record, Replicas, TopicPurged
from controller.service import Controller, State
from hotlog.apis import topic_rules as rules
from hotlog.apis.error_codes import Refused
from hotlog.coordinators.service import GroupCoordinator
from hotlog.kernel.errors import AlreadyExists, Fenced, NotFound, OutcomeUnknown, OutOfRange, Retry
from hotlog.kernel.ids import PartitionId, TopicPartition
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import BROKER_KEYS, Settings
from hotlog.kernel.topic_config import TOPIC_KEYS, TopicConfig
from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog
from hotlog.world.ports import Clock, Disk, Entropy

if TYPE_CHECKING:
    from tiering.tier import ColdPartition, ColdTier

LOG = logging.getLogger(__name__)
ATTACHES_AT_ONCE = 32


class Partition:
    """A hosted partition in both tiers."""

    __slots__ = ("cold", "leader_epoch", "log", "topic_id", "tp")

    def __init__(self, tp: TopicPartition, topic_id: UUID, leader_epoch: int, log: PartitionLog) -> None:
        self.tp = tp
        self.topic_id = topic_id
        self.leader_epoch = leader_epoch
        self.log = log
        self.cold: ColdPartition | None = None

    @property
    def pid(self) -> PartitionId:
        return PartitionId(self.topic_id, self.tp.partition)

    @property
    def log_start_offset(self) -> int:
        """The earliest offset clients may read, over both tiers."""
        return self.log.log_start_offset

    async def delete_records(self, offset: int) -> int:
        """Move the log start up to `offset` (-1: the high watermark) over both tiers (KIP-107); return the log start.

        The local log start moves first: it is what clients are held to, and it is durable before any object is condemned.

        Raises:
            OutOfRange: `offset` is negative or above the high watermark.
        """
        wanted = self.log.high_watermark if offset == -1 else offset
        if not 0 <= wanted <= self.log.high_watermark:
            raise OutOfRange(f"{self.tp}: offset {offset} is not within 0 and the high watermark {self.log.high_watermark}")
        if wanted > self.log.log_start_offset:
            self.log.advance_log_start(wanted)
        if self.cold is not None and self.cold.ready:
            await self.cold.advance_start(wanted)
        return self.log.log_start_offset


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
        self.is_ready = False
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._applied: dict[UUID, TopicImage] = {}
        self._configs: dict[UUID, tuple[TopicImage, Settings, TopicConfig]] = {}
        self._lock = asyncio.Lock()
        self.groups = GroupCoordinator(
            settings=lambda: self.settings,
            clock=clock,
            entropy=entropy,
            log_of=self._groups_log,
            ensure_topic=self._ensure_groups_topic,
            partition_count=self._groups_partitions,
            topic_partitions=self._topic_partitions,
        )

    # What is there

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
        return self._partitions.get((topic, index))

    def topic(self, name: str) -> TopicImage | None:
        return self.image.topics.get(name)

    def topic_by_id(self, topic_id: UUID) -> TopicImage | None:
        return self.image.topics_by_id.get(topic_id)

    def hosted(self) -> list[Partition]:
        return list(self._partitions.values())

    def config_of(self, topic: TopicImage) -> TopicConfig:
        """The topic's settings, resolved over this broker's."""
        known = self._configs.get(topic.topic_id)
        if known is None or known[0].configs is not topic.configs or known[1] is not self.settings:
            known = (topic, self.settings, rules.topic_config(topic.configs, self.settings))
            self._configs[topic.topic_id] = known
        return known[2]

    def topic_defaults_of(self, name: str) -> TopicConfig:
        """What a topic would get if it set nothing itself."""
        return rules.topic_config({}, self.settings)

    # Life

    async def start(self) -> None:
        """Open logs and cold tier, and make what is hosted agree with the image."""
        self._apply_broker_configs()
        await self.logs.open()
        if self.tier is not None:
            await self.tier.start()
        async with self._lock:
            await self._reconcile()
        await self.groups.start()
        self.is_ready = True

    async def close(self) -> None:
        """Stop serving, flush, close; nothing durable depends on this being called."""
        self.is_ready = False
        await self.groups.close()
        if self.tier is not None:
            await self.tier.close()
        await self.logs.close()

    async def tick(self) -> bool:
        """Upkeep: claim the controller if the store was away, repeat effects that failed.  True if something was done."""
        done = await self.controller.tick()
        async with self._lock:
            done = await self._reconcile() or done
        return await self.groups.tick() or done

    # Changes

    def _scope(self) -> rules.Scope:
        return rules.Scope(self.settings, self.node_id, self.clock.now_ms())

    async def _commit(self, decide: Callable[[ClusterImage], Sequence[Record]]) -> ClusterImage:
        """Commit, then bring what is hosted up to it.  A change whose outcome is unknown is still followed once it is known."""
        try:
            image = await self.controller.commit(decide)
        except Fenced as deposed:
            raise Refused(ErrorCode.not_controller, str(deposed)) from None
        except Retry as weather:
            raise Refused(ErrorCode.request_timed_out, f"metadata cannot change now: {weather}") from weather
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
        topic_id = self.entropy.uuid()
        if validate_only:
            record = rules.plan_create(self.image, wanted, topic_id, self._scope())
            return _as_image(record)
        image = await self._commit(lambda image: [rules.plan_create(image, wanted, topic_id, self._scope())])
        return image.topics_by_id[topic_id]

    async def delete_topic(self, topic_id: UUID) -> None:
        """Delete for clients now; both tiers' data follow (objects after their grace).

        Raises:
            NotFound, Refused
        """
        await self._commit(lambda image: [rules.plan_delete(image, _by_id(image, topic_id), self._scope())])

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
            wanted = rules.stepped(image.broker_configs.get(node_id, {}), effective, changes, BROKER_KEYS)
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
        """A producer id that is given out once, ever."""
        return await self.controller.allocate_producer_id()

    # Effects

    def _apply_broker_configs(self) -> None:
        dynamic = self.image.broker_configs
        own = {**dynamic.get(ALL_BROKERS, {}), **dynamic.get(self.node_id, {})}
        given = {**self.static_settings.given, **own}
        if given != dict(self.settings.given):
            self.settings = Settings.resolve(given)

    async def _reconcile(self) -> bool:
        """Make what is hosted agree with the image; repeatable.  True if something was done."""
        image = self.image
        before = self.settings
        self._apply_broker_configs()
        work = [
            topic
            for topic in image.topics.values()
            if self._applied.get(topic.topic_id) is not topic or before is not self.settings
        ]
        for topic in work:
            await self._host(topic)
        doomed = [topic for topic in image.doomed.values() if any(part.leader == self.node_id for part in topic.partitions)]
        for topic in doomed:
            await self._purge(topic)
        self.metrics.partitions.set(len(self._partitions))
        return bool(work or doomed)

    async def _host(self, topic: TopicImage) -> None:
        """Open or create every partition of `topic` that this node leads, at its epoch and settings."""
        config = self.config_of(topic)
        new = [
            await self._host_partition(topic, index, config)
            for index, part in enumerate(topic.partitions)
            if part.leader == self.node_id
        ]
        await self._tier(topic, config, new)
        self._applied[topic.topic_id] = topic

    async def _host_partition(self, topic: TopicImage, index: int, config: TopicConfig) -> Partition:
        tp = TopicPartition(topic.name, index)
        epoch = topic.partitions[index].leader_epoch
        log = self.logs.get(tp)
        if log is not None and log.topic_id != topic.topic_id:  # the name was deleted and made again while this node was away
            await self.logs.delete(tp)
            log = None
        if log is None:
            log = await self.logs.create(tp, topic.topic_id, config, leader_epoch=epoch)
        elif log.config is not config:
            log.reconfigure(config)
        if log.leader_epoch != epoch:
            log.set_leader_epoch(epoch)
        partition = self._partitions.get(tp)
        if partition is None or partition.log is not log:
            partition = self._partitions[tp] = Partition(tp, topic.topic_id, epoch, log)
        partition.leader_epoch = epoch
        return partition

    async def _tier(self, topic: TopicImage, config: TopicConfig, partitions: list[Partition]) -> None:
        """Attach to or detach from the cold tier as the settings say."""
        if self.tier is None:
            return
        tier = self.tier
        gate = asyncio.Semaphore(ATTACHES_AT_ONCE)

        async def attach(partition: Partition) -> None:
            async with gate:
                partition.cold = await tier.attach(partition.pid, topic.name, partition.log, leader_epoch=partition.leader_epoch)

        if config.remote_enabled:
            await asyncio.gather(*(attach(partition) for partition in partitions if partition.cold is None))
            return
        for partition in partitions:
            if partition.cold is not None:  # turned off with remote.log.delete.on.disable (KIP-950): the local part remains
                partition.log.advance_log_start(partition.log.local_log_start_offset)
                await tier.delete_topic_partition(partition.pid)
                partition.cold = None

    async def _purge(self, topic: TopicImage) -> None:
        """Give up a deleted topic's data in both tiers; what fails is repeated by the next tick."""
        for index in range(len(topic.partitions)):
            partition = self._partitions.get((topic.name, index))
            if partition is not None and partition.topic_id == topic.topic_id:
                del self._partitions[topic.name, index]
            tp = TopicPartition(topic.name, index)
            log = self.logs.get(tp)
            if log is not None and log.topic_id == topic.topic_id:
                await self.logs.delete(tp)
        self._applied.pop(topic.topic_id, None)
        self._configs.pop(topic.topic_id, None)
        try:
            if topic.name not in self.image.topics:
                await self.groups.forget_topic(topic.name)
            if self.tier is not None:
                for index in range(len(topic.partitions)):
                    await self.tier.delete_topic_partition(PartitionId(topic.topic_id, index))
            if self.controller.state is State.ACTIVE:
                await self.controller.commit(lambda image: _purged(image, topic.topic_id))
        except (Retry, OutcomeUnknown, Fenced) as weather:
            LOG.warning("data of deleted topic %s (%s) is still to be removed: %s", topic.name, topic.topic_id, weather)

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

        Raises:
            Refused, InvalidConfig
        """
        topic = self.topic(name)
        if topic is not None:
            return topic
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
    topic = image.topics.get(name)
    if topic is None:
        raise NotFound(f"topic {name!r} does not exist")
    return topic


def _purged(image: ClusterImage, topic_id: UUID) -> list[Record]:
    return [TopicPurged(topic_id=topic_id)] if topic_id in image.doomed else []

