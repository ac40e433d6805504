"""What a log needs now and then: a roll by time, a flush, files let go of, index files written anew.

Invariants: a tick is one bounded step of each; a log in which nothing is left to do says so, and is not looked at until it is touched.
"""

from __future__ import annotations

from hotlog.log import files
from hotlog.log.awake import NEVER
from hotlog.log.condemned import Condemned
from hotlog.log.parts import Parts
from hotlog.log.repair import rebuild_indexes
from hotlog.log.reshape import Reshaper
from hotlog.log.roller import Roller
from hotlog.log.segment import IndexPart, Segment
from hotlog.log.state import LogState
from hotlog.log.syncer import Syncer
from hotlog.log.writer import Writer

WRITER_IDLE_MS = 60_000  # a writer without appends for this long gives back its descriptor


class LogUpkeep:
    """One log's."""

    __slots__ = ("_condemned", "_is_whole", "_marks", "_parts", "_reshaper", "_roller", "_segments", "_syncer", "_writer")

    def __init__(
        self,
        parts: Parts,
        state: LogState,
        *,
        syncer: Syncer,
        roller: Roller,
        writer: Writer,
        reshaper: Reshaper,
        condemned: Condemned,
    ) -> None:
        self._parts = parts
        self._segments, self._marks = state.segments, state.marks
        self._syncer = syncer
        self._roller = roller
        self._writer = writer
        self._reshaper = reshaper
        self._condemned = condemned
        self._is_whole = True  # no index was broken when a tick looked

    async def tick(self, now_ms: int) -> None:
        """Time roll, flush.ms, idle writers, removal of dropped files, repair of indexes.  One bounded step each."""
        marks, syncer = self._marks, self._syncer
        if marks.is_closed:
            return
        if marks.failed is None:
            self._roller.maybe_roll(now_ms)
            is_dirty = marks.durable_end < marks.log_end_offset
            is_idle = now_ms - self._writer.last_append_ms >= WRITER_IDLE_MS and not syncer.is_writing
            is_due = is_idle or now_ms - syncer.last_flush_ms >= syncer.config.flush_ms
            if (is_dirty and is_due) or syncer.has_small_files:
                await syncer.flush()
            if is_idle:
                syncer.give_back_writer()
        await self._condemned.remove_due(now_ms)
        broken = [one for one in self._segments.all[:-1] if one.index_broken and not one.damage]  # damaged batches make no index
        self._is_whole = not broken
        for segment in broken:
            async with self._reshaper.lock:
                if segment in self._segments.all[:-1]:
                    await self._repair(segment)

    def next_look_ms(self, now_ms: int) -> int:
        """When a tick is needed though nothing happens: `now_ms` if something is left to do, NEVER if nothing will be."""
        marks, syncer = self._marks, self._syncer
        if marks.is_closed:
            return NEVER
        if not self._is_whole:  # was not: it is looked at once more
            return now_ms
        due_ms = self._condemned.due_ms
        if marks.failed is not None:
            return due_ms
        is_dirty = marks.durable_end < marks.log_end_offset
        if is_dirty or syncer.file is not None or syncer.rolled or syncer.has_small_files:
            return now_ms
        return min(due_ms, self._roller.idle_roll_ms(now_ms))

    async def _repair(self, segment: Segment) -> None:
        """Write the index files of a closed segment anew."""
        offsets, times = await self._parts.disk.run(self._rebuild, segment)
        segment.offsets, segment.times = IndexPart(offsets, bytearray()), IndexPart(times, bytearray())
        segment.index_broken = False

    def _rebuild(self, segment: Segment) -> tuple[int, int]:
        parts = self._parts
        offsets, times, *_ = rebuild_indexes(parts.reader, segment, self._syncer.config.index_interval_bytes)
        for suffix, entries in ((files.INDEX, offsets), (files.TIME_INDEX, times)):
            parts.disk.write_atomic(segment.path(suffix), entries)
        parts.reader.forget_indexes(segment)
        return len(offsets), len(times)
