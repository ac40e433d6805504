"""What log compaction may see of one log: its closed segments, up to where it was cleaned, who wrote last; and what it may do: replace segments.

Invariants: what it is shown of a closed segment does not change while that segment is part of the log; up to where a log was cleaned never is
above its end, and is on disk (Kafka's cleaner-offset-checkpoint) before a record goes that a start would miss.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from hotlog.kernel.errors import Corrupt
from hotlog.kernel.limits import BATCH_HEADER_BYTES
from hotlog.log import files
from hotlog.log.index import AbortedTransaction, overlapping
from hotlog.log.marks import Marks
from hotlog.log.producers import LastBatch, Producers
from hotlog.log.segment import Segment
from hotlog.log.segment_reader import SegmentReader
from hotlog.log.segments import Segments
from hotlog.wire.batch import header_at
from hotlog.world.ports import Disk


class ClosedSegment(NamedTuple):
    """A closed segment.  Offsets half open, sizes in bytes, `max_timestamp` in ms, -1 for none."""

    base_offset: int
    end_offset: int
    size: int
    offset_index_bytes: int
    time_index_bytes: int
    max_timestamp: int
    log_path: str
    txnindex_path: str  # "" if it has none
    is_damaged: bool


class CleanView:
    """A log as its cleaner sees it.  `trouble` is why it cannot be cleaned, for people; "" as far as is known."""

    def __init__(
        self,
        disk: Disk,
        reader: SegmentReader,
        directory: str,
        *,
        segments: Segments,
        marks: Marks,
        producers: Producers,
        replace: Callable[[Sequence[int], Sequence[int]], Awaitable[None]],
        save: Callable[[], Awaitable[None]],
    ) -> None:
        self.directory = directory
        self.trouble = ""
        self.replace_segments = replace
        self._disk = disk
        self._reader = reader
        self._segments = segments
        self._marks = marks
        self._producers = producers
        self._save = save

    def segments(self) -> list[ClosedSegment]:
        """The closed segments, oldest first."""
        return [_closed(segment) for segment in self._segments.all[:-1]]

    @property
    def active_offset(self) -> int:
        """Where the active segment begins."""
        return self._segments.active.base_offset

    @property
    def cleaned_end(self) -> int:
        """Up to where it was cleaned: its first dirty offset; -1 if it never was."""
        return self._marks.cleaned_end

    async def save_cleaned_end(self, offset: int) -> None:
        """Everything below `offset` was cleaned; return when a start will know it."""
        self._marks.cleaned_end = min(offset, self._marks.log_end_offset)
        await self._save()

    def last_batches(self) -> Callable[[], dict[int, LastBatch]]:
        """The last batch of every producer that is known now, for a thread to ask."""
        return self._producers.last_batches_later()

    def aborted(self, start: int, end: int) -> list[AbortedTransaction]:
        """Aborted transactions that overlap [start, end), ascending by their first offset.  Blocks."""
        found: dict[AbortedTransaction, None] = {}
        for segment in self._segments.all:
            if segment.has_txn and segment.end_offset > start:
                some, is_all = overlapping(self._reader.transactions(segment, wait=True), start, end)
                found.update((entry, None) for entry in some)
                if is_all:
                    break
        return sorted(found, key=lambda entry: entry.first_offset)

    def first_timestamp(self, segment: ClosedSegment) -> int:
        """Largest timestamp of a segment's first batch, ms.  Blocks.  Raises Corrupt, OSError."""
        file = self._disk.open(segment.log_path, read_only=True)
        try:
            head = file.read_at(0, BATCH_HEADER_BYTES)
        finally:
            file.close()
        if len(head) < BATCH_HEADER_BYTES:
            raise Corrupt(f"{segment.log_path} has {len(head)} bytes; {segment.size} are expected")
        return header_at(head).max_timestamp


def _closed(segment: Segment) -> ClosedSegment:
    return ClosedSegment(
        segment.base_offset, segment.end_offset, segment.size, segment.offsets.total, segment.times.total, segment.max_timestamp,
        segment.log_path, segment.path(files.TXN_INDEX) if segment.has_txn else "", bool(segment.damage),
    )  # fmt: skip
