"""What this node hosts, brought into agreement with the metadata image: directories, manifests, settings, and what is to be given up.

Invariants: every step may be repeated, and is, until it has succeeded; a log that is missing here is never begun at an offset that the
cold tier has already given out; a log is deleted only if the image says that its topic, by id, is gone, or if its cold tier has all of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

from controller.changes import PurgeTopics
from controller.config_rules import topic_config
from controller.image import ClusterImage, TopicImage
from controller.metadata import Metadata
from hotlog.kernel.errors import HotlogError, OutcomeUnknown, OutOfRange, Retry, StoreUnavailable
from hotlog.kernel.ids import PartitionId, TopicPartition
from hotlog.kernel.settings import Settings
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog

if TYPE_CHECKING:
    from tiering.tier import ColdPartition, ColdTier

LOG = logging.getLogger(__name__)
AT_ONCE = 32
LOOKED_AT_ONCE = 256  # topics or partitions, in one turn of the loop


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
        await self.log.wait_log_start_saved()
        if self.cold is not None:
            try:
                await self.cold.advance_start(wanted)
            except (Retry, OutcomeUnknown) as weather:  # the retention worker brings the manifest up to the log start
                LOG.info("%s: objects below %d are given up later: %s", self.tp, wanted, weather)
        return self.log.log_start_offset


class Partitions(dict[tuple[str, int], Partition]):
    """Hosted partitions by topic and number; `version` goes up with every change."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 0

    def __setitem__(self, key: tuple[str, int], value: Partition) -> None:
        self.version += 1
        super().__setitem__(key, value)

    def __delitem__(self, key: tuple[str, int]) -> None:
        self.version += 1
        super().__delitem__(key)


class Hosting:
    """The hosted partitions.  The broker has one `reconcile` or `mend` under way at a time; `purge_cold` runs beside them, on topics that
    `reconcile` has given up."""

    def __init__(
        self,
        *,
        logs: LogManager,
        metadata: Metadata,
        tier: ColdTier | None,
        forget_topic: Callable[[str], Awaitable[None]],
    ) -> None:
        self.partitions = Partitions()
        self.fresh: set[UUID] = set()  # topics that this process created: nothing of theirs can be anywhere
        self._logs = logs
        self._metadata = metadata
        self._node_id = metadata.node_id
        self._tier = tier
        self._forget_topic = forget_topic
        self._given_up: set[UUID] = set()  # deleted topics of which nothing is left here
        self._applied: dict[UUID, tuple[TopicImage, Settings]] = {}
        self._configs: dict[UUID, tuple[TopicImage, Settings, TopicConfig]] = {}

    def config_of(self, topic: TopicImage, settings: Settings) -> TopicConfig:
        """The topic's settings, resolved over the broker's."""
        known = self._configs.get(topic.topic_id)
        if known is None or known[0].configs is not topic.configs or known[1] is not settings:
            known = (topic, settings, topic_config(topic.configs, settings))
            self._configs[topic.topic_id] = known
        return known[2]

    def _is_applied(self, topic: TopicImage, settings: Settings) -> bool:
        known = self._applied.get(topic.topic_id)
        return known is not None and known[0] is topic and known[1] is settings

    async def reconcile(self, image: ClusterImage, settings: Settings) -> bool:
        """Make what is hosted agree with `image`; repeatable.  True if something was done."""
        work = []
        for number, topic in enumerate(image.topics.values(), 1):
            if number % LOOKED_AT_ONCE == 0:
                await asyncio.sleep(0)
            if not self._is_applied(topic, settings):
                work.append(topic)
        done = [await self._host(topic, settings) for topic in work]
        done += [await self._purge_local(topic, image) for topic in self._doomed(image) if topic.topic_id not in self._given_up]
        return any(done)

    def _doomed(self, image: ClusterImage) -> list[TopicImage]:
        return [topic for topic in image.doomed.values() if any(part.leader == self._node_id for part in topic.partitions)]

    async def _host(self, topic: TopicImage, settings: Settings) -> bool:
        """Open or create every partition of `topic` that this node leads, at its epoch and settings; False if some must wait."""
        config = self.config_of(topic, settings)
        mine = [index for index, part in enumerate(topic.partitions) if part.leader == self._node_id]
        gate = asyncio.Semaphore(AT_ONCE)
        hosted = await asyncio.gather(*(self._try_host(topic, index, config, gate) for index in mine))
        partitions = [partition for partition in hosted if partition is not None]
        is_whole = len(partitions) == len(mine)
        try:
            await self._follow_tier(topic, config, partitions)
        except HotlogError as weather:
            LOG.warning("%s: the cold tier does not follow its settings yet: %s", topic.name, weather)
            is_whole = False
        if is_whole:
            self._applied[topic.topic_id] = (topic, settings)
        return is_whole

    async def _try_host(self, topic: TopicImage, index: int, config: TopicConfig, gate: asyncio.Semaphore) -> Partition | None:
        async with gate:
            try:
                return await self._host_partition(topic, index, config)
            except (HotlogError, OSError) as problem:
                LOG.error("%s-%d is not served: %s", topic.name, index, problem)
                return None

    async def _host_partition(self, topic: TopicImage, index: int, config: TopicConfig) -> Partition:
        tp = TopicPartition(topic.name, index)
        epoch = topic.partitions[index].leader_epoch
        log = self._logs.get(tp)
        if log is not None and log.topic_id != topic.topic_id and not await self._logs.mend_topic_id(tp, topic.topic_id):
            await self._logs.delete(tp)  # the name was deleted and made again while this node was away
            log = None
        if log is None:
            log = await self._create_log(topic, tp, config, epoch)
        elif log.config is not config:
            log.reconfigure(config)
        if log.leader_epoch != epoch:
            log.set_leader_epoch(epoch)
        partition = self.partitions.get(tp)
        if partition is None or partition.log is not log:
            partition = self.partitions[tp] = Partition(tp, topic.topic_id, epoch, log)
        partition.leader_epoch = epoch
        return partition

    async def _create_log(self, topic: TopicImage, tp: TopicPartition, config: TopicConfig, epoch: int) -> PartitionLog:
        """A new log; for a topic that is older than this process it begins behind every offset that was ever given out, as far as is known.

        Raises:
            StoreUnavailable: the store cannot say where that is; beginning at 0 would give offsets out twice.
        """
        if topic.topic_id in self.fresh:
            return await self._logs.create(tp, topic.topic_id, config, leader_epoch=epoch)
        if not self._metadata.is_joined:
            raise StoreUnavailable("it has no local log, and the store has not said yet where one may begin")
        held, bound = None, await self._metadata.ends.bound(topic.topic_id, tp.partition)
        if config.remote_enabled and self._tier is not None:
            held = await self._tier.tiered_range(PartitionId(topic.topic_id, tp.partition))
        start, tiered_end = held or (0, 0)
        end = max(tiered_end, bound)
        if end:
            LOG.warning("%s has no local log: it begins anew at offset %d; the cold tier ends at %d", tp, end, tiered_end)
        log = await self._logs.create(tp, topic.topic_id, config, start_offset=end, leader_epoch=epoch)
        if tiered_end > 0:
            log.begin_history_at(start)  # what is between that and the local log is in the store, or a hole
            await log.wait_log_start_saved()
        return log

    async def mend(self, image: ClusterImage) -> None:
        """Begin a log anew that turned out to end before its cold tier does: the store has all of it, and more."""
        for number, (tp, partition) in enumerate(list(self.partitions.items()), 1):
            if number % LOOKED_AT_ONCE == 0:
                await asyncio.sleep(0)
            view = partition.cold.view if partition.cold is not None and partition.cold.ready else None
            topic = image.topics_by_id.get(partition.topic_id)
            if view is None or topic is None or partition.log.log_end_offset >= view.end_offset:
                continue
            LOG.warning("%s ends at %d, its cold tier at %d", partition.tp, partition.log.log_end_offset, view.end_offset)
            del self.partitions[tp]
            self.fresh.discard(partition.topic_id)
            self._applied.pop(partition.topic_id, None)
            if self._tier is not None:
                await self._tier.detach(partition.pid)
            await self._logs.delete(partition.tp)

    async def leave_store(self) -> None:
        """Have nothing more to do with the store: it is another cluster's.  The hot tier goes on."""
        tier, self._tier = self._tier, None
        for partition in self.partitions.values():
            partition.cold = None
        if tier is not None:
            await tier.stop()

    async def _follow_tier(self, topic: TopicImage, config: TopicConfig, partitions: list[Partition]) -> None:
        """Attach to or detach from the cold tier as the settings say."""
        if self._tier is None:
            return
        tier = self._tier
        gate = asyncio.Semaphore(AT_ONCE)

        async def attach(partition: Partition) -> None:
            async with gate:
                partition.cold = await tier.attach(partition.pid, topic.name, partition.log, leader_epoch=partition.leader_epoch)

        if config.remote_enabled:
            await asyncio.gather(*(attach(partition) for partition in partitions if not _is_attached(partition)))
            return
        if not config.is_remote_given_up:  # a default changed, or a broker's: nobody gave up what only the store has
            await asyncio.gather(*(attach(partition) for partition in partitions if _needs_cold(partition)))
            return
        for partition in partitions:
            if partition.cold is not None:  # turned off with remote.log.delete.on.disable (KIP-950): the local part remains
                partition.log.advance_log_start(partition.log.local_log_start_offset)
                await partition.log.wait_log_start_saved()
                await tier.delete_topic_partition(partition.pid)
                partition.cold = None

    async def _purge_local(self, topic: TopicImage, image: ClusterImage) -> bool:
        """Give up a deleted topic's logs, copies under way and group offsets; False if that is to be repeated."""
        try:
            for index in range(len(topic.partitions)):
                tp = TopicPartition(topic.name, index)
                partition = self.partitions.get(tp)
                if partition is not None and partition.topic_id == topic.topic_id:
                    del self.partitions[tp]
                if self._tier is not None:
                    await self._tier.detach(PartitionId(topic.topic_id, index))
                log = self._logs.get(tp)
                if log is not None and log.topic_id == topic.topic_id:
                    await self._logs.delete(tp)
            if topic.name not in image.topics:
                await self._forget_topic(topic.name)
        except (HotlogError, OSError) as problem:
            LOG.warning("logs of deleted topic %s (%s) are still to be removed: %s", topic.name, topic.topic_id, problem)
            return False
        self._applied.pop(topic.topic_id, None)
        self._configs.pop(topic.topic_id, None)
        self.fresh.discard(topic.topic_id)
        self._given_up.add(topic.topic_id)
        return True

    async def purge_cold(self, image: ClusterImage) -> bool:
        """Doom what deleted topics left in the store and note that in the metadata; what fails is repeated.  True if something was done.

        Not part of a request: it costs two calls of the store for each partition.
        """
        done = False
        for topic in self._doomed(image):
            if topic.topic_id not in self._given_up or not self._metadata.is_joined:
                continue
            try:
                if self._tier is not None:
                    await self._delete_cold(self._tier, topic)
                await self._metadata.submit(PurgeTopics(topic_ids=(topic.topic_id,)))
            except HotlogError as weather:
                LOG.warning("objects of deleted topic %s (%s) are still to be removed: %s", topic.name, topic.topic_id, weather)
                continue
            self._given_up.discard(topic.topic_id)
            done = True
        return done

    async def _delete_cold(self, tier: ColdTier, topic: TopicImage) -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def delete(index: int) -> None:
            async with gate:
                await tier.delete_topic_partition(PartitionId(topic.topic_id, index))

        outcomes = await asyncio.gather(*(delete(index) for index in range(len(topic.partitions))), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failures:
            raise failures[0]


def _is_attached(partition: Partition) -> bool:
    return partition.cold is not None and partition.cold.leader_epoch == partition.leader_epoch


def _needs_cold(partition: Partition) -> bool:
    """Whether it has, or had until now, history that may be nowhere but in the store."""
    has_history = partition.cold is not None or partition.log.log_start_offset < partition.log.local_log_start_offset
    return has_history and not _is_attached(partition)
