"""One partition's hot log: append, durability, roll, read, drop.

State changes are plain functions on the event loop; what may wait (fsync, a cold page, file removal) is `async`.

Invariants: log_start <= local_log_start <= high_watermark <= log_end, and durable_end <= log_end; offsets below the high watermark never
change; a tiered log never drops what the cold tier has not committed, unless it expired; the log start moves before a file goes.
"""

from __future__ import annotations

from hotlog.kernel.errors import Corrupt, Invalid, OutOfRange, StorageFailed
from hotlog.log import files
from hotlog.log.large_appends import LargeAppends
from hotlog.log.log_appends import Appended
from hotlog.log.log_reads import Slice
from hotlog.log.log_scrub import LogScrub
from hotlog.log.log_state import Parts, Watermark
from hotlog.log.producers import Producers, parse_snapshot
from hotlog.log.repair import rebuild_indexes, rebuild_producers
from hotlog.log.segment import IndexPart, Segment, SegmentInfo

__all__ = ["Appended", "PartitionLog", "Parts", "SegmentInfo", "Slice", "Watermark"]

WRITER_IDLE_MS = 60_000  # a writer without appends for this long gives back its descriptor
_SEGMENT_SUFFIXES = (files.LOG, files.INDEX, files.TIME_INDEX, files.TXN_INDEX, files.SNAPSHOT)


class PartitionLog(LargeAppends, LogScrub):
    """A log as the rest of the house sees it.  Made by LogManager."""

    _condemned: tuple[tuple[int, tuple[str, ...]], ...] = ()  # (due, paths)

    # -- segments

    def segments(self) -> tuple[SegmentInfo, ...]:
        """All local segments, oldest first, the active one last."""
        return tuple(segment.info() for segment in self._segments)

    def closed_segments(self) -> tuple[SegmentInfo, ...]:
        """Closed segments that lie wholly below the high watermark: what may be copied or dropped."""
        end = self.high_watermark
        if self.failed is not None and isinstance(self.failed, Corrupt):
            end -= 1  # the segment that the damage cuts short is not whole
        return tuple(segment.info() for segment in self._segments[:-1] if segment.end_offset <= end)

    def advance_log_start(self, offset: int) -> None:
        """Make `offset` the first that clients may read; lower ones are ignored.  On disk after `wait_log_start_saved`.

        Raises:
            OutOfRange: above the high watermark.
        """
        if offset > self.high_watermark:
            raise OutOfRange(f"{self.tp}: log start {offset} is above the high watermark {self.high_watermark}")
        if offset > self.log_start_offset:
            self.log_start_offset = offset
            if self.epochs.truncate_start(offset):
                self._note_epochs()

    async def wait_log_start_saved(self) -> None:
        """Until the log start survives a crash."""
        await self._parts.save_log_starts()

    async def drop_local_before(self, offset: int, *, expired: bool = False) -> int:
        """Drop whole closed segments that end at or before `offset`; return the bytes freed.

        A log that is not tiered moves its log start along.  Files are renamed now and removed after file.delete.delay.ms.

        Raises:
            Invalid: a tiered log, not `expired`, and `offset` is above what the cold tier has committed.
        """
        tiered = self.config.remote_enabled
        if tiered and not expired and offset > self.tiered_end_offset:
            raise Invalid(f"{self.tp}: cannot drop below {offset}: the cold tier has only what is below {self.tiered_end_offset}")
        victims = [segment for segment in self._segments[:-1] if segment.end_offset <= min(offset, self.high_watermark)]
        victims = [segment for segment in victims if segment not in self._unsynced]
        if not victims:
            return 0
        kept = self._segments[len(victims) :]
        if not tiered:
            self.advance_log_start(kept[0].base_offset)
            await self._parts.save_log_starts()
        self._segments = self._segments[len(victims) :]
        due = self._parts.clock.now_ms() + self.config.file_delete_delay_ms
        paths = await self._parts.disk.run(self._condemn, victims)
        self._condemned = (*self._condemned, (due, paths))
        return sum(segment.size for segment in victims)

    def _condemn(self, victims: list[Segment]) -> tuple[str, ...]:
        """Rename the files of `victims`, so that a restart knows they are gone.  Blocks."""
        disk, paths = self._parts.disk, []
        for segment in victims:
            for suffix in _SEGMENT_SUFFIXES:
                path = segment.path(suffix)
                if disk.exists(path):
                    disk.rename(path, path + files.DELETED)
                    paths.append(path + files.DELETED)
                self._parts.pool.forget(path)
        disk.sync_dir(self.directory)
        return tuple(paths)

    def _remove(self, paths: list[str]) -> None:
        for path in paths:
            self._parts.disk.remove(path)

    # -- for the uploader

    async def producer_snapshot_bytes(self, end_offset: int) -> bytes:
        """Producer state at `end_offset` (a segment's end) as Kafka's snapshot file; rebuilt from the log if the file is not good."""
        if end_offset == self.log_end_offset:
            return self.producers.encode()
        path = files.segment_path(self.directory, end_offset, files.SNAPSHOT)
        waiting = self._writes.get(path)
        return waiting if waiting is not None else await self._parts.disk.run(self._snapshot_bytes, path, end_offset)

    def _snapshot_bytes(self, path: str, end_offset: int) -> bytes:
        try:
            raw = self._parts.disk.read(path)
            parse_snapshot(raw)
            return raw
        except (FileNotFoundError, Corrupt):
            producers = Producers(self.producers.expiry_ms)
            rebuild_producers(self._parts.reader, self._segments, producers, end_offset)
            return producers.encode()

    # -- ticks

    async def tick(self, now_ms: int) -> None:
        """Time roll, flush.ms, idle writers, removal of dropped files, repair of indexes.  One bounded step each."""
        if self.is_closed:
            return
        if self.failed is None:
            self.maybe_roll(now_ms)
            dirty = self.durable_end < self.log_end_offset
            idle = now_ms - self.last_append_ms >= WRITER_IDLE_MS and not self.is_writing
            if (dirty and (idle or now_ms - self.last_flush_ms >= self.config.flush_ms)) or self._writes:
                await self.flush()
            if idle:
                self.give_back_writer()
        due = [path for when, paths in self._condemned if when <= now_ms for path in paths]
        if due:
            self._condemned = tuple(entry for entry in self._condemned if entry[0] > now_ms)
            await self._parts.disk.run(self._remove, due)
        for segment in self._segments[:-1]:
            if segment.index_broken and not segment.damage:  # damaged batches make no index
                await self._repair(segment)

    async def _repair(self, segment: Segment) -> None:
        """Write the index files of a closed segment anew."""
        offsets, times = await self._parts.disk.run(self._rebuild, segment)
        segment.offsets, segment.times = IndexPart(offsets, bytearray()), IndexPart(times, bytearray())
        segment.index_broken = False

    def _rebuild(self, segment: Segment) -> tuple[int, int]:
        parts = self._parts
        offsets, times, *_ = rebuild_indexes(parts.reader, segment, self.config.index_interval_bytes)
        for suffix, entries in ((files.INDEX, offsets), (files.TIME_INDEX, times)):
            parts.disk.write_atomic(segment.path(suffix), entries)
            parts.reader.forget_index(segment.path(suffix))
        return len(offsets), len(times)

    # -- end

    async def close(self) -> None:
        """Flush, write indexes and the producer snapshot, and let go of files.  A failed log only lets go."""
        async with self._turn:
            if not self.is_closed:
                await self._close()

    async def _close(self) -> None:
        if self.failed is None:
            changed = self.log_end_offset != self.snapshot_offset
            if changed:
                self._writes[files.segment_path(self.directory, self.log_end_offset, files.SNAPSHOT)] = self.producers.encode()
            self.active.note_time()
            self._index_changed = bool(self.active.offsets.pending or self.active.times.pending)
            self._write_indexes(self.active)
            await self.flush()
        await self._let_go()

    async def discard(self) -> None:
        """Let go of files without a flush: the log is about to be deleted, or the process to end."""
        async with self._turn:
            await self._let_go()

    async def _let_go(self) -> None:
        self.is_closed = True
        await self._flusher.idle()
        self._flusher.refuse(StorageFailed(f"{self.tp}: the log is closed"))
        for segment in self._segments:
            self._parts.pool.forget(segment.log_path)
        self._writer = None
        self._parts.writers.released(self)
        self._notify()
