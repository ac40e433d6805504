"""Sequential reads of the bucket without a broker: large ranges, several in flight, batches in order.  For replay and export.

A partition is read object by object in ranges of RANGE_BYTES_MAX; up to `depth` ranges are under way or waiting to be taken, over object
borders.  Small objects (log and footer within one range) cost one GET, larger ones one per range and one for the footer.

Invariants: every byte handed out was proven by the chunk checksums of a footer whose identity agreed with its row; batches come whole,
ascending, without a gap that the manifest does not record as a hole; at most `depth` ranges per partition are in memory, plus one batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from hotlog.kernel.errors import Corrupt
from hotlog.kernel.limits import BATCH_HEADER_BYTES, RANGE_BYTES_MAX, KiB
from hotlog.wire.batch import header_at
from hotlog.wire.records import Record, decode_batch
from hotlog.world.tasks import TaskScope
from tiering.manifest.root import Entry
from tiering.objects.batch_runs import OFFSET_MAX, whole_batches
from tiering.objects.segment import Footer
from tiering.read.history import History, MissingObject
from tiering.read.lookup import Lookup

_Reading = asyncio.Task["memoryview | Exception"]
_GET_ATTEMPTS = 2  # wrong bytes may be the path's fault
_OVERSHOOT_BYTES = 256 * KiB  # the last wanted batch lies within this behind where the sparse index points, mostly


class Run(NamedTuple):
    """Whole batches of one partition.  Offsets half open; the first batch may begin before what was asked for, as in a fetch."""

    data: memoryview
    start_offset: int
    end_offset: int


class Hole(NamedTuple):
    """Offsets that are in no tier, with the recorded reason."""

    start_offset: int
    end_offset: int
    reason: str


class _Piece(NamedTuple):
    """A range of one object to be read."""

    row: Entry
    start: int
    end: int
    is_wanted_now: bool  # False: beyond where the end is expected, read only when it is needed after all
    skip: int = 0  # bytes at its front that belong to a batch before the first wanted one


@dataclass
class Progress:
    """What has been read so far, over all partitions.  Handed to progress callbacks; do not keep."""

    bytes: int = 0
    requests: int = 0
    offsets: int = 0  # delivered
    offsets_total: int = 0  # to be delivered; holes count
    seconds: float = 0.0
    partitions_done: int = 0
    partitions: int = 0
    holes: int = 0
    ends: dict[int, int] = field(default_factory=dict)  # per partition: the offset after the last one that can be read

    def copy(self) -> Progress:
        return replace(self)


def _decode(batch: memoryview) -> Awaitable[list[Record]]:
    return asyncio.to_thread(decode_batch, batch)


class DirectReader:
    """Reads the history of one partition."""

    def __init__(self, history: History, *, depth: int, progress: Progress | None = None) -> None:
        assert depth >= 1
        self.history = history
        self._depth = depth
        self.progress = progress or Progress()

    async def runs(self, start: int, end: int) -> AsyncGenerator[Run | Hole, None]:
        """Batches of [start, end) in order: the first one holds `start`, none begins at or above `end`.

        Raises:
            Corrupt: wrong bytes or a missing object; what came before was right.
            StoreUnavailable: the store does not answer.
        """
        if start >= end:
            return
        async with TaskScope("direct-read") as scope, aclosing(self._pipeline(scope, start, end)) as items:
            at = _Assembly(start, end)
            async for item, reading in items:
                if isinstance(item, Hole):
                    at.finish()
                    self.progress.holes += 1
                    yield item
                    continue
                data = await (reading if reading is not None else self._read_or_failure(item))
                if isinstance(data, Exception):
                    raise data
                for run in at.add(item, data, self.history.keys.part(item.row.address)):
                    self.progress.offsets += min(run.end_offset, end) - max(run.start_offset, start)
                    yield run
                if at.is_done:
                    break
            at.finish()
            await scope.cancel()

    async def _pipeline(
        self, scope: TaskScope, start: int, end: int
    ) -> AsyncGenerator[tuple[_Piece | Hole, _Reading | None], None]:
        """Pieces and holes in order, up to `depth` pieces being read already."""
        waiting: deque[tuple[_Piece | Hole, _Reading | None]] = deque(maxlen=self._depth + 1)
        async for piece in self._pieces(start, end):
            is_ahead = isinstance(piece, _Piece) and piece.is_wanted_now
            waiting.append((piece, scope.spawn(self._read_or_failure(piece)) if isinstance(piece, _Piece) and is_ahead else None))
            while waiting and (len(waiting) > self._depth or not is_ahead):
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()

    async def _pieces(self, start: int, end: int) -> AsyncIterator[_Piece | Hole]:
        async for row in self.history.rows(start, end):
            if row.is_hole:
                yield Hole(max(row.base_offset, start), min(row.end_offset, end), row.hole)
                continue
            position, skip, expected_end = 0, 0, row.log_bytes
            is_whole = row.base_offset >= start and row.end_offset <= end
            if not (is_whole and row.size <= RANGE_BYTES_MAX):
                footer = await self._footer(row)
                if row.base_offset < start:
                    skip = footer.position_for(start) % footer.trailer.chunk_bytes
                    position = footer.position_for(start) - skip
                if row.end_offset > end:
                    expected_end = footer.position_for(end) + _OVERSHOOT_BYTES
            while position < row.log_bytes:
                stop = min((position // RANGE_BYTES_MAX + 1) * RANGE_BYTES_MAX, row.log_bytes)
                if position < expected_end < stop:
                    stop = await self._chunk_end(row, expected_end)
                yield _Piece(row, position, stop, position < expected_end, skip)
                position, skip = stop, 0

    async def _read_or_failure(self, piece: _Piece) -> memoryview | Exception:
        """A failure is a value here: it must meet the reader at its place in the order, not cancel whoever consumes the runs."""
        try:
            return await self._read(piece)
        except Exception as failure:
            return failure

    async def _chunk_end(self, row: Entry, position: int) -> int:
        chunk_bytes = (await self._footer(row)).trailer.chunk_bytes
        return min(-(-position // chunk_bytes) * chunk_bytes, row.log_bytes)

    async def _footer(self, row: Entry) -> Footer:
        if self.history.shelf.footers.peek(self.history.keys.part(row.address)) is None:
            self.progress.requests += 1
        try:
            return await self.history.footer(row)
        except MissingObject as missing:
            raise self._gone(missing) from None

    def _gone(self, missing: MissingObject) -> Corrupt:
        return Corrupt(f"{missing}, though the manifest of {self.history.keys.pid} refers to it")

    async def _read(self, piece: _Piece) -> memoryview:
        """Bytes of a piece, proven."""
        row, history = piece.row, self.history
        key = history.keys.part(row.address)
        is_one_get = piece.start == 0 and piece.end == row.log_bytes and row.size <= RANGE_BYTES_MAX
        for _ in range(_GET_ATTEMPTS):
            try:
                blob = await history.get(row, piece.start, row.size if is_one_get else piece.end)
            except MissingObject as missing:
                raise self._gone(missing) from None
            self.progress.requests += 1
            self.progress.bytes += len(blob.data)
            data = memoryview(blob.data)[: piece.end - piece.start]
            try:
                footer = history.parse_footer(row, blob) if is_one_get else await self._footer(row)
                source = history.chunks_of(row, footer)
                if len(data) == piece.end - piece.start and source.is_of(blob.size) and source.holds(piece.start, data):
                    return data
            except Corrupt:
                continue
        raise Corrupt(
            f"bytes [{piece.start}, {piece.end}) of {key} are not what was uploaded (size, identity or CRC-32C differs)"
        )

    # -- places ---------------------------------------------------------------------------------------------------------

    async def offset_at_time(self, timestamp_ms: int) -> int:
        """Where a consumer would start that seeks to this time: the first offset with a timestamp >= it, or the end."""
        found = await Lookup(self.history, self._window, _decode).offset_for_timestamp(timestamp_ms)
        return self.history.end_offset if found is None else found[0]

    async def aborted(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """(producer id, first offset, last offset) of aborted transactions with data in [start, end)."""
        return await Lookup(self.history, self._window, _decode).aborted_rows(start, end)

    async def _window(self, history: History, row: Entry, footer: Footer, position: int, size: int) -> memoryview:
        chunk_bytes = footer.trailer.chunk_bytes
        first = position // chunk_bytes * chunk_bytes
        stop = min(-(-(position + size) // chunk_bytes) * chunk_bytes, row.log_bytes)
        data = await self._read(_Piece(row, first, stop, True))
        return data[position - first : position - first + size]


class _Assembly:
    """Puts whole batches together from pieces that end anywhere."""

    def __init__(self, start: int, end: int) -> None:
        self._start = start
        self._end = end
        self._carry = b""  # the beginning of a batch that the next piece ends
        self._row: Entry | None = None
        self._skip = 0  # bytes still to come of a batch that is not wanted
        self.is_done = False

    def finish(self) -> None:
        if (self._carry or self._skip) and self._row is not None and not self.is_done:
            raise Corrupt(f"{self._row.name}: the log part ends inside a batch")

    def add(self, piece: _Piece, data: memoryview, where: str) -> list[Run]:
        """Runs that this piece completes."""
        if self._row is not piece.row:
            self.finish()
            self._row, self._skip = piece.row, piece.skip
        skipped = min(self._skip, len(data))
        data, self._skip = data[skipped:], self._skip - skipped
        runs: list[Run] = []
        if self._carry:
            data = self._complete(data, where, runs)
        if not self._carry and len(data):
            rest = self._take(data, where, runs)
            self._carry = bytes(rest)
        return runs

    def _complete(self, data: memoryview, where: str, runs: list[Run]) -> memoryview:
        """End the carried batch with the first bytes of `data`; return what follows."""
        head = self._carry if len(self._carry) >= BATCH_HEADER_BYTES else self._carry + bytes(data[:BATCH_HEADER_BYTES])
        missing = header_at(head).size - len(self._carry) if len(head) >= BATCH_HEADER_BYTES else len(data) + 1
        if missing > len(data):
            self._carry += data
            return data[len(data) :]
        batch = memoryview(self._carry + data[:missing])
        self._carry = b""
        self._take(batch, where, runs)
        return data[missing:]

    def _take(self, data: memoryview, where: str, runs: list[Run]) -> memoryview:
        assert self._row is not None
        took = whole_batches(
            data, self._start, OFFSET_MAX, min_one=True, within=range(self._row.base_offset, self._row.end_offset), where=where,
            until=self._end,
        )  # fmt: skip
        if took.size:
            first = header_at(data, took.start).base_offset
            runs.append(Run(data[took.start : took.end], first, took.next_offset))
        if took.needed == 0 or took.next_offset >= self._end:
            self.is_done = True
            return data[:0]
        self._skip = max(0, took.end - len(data))
        return data[took.end :]
