"""Sequential readers of the cold tier: which read goes on from which, how far ahead of each is read, and what each has left behind.

A reader is recognised by the offset at which its last read ended.

Invariants: the windows of all readers together stay within half of the memory cache; a chunk is let go of as passed only if no other reader of
its partition comes after; at most CURSORS_MAX readers are remembered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from cachetools import LRUCache, TTLCache

from hotlog.kernel.ids import PartitionId
from hotlog.world.ports import Clock
from tiering.cache.chunks import ChunkCache
from tiering.cache.source import ChunkSource
from tiering.read.ahead import Ahead
from tiering.read.cursors import Cursor, Reading
from tiering.read.history import Shelf
from tiering.read.window import on_read

CURSORS_MAX = 1024
_ACTIVE_S = 10.0


class _Place(NamedTuple):
    """Where a sequential reader was of late; places of one partition are in order."""

    pid: PartitionId
    base_offset: int
    position: int


class SequentialReaders:
    """All those of a process."""

    def __init__(self, shelf: Shelf, chunks: ChunkCache, clock: Clock, readahead_bytes_max: int) -> None:
        self._chunks = chunks
        self._clock = clock
        self._readahead_bytes_max = readahead_bytes_max
        self._cursors: LRUCache[tuple[PartitionId, int], Cursor] = LRUCache(maxsize=CURSORS_MAX)
        self._active: TTLCache[int, _Place] = TTLCache(CURSORS_MAX, _ACTIVE_S, timer=clock.monotonic)  # by number of the reader
        self._numbers = 0
        self._beginning = 0
        self.ahead = Ahead(shelf, chunks)

    async def close(self) -> None:
        await self.ahead.close()

    @property
    def count(self) -> int:
        """How many readers share memory."""
        return max(1, len(self._active) + self._beginning)

    @contextmanager
    def beginning(self) -> Iterator[None]:
        """The first read of somebody who may become a sequential reader is under way."""
        self._beginning += 1
        try:
            yield
        finally:
            self._beginning -= 1

    def peek_cursor(self, pid: PartitionId, offset: int) -> Cursor | None:
        """The cursor of who would go on at `offset`."""
        return self._cursors.get((pid, offset))

    def take_cursor(self, pid: PartitionId, offset: int) -> Cursor | None:
        """The same, for a read that goes on from it: nobody else finds it meanwhile."""
        return self._cursors.pop((pid, offset), None)

    def put_back(self, pid: PartitionId, offset: int, cursor: Cursor) -> None:
        """The read that took `cursor` brought nothing."""
        self._cursors[pid, offset] = cursor

    def go_on(self, reading: Reading, before: Cursor | None, cursor: Cursor) -> None:
        """Remember where a reader is after `reading`, and read ahead of it if it has gone on from `before`."""
        pid = reading.history.keys.pid
        if before is None:
            self._numbers += 1
        readers = self.count
        self._chunks.share(readers)
        cursor.reader = before.reader if before is not None else self._numbers
        cursor.stream = on_read(
            before.stream if before is not None else None,
            now_s=self._clock.monotonic(),
            size=reading.taken,
            has_waited=reading.has_waited,
            get_seconds=self._chunks.get_seconds,
            window_bytes_max=self._window_bytes_max(cursor.chunks, readers),
        )
        if reading.offset >= reading.history.end_offset:
            self.end(pid, before or cursor)
        elif cursor.stream.reads > 1 or reading.is_sequential:
            here = self._active[cursor.reader] = _Place(pid, cursor.row.base_offset, cursor.position)
            if before is not None:
                self._leave_behind(before, cursor, here)
        self._cursors[pid, reading.offset] = cursor
        frontier = before.frontier if before is not None else None
        cursor.frontier = self.ahead.follow(reading, frontier, cursor, self._chunks.memory_bytes_max // readers)

    def end(self, pid: PartitionId, before: Cursor) -> None:
        """A reader has come to the tiered end: it needs no share any more, and the last one is done with its last object."""
        self._active.pop(before.reader, None)
        if not any(place.pid == pid for place in self._active.values()):
            self._chunks.passed(before.chunks, before.position, before.row.log_bytes)

    def _leave_behind(self, before: Cursor, cursor: Cursor, here: _Place) -> None:
        """Let go of what the reader has passed, unless another one comes after it."""
        source = before.chunks
        stop = cursor.position if source.key == cursor.chunks.key else before.row.log_bytes
        if before.position // source.chunk_bytes == stop // source.chunk_bytes and stop < before.row.log_bytes:
            return
        if not any(place.pid == here.pid and place < here for place in self._active.values()):
            self._chunks.passed(source, before.position, stop)

    def _window_bytes_max(self, source: ChunkSource, readers: int) -> int:
        """A reader's share of half of the memory cache.

        None where that is less than a chunk: what is read ahead for one reader would push out what another reads.
        """
        share = self._chunks.memory_bytes_max // 2 // readers
        return min(self._readahead_bytes_max, share) if share >= source.chunk_bytes else 0
