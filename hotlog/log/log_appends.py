"""Appends: checks, roll, one gathered write; and what makes them durable.

Invariants: a refused append changed nothing; under fsync durability the watermark moves only to what an fsync covered; after a failed write
or fsync nothing is appended or acknowledged again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hotlog.kernel.errors import DiskFull, NotReady, StorageFailed, TooLarge
from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log import files
from hotlog.log.flusher import NO_SPACE, Flusher, FlushJob
from hotlog.log.index import OFFSET_BYTES, TIME_BYTES, entry_count_max
from hotlog.log.loaded import Loaded
from hotlog.log.log_state import LogState, Parts, Watermark
from hotlog.log.roll import Roll, Tail, plan_idle_roll, plan_roll
from hotlog.log.segment import IndexPart, Segment
from hotlog.log.writers import ROLLED_MAX
from hotlog.wire.batch import BatchHeader, stamp, stamp_append_time
from hotlog.world.ports import File

INDEX_PENDING_BYTES = 4096  # index entries kept in memory before they are written


class Appended(NamedTuple):
    """What became of an append.  `append_time_ms` is -1 under CreateTime; wait_durable(end_offset) before an ack that promises it."""

    base_offset: int
    last_offset: int
    append_time_ms: int
    log_start_offset: int
    end_offset: int
    is_duplicate: bool


class Begun(NamedTuple):
    """An append that may be written: `headers` as they are stamped, at offsets [base, end)."""

    headers: list[BatchHeader]
    base: int
    end: int


class LogAppends(LogState):
    """The writing half of a log."""

    def __init__(
        self, parts: Parts, tp: TopicPartition, directory: str, config: TopicConfig, loaded: Loaded, log_start: int
    ) -> None:
        super().__init__(parts, tp, directory, config, loaded, log_start)
        self._new_names = False
        self._index_changed = False  # the active segment's index files were written for the last time before a stop
        self._writes_wait = False  # small files found no space: they are tried again by the next `flush`, a tick's at the latest
        self._flush_started = 0.0
        self._flush_wanted = loaded.readable_end
        self._flusher = Flusher(parts.disk, plan=self._plan_flush, note=self._note_flushed, fail=self._fail)
        self._index_pending_max = INDEX_PENDING_BYTES
        self.is_writing = False  # a thread writes at the end (hotlog.log.large_appends): nobody else may
        self.last_append_ms = 0
        self.last_flush_ms = parts.clock.now_ms()

    def reconfigure(self, config: TopicConfig) -> None:
        """Take over changed topic settings."""
        self.config = config
        self._segment_ms = self._jittered_ms()
        if not config.is_fsynced and self.failed is None:
            self._advance(Watermark(self.log_end_offset, self.active.base_offset, self.active.size))

    def block_appends(self, reason: str | None) -> None:
        """Refuse appends for `reason` (such as hotlog.untiered.overflow=block), until called with None."""
        self.blocked = reason

    @property
    def is_crowded(self) -> bool:
        """Whether an append now could hold more files open than this log, or all logs together, may: `wait_room` first."""
        if self.failed is not None or self.is_closed:
            return False
        if self._unsynced:
            return len(self._unsynced) >= ROLLED_MAX or self._parts.writers.is_full
        return self._writer is None and self._parts.writers.is_full

    async def wait_room(self) -> None:
        """Until an append may open what it needs; at once if it may now."""
        while self.is_crowded:
            if self._unsynced:
                self._flusher.kick()
                await self._flusher.idle()
            else:
                await self._parts.writers.make_room()

    def give_back_writer(self) -> bool:
        """Let go of the active segment if all of it is on the device; whether that was done."""
        if self._writer is None or self.durable_end < self.log_end_offset or self._flusher.is_running or self.is_writing:
            return False
        self._write_indexes(self.active)
        self._parts.pool.unpin(self.active.log_path)
        self._writer = None
        self._parts.writers.released(self)
        return True

    def append(self, data: memoryview, headers: list[BatchHeader], *, now_ms: int) -> Appended:
        """Write batches at the end whose headers say what their records say (hotlog.wire.inspect); `data` is stamped in place.

        Raises:
            StorageFailed, DiskFull: nothing was appended.
            TooLarge: more bytes than a segment may hold.
            OutOfOrderSequence, InvalidProducerEpoch: idempotent producers (hotlog.log.producers).
            NotReady: a thread is writing: ask again, or use append_in_turn.
        """
        if self.is_writing:
            raise NotReady(f"{self.tp}: a large batch is being written")
        begun = self._begin(data, headers, now_ms)
        if isinstance(begun, Appended):
            return begun
        writer = self._open_writer()
        try:
            writer.append((data,))
        except OSError as error:
            self._disk_error("append to", self.active.log_path, error)
        return self._finish(begun, now_ms)

    def _begin(self, data: memoryview, headers: list[BatchHeader], now_ms: int) -> Begun | Appended:
        """Everything before the write: checks, a roll, stamps; or what became of a batch that is here already."""
        if self.failed is not None or self.is_closed:
            self._refuse()
        if self.blocked is not None:
            raise DiskFull(f"{self.tp}: {self.blocked}")
        config, size, base = self.config, len(data), self.log_end_offset
        if size > config.segment_bytes:
            raise TooLarge(f"{self.tp}: {size} bytes of records; at most {config.segment_bytes} are allowed (segment.bytes)")
        if headers[0].producer_id >= 0 or len(headers) > 1:
            known = self.producers.check(headers)
            if known is not None:
                at = known.timestamp if config.is_log_append_time else -1
                return Appended(known.first_offset, known.last_offset, at, self.log_start_offset, known.last_offset + 1, True)
        end, largest = _extent(headers, base)
        self._parts.space.take(size)
        largest = now_ms if config.is_log_append_time else largest
        if self._plan_roll(size, largest, end - 1, now_ms) is not Roll.NOT_YET:
            self._roll(now_ms)
        headers = stamp(data, headers, base, self.leader_epoch)
        if config.is_log_append_time:
            headers = stamp_append_time(data, headers, now_ms)
        return Begun(headers, base, end)

    def _finish(self, begun: Begun, now_ms: int) -> Appended:
        """Everything after the write."""
        headers, base, end = begun
        self._note_appended(headers, end, now_ms)
        at = now_ms if self.config.is_log_append_time else -1
        return Appended(base, end - 1, at, self.log_start_offset, end, False)

    def _plan_roll(self, size: int, largest: int, last_offset: int, now_ms: int) -> Roll:
        active, config = self._segments[-1], self.config
        tail = Tail(
            active.base_offset, active.size, active.first_timestamp, active.created_ms,
            active.offsets.total // OFFSET_BYTES, active.times.total // TIME_BYTES,
        )  # fmt: skip
        return plan_roll(
            tail,
            append_bytes=size,
            append_timestamp=largest,
            last_offset=last_offset,
            now_ms=now_ms,
            segment_bytes=config.segment_bytes,
            segment_ms=self._segment_ms,
            offset_entries_max=entry_count_max(config.segment_index_bytes, OFFSET_BYTES),
            time_entries_max=entry_count_max(config.segment_index_bytes, TIME_BYTES),
        )

    def _open_writer(self) -> File:
        try:
            if self._writer is None:
                self._writer = self._parts.pool.pin(self.active.log_path)
                self._parts.writers.opened(self)
            return self._writer
        except OSError as error:
            self._disk_error("append to", self.active.log_path, error)

    def _note_appended(self, headers: Sequence[BatchHeader], end: int, now_ms: int) -> None:
        active, config = self._segments[-1], self.config
        if active.size == 0:
            active.first_append_ms = now_ms
        active.note(headers, config.index_interval_bytes)
        for header in headers:
            if header.producer_id >= 0:
                self.producers.update(header, now_ms)
        if self.leader_epoch > self.epochs.latest:
            self.epochs.assign(self.leader_epoch, self.log_end_offset)
            self._note_epochs()
        self.log_end_offset = end
        self.last_append_ms = now_ms
        if len(active.offsets.pending) >= self._index_pending_max:
            self._write_indexes(active)
        if config.is_fsynced:
            self._flush_wanted = end
            self._flusher.kick()
            return
        self._advance(Watermark(end, active.base_offset, active.size))
        if end - self.durable_end >= config.flush_messages:
            self._flush_wanted = end
            self._flusher.kick()

    def _fail(self, error: Exception) -> None:
        """The disk failed: what it holds of this log is in doubt."""
        if self.failed is None:
            self.failed = error
            self._parts.metrics.storage_failed.inc()
            self._flusher.refuse(StorageFailed(f"{self.tp}: the disk failed: {error}"))
            self._notify()
        self._unpin_all()

    def _unpin_all(self) -> None:
        """A failed log holds nothing open for writing, once no thread uses it."""
        if self._flusher.is_syncing or self.is_writing:
            return
        for segment in self._unsynced:
            self._parts.pool.unpin(segment.log_path)
        if self._writer is not None:
            self._parts.pool.unpin(self.active.log_path)
            self._writer = None
        self._parts.writers.released(self)

    async def wait_durable(self, end_offset: int) -> None:
        """Until everything below `end_offset` is as durable as the topic's settings promise.

        Raises:
            StorageFailed: it cannot be promised.
        """
        if end_offset <= self.durable_end or (not self.config.is_fsynced and end_offset > self._flush_wanted):
            if self.failed is not None and end_offset > self.durable_end:
                self._refuse()
            return
        if self.failed is not None or self.is_closed:
            self._refuse()
        assert end_offset <= self.log_end_offset, "nothing durable can be promised of what was not appended"
        self._flush_wanted = max(self._flush_wanted, end_offset)
        self._flusher.kick()
        await self._flusher.wait(end_offset)

    async def flush(self) -> None:
        """Until everything appended so far is on the device, whatever the settings."""
        end = self.log_end_offset
        if self.durable_end >= end and not (self._unsynced or self._writes or self._new_names or self._index_changed):
            return
        if self.failed is not None:
            self._refuse()
        self._flush_wanted, self._writes_wait = end, False
        self._flusher.kick()
        if self.durable_end < end:
            await self._flusher.wait(end)
        await self._flusher.idle()

    def _plan_flush(self) -> FlushJob | None:
        if self.failed is not None:
            return None
        active = self._segments[-1]
        whole = self._flush_wanted > self.durable_end
        due = {} if self._writes_wait else self._writes
        if not (whole or self._unsynced or due or self._new_names or self._index_changed):
            return None
        self._flush_started = self._parts.clock.monotonic()
        logs = [self._parts.pool.pin(segment.log_path) for segment in self._unsynced]
        if whole and self._writer is not None:
            logs.append(self._writer)
        if whole:
            end = Watermark(self.log_end_offset, active.base_offset, active.size)
        else:  # what was rolled is durable then, and nothing of the active segment is new
            end = Watermark(max(self.durable_end, active.base_offset), active.base_offset, 0)
        indexed = [*self._unsynced, active] if self._index_changed else self._unsynced
        self._index_changed = False
        writes, self._writes = tuple(due.items()), {} if due else self._writes
        names, self._new_names = self._new_names, False
        return FlushJob(
            writes=writes,
            logs=tuple(logs),
            index_paths=tuple(s.path(suffix) for s in indexed for suffix in (files.INDEX, files.TIME_INDEX)),
            directory=self.directory if names else None,
            end=end,
            closed=tuple(segment.log_path for segment in self._unsynced),
        )

    def _note_flushed(self, job: FlushJob, unwritten: tuple[tuple[str, bytes], ...]) -> None:
        if self.failed is not None:
            self._unpin_all()
            return
        for path, data in unwritten:
            self._writes.setdefault(path, data)
            self._writes_wait = True
        self._unsynced = [segment for segment in self._unsynced if segment.log_path not in job.closed]
        for path in job.closed:
            self._parts.pool.unpin(path)
        if job.closed:
            self._parts.writers.released()
        self.durable_end = max(self.durable_end, job.end[0])
        self.last_flush_ms = self._parts.clock.now_ms()
        self._parts.metrics.flush_seconds.observe(self._parts.clock.monotonic() - self._flush_started)
        self._advance(Watermark(*job.end))
        self._flusher.release(self.durable_end)

    def roll(self, now_ms: int) -> None:
        """Close the active segment if it holds anything.  Raises DiskFull, StorageFailed, NotReady (a thread is writing to it)."""
        if self.is_writing:
            raise NotReady(f"{self.tp}: a large batch is being written")
        if self.failed is not None or self.is_closed:
            self._refuse()
        if self.active.size:
            self._roll(now_ms)

    def maybe_roll(self, now_ms: int) -> bool:
        """Close a segment that segment.ms or a roll that was asked for has passed over, by wall time of its first append; whether it did."""
        active = self.active
        due = plan_idle_roll(
            size=active.size,
            first_append_ms=active.first_append_ms,
            now_ms=now_ms,
            segment_ms=self._segment_ms,
            roll_before_ms=self.config.roll_before_ms,
        )
        if due is Roll.NOT_YET or self.failed is not None or self.is_closed or self.is_writing:
            return False
        self._roll(now_ms)
        return True

    def _roll(self, now_ms: int) -> None:
        old, pool, disk = self.active, self._parts.pool, self._parts.disk
        fresh = Segment(self.directory, self.log_end_offset, created_ms=now_ms)
        assert fresh.base_offset > old.base_offset or not old.size, "a segment with bytes has offsets"
        try:
            if self._writer is None:
                self._writer = pool.pin(old.log_path)
                self._parts.writers.opened(self)
            old.note_time()
            self._write_indexes(old, force=True)
            writer = pool.pin(fresh.log_path, create=True)
            if writer.size:
                writer.truncate(0)
            for suffix in (files.INDEX, files.TIME_INDEX):
                file = disk.open(fresh.path(suffix), create=True)
                file.truncate(0)
                file.close()
        except OSError as error:
            pool.forget(fresh.log_path)
            self._disk_error("roll", old.log_path, error)
        old.closed_ms = now_ms
        self._writer = writer
        self._unsynced.append(old)
        self._new_names = True
        self._writes[files.segment_path(self.directory, fresh.base_offset, files.SNAPSHOT)] = self.producers.encode()
        self._segments = (*self._segments, fresh)
        self._segment_ms = self._jittered_ms()
        self._flusher.kick()

    def _write_indexes(self, segment: Segment, *, force: bool = False) -> None:
        """Write pending index entries.  Without `force` a full disk only puts it off."""
        try:
            segment.offsets = self._write_index(segment.path(files.INDEX), segment.offsets)
            segment.times = self._write_index(segment.path(files.TIME_INDEX), segment.times)
            self._index_pending_max = INDEX_PENDING_BYTES
        except OSError as error:
            if force:
                raise
            if error.errno not in NO_SPACE:
                self._fail(error)
            self._index_pending_max += INDEX_PENDING_BYTES

    def _write_index(self, path: str, part: IndexPart) -> IndexPart:
        if not part.pending:
            return part
        file = self._parts.disk.open(path, create=True)
        try:
            file.write_at(part.length, part.pending)
        finally:
            file.close()
        return IndexPart(part.total, bytearray())


def _extent(headers: Sequence[BatchHeader], base: int) -> tuple[int, int]:
    """(next offset, largest timestamp) once `headers` stand at offset `base`."""
    if len(headers) == 1:  # nearly always
        return base + headers[0].last_offset_delta + 1, headers[0].max_timestamp
    end = base + sum(header.last_offset_delta for header in headers) + len(headers)
    return end, max(header.max_timestamp for header in headers)
