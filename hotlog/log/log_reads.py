"""Reads: what a fetch gets, and lookups by time.

Invariants: nothing at or beyond the watermark is returned; the first batch is whole and holds the offset asked for; the event loop never
waits for the device (`read` answers None instead).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from operator import attrgetter
from typing import NamedTuple, TypeVar

from hotlog.kernel.errors import Corrupt, OutOfRange, StorageFailed
from hotlog.log import files
from hotlog.log.damage import sound_part
from hotlog.log.file_part import FilePart
from hotlog.log.index import parse_txn
from hotlog.log.log_state import LogState
from hotlog.log.reader import Found, NotCached
from hotlog.log.segment import Segment
from hotlog.wire.batch import BatchHeader
from hotlog.wire.records import decode_batch
from hotlog.world.ports import Buffer

T = TypeVar("T")
_BASE = attrgetter("base_offset")


class Slice(NamedTuple):
    """Bytes of batches, the first one whole and holding the offset asked for; the last may be cut off.  Empty at the end."""

    data: Buffer
    end_offset_limit: int  # nothing at or above this offset is inside


class Stretch(NamedTuple):
    """The same, of which more than a little is read while it is sent."""

    data: Buffer | FilePart
    end_offset_limit: int


class LogReads(LogState):
    """The reading half of a log."""

    def read(self, offset: int, bytes_max: int, *, min_one: bool, committed_only: bool = False) -> Stretch | None:
        """Batches from `offset` on, from the page cache; None if the device is needed: use read_blocking.

        At most `bytes_max` bytes, but at least the first batch if `min_one` (KIP-74).

        Raises:
            OutOfRange: outside [local_log_start, log_end].
            Corrupt, StorageFailed: damage, or the disk failed.
        """
        try:
            return Stretch(*self._read(offset, bytes_max, min_one, committed_only, self._parts.reader.part, wait=False))
        except NotCached:
            return None

    async def read_blocking(self, offset: int, bytes_max: int, *, min_one: bool, committed_only: bool = False) -> Slice:
        """The same in a disk thread, from the device if need be."""
        return await self._parts.disk.run(self._read_waiting, offset, bytes_max, min_one, committed_only)

    def _read_waiting(self, offset: int, bytes_max: int, min_one: bool, committed_only: bool) -> Slice:
        take = partial(self._parts.reader.read, wait=True)
        return Slice(*self._read(offset, bytes_max, min_one, committed_only, take, wait=True))

    def _read(
        self,
        offset: int,
        bytes_max: int,
        min_one: bool,
        committed_only: bool,
        take: Callable[[Segment, int, int], T],
        *,
        wait: bool,
    ) -> tuple[T | bytes, int]:
        mark = self._watermark
        end = min(self.last_stable_offset, mark.offset) if committed_only else mark.offset
        if not self.local_log_start_offset <= offset < end:
            self._check_range(offset)
            return b"", end
        reader = self._parts.reader
        try:
            segment, limit, found = self._find(offset, wait)
            if found is None or found.base_offset >= end:
                return b"", end
            if end < mark.offset:
                stable = reader.locate(segment, end, self._limit(segment), wait=wait)
                limit = limit if stable is None else min(limit, stable.position)
            length = bytes_max
            if found.size > length:
                if not min_one:
                    return b"", end
                length = found.size
            return take(segment, found.position, min(length, limit - found.position)), end
        except FileNotFoundError as error:
            self._check_range(offset)  # dropped meanwhile
            raise Corrupt(f"{self.tp}: {error.filename} is gone") from error
        except OSError as error:
            raise StorageFailed(f"{self.tp}: cannot read at offset {offset}: {error}") from error

    def _check_range(self, offset: int) -> None:
        """Raise OutOfRange, or Corrupt where damage begins: a reader must not wait there for ever."""
        if isinstance(self.failed, Corrupt) and self.high_watermark <= offset <= self.log_end_offset:
            raise self.failed
        if not self.local_log_start_offset <= offset <= self.log_end_offset:
            raise OutOfRange(
                f"{self.tp}: offset {offset} is outside the local log, {self.local_log_start_offset} to {self.log_end_offset}"
            )

    def _limit(self, segment: Segment) -> int:
        """Readable bytes of a segment."""
        mark = self._watermark
        if segment.base_offset == mark.base:
            return mark.position
        return segment.size if segment.base_offset < mark.base else 0

    def _find(self, offset: int, wait: bool) -> tuple[Segment, int, Found | None]:
        """(segment, its readable bytes, the batch that holds `offset` or the next one); the bytes end where damage begins."""
        segments = self._segments
        index = max(bisect_right(segments, offset, key=_BASE) - 1, 0)
        while True:
            segment = segments[index]
            start, limit, ahead = 0, self._limit(segment), None
            if segment.damage:
                start, limit, ahead = sound_part(segment.log_path, segment.damage, offset, limit)
            found = self._parts.reader.locate(segment, offset, limit, wait=wait, start=start)
            if found is None and ahead is not None:
                raise ahead.error(segment.log_path)
            index += 1
            if found is not None or index == len(segments):
                return segment, limit, found

    # -- by time

    async def offset_for_timestamp(self, timestamp_ms: int) -> tuple[int, int, int] | None:
        """First record with a timestamp >= `timestamp_ms`: (offset, timestamp, leader epoch); the local part only (KIP-79)."""
        return await self._parts.disk.run(self._offset_for_timestamp, timestamp_ms)

    def _offset_for_timestamp(self, timestamp_ms: int) -> tuple[int, int, int] | None:
        reader, start = self._parts.reader, self.local_log_start_offset
        for segment in self._segments:
            limit = self._limit(segment)
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
        return await self._parts.disk.run(self._offset_of_max_timestamp)

    def _offset_of_max_timestamp(self) -> tuple[int, int, int] | None:
        best: tuple[int, Segment, int, BatchHeader] | None = None
        start = self.local_log_start_offset
        for segment in self._segments:
            if segment.max_timestamp < 0 or (best is not None and segment.max_timestamp <= best[0]):
                continue
            for position, header in self._largest_candidates(segment, start):
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
        limit = self._limit(segment)
        certain = start <= segment.base_offset and segment.max_timestamp_offset < self.high_watermark
        found = self._parts.reader.locate(segment, segment.max_timestamp_offset if certain else start, limit, wait=True)
        if found is not None:
            until = found.position + found.size if certain else limit
            yield from self._parts.reader.walk(segment, found.position, until)

    def _times(self, segment: Segment, position: int, header: BatchHeader) -> list[tuple[int, int]]:
        """(offset, timestamp) of each record of one batch: the only place where a batch is opened."""
        for damage in segment.damage:
            if damage.position <= position < damage.end:
                raise damage.error(segment.log_path)
        if header.is_log_append_time:
            return [(header.base_offset + delta, header.max_timestamp) for delta in range(header.last_offset_delta + 1)]
        batch = self._parts.reader.read(segment, position, header.size, wait=True)
        return [(record.offset, record.timestamp) for record in decode_batch(memoryview(batch))]

    # -- transactions

    def aborted_transactions(self, start: int, end: int) -> list[tuple[int, int]]:
        """(producer id, first offset) of aborted transactions that overlap [start, end)."""
        found = []
        for segment in self._segments:
            if segment.has_txn and segment.end_offset > start:
                for entry in parse_txn(self._parts.disk.read(segment.path(files.TXN_INDEX))):
                    if entry.last_offset >= start and entry.first_offset < end:
                        found.append((entry.producer_id, entry.first_offset))
                    if entry.last_stable_offset >= end:
                        return found
        return found
