"""All logs of one data directory (data_directory.py): open, create, delete, tick, close; and the checkpoint files they share.

Order that matters: recovery points are written after what they promise is on the device.

Invariants: a log is in `all()` from the moment its files are durable until its directory is renamed for deletion.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

from hotlog.kernel.errors import AlreadyExists, Corrupt, HotlogError, Invalid, NotFound, StorageFailed
from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log import checkpoints, files
from hotlog.log.awake import Awake, Follower
from hotlog.log.damaged_segments import DamagedSegment, DamagedSegments
from hotlog.log.data_directory import DataDirectory
from hotlog.log.offset_files import OffsetFiles
from hotlog.log.open_writers import OPEN_SHARE, READ_SHARE, OpenWriters
from hotlog.log.opener import ConfigOf, Opener
from hotlog.log.partition_log import PartitionLog
from hotlog.log.parts import Parts
from hotlog.log.pool import OPEN_FILES_MAX, FilePool, IndexCache
from hotlog.log.segment_reader import SegmentReader
from hotlog.log.shared_offsets import SharedOffsets
from hotlog.log.space import Space
from hotlog.log.sync_rounds import SyncRounds
from hotlog.world.ports import Clock, Disk, Entropy

CLOSED_AT_ONCE = 64
TICKED_AT_ONCE = 256  # logs and segments that are looked at in one turn of the loop
SWEEP_MS = 10 * 60 * 1000  # all logs are looked at so often
ROTTEN_BITS_MAX = 8


class LogManager:
    """See the module's head.  `config_of` gives a partition's settings while logs are opened (default: the broker's defaults)."""

    def __init__(self, clock: Clock, disk: Disk, entropy: Entropy, settings: Settings, metrics: Metrics, directory: str) -> None:
        self.directory = directory
        self.failures: dict[TopicPartition, Exception] = {}  # directories that could not be opened
        self.damage: list[tuple[str, str]] = []  # (where, message) of what was found wrong, newest last, bounded
        self._clock = clock
        self._disk = disk
        self._entropy = entropy
        self._settings = settings
        self._metrics = metrics
        self._logs: dict[TopicPartition, PartitionLog] = {}
        self._awake = Awake()
        self._swept_ms = 0
        descriptors = disk.descriptors_max()
        pool = FilePool(disk, min(OPEN_FILES_MAX, descriptors // READ_SHARE))
        reader = SegmentReader(pool, IndexCache(), self._report)
        self.space = Space(disk, directory, settings.number("hotlog.disk.reserve.bytes"))
        self._files = OffsetFiles(disk, directory, self._report)
        self._offsets = SharedOffsets(self._files, look=self._looked_at, failed=self.failures)
        self._damaged = DamagedSegments(disk, directory, found=self._damaged_segments, failed=self.failures, report=self._report)
        writers = OpenWriters(pool, descriptors // OPEN_SHARE)
        self._parts = Parts(
            disk, clock, entropy, metrics, pool, writers, SyncRounds(disk), reader, self.space,
            self._offsets.save_log_starts, self._offsets.save_recovery_points, self._offsets.save_cleaned_ends, self._damaged.save,
            self._awake.wake,
        )  # fmt: skip
        self._opener = Opener(
            self._parts, settings, saved=self._files, damaged=self._damaged, failed=self.failures, report=self._report
        )
        self._home = DataDirectory(disk, entropy, directory, settings.number("node.id"))
        self._round: list[PartitionLog] = []
        self._condemned: list[tuple[int, str]] = []  # (due, directory)
        self._checkpointed_ms = 0

    # -- open

    async def claim(self) -> str | None:
        """Take the directory for this process; the id of the cluster it belongs to, None if it is new.

        Comes before anything is claimed in the object store, so that a second process started by mistake harms nobody.

        Raises:
            Invalid: as `open`.
        """
        await self._home.claim(None)
        return self.cluster_id

    async def open(self, *, cluster_id: str | None = None, config_of: ConfigOf | None = None) -> None:
        """Open the data directory and every log in it; recover after an unclean stop.

        Raises:
            Invalid: another process has it, or it belongs to another node or cluster, or it is not writable.
        """
        await self._home.claim(cluster_id)
        names, clean = await self._home.begin()
        defaults = TopicConfig.resolve({}, self._settings.topic_defaults())
        self._files.read(names)
        self._damaged.read(names)
        found: list[tuple[TopicPartition, str]] = []
        for name in names:
            if files.is_condemned_directory(name):
                self._condemned.append((0, f"{self.directory}/{name}"))
            elif (tp := files.parse_partition_directory(name)) is not None:
                found.append((tp, f"{self.directory}/{name}"))
        for log in await self._opener.load_all(found, clean, config_of or (lambda tp: defaults)):
            self._take(log)
        await self._damaged.save()
        if not self._files.has(files.RECOVERY_POINTS):
            await self._offsets.save_recovery_points()  # from here on a point that is not there is lost
        self._checkpointed_ms = self._clock.now_ms()
        self._metrics.partitions.set_function(lambda: len(self._logs))

    async def bind_cluster(self, cluster_id: str) -> None:
        """Mark the directory as this cluster's, once the cluster's id is known.  Raises Invalid if it is another's."""
        await self._home.bind_cluster(cluster_id)

    # -- what is here

    @property
    def cluster_id(self) -> str | None:
        """The cluster that this data directory belongs to; None if that is not known."""
        return self._home.cluster_id

    @property
    def directory_id(self) -> str:
        """Of this data directory (KIP-858), random, made with it; "" before `claim`."""
        return self._home.directory_id

    def get(self, tp: TopicPartition) -> PartitionLog | None:
        return self._logs.get(tp)

    def all(self) -> list[PartitionLog]:
        return list(self._logs.values())

    async def create(
        self,
        tp: TopicPartition,
        topic_id: UUID,
        config: TopicConfig,
        *,
        start_offset: int = 0,
        leader_epoch: int = 0,
        log_start_offset: int | None = None,
    ) -> PartitionLog:
        """Make an empty log whose first offset is `start_offset`; `log_start_offset` is lower where the cold tier has what is below.

        Raises:
            AlreadyExists: there is one; Invalid: its directory is there but could not be opened.
        """
        if tp in self._logs:
            raise AlreadyExists(f"{tp} exists already")
        if tp in self.failures:
            raise Invalid(f"{tp} has a directory that could not be opened: {self.failures[tp]}")
        path = f"{self.directory}/{files.partition_directory(tp)}"
        try:
            await self._offsets.forget(tp, self._logs)
            await self._disk.run(self._opener.make, path, topic_id, start_offset)
            start = start_offset if log_start_offset is None else log_start_offset
            log = await self._disk.run(self._opener.load, tp, path, config, True, start_offset, start)
        except OSError as error:
            raise StorageFailed(f"{tp}: cannot create {path}: {error}") from error
        log.set_leader_epoch(leader_epoch)
        self._take(log)
        return log

    def _take(self, log: PartitionLog) -> None:
        self._logs[log.tp] = log
        self._awake.wake(log.tp)

    def follow(self) -> Follower:
        """Who wants to hear of logs in which something happened, instead of looking at all."""
        return self._awake.follow()

    async def mend_topic_id(self, tp: TopicPartition, topic_id: UUID) -> bool:
        """Write `topic_id` to partition.metadata if what stands there is that id with a few rotten bits; whether it was.

        Ids are random: two of them differ in about 61 bits, and one flipped bit of the text changes at most 6.
        """
        log = self._logs[tp]
        if (log.topic_id.int ^ topic_id.int).bit_count() > ROTTEN_BITS_MAX:
            return False
        path = f"{log.directory}/{files.METADATA_FILE}"
        self._report("partition-metadata", f"{path} has topic id {log.topic_id}; it must be {topic_id}")
        await self._disk.run(self._disk.write_atomic, path, checkpoints.print_metadata(topic_id))
        log.topic_id = topic_id
        return True

    async def reopen(self, tp: TopicPartition) -> PartitionLog:
        """Open a log that the disk failed once more, as a restart would; readers and waiters of the old one are told that it is closed.

        What was never committed is cut off first: it was not acknowledged, and a page that could not be written may be read back all the
        same.

        Raises:
            Corrupt, StorageFailed, OSError: it cannot be opened yet; the closed log stays in its place.
        """
        log = self._logs[tp]
        assert not isinstance(log.failed, Corrupt), "what follows damage may have been acknowledged: it is not cut off"
        await log.discard()
        fresh = await self._disk.run(self._opener.load_again, log)
        fresh.set_leader_epoch(log.leader_epoch)
        fresh.set_tiered_end(log.tiered_end_offset)
        self._take(fresh)
        return fresh

    async def delete(self, tp: TopicPartition) -> None:
        """Delete a log: its directory is renamed now and removed after file.delete.delay.ms."""
        log = self._logs.pop(tp, None)
        self._awake.forget(tp)
        path = f"{self.directory}/{files.partition_directory(tp)}"
        if log is None and self.failures.pop(tp, None) is None:
            raise NotFound(f"{tp} is not here")
        delay = log.config.file_delete_delay_ms if log is not None else 0
        if log is not None:
            await log.discard()
        target = f"{self.directory}/{files.condemned_directory(tp, self._entropy.uuid())}"
        await self._disk.run(self._condemn, path, target)
        self._condemned.append((self._clock.now_ms() + delay, target))

    def _condemn(self, path: str, target: str) -> None:
        self._disk.rename(path, target)
        self._disk.sync_dir(self.directory)

    # -- ticks

    async def tick(self) -> bool:
        """One bounded piece of upkeep; whether the round goes on.  Call it every second or so.

        A round is over the logs that are awake, and now and then over all: an index that a reader found broken wakes nobody.
        """
        now_ms = self._clock.now_ms()
        if not self._round:
            self._round = self._begin_round(now_ms)
        looked_at = 0
        while self._round and looked_at < TICKED_AT_ONCE:
            log = self._round.pop()
            looked_at += 1 + log.segment_count
            try:
                await log.upkeep.tick(now_ms)
            except (HotlogError, OSError) as error:
                self._report("tick", f"{log.tp}: {error}")
                continue
            if self._logs.get(log.tp) is log:
                until_ms = log.upkeep.next_look_ms(now_ms)
                if until_ms > now_ms:
                    self._awake.sleep(log.tp, until_ms)
        if self._round:
            return True
        due = [path for when, path in self._condemned if when <= now_ms]
        for path in due:
            await self._disk.run(self._disk.remove_tree, path)
        self._condemned = [entry for entry in self._condemned if entry[1] not in due]
        if now_ms - self._checkpointed_ms >= self._settings.number("log.flush.offset.checkpoint.interval.ms"):
            self._checkpointed_ms = now_ms
            await self.checkpoint()
        return False

    def _begin_round(self, now_ms: int) -> list[PartitionLog]:
        if not 0 <= now_ms - self._swept_ms < SWEEP_MS:
            self._swept_ms = now_ms
            for tp in self._logs:
                self._awake.wake(tp)
        found = [self._logs[tp] for tp in self._awake.due(now_ms) if tp in self._logs]
        found.reverse()
        return found

    async def checkpoint(self) -> None:
        """Write the recovery-point, high-watermark and log-start checkpoints; forget expired producers and damage that is gone."""
        now_ms = self._clock.now_ms()
        async for log in self._looked_at():
            log.producers.expire(now_ms)
        await self._offsets.save_ends()
        await self._offsets.save_log_starts()
        await self._damaged.refresh()

    async def by_topic(self) -> tuple[dict[str, int], dict[str, int]]:
        """Of each topic here: bytes of its segments, and how many of them are known to be damaged."""
        sizes: dict[str, int] = {}
        damaged: dict[str, int] = {}
        async for log in self._looked_at():
            sizes[log.tp.topic] = sizes.get(log.tp.topic, 0) + log.size
            damaged[log.tp.topic] = damaged.get(log.tp.topic, 0) + len(log.scrub.damaged_segments())
        return sizes, damaged

    async def _looked_at(self) -> AsyncIterator[PartitionLog]:
        """All logs, a bounded number in one turn of the loop; those that are deleted meanwhile are left out."""
        for number, log in enumerate(self.all(), 1):
            if number % TICKED_AT_ONCE == 0:
                await asyncio.sleep(0)
            if self._logs.get(log.tp) is log:
                yield log

    def _damaged_segments(self) -> frozenset[DamagedSegment]:
        return frozenset(
            DamagedSegment(log.tp.topic, log.tp.partition, info.base_offset)
            for log in self._logs.values()
            for info, _ in log.scrub.damaged_segments()
        )

    # -- end

    async def close(self) -> None:
        """Flush and close all logs; write checkpoints and, if every log closed well, the clean-shutdown marker."""
        logs = self.all()
        is_clean = True
        for start in range(0, len(logs), CLOSED_AT_ONCE):
            outcomes = await asyncio.gather(
                *(log.close() for log in logs[start : start + CLOSED_AT_ONCE]), return_exceptions=True
            )
            for log, outcome in zip(logs[start:], outcomes, strict=False):
                if isinstance(outcome, BaseException):
                    self._report("close", f"{log.tp}: {outcome}")
                    is_clean = False
        await self.checkpoint()
        if is_clean and not any(log.failed for log in logs):
            await self._home.end()
        self._parts.pool.close()
        self._home.let_go()

    def _report(self, where: str, message: str) -> None:
        """Damage is never silent: counted, and kept for whoever shows it."""
        self._metrics.corruption.labels(where).inc()
        self.damage.append((where, message))
        del self.damage[:-1000]
