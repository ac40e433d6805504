"""Brings one log to the device: by group commit what was appended, and besides it pending index entries, small files and rolled segments.

Invariants: what counts as durable was covered by an fsync that began after it was written; the recovery point passes a segment only when its
indexes are on the device too; after a failed write or fsync nothing is synced again; a failed log holds nothing open once no thread uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from hotlog.kernel.errors import DiskFull, Retry, StorageFailed
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log import files
from hotlog.log.flusher import NO_DESCRIPTORS, NO_SPACE, Flusher, FlushJob, Small, Writes
from hotlog.log.open_writers import ROLLED_MAX
from hotlog.log.parts import Parts
from hotlog.log.segment import IndexPart, Segment
from hotlog.log.state import LogState
from hotlog.world.ports import File

_new = tuple.__new__  # a named tuple's own constructor is a Python call
INDEX_PENDING_BYTES = 4096  # index entries kept in memory before they are written


class Syncer:
    """Holds the files of a log that are open for writing.

    `file` is the active segment's, None while nobody appends; `rolled` are the segments that were closed and are not on the device yet, oldest
    first; `is_writing` says that a thread writes at the end, and nobody else may; `is_held` that no flush may begin.
    """

    def __init__(self, parts: Parts, state: LogState, config: TopicConfig) -> None:
        self.config = config
        self.file: File | None = None
        self.rolled: list[Segment] = []
        self.is_writing = False
        self.is_held = False
        self.flusher = Flusher(parts.disk, parts.rounds, plan=self._plan, note=self._note, fail=self.fail)
        self.index_pending_max = INDEX_PENDING_BYTES
        self.last_flush_ms = parts.clock.now_ms()
        self.when_rolled: Callable[[], None] = _nobody  # called when what was rolled is on the device
        self._parts = parts
        self._tp, self._directory, self._segments, self._marks = state.tp, state.directory, state.segments, state.marks
        self._small: dict[str, Small] = {}  # small files due with the next flush
        self._small_wait = False  # they found no space: they are tried again by the next `flush`, a tick's at the latest
        self._has_new_names = False
        self._has_aborted = False  # the active segment's transaction index is not on the device as it is
        self._index_changed = False  # the active segment's index files were written for the last time before a stop
        self._flush_started = 0.0
        self._flush_wanted = state.marks.durable_end

    # -- files open for writing

    @property
    def is_crowded(self) -> bool:
        """Whether an append now could hold more files open than this log, or all logs together, may: `wait_room` first."""
        if (self.file is not None and not self.rolled) or self._marks.failed is not None or self._marks.is_closed:
            return False
        return len(self.rolled) >= ROLLED_MAX or self._parts.writers.is_full

    async def wait_room(self) -> None:
        """Until an append may open what it needs; at once if it may now."""
        while self.is_crowded:
            if self.rolled:
                self.flusher.kick()
                await self.flusher.covered()
            else:
                await self._parts.writers.make_room()

    def open_file(self) -> File:
        """The active segment's file, opened if need be."""
        path = self._segments.active.log_path
        try:
            if self.file is None:
                self.file = self._parts.pool.pin(path)
                self._parts.writers.opened(self)
                self.wake()
            return self.file
        except OSError as error:
            self.refuse_after(error, "append to", path)

    def wake(self) -> None:
        """Something is left to be looked after by a tick."""
        self._parts.wake(self._tp)

    def give_back_writer(self) -> bool:
        """Let go of the active segment if all of it is on the device; whether that was done."""
        is_dirty = self._marks.durable_end < self._marks.log_end_offset
        if self.file is None or is_dirty or self.flusher.is_running or self.is_writing:
            return False
        self.write_indexes(self._segments.active)
        self.forget_file()
        return True

    def forget_file(self) -> None:
        """The active segment is not open for writing any more."""
        self._parts.pool.unpin(self._segments.active.log_path)
        self.file = None
        self._parts.writers.released(self)

    def rolled_over(self, old: Segment, fresh_file: File, small: tuple[str, Small]) -> None:
        """`old` was closed, and `fresh_file` is the active segment's now; `small` is a file to write once that is on the device."""
        self.file = fresh_file
        self.rolled.append(old)
        self._has_aborted = False
        self._has_new_names = True
        self._small[small[0]] = small[1]
        self.wake()
        self.flusher.kick()

    async def hold(self) -> None:
        """Have the log's end alone until `let_go`: nobody writes, rolls or flushes."""
        self.is_writing = self.is_held = True
        await self.flusher.idle()

    def let_go(self) -> None:
        self.is_held = False
        self.writing_ended()
        self.flusher.kick()

    def cut(self, end_offset: int) -> None:
        """The log ends at `end_offset` now; of what was rolled the segments that are left and closed stay due.  It is held."""
        self.file = None
        self._has_aborted = False
        self.rolled = [segment for segment in self.rolled if segment in self._segments.all[:-1]]
        self._parts.writers.released(self)
        self._flush_wanted = min(self._flush_wanted, end_offset)
        for path in list(self._small):
            parsed = files.parse_segment_name(path.rsplit("/", 1)[1])
            if parsed is not None and parsed[0] > end_offset:
                del self._small[path]

    # -- what is due

    def write_soon(self, path: str, data: Small) -> None:
        """Write a small file with the next flush."""
        self._small[path] = data
        self.wake()

    def waiting(self, path: str) -> Small | None:
        """What the small file at `path` will hold, if it waits to be written."""
        return self._small.get(path)

    def written(self, path: str) -> None:
        """The small file at `path` was written by somebody else, and newer."""
        self._small.pop(path, None)

    @property
    def has_small_files(self) -> bool:
        return bool(self._small)

    @property
    def recovery_point(self) -> int:
        """Everything below is on the device, with the indexes of closed segments, and all of aborted transactions."""
        durable = self._marks.durable_end
        if self._has_aborted:
            durable = min(durable, self._segments.active.base_offset)
        return min(durable, self.rolled[0].base_offset) if self.rolled else durable

    def want(self, end_offset: int) -> None:
        """Have everything below `end_offset` on the device soon."""
        self._flush_wanted = end_offset
        if not self.flusher.is_running:
            self.flusher.kick()

    def note_aborted(self) -> None:
        """A transaction was aborted in the active segment: the next flush brings that to the device too, since no start looks for it below the
        recovery point."""
        self._has_aborted = True

    def write_indexes(self, segment: Segment, *, force: bool = False) -> None:
        """Write pending index entries.  Without `force` a full disk only puts it off."""
        try:
            segment.offsets = self._write_index(segment.path(files.INDEX), segment.offsets)
            segment.times = self._write_index(segment.path(files.TIME_INDEX), segment.times)
            if segment.transactions.pending:
                before = segment.transactions
                segment.transactions = self._write_index(segment.path(files.TXN_INDEX), before)
                self._parts.reader.note_transactions(segment, before)
            self.index_pending_max = INDEX_PENDING_BYTES
        except OSError as error:
            if force:
                raise
            if error.errno not in NO_SPACE:
                self.fail(error)
            self.index_pending_max += INDEX_PENDING_BYTES

    def _write_index(self, path: str, part: IndexPart) -> IndexPart:
        if not part.pending:
            return part
        file = self._parts.disk.open(path, create=True)
        try:
            file.write_at(part.length, part.pending)
        finally:
            file.close()
        return IndexPart(part.total, bytearray())

    # -- durability

    async def wait_durable(self, end_offset: int) -> None:
        """Until everything below `end_offset` is as durable on this disk as the topic's settings promise.

        Raises:
            StorageFailed: it cannot be promised.
        """
        marks = self._marks
        if end_offset <= marks.durable_end or (not self.config.is_fsynced and end_offset > self._flush_wanted):
            if marks.failed is not None and end_offset > marks.durable_end:
                self.refuse()
            return
        if marks.failed is not None or marks.is_closed:
            self.refuse()
        assert end_offset <= marks.log_end_offset, "nothing durable can be promised of what was not appended"
        self.want(max(self._flush_wanted, end_offset))
        await marks.durable_waiters.wait(end_offset)

    async def flush(self) -> None:
        """Until everything appended so far is on the device, whatever the settings."""
        marks = self._marks
        end = marks.log_end_offset
        if marks.durable_end >= end and not (self.rolled or self._small or self._has_new_names or self._index_changed):
            return
        if marks.failed is not None:
            self.refuse()
        self._small_wait = False
        self.want(end)
        if marks.durable_end < end:
            await marks.durable_waiters.wait(end)
        await self.flusher.covered()

    async def flush_at_close(self) -> None:
        """The same with the index entries that wait: the last flush before a clean stop."""
        active = self._segments.active
        active.note_time()
        self._index_changed = bool(active.offsets.pending or active.times.pending or active.transactions.pending)
        self.write_indexes(active)
        await self.flush()

    @property
    def _is_due(self) -> bool:
        """Whether anything is to be brought to the device now."""
        marks = self._marks
        if marks.failed is not None or self.is_held:
            return False
        is_small = bool(self._small) and not self._small_wait
        return bool(
            self._flush_wanted > marks.durable_end or self.rolled or is_small or self._has_new_names or self._index_changed
        )

    def _plan(self) -> FlushJob | None:
        if not self._is_due:
            return None
        marks, file = self._marks, self.file
        self._flush_started = self._parts.clock.monotonic()
        is_plain = not (self.rolled or self._small or self._has_new_names or self._index_changed or self._has_aborted)
        if file is not None and is_plain:  # nearly always
            return _new(FlushJob, ((), (file,), (), None, marks.log_end_offset, ()))
        whole = self._flush_wanted > marks.durable_end
        due = {} if self._small_wait else self._small
        active = self._segments.active
        logs = [self._parts.pool.pin(segment.log_path) for segment in self.rolled]
        if whole and file is not None:
            logs.append(file)
        indexed = [*self.rolled, active] if self._index_changed or self._take_aborted(active) else self.rolled
        self._index_changed = False
        writes, self._small = tuple(due.items()), {} if due else self._small
        names, self._has_new_names = self._has_new_names, False
        return FlushJob(
            writes=writes,
            logs=tuple(logs),
            index_paths=tuple(path for segment in indexed for path in _index_paths(segment)),
            directory=self._directory if names else None,
            # What was rolled is durable then; of the active segment nothing is new, unless all of it was wanted.
            end=marks.log_end_offset if whole else max(marks.durable_end, active.base_offset),
            closed=tuple(segment.log_path for segment in self.rolled),
        )

    def _take_aborted(self, active: Segment) -> bool:
        """Write what the active segment's transaction index lacks; whether it is to be synced."""
        if not self._has_aborted:
            return False
        self._has_new_names = self._has_new_names or not active.transactions.length
        self.write_indexes(active)
        self._has_aborted = bool(active.transactions.pending)  # there was no space
        return not self._has_aborted

    def _note(self, job: FlushJob, unwritten: Writes) -> bool:
        """A job is done; whether there is another."""
        if self._marks.failed is not None:
            self._let_go_when_unused()
            return False
        for path, data in unwritten:
            self._small.setdefault(path, data)
            self._small_wait = True
        if job.closed:
            self.rolled = [segment for segment in self.rolled if segment.log_path not in job.closed]
            for path in job.closed:
                self._parts.pool.unpin(path)
            self._parts.writers.released()
        clock, metrics = self._parts.clock, self._parts.metrics
        self.last_flush_ms = clock.now_ms()
        metrics.flush_seconds.observe(clock.monotonic() - self._flush_started)
        self._marks.synced(job.end)
        if job.closed:
            self.when_rolled()
        return self._is_due

    # -- failure and the end

    def fail(self, error: Exception) -> None:
        """The disk failed: what it holds of this log is in doubt."""
        if self._marks.failed is None:
            self._parts.metrics.storage_failed.inc()
            self._marks.fail(error, StorageFailed(f"{self._tp}: the disk failed: {error}"))
            self.wake()
        self._let_go_when_unused()

    def writing_ended(self) -> None:
        """The thread that wrote at the end is done."""
        self.is_writing = False
        if self._marks.failed is not None:
            self._let_go_when_unused()

    def _let_go_when_unused(self) -> None:
        """A failed log holds nothing open for writing, once no thread uses it."""
        if self.flusher.is_syncing or self.is_writing:
            return
        for segment in self.rolled:
            self._parts.pool.unpin(segment.log_path)
        if self.file is not None:
            self._parts.pool.unpin(self._segments.active.log_path)
            self.file = None
        self._parts.writers.released(self)

    async def close(self) -> None:
        """Let go of every file; nothing is flushed any more."""
        self._marks.is_closed = True
        await self.flusher.idle()
        for segment in self._segments.all:
            self._parts.pool.forget(segment.log_path)
        self.file = None
        self._parts.writers.released(self)
        self._marks.close(StorageFailed(f"{self._tp}: the log is closed"))

    def refusal(self) -> StorageFailed:
        """Why nothing is appended or made durable."""
        failed = self._marks.failed
        if failed is None:
            return StorageFailed(f"{self._tp}: the log is closed")
        refusal = StorageFailed(f"{self._tp}: the log takes no more appends until restart and recovery: {failed}")
        refusal.__cause__ = failed
        return refusal

    def refuse(self) -> NoReturn:
        """Raises `refusal`."""
        raise self.refusal()

    def refuse_after(self, error: OSError, doing: str, path: str) -> NoReturn:
        """Say what an error of the disk means for who wanted to append."""
        if error.errno in NO_DESCRIPTORS:
            raise Retry(f"{self._tp}: no file descriptor is left to {doing} {path}") from error
        if error.errno in NO_SPACE:
            raise DiskFull(f"{self._tp}: no space to {doing} {path}: {error}") from error
        self.fail(error)
        self.refuse()


def _nobody() -> None:
    """Wants to know."""


def _index_paths(segment: Segment) -> list[str]:
    suffixes = (files.INDEX, files.TIME_INDEX, files.TXN_INDEX) if segment.has_txn else (files.INDEX, files.TIME_INDEX)
    return [segment.path(suffix) for suffix in suffixes]
