"""What this node hosts, brought into agreement with the metadata image: directories, manifests, settings, and what is to be given up.

Invariants: every step may be repeated, and is, until it has succeeded; a log that is missing here is never begun at an offset that the
cold tier has already given out; a log is deleted only if the image says that its topic, by id, is gone, or if its cold tier has all of it.
"""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

from controller.image import ClusterImage, TopicImage
from controller.internal_topics import INTERNAL_TOPICS
from controller.metadata import Metadata, State
from hotlog.kernel.errors import Corrupt, HotlogError, StoreUnavailable
from hotlog.kernel.ids import PartitionId, TopicPartition
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog
from hotlog.partitions.partition import Partition
from tiering.tier import ColdTier

LOG = logging.getLogger(__name__)
AT_ONCE = 32
LOOKED_AT_ONCE = 256  # partitions, in one turn of the loop
CHANGES_KEPT_MIN = 1024  # of topics of which nothing is hosted any more


class Partitions(dict[tuple[str, int], Partition]):
    """Hosted partitions by topic and number (`by_id`: by the topic's id), and which topics' changed when: `version` goes up with every change.  Who
    reads from one that goes hears of it.

    Invariants: of a topic that never changed, or of which nothing is hosted and which was forgotten, the last change is 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_id: dict[tuple[UUID, int], Partition] = {}  # changed here only
        self.version = 0
        self._changes: dict[str, int] = {}  # the last change of a topic, the latest at the end; bounded by what is hosted
        self._known_from = 0  # changes up to here may be forgotten

    def __setitem__(self, key: tuple[str, int], value: Partition) -> None:
        before = self.get(key)
        super().__setitem__(key, value)
        if before is not None:
            self.by_id.pop((before.topic_id, key[1]), None)
        self.by_id[value.topic_id, key[1]] = value
        self._note(key[0])
        if before is not None:
            before.leave()

    def __delitem__(self, key: tuple[str, int]) -> None:
        gone = self.pop(key)
        self.by_id.pop((gone.topic_id, key[1]), None)
        self._note(key[0])
        gone.leave()

    def _note(self, topic: str) -> None:
        self.version += 1
        self._changes.pop(topic, None)
        self._changes[topic] = self.version
        if len(self._changes) > 2 * len(self) + CHANGES_KEPT_MIN:
            hosted = {topic for topic, _ in self}
            self._changes = {topic: at for topic, at in self._changes.items() if topic in hosted}
            self._known_from = self.version

    def changed_at(self, topic: str) -> int:
        """The version at which the topic's partitions changed last."""
        return self._changes.get(topic, 0)

    def changed_since(self, version: int) -> set[str] | None:
        """Topics of which partitions came or went after `version`; None if that is not known any more."""
        if version < self._known_from:
            return None
        names: set[str] = set()
        for topic in reversed(self._changes):
            if self._changes[topic] <= version:
                break
            names.add(topic)
        return names


class Hosting:
    """The hosted partitions.  The broker has one `host`, `mend` or `give_up` under way at a time; `delete_cold` runs beside them, on topics
    that were given up."""

    def __init__(self, *, logs: LogManager, metadata: Metadata, tier: ColdTier | None) -> None:
        self.partitions = Partitions()
        self.fresh: set[UUID] = set()  # topics that this process created: nothing of theirs can be anywhere
        self.has_tier = tier is not None
        self._logs = logs
        self._metadata = metadata
        self._node_id = metadata.node_id
        self._tier = tier
        self._stirred = logs.follow()
        self._to_mend: dict[TopicPartition, None] = {}  # partitions in which something happened
        self._opening, self._attaching = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(AT_ONCE)  # of all topics together

    @property
    def awaits_store(self) -> bool:
        """Whether a partition without a cold tier may still get one."""
        return self.has_tier and self._metadata.state is not State.FENCED

    def begin_round(self) -> None:
        """Topics are about to be hosted: all together they wait no longer for the store than one would."""
        if self._tier is not None:
            self._tier.begin_attaches()

    async def host(self, topic: TopicImage, config: TopicConfig) -> bool:
        """Open or create every partition of `topic` that this node leads, at its epoch and settings; False if some must wait."""
        mine = [index for index, part in enumerate(topic.partitions) if part.leader == self._node_id]
        hosted = await asyncio.gather(*(self._try_host(topic, index, config) for index in mine))
        partitions = [partition for partition in hosted if partition is not None]
        is_whole = len(partitions) == len(mine)
        try:
            await self._follow_tier(topic, config, partitions)
        except HotlogError as weather:
            LOG.warning("%s: the cold tier does not follow its settings yet: %s", topic.name, weather)
            return False
        return is_whole

    async def _try_host(self, topic: TopicImage, index: int, config: TopicConfig) -> Partition | None:
        async with self._opening:
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
        if log.leader_epoch != epoch:
            log.set_leader_epoch(epoch)
        partition = self.partitions.get(tp)
        if partition is None or partition.log is not log:
            partition = self.partitions[tp] = Partition(tp, topic.topic_id, epoch, log, self)
        if log.config is not config:
            partition.reconfigure(config)
        partition.lead(epoch)
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

    async def mend(self, image: ClusterImage) -> set[UUID]:
        """Give up logs that turned out to end before their cold tier does: the store has all of them, and more.  Open internal topics' logs
        again that the disk failed: nobody else would look at them.  Damage is left as it is: what follows it was acknowledged.

        Returns the ids of their topics, which are to be hosted again.
        """
        given_up = set()
        self._to_mend.update((tp, None) for tp in self._stirred.take())
        for number, tp in enumerate(list(self._to_mend), 1):
            if number % LOOKED_AT_ONCE == 0:
                await asyncio.sleep(0)
            partition = self.partitions.get(tp)
            if partition is not None and tp.topic in INTERNAL_TOPICS and _has_failed_disk(partition):
                if await self._reopen(partition):
                    given_up.add(partition.topic_id)
                    self._to_mend.pop(tp, None)
                continue
            self._to_mend.pop(tp, None)
            if partition is None:
                continue
            stored = partition.stored_range()
            if stored is None or partition.topic_id not in image.topics_by_id or partition.log_end_offset >= stored[1]:
                continue
            LOG.warning("%s ends at %d, its cold tier at %d", partition.tp, partition.log_end_offset, stored[1])
            del self.partitions[tp]
            self.fresh.discard(partition.topic_id)
            given_up.add(partition.topic_id)
            try:
                if self._tier is not None:
                    await self._tier.detach(partition.pid)
                await self._logs.delete(partition.tp)
            except (HotlogError, OSError) as problem:  # it is hosted again all the same, and looked at again
                LOG.warning("%s is still to be given up: %s", partition.tp, problem)
        return given_up

    async def _reopen(self, partition: Partition) -> bool:
        """Open a log again that failed; whether it is open."""
        try:
            await self._logs.reopen(partition.tp)
        except (HotlogError, OSError) as failure:
            LOG.warning("%s cannot be opened again yet: %s", partition.tp, failure)
            return False
        LOG.warning("%s had failed and is opened again", partition.tp)
        return True

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
        is_new = topic.topic_id in self.fresh

        async def attach(partition: Partition) -> None:
            async with self._attaching:
                partition.cold = await tier.attach(
                    partition.pid, topic.name, partition.log, leader_epoch=partition.leader_epoch, is_new=is_new
                )

        if config.remote_enabled:
            await asyncio.gather(*(attach(partition) for partition in partitions if not self._is_attached(partition)))
            return
        if not config.is_remote_given_up:  # a default changed, or a broker's: nobody gave up what only the store has
            await asyncio.gather(*(attach(partition) for partition in partitions if self._needs_cold(partition)))
            return
        for partition in partitions:
            if partition.cold is not None:  # turned off with remote.log.delete.on.disable (KIP-950): the local part remains
                partition.log.advance_log_start(partition.log.local_log_start_offset)
                await partition.log.wait_log_start_saved()
                await tier.delete_topic_partition(partition.pid)
                partition.cold = None

    def _is_attached(self, partition: Partition) -> bool:
        """Also in the tier's eyes: it gives a partition up at once, and what is left to be deleted may fail."""
        cold, tier = partition.cold, self._tier
        return cold is not None and tier is not None and tier.keeps(cold) and cold.leader_epoch == partition.leader_epoch

    def _needs_cold(self, partition: Partition) -> bool:
        """Whether it has, or had until now, history that may be nowhere but in the store."""
        has_history = partition.cold is not None or partition.log.log_start_offset < partition.log.local_log_start_offset
        return has_history and not self._is_attached(partition)

    async def give_up(self, topic: TopicImage) -> None:
        """Delete the logs of a deleted topic and end its copies under way; repeatable.

        Raises:
            HotlogError, OSError: some are still to be removed.
        """
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
        self.fresh.discard(topic.topic_id)

    async def delete_cold(self, topic: TopicImage) -> None:
        """Doom what a deleted topic left in the store: two calls of the store for each partition.

        Raises:
            StoreUnavailable, OutcomeUnknown: some is still to be doomed.
        """
        tier = self._tier
        if tier is None:
            return
        gate = asyncio.Semaphore(AT_ONCE)

        async def delete(index: int) -> None:
            async with gate:
                await tier.delete_topic_partition(PartitionId(topic.topic_id, index))

        outcomes = await asyncio.gather(*(delete(index) for index in range(len(topic.partitions))), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failures:
            raise failures[0]


def _has_failed_disk(partition: Partition) -> bool:
    failed = partition.log.failed
    return failed is not None and not isinstance(failed, Corrupt)
