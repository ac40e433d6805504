"""Reads of one log: what a fetch gets, and lookups by time.

Where the next read will probably begin is remembered (hotlog.log.places): whoever reads on needs neither the index nor a search.

Invariants: nothing at or beyond the committed end is returned; the first batch is whole and holds the offset asked for; the event loop never
waits for the device (`read` answers None instead).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from hotlog.kernel.errors import Corrupt, OutOfRange, StorageFailed
from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.limits import BATCH_HEADER_BYTES, BATCH_OVERHEAD_BYTES
from hotlog.log.damage import sound_part
from hotlog.log.file_part import FilePart
from hotlog.log.index import overlapping
from hotlog.log.marks import Marks
from hotlog.log.places import Place, Places
from hotlog.log.segment import Segment
from hotlog.log.segment_reader import PART_BYTES_MIN, SHORT_HEADER, Found, NotCached, SegmentReader
from hotlog.log.segments import BASE_OFFSET, Segments
from hotlog.wire.batch import BatchHeader
from hotlog.wire.records import decode_batch
from hotlog.world.ports import Buffer, Disk

_new = tuple.__new__  # a named tuple's own constructor is a Python call


class Slice(NamedTuple):
    """Bytes of batches, the first one whole and holding the offset asked for; the last may be cut off.  Empty at the end."""

    data: Buffer
    end_offset_limit: int  # nothing at or above this offset is inside
    aborted: list[tuple[int, int]] | None = (
        None  # of committed reads: (producer id, first offset) of aborted transactions up to there
    )


class Stretch(NamedTuple):
    """The same, of which more than a little is read while it is sent."""

    data: Buffer | FilePart
    end_offset_limit: int
    aborted: list[tuple[int, int]] | None = None


class Reader:
    """The reading half of a log."""

    def __init__(self, tp: TopicPartition, disk: Disk, files: SegmentReader, *, segments: Segments, marks: Marks) -> None:
        self._tp = tp
        self._disk = disk
        self._files = files
        self._read_now = files.read_now
        self._segments = segments
        self._marks = marks
        self._places = Places(segments, marks)

    def read(self, offset: int, bytes_max: int, *, min_one: bool, committed_only: bool = False) -> Stretch | None:
        """Batches from `offset` on, from the page cache; None if the device is needed: use read_blocking.

        At most `bytes_max` bytes, but at least the first batch if `min_one` (KIP-74).

        Raises:
            OutOfRange: outside [local_log_start, log_end].
            Corrupt, StorageFailed: damage, or the disk failed.
        """
        places = self._places
        place = places.by_offset.get(offset) if places.known is self._segments.all else None
        if place is None:
            place = places.of(offset)
        if place is not None:
            known = self._read_at(place, offset, bytes_max, min_one, committed_only)
            if known is not None:
                return known
        try:
            return Stretch(*self._read(offset, bytes_max, min_one, committed_only, self._files.part, wait=False))
        except NotCached:
            return None

    def _read_at(self, place: Place, offset: int, bytes_max: int, min_one: bool, committed_only: bool) -> Stretch | None:
        """The same at a known place, if it is as simple as it nearly always is; None: it is not."""
        segment, position = place
        marks = self._marks
        end, base, limit = marks.committed
        if segment.base_offset != base:
            limit = segment.size
        if committed_only and (self._segments.have_txn or marks.last_stable_offset < end):
            return None
        length = min(bytes_max, limit - position)
        if length < BATCH_HEADER_BYTES or length > PART_BYTES_MIN or segment.damage:
            return None
        if not marks.local_log_start_offset <= offset < end:
            return None
        try:
            data = self._read_now(segment, position, length)
        except OSError:
            return None  # the long way tells what it is
        if data is None or len(data) != length:
            return None
        first, size, delta = SHORT_HEADER.unpack_from(data)
        size += BATCH_OVERHEAD_BYTES
        if not first <= offset <= first + delta or size > length:
            return None
        self._places.read(segment, position, data)
        return _new(Stretch, (data, end, [] if committed_only else None))

    async def read_blocking(self, offset: int, bytes_max: int, *, min_one: bool, committed_only: bool = False) -> Slice:
        """The same in a disk thread, from the device if need be."""
        return await self._disk.run(self._read_waiting, offset, bytes_max, min_one, committed_only)

    def _read_waiting(self, offset: int, bytes_max: int, min_one: bool, committed_only: bool) -> Slice:
        take = partial(self._files.read, wait=True)
        data, end, aborted = self._read(offset, bytes_max, min_one, committed_only, take, wait=True)
        assert not isinstance(data, FilePart), "it was read"
        return Slice(data, end, aborted)

    def _read(
        self,
        offset: int,
        bytes_max: int,
        min_one: bool,
        committed_only: bool,
        take: Callable[[Segment, int, int], Buffer | FilePart],
        *,
        wait: bool,
    ) -> tuple[Buffer | FilePart, int, list[tuple[int, int]] | None]:
        marks = self._marks
        mark = marks.committed
        end = min(marks.last_stable_offset, mark.offset) if committed_only else mark.offset
        if not marks.local_log_start_offset <= offset < end:
            self._check_range(offset)
            return b"", end, None
        reader, segments = self._files, self._segments.all
        try:
            segment, limit, found = self._find(segments, offset, wait)
            if found is None or found.base_offset >= end:
                return b"", end, None
            if end < mark.offset:
                stable = reader.locate(segment, end, self._marks.readable_bytes(segment), wait=wait)
                limit = limit if stable is None else min(limit, stable.position)
            length = bytes_max
            if found.size > length:
                if not min_one:
                    return b"", end, None
                length = found.size
            aborted = self.aborted_transactions(offset, end, wait=wait) if committed_only else None
            length = min(length, limit - found.position)
            data = take(segment, found.position, length)
            if not wait:
                self._places.found(offset, segments, (segment, found.position), data)
            return data, end, aborted
        except FileNotFoundError as error:
            self._check_range(offset)  # dropped meanwhile
            if self._segments.all is not segments:  # replaced meanwhile
                return self._read(offset, bytes_max, min_one, committed_only, take, wait=wait)
            raise Corrupt(f"{self._tp}: {error.filename} is gone") from error
        except OSError as error:
            raise StorageFailed(f"{self._tp}: cannot read at offset {offset}: {error}") from error

    def _check_range(self, offset: int) -> None:
        """Raise OutOfRange, or Corrupt where damage begins: a reader must not wait there for ever."""
        marks = self._marks
        start, end = marks.local_log_start_offset, marks.log_end_offset
        if isinstance(marks.failed, Corrupt) and marks.high_watermark <= offset <= end:
            raise marks.failed
        if not start <= offset <= end:
            raise OutOfRange(f"{self._tp}: offset {offset} is outside the local log, {start} to {end}")

    def _find(self, segments: tuple[Segment, ...], offset: int, wait: bool) -> tuple[Segment, int, Found | None]:
        """(segment, its readable bytes, the batch that holds `offset` or the next one); the bytes end where damage begins."""
        index = len(segments) - 1
        if segments[index].base_offset > offset:
            index = max(bisect_right(segments, offset, key=BASE_OFFSET) - 1, 0)
        while True:
            segment = segments[index]
            start, limit, ahead = 0, self._marks.readable_bytes(segment), None
            if segment.damage:
                start, limit, ahead = sound_part(segment.log_path, segment.damage, offset, limit)
            found = self._files.locate(segment, offset, limit, wait=wait, start=start)
            if found is None and ahead is not None:
                raise ahead.error(segment.log_path)
            index += 1
            if found is not None or index == len(segments):
                return segment, limit, found

    # -- by time

    async def offset_for_timestamp(self, timestamp_ms: int) -> tuple[int, int, int] | None:
        """First record with a timestamp >= `timestamp_ms`: (offset, timestamp, leader epoch); the local part only (KIP-79)."""
        return await self._disk.run(self._offset_for_timestamp, timestamp_ms)

    def _offset_for_timestamp(self, timestamp_ms: int) -> tuple[int, int, int] | None:
        reader, start = self._files, self._marks.local_log_start_offset
        for segment in self._segments.all:
            limit = self._marks.readable_bytes(segment)
            if segment.max_timestamp < timestamp_ms or limit == 0:
                continue
            for position, header in reader.walk(segment, reader.locate_time(segment, timestamp_ms, limit), limit):
                if header.max_timestamp >= timestamp_ms and header.last_offset >= start and not header.is_control:
                    for offset, timestamp in self._times(segment, position, header):
                        if timestamp >= timestamp_ms and offset >= start:
                            return offset, timestamp, header.leader_epoch
        return None

    async def offset_of_max_timestamp(self) -> tuple[int, int, int] | None:
        """The first record with the largest timestamp: (offset, timestamp, leader epoch); the local part only (KIP-734)."""
        return await self._disk.run(self._offset_of_max_timestamp)

    def _offset_of_max_timestamp(self) -> tuple[int, int, int] | None:
        best: tuple[int, Segment, int, BatchHeader] | None = None
        start = self._marks.local_log_start_offset
        for segment in self._segments.all:
            if segment.max_timestamp < 0 or (best is not None and segment.max_timestamp <= best[0]):
                continue
            for position, header in self._largest_candidates(segment, start):
                if not header.record_count:  # emptied by a cleaning
                    continue
                largest = header.max_timestamp
                if header.base_offset < start:  # its largest may lie below the log start
                    times = (time for offset, time in self._times(segment, position, header) if offset >= start)
                    largest = max(times, default=-1)
                if best is None or largest > best[0]:
                    best = largest, segment, position, header
        if best is None:
            return None
        real = [(time, -offset) for offset, time in self._times(*best[1:]) if offset >= start]
        if not real:
            return None
        time, offset = max(real)  # by the records themselves: a header may be from before the door held it against them
        return -offset, time, best[3].leader_epoch

    def _largest_candidates(self, segment: Segment, start: int) -> Iterator[tuple[int, BatchHeader]]:
        """Batches among which the segment's largest readable timestamp is: one, unless the log's ends cut into the segment."""
        limit = self._marks.readable_bytes(segment)
        certain = start <= segment.base_offset and segment.max_timestamp_offset < self._marks.high_watermark
        found = self._files.locate(segment, segment.max_timestamp_offset if certain else start, limit, wait=True)
        if found is not None:
            until = found.position + found.size if certain else limit
            yield from self._files.walk(segment, found.position, until)

    def _times(self, segment: Segment, position: int, header: BatchHeader) -> list[tuple[int, int]]:
        """(offset, timestamp) of each record of one batch: the only place where a batch is opened."""
        for damage in segment.damage:
            if damage.position <= position < damage.end:
                raise damage.error(segment.log_path)
        if header.is_log_append_time and header.record_count == header.last_offset_delta + 1:
            return [(header.base_offset + delta, header.max_timestamp) for delta in range(header.last_offset_delta + 1)]
        batch = self._files.read(segment, position, header.size, wait=True)
        return [(record.offset, record.timestamp) for record in decode_batch(memoryview(batch))]

    # -- transactions

    async def aborted_blocking(self, start: int, end: int) -> list[tuple[int, int]]:
        """`aborted_transactions` in a disk thread if an index must be read."""
        try:
            return self.aborted_transactions(start, end, wait=False)
        except NotCached:
            return await self._disk.run(partial(self.aborted_transactions, start, end, wait=True))

    def aborted_transactions(self, start: int, end: int, *, wait: bool) -> list[tuple[int, int]]:
        """(producer id, first offset) of aborted transactions that overlap [start, end).

        Raises:
            NotCached: not `wait` and an index file must be read.
        """
        found: list[tuple[int, int]] = []
        segments = self._segments.all
        first = max(bisect_right(segments, start, key=BASE_OFFSET) - 1, 0)
        for segment in segments[first:] if self._segments.have_txn else ():
            if segment.has_txn:
                some, is_all = overlapping(self._files.transactions(segment, wait=wait), start, end)
                found += [(entry.producer_id, entry.first_offset) for entry in some]
                if is_all:
                    break
        return found
