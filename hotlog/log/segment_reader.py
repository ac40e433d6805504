"""Reads of one segment: index lookup, then headers from there, then the bytes.  Every call exists in two moods.

`wait=False` runs on the event loop and touches only the page cache: it raises NotCached where the device would be needed.  `wait=True`
blocks, for a disk thread.

Invariants: an index entry is a hint: the batch it points to must end at the offset it names, or the index is marked broken and the
segment is walked from its start; nothing at or beyond `limit` is read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from hotlog.kernel.errors import Corrupt
from hotlog.kernel.limits import BATCH_HEADER_BYTES, BATCH_OVERHEAD_BYTES
from hotlog.log import files
from hotlog.log.file_part import FilePart
from hotlog.log.index import OFFSET_BYTES, TIME_BYTES, floor_offset, floor_time
from hotlog.log.pool import FilePool, IndexCache, Name
from hotlog.log.segment import IndexPart, Segment
from hotlog.wire.batch import BatchHeader, header_at
from hotlog.world.ports import Buffer, File

CHUNK_BYTES = 8 * 1024
WALK_BYTES = 256 * 1024
PART_BYTES_MIN = 128 * 1024  # answers up to this size are read at once
# base offset, length, (leader epoch, magic, crc, attributes), last offset delta
SHORT_HEADER = struct.Struct(">qi11xi")
_BODY_BYTES_MIN = BATCH_HEADER_BYTES - BATCH_OVERHEAD_BYTES


class NotCached(Exception):
    """The page cache has not got it: ask again in a thread."""


class Found(NamedTuple):
    """Where a batch lies: byte position and size in the segment, first and last offset."""

    position: int
    size: int
    base_offset: int
    last_offset: int


def _get(file: File, offset: int, length: int, wait: bool) -> Buffer:
    if wait:
        return file.read_at(offset, length)
    data = file.read_at_nowait(offset, length)
    if data is None:
        raise NotCached
    return data


class SegmentReader:
    """Reads of all segments of a data directory; `report` is told of damage: (where, message)."""

    def __init__(self, pool: FilePool, cache: IndexCache, report: Callable[[str, str], None]) -> None:
        self._pool = pool
        self.read_now = pool.read_now
        self._cache = cache
        self._report = report

    def read(self, segment: Segment, position: int, length: int, *, wait: bool) -> Buffer:
        """Up to `length` bytes of the log file.  NotCached if not `wait`."""
        held = self._pool.acquire(segment)
        try:
            return _get(held.file, position, length, wait)
        finally:
            self._pool.release(held)

    def part(self, segment: Segment, position: int, length: int) -> Buffer | FilePart:
        """`length` bytes of the log file for an answer: small ones now, more of them while they are sent.

        What is read while it is sent must lie in the page cache at its end, as it did at its start, where the batch was looked up; a hole
        between is read from the device when it is met.

        Raises:
            NotCached: the device is needed.
        """
        part = FilePart(self._pool, self._pool.acquire(segment), position, length)
        try:
            if length <= PART_BYTES_MIN:
                data = part.read_now(0, length)
            elif part.read_now(length - 1, 1) is None:
                data = None
            else:
                return part
        except BaseException:
            part.close()
            raise
        part.close()
        if data is None:
            raise NotCached
        return data

    def locate(self, segment: Segment, offset: int, limit: int, *, wait: bool, start: int = 0) -> Found | None:
        """The first batch whose last offset is >= `offset`, below byte `limit`; None if there is none.

        A batch begins at byte `start`, and none before it is looked at.

        Raises:
            NotCached: not `wait` and the device is needed.
            Corrupt: a header that cannot be.
        """
        first, expected = start, None
        if not segment.index_broken:
            entry = self._floor(segment, segment.offsets, files.INDEX, offset - segment.base_offset, wait)
            if entry is not None and (entry[1] >= start or not start):
                first, expected = entry[1], segment.base_offset + entry[0]
        held = self._pool.acquire(segment)
        try:
            found = _scan(held.file, first, offset, limit, expected, wait)
            if found is not _MISMATCH:
                return found
            if not segment.index_broken:  # a segment that is replaced meanwhile has no index any more
                segment.index_broken = True
                self._report("index", f"{segment.path(files.INDEX)} points to byte {first} for offset {expected}: not so")
            return _scan(held.file, start, offset, limit, None, wait)
        finally:
            self._pool.release(held)

    def locate_time(self, segment: Segment, timestamp_ms: int, limit: int) -> int:
        """A batch's position at or before the first batch with a timestamp >= `timestamp_ms`.  Blocks.

        The entry of the time index is believed only if the batch it names has that timestamp.
        """
        if segment.index_broken:
            return 0
        entry = self._floor(segment, segment.times, files.TIME_INDEX, timestamp_ms - 1, True)
        if entry is None:
            return 0
        offset = segment.base_offset + entry[1]
        found = self.locate(segment, offset, limit, wait=True)
        if found is not None and found.last_offset == offset:
            header = header_at(self.read(segment, found.position, BATCH_HEADER_BYTES, wait=True))
            if header.max_timestamp == entry[0]:
                return found.position
        elif found is None and segment.end_offset > offset >= segment.base_offset:
            return 0  # beyond what may be read yet
        if not segment.index_broken:
            segment.index_broken = True
            self._report("index", f"{segment.path(files.TIME_INDEX)} names offset {offset} for timestamp {entry[0]}: not so")
        return 0

    def _floor(self, segment: Segment, part: IndexPart, suffix: str, wanted: int, wait: bool) -> tuple[int, int] | None:
        """Last entry at or below `wanted`: pending ones first, they are the newest."""
        search = floor_offset if suffix == files.INDEX else floor_time
        if part.pending:
            found = search(bytes(part.pending) if wait else part.pending, wanted)
            if found is not None:
                return found
        if part.length == 0:
            return None
        entries = self._cache.get((segment, suffix), part.length)
        if entries is None:
            entries = self._load(segment, suffix, part.length, wait)
        if len(entries) != part.length:
            size = OFFSET_BYTES if suffix == files.INDEX else TIME_BYTES
            whole = min(len(entries), part.length) // size * size
            return search(memoryview(entries)[:whole], wanted)
        return search(entries, wanted)

    def _load(self, segment: Segment, suffix: str, length: int, wait: bool) -> bytes:
        path = segment.path(suffix)
        self._pool.forget(path)  # index files grow behind the pool's back
        held = self._pool.acquire(Name(path))
        try:
            entries = bytes(_get(held.file, 0, length, wait))
        finally:
            self._pool.release(held)
            self._pool.forget(path)
        self._cache.put((segment, suffix), entries)
        return entries

    def transactions(self, segment: Segment, *, wait: bool) -> bytes:
        """The transaction index of a segment, what is not in its file yet included.  NotCached if not `wait`."""
        part = segment.transactions
        key = (segment, files.TXN_INDEX)
        entries = self._cache.get(key, part.length) if part.length else b""
        if entries is None:
            if not wait:
                raise NotCached
            entries = self._pool.disk.read(segment.path(files.TXN_INDEX))
            self._cache.put(key, entries)
        return entries[: part.length] + part.pending

    def note_transactions(self, segment: Segment, before: IndexPart) -> None:
        """What was pending `before` is in the file now; who reads goes on without the file."""
        key = (segment, files.TXN_INDEX)
        entries = self._cache.get(key, before.length) if before.length else b""
        if entries is not None:
            self._cache.put(key, entries[: before.length] + before.pending)

    def forget_indexes(self, segment: Segment) -> None:
        """The index files of `segment` were made anew, or are gone."""
        for suffix in (files.INDEX, files.TIME_INDEX, files.TXN_INDEX):
            self._pool.forget(segment.path(suffix))
            self._cache.forget((segment, suffix))

    def whole(self, segment: Segment, position: int, header: BatchHeader) -> Callable[[], Buffer]:
        """What reads the batch at `position` when it is called.  Blocks."""
        return lambda: self.read(segment, position, header.size, wait=True)

    def walk(self, segment: Segment, start: int, limit: int) -> Iterator[tuple[int, BatchHeader]]:
        """(position, header) of each batch in bytes [start, limit), which must begin and end at batches.  Blocks.

        Raises:
            Corrupt: a header that cannot be.
        """
        held = self._pool.acquire(segment)
        try:
            yield from walk_file(held.file, start, limit)
        finally:
            self._pool.release(held)


_MISMATCH = Found(-1, -1, -1, -1)


def _scan(file: File, position: int, offset: int, limit: int, expected: int | None, wait: bool) -> Found | None:
    """The first batch from byte `position` on that ends at or beyond `offset`; the one at `position` must end at `expected`."""
    if position < 0:
        return _MISMATCH
    chunk: Buffer = b""
    at = 0
    while True:
        if at + BATCH_HEADER_BYTES > len(chunk):
            position += at
            if position + BATCH_HEADER_BYTES > limit:
                return _MISMATCH if expected is not None else None
            chunk, at = _get(file, position, min(CHUNK_BYTES, limit - position), wait), 0
            if len(chunk) < BATCH_HEADER_BYTES:
                raise Corrupt(f"{file.path} ends at byte {position + len(chunk)}; {limit} bytes were written")
        base, length, delta = SHORT_HEADER.unpack_from(chunk, at)
        if expected is not None:
            if base + delta != expected or length < _BODY_BYTES_MIN or chunk[at + 16] != 2:
                return _MISMATCH
            expected = None
        if length < _BODY_BYTES_MIN or position + at + length + BATCH_OVERHEAD_BYTES > limit:
            raise Corrupt(f"{file.path}: batch at byte {position + at} says length {length}")
        if base + delta >= offset:
            return Found(position + at, length + BATCH_OVERHEAD_BYTES, base, base + delta)
        at += length + BATCH_OVERHEAD_BYTES


def walk_file(file: File, position: int, limit: int) -> Iterator[tuple[int, BatchHeader]]:
    """Headers of the whole batches in [position, limit); reads ahead while batches are small, jumps while they are large."""
    chunk: Buffer = b""
    at = 0
    step = WALK_BYTES
    while position + at + BATCH_HEADER_BYTES <= limit:
        if at + BATCH_HEADER_BYTES > len(chunk):
            step = CHUNK_BYTES if at > 4 * len(chunk) and chunk else WALK_BYTES
            position += at
            chunk, at = file.read_at(position, min(step, limit - position)), 0
            if len(chunk) < BATCH_HEADER_BYTES:
                raise Corrupt(f"{file.path} ends at byte {position + len(chunk)}; {limit} bytes were written")
        header = header_at(chunk, at)
        if header.length < _BODY_BYTES_MIN or position + at + header.size > limit:
            raise Corrupt(f"{file.path}: batch at byte {position + at} says length {header.length}")
        yield position + at, header
        at += header.size
