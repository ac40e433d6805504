"""Closes the active segment of a log when it is full or old, and begins the next one.  hotlog.log.roll decides.

Invariants: a segment with bytes has offsets; after a roll that failed nothing is appended again.
"""

from __future__ import annotations

from hotlog.kernel.errors import NotReady
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log import files
from hotlog.log.awake import NEVER
from hotlog.log.index import OFFSET_BYTES, TIME_BYTES, entry_count_max
from hotlog.log.parts import Parts
from hotlog.log.roll import Bounds, Roll, Tail, plan_idle_roll, plan_roll
from hotlog.log.segment import Segment
from hotlog.log.state import LogState
from hotlog.log.syncer import Syncer


class Roller:
    """`roomy` is the active segment, if only bytes, time and offsets can be a reason to roll it; `bounds` are what a segment may hold."""

    __slots__ = (
        "_config", "_directory", "_marks", "_parts", "_producers", "_segments", "_syncer", "_tp", "bounds", "roomy",
    )  # fmt: skip

    def __init__(self, parts: Parts, state: LogState, syncer: Syncer, config: TopicConfig) -> None:
        self._parts = parts
        self._tp, self._directory, self._segments, self._marks, _, self._producers = state
        self._syncer = syncer
        self.reconfigure(config)

    def reconfigure(self, config: TopicConfig) -> None:
        """Take over changed topic settings."""
        self._config = config
        self.roomy: Segment | None = None
        self.bounds = Bounds(
            config.segment_bytes,
            self._jittered_ms(),
            entry_count_max(config.segment_index_bytes, OFFSET_BYTES),
            entry_count_max(config.segment_index_bytes, TIME_BYTES),
        )

    def _jittered_ms(self) -> int:
        config = self._config
        jitter = min(config.segment_jitter_ms, config.segment_ms)
        return config.segment_ms - int(self._parts.entropy.uniform(0, jitter)) if jitter else config.segment_ms

    def roll(self, now_ms: int) -> None:
        """Close the active segment if it holds anything.  Raises DiskFull, StorageFailed, NotReady (a thread is writing to it)."""
        if self._syncer.is_writing:
            raise NotReady(f"{self._tp}: a large batch is being written")
        if self._marks.failed is not None or self._marks.is_closed:
            self._syncer.refuse()
        if self._segments.active.size:
            self._roll(now_ms, self._marks.log_end_offset)

    def maybe_roll(self, now_ms: int) -> bool:
        """Close a segment that segment.ms or a roll that was asked for has passed over, by wall time of its first append; whether it did."""
        active, marks = self._segments.active, self._marks
        due = plan_idle_roll(
            size=active.size,
            first_append_ms=active.first_append_ms,
            now_ms=now_ms,
            segment_ms=self.bounds.segment_ms,
            roll_before_ms=self._config.roll_before_ms,
        )
        if due is Roll.NOT_YET or marks.failed is not None or marks.is_closed or self._syncer.is_writing:
            return False
        self._roll(now_ms, marks.log_end_offset)
        return True

    def segment_for(self, size: int, largest: int, last_offset: int, now_ms: int) -> Segment:
        """The active segment that takes such an append: another one, if the old one is full."""
        self.roll_if_due(size, largest, last_offset, now_ms)
        active = self._segments.all[-1]
        if active.size == 0:
            active.first_append_ms = now_ms
        return active

    def idle_roll_ms(self, now_ms: int) -> int:
        """When `maybe_roll` will close the active segment if nothing is appended; NEVER if it is empty."""
        active, before_ms = self._segments.active, self._config.roll_before_ms
        if not active.size:
            return NEVER
        due_ms = active.first_append_ms + self.bounds.segment_ms + 1
        return min(due_ms, before_ms) if before_ms > max(active.first_append_ms, now_ms) else due_ms

    def roll_if_due(self, size: int, largest: int, last_offset: int, now_ms: int) -> None:
        """Roll before an append of `size` bytes with that largest timestamp and last offset, if it is time."""
        active = self._segments.all[-1]
        tail = Tail(
            active.base_offset, active.size, active.first_timestamp, active.created_ms, active.offset_entries, active.time_entries
        )
        due = plan_roll(
            tail,
            self.bounds,
            append_bytes=size,
            append_timestamp=largest,
            last_offset=last_offset,
            now_ms=now_ms,
        )
        if due is not Roll.NOT_YET:
            self._roll(now_ms, self._marks.log_end_offset)
        elif active.size and active.first_timestamp >= 0:
            self.roomy = active

    def index_grew(self, active: Segment) -> None:
        """An append has added to the indexes of the active segment."""
        syncer, bounds = self._syncer, self.bounds
        if len(active.offsets.pending) >= syncer.index_pending_max:
            syncer.write_indexes(active)
        if active.offset_entries >= bounds.offset_entries_max or active.time_entries >= bounds.time_entries_max - 1:
            self.roomy = None

    def _roll(self, now_ms: int, base_offset: int) -> None:
        old, pool, disk, syncer = self._segments.active, self._parts.pool, self._parts.disk, self._syncer
        fresh = Segment(self._directory, base_offset, created_ms=now_ms)
        assert fresh.base_offset > old.base_offset or not old.size, "a segment with bytes has offsets"
        try:
            if syncer.file is None:
                syncer.file = pool.pin(old.log_path)
                self._parts.writers.opened(syncer)
            old.note_time()
            syncer.write_indexes(old, force=True)
            file = pool.pin(fresh.log_path, create=True)
            if file.size:
                file.truncate(0)
            for suffix in (files.INDEX, files.TIME_INDEX):
                index = disk.open(fresh.path(suffix), create=True)
                index.truncate(0)
                index.close()
        except OSError as error:
            pool.forget(fresh.log_path)
            syncer.refuse_after(error, "roll", old.log_path)
        old.closed_ms = now_ms
        snapshot = files.segment_path(self._directory, fresh.base_offset, files.SNAPSHOT)
        self._producers.expire(now_ms)  # a snapshot is as large as what is alive
        syncer.rolled_over(old, file, (snapshot, self._producers.encoded_later()))
        self._segments.add(fresh)
        self.bounds = self.bounds._replace(segment_ms=self._jittered_ms())
