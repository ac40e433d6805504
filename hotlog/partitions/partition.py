"""One partition over both tiers: the only face of it that doors, coordinators and workers see.

The hot tier is the local log, the cold tier the object store.  What a reader finds where, which tier knows an epoch or a time, and in which
order both give records up, is decided here and nowhere else.

Invariants: log start <= local start <= committed end <= log end; what is answered over both tiers is what one long local log would answer;
no offset is ever skipped silently: an offset that no tier has is an error.
"""

from __future__ import annotations

import logging
from uuid import UUID

from hotlog.kernel.errors import (
    Corrupt,
    OutcomeUnknown,
    OutOfRange,
    Retry,
    StorageFailed,
    StoreUnavailable,
)
from hotlog.kernel.ids import PartitionId, TopicPartition
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log.partition_log import PartitionLog
from hotlog.log.reader import Slice
from hotlog.partitions.answers import UNKNOWN_EPOCH, Cold, Found, Place, Ranges
from hotlog.partitions.commit import durability_of, rule_of
from hotlog.partitions.home import Home
from tiering.cold_partition import ColdPartition

LOG = logging.getLogger(__name__)


class Partition:
    """A hosted partition.

    `log` and `cold`, the two tiers, are this package's own; workers that keep the disk (retention, scrub) see it as an `Upkeep`.  `marks` are the
    log's ends, for looking at.  What requests do at every batch is bound once (`append`, `read_now`): the face must not cost them a call.
    """

    __slots__ = (
        "add_ear",
        "append",
        "append_in_turn",
        "append_marker",
        "append_plain",
        "cold",
        "committed",
        "config",
        "home",
        "leader_epoch",
        "log",
        "marks",
        "read_disk",
        "read_now",
        "remove_ear",
        "topic_id",
        "tp",
        "wait_room",
        "when_committed",
    )

    def __init__(self, tp: TopicPartition, topic_id: UUID, leader_epoch: int, log: PartitionLog, home: Home) -> None:
        self.tp = tp
        self.topic_id = topic_id
        self.leader_epoch = leader_epoch
        self.config: TopicConfig = log.config
        self.home = home
        self.log = log
        self.marks = log.marks
        self.cold: ColdPartition | None = None
        self.append = log.append
        self.append_plain = log.append_plain
        self.append_in_turn = log.append_in_turn
        self.append_marker = log.append_marker
        self.wait_room = log.wait_room
        self.committed = log.wait_committed
        self.when_committed = log.when_committed
        self.read_now = log.read
        self.add_ear, self.remove_ear = log.add_ear, log.remove_ear
        self.read_disk = log.read_blocking
        log.set_commit_rule(rule_of(durability_of(log.config)))

    @property
    def pid(self) -> PartitionId:
        return PartitionId(self.topic_id, self.tp.partition)

    def reconfigure(self, config: TopicConfig) -> None:
        """Take over changed topic settings."""
        self.config = config
        self.log.reconfigure(config)
        self.log.set_commit_rule(rule_of(durability_of(config)))
        if self.cold is not None:
            self.cold.stir()

    def lead(self, epoch: int) -> None:
        """Lead under `epoch` from here on; readers hear of it."""
        if epoch != self.leader_epoch:
            self.leader_epoch = epoch
            self.marks.tell()

    def leave(self) -> None:
        """It is served no more: whoever waits here has to look for it anew."""
        self.marks.tell()

    # Where it begins and ends

    @property
    def log_start_offset(self) -> int:
        """The earliest offset clients may read, over both tiers."""
        return self.marks.log_start_offset

    @property
    def local_log_start_offset(self) -> int:
        """The first offset that may be read from the local log."""
        return self.marks.local_log_start_offset

    @property
    def committed_end(self) -> int:
        """Up to where it may be read (Kafka: high watermark); what decides it is hotlog.partitions.commit."""
        return self.marks.high_watermark

    @property
    def log_end_offset(self) -> int:
        """The next offset that is given out."""
        return self.marks.log_end_offset

    @property
    def is_crowded(self) -> bool:
        """Whether an append now could hold too many files open: `wait_room` first."""
        return self.log.is_crowded

    @property
    def is_busy(self) -> bool:
        """Whether an append must wait, for a thread that writes or for room."""
        return self.log.is_busy

    def readable_end(self, is_committed_only: bool) -> int:
        """Up to where a reader may read: the last stable offset if it reads committed transactions only, else the committed end."""
        return self.marks.last_stable_offset if is_committed_only else self.marks.high_watermark

    def ranges(self) -> Ranges:
        """What lies in which tier."""
        log, cold, stored_end = self.log, self.cold, -1
        if self.config.remote_enabled and self.home.has_tier:
            stored_end = cold.end_offset if cold is not None and cold.ready else log.tiered_end_offset
        return Ranges(log.log_start_offset, stored_end, log.local_log_start_offset, log.high_watermark, log.log_end_offset)

    def stored_range(self) -> tuple[int, int] | None:
        """The offsets [start, end) that the store is known to have; None if that is not known now."""
        cold = self.cold
        if cold is None or not cold.ready or cold.view is None:
            return None
        return cold.log_start_offset, cold.end_offset

    @property
    def local_bytes(self) -> int:
        """Bytes of log on the local disk."""
        return self.log.size

    @property
    def active_bytes(self) -> int:
        """Bytes of the segment that is appended to."""
        return self.log.active.size

    @property
    def uncleanable(self) -> str:
        """Why its log cannot be cleaned, for people; "" as far as is known."""
        return self.log.clean.trouble

    @property
    def stored_bytes(self) -> int | None:
        """Committed log bytes in the store; None without a cold tier."""
        return self.cold.size_bytes if self.cold is not None else None

    # Reading

    def place_of(self, offset: int, is_committed_only: bool) -> Place:
        """Where a reader at `offset` finds its next records."""
        marks = self.marks
        if not marks.log_start_offset <= offset <= marks.log_end_offset:
            return Place.OUTSIDE
        if offset < marks.local_log_start_offset:
            return Place.COLD
        end = marks.last_stable_offset if is_committed_only else marks.high_watermark
        return Place.HOT if offset < end else Place.AT_END

    def behind_hole(self, offset: int) -> int | None:
        """Where a reader goes on in the local log if only a recorded hole lies before that; None if the store has anything in between."""
        end = self.cold.behind_hole(offset) if self.cold is not None else None
        return None if end is None or end < self.log.local_log_start_offset else end

    @property
    def has_store(self) -> bool:
        """Whether the cold tier can be asked now."""
        return self.cold is not None and self.cold.ready

    def is_stored(self, offset: int) -> bool:
        """Whether the store is known to have `offset`."""
        cold = self.cold
        return cold is not None and cold.ready and cold.log_start_offset <= offset < cold.end_offset

    def check_cold(self, offset: int) -> None:
        """Return if the cold tier has `offset`, or may turn out to have it once the store answers.

        Raises:
            Corrupt, UnknownVersion: the manifest is damaged, or of a newer release.
            StorageFailed: no tier has the offset, and none will.
        """
        cold = self.cold
        if cold is None:
            if not self.home.awaits_store:
                raise StorageFailed(f"{self.tp}: offset {offset} is neither local nor in a store")
        elif not cold.ready:
            if cold.damage is not None:
                raise cold.damage
        elif not cold.log_start_offset <= offset < cold.end_offset:
            raise StorageFailed(
                f"{self.tp}: offset {offset} lies between what the store has, [{cold.log_start_offset}, {cold.end_offset}), and the"
                f" local log from {self.log.local_log_start_offset}"
            )

    def read_cold_now(self, offset: int, bytes_max: int, is_committed_only: bool) -> Cold | None:
        """What is in memory as a sequential reader's next; None: use `read_cold`."""
        cold = self.cold
        if cold is None or (is_committed_only and (cold.has_aborted or self.log.has_aborted())):
            return None
        data = cold.read_now(offset, bytes_max)
        return None if data is None else Cold(data, [] if is_committed_only else None)

    async def read_cold(self, offset: int, bytes_max: int, is_committed_only: bool, *, wait_ms: int) -> Cold:
        """Batches from the store: the first one whole, empty if they did not come within `wait_ms`.

        Raises:
            NotReady, StoreUnavailable: weather.  OutOfRange.  Corrupt.
        """
        cold = self.cold
        if cold is None:
            raise StoreUnavailable(f"{self.tp}: the cold tier was detached")
        data = await cold.read(offset, bytes_max, min_one=True, wait_ms=wait_ms)
        aborted = None
        if is_committed_only:
            aborted = await self._aborted(cold, offset, data.end_offset_limit) if len(data.data) else []
        return Cold(data, aborted)

    async def _aborted(self, cold: ColdPartition, start: int, end: int) -> list[tuple[int, int]]:
        """(producer id, first offset) of aborted transactions in what the store has; the marker of one may lie in the local log.

        That is asked first: a segment may be copied and dropped meanwhile, and then the store knows of it.
        """
        found = await self.log.aborted_transactions(start, end) if self.log.has_aborted() else []
        found += await cold.aborted_transactions(start, end)
        return list(dict.fromkeys(found))

    async def read(self, offset: int, bytes_max: int) -> Slice:
        """Batches from `offset` on, from the tier that has them, the first one whole; empty at the committed end.

        Raises:
            OutOfRange, Corrupt, StorageFailed, StoreUnavailable, NotReady.
        """
        place = self.place_of(offset, is_committed_only=False)
        if place is Place.COLD:
            behind = self.behind_hole(offset)
            offset, place = (offset, place) if behind is None else (behind, self.place_of(behind, is_committed_only=False))
        if place is Place.OUTSIDE:
            raise OutOfRange(f"{self.tp}: offset {offset} is outside [{self.log_start_offset}, {self.log_end_offset}]")
        if place is Place.COLD:
            self.check_cold(offset)
            return (await self.read_cold(offset, bytes_max, False, wait_ms=COLD_WAIT_MS)).data
        try:
            return await self.read_disk(offset, bytes_max, min_one=True)
        except Corrupt:
            if not self.is_stored(offset):
                raise
        return (await self.read_cold(offset, bytes_max, False, wait_ms=COLD_WAIT_MS)).data

    # Looking up

    def epoch_at(self, offset: int) -> int:
        """The leader epoch that wrote `offset`, as far as the local log knows; -1 if it does not."""
        return self.log.epochs.epoch_at(offset) if offset >= 0 else -1

    async def end_offset_for_epoch(self, epoch: int) -> tuple[int, int]:
        """(largest known epoch <= `epoch`, its end offset) from the tier that knows it; (-1, -1) if none does (KIP-101, KIP-279).

        Raises:
            StoreUnavailable: only the cold tier knows it, and it does not answer.
        """
        log, cold = self.log, self.cold
        entries = log.epochs.entries
        is_older = bool(entries) and epoch < entries[0][0]
        if is_older and cold is not None and cold.ready and cold.end_offset > cold.log_start_offset:
            found = await cold.end_offset_for_epoch(epoch)
            if found != UNKNOWN_EPOCH:
                return found
            newest = await cold.newest_epoch()
            if 0 <= newest < epoch:  # nobody led under `epoch`: the one before it ends where the local log's first begins
                return newest, entries[0][1]
        return log.end_offset_for_epoch(epoch)

    async def offset_for_time(self, timestamp_ms: int) -> Found | None:
        """The first record at or after a time; None if there is none.  The store is asked first: it has the older records.

        Raises:
            StoreUnavailable: the tiered part cannot be searched now.
        """
        cold, found = self._cold_only(), None
        if cold is not None:
            found = await cold.offset_for_timestamp(timestamp_ms)
        if found is None:
            found = await self.log.offset_for_timestamp(timestamp_ms)
        return None if found is None else Found(*found)

    async def offset_of_max_time(self) -> Found | None:
        """The record with the largest timestamp, the older one of equals (KIP-734); None if there is none.  Raises as `offset_for_time`."""
        cold = self._cold_only()
        local = await self.log.offset_of_max_timestamp()
        tiered = await cold.offset_of_max_timestamp() if cold is not None else None
        both = [Found(*each) for each in (tiered, local) if each is not None]
        return max(both, key=lambda each: each.timestamp, default=None)

    def _cold_only(self) -> ColdPartition | None:
        """The cold tier, if records lie only there.  Raises StoreUnavailable."""
        if self.log.local_log_start_offset <= self.log.log_start_offset:
            return None
        if self.cold is None or not self.cold.ready:
            raise StoreUnavailable(f"{self.tp}: the tiered part of the log cannot be searched now")
        return self.cold

    # Giving up

    async def delete_records(self, offset: int) -> int:
        """Move the log start up to `offset` (-1: the committed end) over both tiers (KIP-107); return the log start.

        The local log start moves first: it is what clients are held to, and it is durable before any object is condemned.

        Raises:
            OutOfRange: `offset` is negative or above the committed end.
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

    # For coordinators

    def roll(self, now_ms: int) -> None:
        """Close the active segment if it holds anything.

        Raises:
            DiskFull, StorageFailed, NotReady: a thread is writing to it.
        """
        self.log.roll(now_ms)


COLD_WAIT_MS = 30_000  # how long one read of the store may go on by itself; the store's own deadlines are around it
