"""One partition's hot log, made of Segments, Marks, Roller, Writer, Syncer, Reader and LogUpkeep; verbs that need more than one are here.

State changes are plain functions on the event loop; what may wait (fsync, a cold page, file removal) is `async`.

Invariants: those of marks.py and segments.py; offsets below the high watermark never change; a tiered log never drops what the cold tier has
not committed, unless it expired; the log start moves before a file goes.
"""

from __future__ import annotations

from collections.abc import Callable

from hotlog.kernel.errors import Corrupt, Invalid, OutOfRange
from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log import checkpoints, files
from hotlog.log.clean_view import CleanView
from hotlog.log.condemned import Condemned
from hotlog.log.large_appends import LargeAppends
from hotlog.log.loaded import Loaded
from hotlog.log.marks import CommitRule, Marks, Watermark, when_appended, when_durable
from hotlog.log.parts import Parts
from hotlog.log.producer_snapshot import parse_snapshot
from hotlog.log.producers import Producers
from hotlog.log.reader import Reader
from hotlog.log.repair import rebuild_producers
from hotlog.log.reshape import Reshaper
from hotlog.log.roller import Roller
from hotlog.log.scrub_view import ScrubView
from hotlog.log.segment import Segment
from hotlog.log.segments import Segments
from hotlog.log.state import LogState
from hotlog.log.syncer import Syncer
from hotlog.log.upkeep import LogUpkeep
from hotlog.log.waiters import Told
from hotlog.log.writer import Writer


class PartitionLog:
    """A log as the rest of the house sees it.  Made by LogManager.

    The hot verbs are the parts' own, so that a call costs what it costs there: `append`, `read`, and what waits for them.
    """

    def __init__(
        self, parts: Parts, tp: TopicPartition, directory: str, config: TopicConfig, loaded: Loaded, log_start: int
    ) -> None:
        self.tp = tp
        self.topic_id = loaded.topic_id
        self.config = config
        self.directory = directory
        self.epochs = loaded.epochs
        self.producers = loaded.producers
        self._parts = parts
        self._clean_end = loaded.snapshot_offset  # the newest producer snapshot stands for this end
        self._commit_rule: CommitRule | None = None
        self._segments = segments = Segments(loaded.segments)
        self.marks = marks = Marks(
            log_start=log_start,
            local_start=segments.all[0].base_offset,
            committed=_committed_end(loaded),
            log_end=loaded.log_end,
            producers=loaded.producers,
            rule=_rule_of(config),
        )
        marks.failed = loaded.problem
        state = LogState(tp, directory, segments, marks, loaded.epochs, loaded.producers)
        self._syncer = syncer = Syncer(parts, state, config)
        roller = Roller(parts, state, syncer, config)
        self._writer = writer = Writer(parts, state, syncer, roller, config)
        self._large = large = LargeAppends(parts.disk, state, syncer, writer)
        self._condemned = Condemned(parts.disk, parts.pool, directory)
        self._reshaper = reshaper = Reshaper(parts, state, syncer, large, self._condemned)
        self._reader = reader = Reader(tp, parts.disk, parts.reader, segments=segments, marks=marks)
        self.upkeep = LogUpkeep(
            parts, state, syncer=syncer, roller=roller, writer=writer, reshaper=reshaper, condemned=self._condemned,
        )  # fmt: skip
        self.scrub = ScrubView(segments=segments, marks=marks, syncer=syncer, epochs=loaded.epochs, save=parts.save_damage)
        self.clean = CleanView(
            parts.disk, parts.reader, directory, segments=segments, marks=marks, producers=loaded.producers,
            replace=reshaper.replace_segments, save=parts.save_cleaned_ends,
        )  # fmt: skip
        marks.when_stable = self._stable_moved
        if loaded.epochs_dirty:
            writer.note_epochs()

        self.append, self.append_plain = writer.append, writer.append_plain
        self.append_in_turn = large.append_in_turn
        self.append_marker, self.has_aborted = writer.append_marker, segments.has_aborted
        self.append_as_follower = writer.append_as_follower
        self.truncate, self.replace_segments = reshaper.truncate, reshaper.replace_segments
        self.roll, self.maybe_roll = roller.roll, roller.maybe_roll
        self.wait_durable, self.flush, self.wait_room = syncer.wait_durable, syncer.flush, syncer.wait_room
        self.read, self.read_blocking = reader.read, reader.read_blocking
        self.aborted_transactions = reader.aborted_blocking
        self.offset_for_timestamp, self.offset_of_max_timestamp = reader.offset_for_timestamp, reader.offset_of_max_timestamp
        self.segments, self.closed_above = segments.infos, segments.closed_above
        self.add_ear, self.remove_ear = marks.add_ear, marks.remove_ear

    def reconfigure(self, config: TopicConfig) -> None:
        """Take over changed topic settings."""
        self.config = self._syncer.config = config
        self._writer.reconfigure(config)
        self._syncer.wake()
        if self._commit_rule is None:
            self.marks.set_rule(_rule_of(config))

    # -- ends

    @property
    def failed(self) -> Exception | None:
        """Why the log takes no more appends."""
        return self.marks.failed

    @property
    def is_closed(self) -> bool:
        return self.marks.is_closed

    @property
    def log_start_offset(self) -> int:
        """First offset that clients may read, over both tiers."""
        return self.marks.log_start_offset

    @property
    def local_log_start_offset(self) -> int:
        """First offset that may be read from the local disk."""
        return self.marks.local_log_start_offset

    @property
    def high_watermark(self) -> int:
        """The committed end: what consumers may read is below."""
        return self.marks.high_watermark

    @property
    def last_stable_offset(self) -> int:
        """The high watermark, or the first offset of the oldest open transaction below it."""
        return self.marks.last_stable_offset

    @property
    def log_end_offset(self) -> int:
        return self.marks.log_end_offset

    @property
    def durable_end(self) -> int:
        """Everything below is on the device."""
        return self.marks.durable_end

    @property
    def recovery_point(self) -> int:
        """Everything below is on the device, with the indexes of closed segments."""
        return self._syncer.recovery_point

    @property
    def tiered_end_offset(self) -> int:
        """Everything below is committed in the cold tier."""
        return self.marks.tiered_end_offset

    @property
    def cleaned_end(self) -> int:
        """Up to where the cleaner has been; -1 if it never was here."""
        return self.marks.cleaned_end

    @property
    def has_gaps(self) -> bool:
        """Whether offsets may be missing between batches."""
        return self.config.is_compacted or self.marks.cleaned_end >= 0

    def set_tiered_end(self, offset: int) -> None:
        """Everything below `offset` is committed in the cold tier."""
        self.marks.tiered_end_offset = offset

    # -- commit

    def set_commit_rule(self, rule: CommitRule | None) -> None:
        """Commit by `rule`; None: by what the topic's durability says of this replica alone."""
        self._commit_rule = rule
        self.marks.set_rule(rule or _rule_of(self.config))

    def recommit(self) -> None:
        """Ask the commit rule again: what it knows besides this log has moved."""
        self.marks.recommit()

    async def wait_committed(self, end_offset: int) -> None:
        """Until everything below `end_offset` is committed.

        Raises:
            StorageFailed: it cannot be any more.
            NotReady: it was cut off.
        """
        marks = self.marks
        if end_offset <= marks.high_watermark:
            return
        if marks.failed is not None or marks.is_closed:
            self._syncer.refuse()
        assert end_offset <= marks.log_end_offset, "only what was appended is committed"
        await marks.committed_waiters.wait(end_offset)

    def when_committed(self, end_offset: int, told: Told, timeout_s: float | None = None) -> None:
        """Call `told(None)` once everything below `end_offset` is committed, or `told(error)` if it cannot be any more, or is not in time.

        `told` is called once, on the loop: now, if there is nothing to wait for, else in the turn in which all are told that one fsync, or one
        move of the committed end, covers.  `error` is StorageFailed, NotReady (it was cut off) or TimeoutError.
        """
        marks = self.marks
        if end_offset <= marks.high_watermark:
            told(None)
        elif marks.failed is not None or marks.is_closed:
            told(self._syncer.refusal())
        else:
            assert end_offset <= marks.log_end_offset, "only what was appended is committed"
            marks.committed_waiters.add(end_offset, told, timeout_s)

    # -- appends

    @property
    def leader_epoch(self) -> int:
        return self._writer.leader_epoch

    def set_leader_epoch(self, epoch: int) -> None:
        """Lead from here on under `epoch`: the next offset is its first (KIP-101)."""
        self._writer.leader_epoch = epoch
        if self.epochs.assign(epoch, self.marks.log_end_offset):
            self._writer.note_epochs()

    def block_appends(self, reason: str | None) -> None:
        """Refuse appends for `reason` (such as hotlog.untiered.overflow=block), until called with None."""
        self._writer.blocked = reason

    @property
    def is_writing(self) -> bool:
        """Whether a thread writes at the end: nobody else may."""
        return self._syncer.is_writing

    @property
    def is_crowded(self) -> bool:
        """Whether an append now could hold more files open than this log, or all logs together, may: `wait_room` first."""
        return self._syncer.is_crowded

    @property
    def is_busy(self) -> bool:
        """Whether an append must wait, for a thread that writes or for room."""
        syncer = self._syncer
        return syncer.is_writing or ((syncer.file is None or bool(syncer.rolled)) and syncer.is_crowded)

    # -- epochs

    def end_offset_for_epoch(self, epoch: int) -> tuple[int, int]:
        """(largest known epoch <= `epoch`, where it ends); (-1, -1) if unknown (KIP-101, KIP-279)."""
        return self.epochs.end_offset_for(epoch, self.marks.log_end_offset)

    def leader_epoch_bytes(self, end_offset: int) -> bytes:
        """leader-epoch-checkpoint content for the part of the log below `end_offset`."""
        return checkpoints.print_epochs(self.epochs.up_to(end_offset))

    # -- segments

    @property
    def when_rolled(self) -> Callable[[], None]:
        """Called when a closed segment may be copied: it is on the device, or a transaction that reached into it is over."""
        return self._syncer.when_rolled

    @when_rolled.setter
    def when_rolled(self, callback: Callable[[], None]) -> None:
        self._syncer.when_rolled = callback

    def _stable_moved(self) -> None:
        if self._segments.all[-1].base_offset > self.marks.tiered_end_offset:
            self._syncer.when_rolled()

    @property
    def active(self) -> Segment:
        return self._segments.active

    @property
    def segment_count(self) -> int:
        return len(self._segments.all)

    @property
    def size(self) -> int:
        """Bytes of log on the local disk."""
        return self._segments.size

    def begin_history_at(self, offset: int) -> None:
        """Offsets from `offset` on may be read though the local log begins later: the cold tier has what is between.  On disk after
        `wait_log_start_saved`."""
        self.marks.begin_at(offset, self._segments.all[0].base_offset)

    def advance_log_start(self, offset: int) -> None:
        """Make `offset` the first that clients may read; lower ones are ignored.  On disk after `wait_log_start_saved`.

        Raises:
            OutOfRange: above the high watermark.
        """
        marks = self.marks
        if offset > marks.high_watermark:
            raise OutOfRange(f"{self.tp}: log start {offset} is above the high watermark {marks.high_watermark}")
        if offset > marks.log_start_offset:
            marks.begin_at(offset, self._segments.all[0].base_offset)
            if self.epochs.truncate_start(offset):
                self._writer.note_epochs()

    async def wait_log_start_saved(self) -> None:
        """Until the log start survives a crash."""
        await self._parts.save_log_starts()

    async def drop_local_before(self, offset: int, *, expired: bool = False) -> int:
        """Drop whole closed segments that end at or before `offset`; return the bytes freed.

        A log that is not tiered moves its log start along.  Files are renamed now and removed after file.delete.delay.ms.

        Raises:
            Invalid: a tiered log, not `expired`, and `offset` is above what the cold tier has committed.
        """
        tiered, marks = self.config.remote_enabled, self.marks
        if tiered and not expired and offset > marks.tiered_end_offset:
            raise Invalid(
                f"{self.tp}: cannot drop below {offset}: the cold tier has only what is below {marks.tiered_end_offset}"
            )
        async with self._reshaper.lock:
            return await self._drop_before(offset)

    async def _drop_before(self, offset: int) -> int:
        before, marks = self._segments.all, self.marks
        victims = [segment for segment in before[:-1] if segment.end_offset <= min(offset, marks.high_watermark)]
        victims = [segment for segment in victims if segment not in self._syncer.rolled]
        if not victims:
            return 0
        if not self.config.remote_enabled:
            self.advance_log_start(before[len(victims)].base_offset)
            await self._parts.save_log_starts()
        marks.let_go_of(victims[-1].end_offset)
        self._segments.drop_oldest(len(victims))
        marks.begin_at(marks.log_start_offset, self._segments.all[0].base_offset)
        due = self._parts.clock.now_ms() + self.config.file_delete_delay_ms
        await self._condemned.condemn(victims, due)
        self._syncer.wake()
        return sum(segment.size for segment in victims)

    # -- for the uploader

    async def producer_snapshot_bytes(self, end_offset: int) -> bytes:
        """Producer state at `end_offset` (a segment's end) as Kafka's snapshot file; rebuilt from the log if the file is not good."""
        path, run = files.segment_path(self.directory, end_offset, files.SNAPSHOT), self._parts.disk.run
        if end_offset == self.marks.log_end_offset:
            return await run(self.producers.encoded_later())
        waiting = self._syncer.waiting(path)
        if callable(waiting):
            return await run(waiting)
        return waiting if waiting is not None else await run(self._snapshot_bytes, path, end_offset)

    def _snapshot_bytes(self, path: str, end_offset: int) -> bytes:
        try:
            raw = self._parts.disk.read(path)
            parse_snapshot(raw)
            return raw
        except (FileNotFoundError, Corrupt):
            producers = Producers(self.producers.expiry_ms)
            rebuild_producers(self._parts.reader, self._segments.all, producers, end_offset)
            return producers.encode()

    def touch(self) -> None:
        """Have upkeep look at this log: something about it changed elsewhere."""
        self._syncer.wake()

    # -- end

    async def close(self) -> None:
        """Flush, write indexes and the producer snapshot, and let go of files.  A failed log only lets go."""
        async with self._large.turn:
            if not self.marks.is_closed:
                await self._close()

    async def _close(self) -> None:
        if self.marks.failed is None:
            end = self.marks.log_end_offset
            if end != self._clean_end:
                snapshot = files.segment_path(self.directory, end, files.SNAPSHOT)
                self._syncer.write_soon(snapshot, self.producers.encoded_later())
            await self._syncer.flush_at_close()
        await self._syncer.close()

    async def discard(self) -> None:
        """Let go of files without a flush: the log is about to be deleted, or the process to end."""
        async with self._large.turn:
            await self._syncer.close()


def _rule_of(config: TopicConfig) -> Callable[[int, int], int]:
    """What holds until a partition hands its rule in (hotlog.partitions.commit): one replica's."""
    return when_durable if config.is_fsynced else when_appended


def _committed_end(loaded: Loaded) -> Watermark:
    end = loaded.readable_end
    for segment in reversed(loaded.segments):
        if segment.base_offset <= end:
            return Watermark(end, segment.base_offset, segment.size)
    return Watermark(end, loaded.segments[0].base_offset, 0)
