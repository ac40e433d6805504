"""Reads of the cold tier: offset -> row of the manifest -> footer -> chunks -> whole batches, over chunk and object borders.

One ColdReader serves all partitions of a process.  A read that has waited `wait_ms` answers with what is there (nothing, perhaps) while
its GETs go on into the cache; the next read finds them there.  Sequential readers are read ahead of in offset space, over objects
(tiering.read.sequential).

Invariants: batches are whole, ascending, and start with the one that holds the offset, or with the first one after a recorded hole;
bytes are served only after their chunk's CRC-32C agreed; an object that a live row names and the store has not is Corrupt, never skipped,
and the error reaches only reads of that range; what is given away holds at most LENT_BYTES_MAX more memory than its size and the cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from hotlog.kernel.errors import Corrupt, HotlogError, NotFound, OutOfRange
from hotlog.kernel.limits import RANGE_BYTES_MAX, KiB
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.log.reader import Slice
from hotlog.wire.records import Record, decode_batch
from hotlog.world.ports import Buffer, Clock, Disk, ObjectStore
from tiering.cache.chunks import ChunkCache
from tiering.cache.footers import NotYet
from tiering.cache.source import ChunkSource, joined
from tiering.manifest.root import Entry, Manifest
from tiering.objects.batch_runs import landmarks, whole_batches
from tiering.objects.keys import PartitionKeys
from tiering.objects.segment import Footer, parse_footer
from tiering.read.cursors import Cursor, Reading
from tiering.read.history import History, MissingObject, Shelf
from tiering.read.lookup import Lookup
from tiering.read.sequential import SequentialReaders

T = TypeVar("T")
_SKIP_BYTES = 128 * KiB  # the wanted batch lies at most this far behind where a sparse index points, roughly
LENT_BYTES_MAX = (
    4 * RANGE_BYTES_MAX
)  # of whole ranges that pieces hold in answers; with more out, a piece is copied out of its range


class ColdSource(Protocol):
    """A partition as the reader needs it: ColdPartition in a broker, a plain manifest elsewhere."""

    keys: PartitionKeys
    topic: str

    @property
    def view(self) -> Manifest | None: ...

    async def reload(self) -> Manifest | None:
        """The newest root from the store."""
        ...


class ColdReader:
    """Reads of the cold tier."""

    def __init__(
        self, *, store: ObjectStore, clock: Clock, disk: Disk, settings: Settings, metrics: Metrics, cache_dir: str | None
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._wait_ms_default = settings.number("remote.fetch.max.wait.ms")
        self._disk = disk
        self.chunks = ChunkCache(store=store, clock=clock, disk=disk, settings=settings, metrics=metrics, cache_dir=cache_dir)
        self.shelf = Shelf.of(
            store, self.chunks.gate, settings.number("remote.log.index.file.cache.total.size.bytes"), self.chunks, disk
        )
        self.sequential = SequentialReaders(self.shelf, self.chunks, clock, settings.number("hotlog.readahead.bytes"))

    async def load_disk(self) -> None:
        """Take over the disk cache of an earlier run."""
        await self.chunks.load_disk()

    def reconfigure(self, settings: Settings) -> None:
        """Take over dynamic settings (remote.fetch.max.wait.ms, the read rate's)."""
        self._wait_ms_default = settings.number("remote.fetch.max.wait.ms")
        self.chunks.rate.reconfigure(settings)

    async def close(self) -> None:
        await self.sequential.close()
        await self.chunks.close()
        await self.shelf.close()

    async def copied(self, keys: PartitionKeys, row: Entry, footer: bytes) -> None:
        """An object was made here: its footer need not be read back, which is every fifth GET of a replay of segments of 64 MiB."""
        key = keys.part(row.address)
        self.shelf.footers.offer(key, parse_footer(footer, where=key))
        await self.chunks.write_footer(key, footer)

    # -- reads ----------------------------------------------------------------------------------------------------------

    async def read(
        self, source: ColdSource, offset: int, bytes_max: int, *, min_one: bool = True, wait_ms: int | None = None
    ) -> Slice:
        """Whole batches from the one that holds `offset` on, at most `bytes_max` bytes (the first one whole if `min_one`).

        Empty when `offset` is the tiered end, when nothing came within `wait_ms` (None: remote.fetch.max.wait.ms; the store's own
        deadlines still hold for a larger one), or when not `min_one` and the first batch is larger than `bytes_max`.

        Raises:
            OutOfRange: `offset` is not in the tiered range.
            StoreUnavailable: the store did not answer.
            Corrupt: bytes or objects are not what was uploaded; nothing of that range is served.
        """
        self._metrics.remote_fetch_requests.labels(source.topic).inc()
        wait_ms = self._wait_ms_default if wait_ms is None else wait_ms
        deadline = self._clock.monotonic() + wait_ms / 1000
        try:
            return await self._tried(source, lambda history: self._read(history, offset, bytes_max, min_one, deadline))
        except NotYet:
            return Slice(b"", offset)

    def read_now(self, source: ColdSource, offset: int, bytes_max: int) -> Slice | None:
        """The same for a sequential reader whose next batches are in memory, in one object: no waiting, no task.  None: `read` it."""
        before = self.sequential.peek_cursor(source.keys.pid, offset)
        manifest = source.view
        if before is None or manifest is None or not manifest.readable_start_offset <= offset < manifest.end_offset:
            return None
        history = self.history(source, manifest)
        row, chunks, position = before.row, before.chunks, before.position
        size = min(bytes_max, row.log_bytes - position)
        window = self.chunks.window(chunks, position, position + size) if size > 0 else None
        if window is None:
            return None
        try:
            took = whole_batches(
                window, offset, bytes_max, min_one=False,
                within=range(row.base_offset, row.end_offset), where=chunks.key, landmark=landmarks(before.footer.offset_index, position),
            )  # fmt: skip
        except Corrupt:
            return None  # `read` says it with all that belongs to it
        if not took.size or took.start:
            return None
        self._metrics.remote_fetch_requests.labels(source.topic).inc()
        reading = Reading(history, took.next_offset, 0, True, None, taken=took.size)
        self.sequential.take_cursor(source.keys.pid, offset)
        self.sequential.go_on(reading, before, Cursor(row, before.footer, chunks, position + took.end))
        return Slice(self._given(window[: took.end]), took.next_offset)

    async def _tried(self, source: ColdSource, work: Callable[[History], Awaitable[T]]) -> T:
        """Run `work` over the committed view; a missing object makes it look at the newest root once (it may have been replaced)."""
        try:
            try:
                return await work(self.history(source, source.view))
            except MissingObject as missing:
                newest = await source.reload()
                if await self._is_live(source, newest, missing):
                    raise Corrupt(f"{missing}, though the manifest of {source.keys.pid} refers to it") from None
                return await work(self.history(source, newest))
        except MissingObject as missing:
            self._count_error(source, "missing-object")
            raise Corrupt(f"{missing}, though the manifest of {source.keys.pid} refers to it") from None
        except Corrupt:
            self._count_error(source, "cold-read")
            raise
        except (NotYet, OutOfRange):
            raise
        except HotlogError:
            self._metrics.remote_fetch_errors.labels(source.topic).inc()
            raise

    def _count_error(self, source: ColdSource, where: str) -> None:
        self._metrics.corruption.labels(where).inc()
        self._metrics.remote_fetch_errors.labels(source.topic).inc()

    async def _is_live(self, source: ColdSource, newest: Manifest | None, missing: MissingObject) -> bool:
        if newest is None:
            return False
        if missing.row is None:
            return await self.history(source, newest).has_page(missing.key)
        start = max(missing.row.base_offset, newest.readable_start_offset)
        if not start < min(missing.row.end_offset, newest.end_offset):
            return False
        row = await self.history(source, newest).row_at(start)
        return not row.is_hole and source.keys.object(row.name) == missing.key

    def history(self, source: ColdSource, manifest: Manifest | None) -> History:
        """A partition as one manifest has it, for look-ups of one request.

        Raises:
            OutOfRange: there is no manifest: nothing is tiered.
        """
        if manifest is None:
            raise OutOfRange(f"nothing of {source.topic}-{source.keys.pid.partition} is tiered")
        return History(self.shelf, source.keys, source.topic, manifest)

    async def _read(self, history: History, offset: int, bytes_max: int, min_one: bool, deadline: float | None) -> Slice:
        if offset == history.end_offset:
            return Slice(b"", offset)
        if not history.start_offset <= offset < history.end_offset:
            raise OutOfRange(f"offset {offset}: [{history.start_offset}, {history.end_offset}) of {history.topic} is tiered")
        before = self.sequential.take_cursor(history.keys.pid, offset)
        reading = Reading(history, offset, bytes_max, min_one, deadline, is_sequential=before is not None)
        try:
            cursor = await (self._fill(reading, before) if before is not None else self._begin(reading))
        except NotYet:
            if before is not None:
                self.sequential.put_back(history.keys.pid, offset, before)
            raise
        if reading.taken and cursor is not None:
            self.sequential.go_on(reading, before, cursor)
        elif before is not None and cursor is None:
            self.sequential.end(history.keys.pid, before)
        pieces = reading.pieces
        return Slice(self._given(pieces[0]) if len(pieces) == 1 else b"".join(pieces), reading.offset)

    def _given(self, piece: Buffer) -> Buffer:
        """A piece of a range as it is given away: itself, unless too many ranges are held by pieces already."""
        return piece if self.chunks.lent_bytes <= LENT_BYTES_MAX else bytes(piece)

    async def _begin(self, reading: Reading) -> Cursor | None:
        """The first read of somebody.  Those that begin together, as the partitions of one fetch do, learn of each other first."""
        with self.sequential.beginning():
            await asyncio.sleep(0)
            return await self._fill(reading, None)

    async def _fill(self, reading: Reading, cursor: Cursor | None) -> Cursor | None:
        """Collect batches into `reading`; return where to go on, or None at the tiered end."""
        row, footer, position = (cursor.row, cursor.footer, cursor.position) if cursor is not None else (None, None, -1)
        try:
            while True:
                if row is None or footer is None or position >= row.log_bytes:
                    found = await self._row_with_data(reading)
                    if found is None:
                        return None
                    row, footer, position = found
                position, is_done = await self._take(reading, row, footer, position)
                if is_done or reading.bytes_left <= 0:
                    break
                reading.offset = max(reading.offset, row.end_offset)
        except HotlogError:  # too slow, away, or damaged: what lies before it is served, the next read meets it first
            if not reading.taken or row is None or footer is None:
                raise
        return Cursor(row, footer, reading.history.chunks_of(row, footer), position)

    async def _row_with_data(self, reading: Reading) -> tuple[Entry, Footer, int] | None:
        """The row that holds the wanted offset, or the first one after a hole there; its footer; a position to search from."""
        history, offset = reading.history, reading.offset
        while offset < history.end_offset:
            history.wait_s = self._wait_s(reading)
            row = await history.row_at(offset)
            if row.is_hole:
                offset = row.end_offset
                continue
            reading.has_waited |= self.shelf.footers.peek(history.keys.part(row.address)) is None
            footer = await history.footer(row, is_read_through=reading.is_sequential)
            reading.is_sequential |= offset == row.base_offset
            return row, footer, footer.position_for(offset)
        return None

    async def _take(self, reading: Reading, row: Entry, footer: Footer, position: int) -> tuple[int, bool]:
        """Take what fits from one object; return the position after it and whether the read is complete."""
        source = reading.history.chunks_of(row, footer)
        wanted = min(reading.bytes_left + (0 if reading.taken else _SKIP_BYTES), row.log_bytes - position)
        while True:
            window = await self._window(reading, row, source, position, wanted)
            took = whole_batches(
                window, reading.offset, reading.bytes_left, min_one=reading.min_one and not reading.taken,
                within=range(row.base_offset, row.end_offset), where=source.key, landmark=landmarks(footer.offset_index, position),
            )  # fmt: skip
            if took.size:
                reading.pieces.append(window[took.start : took.end])
                reading.taken += took.size
                reading.bytes_left -= took.size
                reading.offset = took.next_offset
            position += took.end
            if position == row.log_bytes:
                return position, False
            needed = took.needed - took.end
            if took.needed and position + needed > row.log_bytes:
                raise Corrupt(
                    f"{source.key}: the batch at byte {position} goes beyond the {row.log_bytes} log bytes of the object"
                )
            if not took.needed or took.size or reading.taken:
                return position, True
            if len(window) < wanted:  # late, or damaged: the chunk that is missing says which
                await self._window(reading, row, source, max(position, position - took.end + len(window)), 1)
            wanted = min(max(needed, wanted), row.log_bytes - position)

    async def _window(self, reading: Reading, row: Entry, source: ChunkSource, position: int, size: int) -> memoryview:
        """Up to `size` bytes from `position`: fewer when the rest has not come in time.

        Raises:
            NotYet: not even the first chunk is there.
        """
        window = self.chunks.window(source, position, position + size)
        if window is not None:
            return window
        reading.has_waited = True
        first, end = position // source.chunk_bytes, -(-(position + size) // source.chunk_bytes)
        self.chunks.share(self.sequential.count)
        reach = self.chunks.run_end(source, position + size) if reading.is_sequential else end
        try:
            found = await self.chunks.get(
                source, first, end, reach=reach, lane=reading.history.lane, wait_s=self._wait_s(reading)
            )
        except NotFound:
            raise MissingObject(source.object_key, row) from None
        if not found:
            raise NotYet(f"{source.key} is still being loaded")
        window = self.chunks.window(source, position, position + size) if len(found) == end - first else None
        return window if window is not None else joined(found, position - first * source.chunk_bytes, size)

    def _wait_s(self, reading: Reading) -> float | None:
        return None if reading.deadline is None else max(0.0, reading.deadline - self._clock.monotonic())

    # -- look-ups -------------------------------------------------------------------------------------------------------

    async def offset_for_timestamp(self, source: ColdSource, timestamp_ms: int) -> tuple[int, int, int] | None:
        """(offset, timestamp, leader epoch) of the first tiered record with a timestamp >= `timestamp_ms`; None if there is none.

        Raises as read().
        """
        return await self._looked_up(source, lambda lookup: lookup.offset_for_timestamp(timestamp_ms))

    async def offset_of_max_timestamp(self, source: ColdSource) -> tuple[int, int, int] | None:
        """(offset, timestamp, leader epoch) of the first record with the largest timestamp; None when nothing is tiered."""
        return await self._looked_up(source, lambda lookup: lookup.offset_of_max_timestamp())

    async def end_offset_for_epoch(self, source: ColdSource, epoch: int) -> tuple[int, int]:
        """(epoch, end offset) as OffsetForLeaderEpoch answers it (KIP-101, KIP-279); (-1, -1) if unknown here."""
        return await self._looked_up(source, lambda lookup: lookup.end_offset_for_epoch(epoch)) or (-1, -1)

    async def newest_epoch(self, source: ColdSource) -> int:
        """The leader epoch of the newest tiered record; -1 if nothing is tiered."""
        newest = await self._looked_up(source, lambda lookup: lookup.newest_epoch())
        return -1 if newest is None else newest

    async def aborted_transactions(self, source: ColdSource, start: int, end: int) -> list[tuple[int, int]]:
        """(producer id, first offset) of aborted transactions with data in [start, end), by first offset."""
        return await self._looked_up(source, lambda lookup: lookup.aborted_transactions(start, end)) or []

    async def _looked_up(self, source: ColdSource, ask: Callable[[Lookup], Awaitable[T]]) -> T | None:
        if source.view is None or source.view.readable_start_offset >= source.view.end_offset:
            return None
        return await self._tried(source, lambda history: ask(Lookup(history, self.batch_window, self._decode)))

    def _decode(self, batch: memoryview) -> Awaitable[list[Record]]:
        return self._disk.run(decode_batch, batch)

    async def batch_window(self, history: History, row: Entry, footer: Footer, position: int, size: int) -> memoryview:
        """Up to `size` bytes of a row's log from `position`, through the cache, waited for to the end."""
        reading = Reading(history, 0, size, True, None)
        return await self._window(reading, row, history.chunks_of(row, footer), position, min(size, row.log_bytes - position))
