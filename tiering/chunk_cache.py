"""Aligned chunks of segment objects: memory, then disk, then one ranged GET for however many readers want it.

A chunk is bytes [i * chunk_bytes, (i + 1) * chunk_bytes) of an object's log data (the last one shorter), the unit of the checksums in its
footer.  Objects are immutable and their keys are never used twice, so a chunk never goes stale.

Invariants: N readers of one chunk cost one GET; a started GET ends in the cache, whoever went away meanwhile; a chunk is returned only
after its source's check passed; memory and disk stay within hotlog.cache.memory.bytes and hotlog.cache.disk.bytes, what is in flight
within remote.log.reader.threads * RANGE_BYTES_MAX; one GET reads at most RANGE_BYTES_MAX.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cachetools import LRUCache

from hotlog.kernel.errors import Corrupt, NotReady
from hotlog.kernel.limits import CHUNK_BYTES, RANGE_BYTES_MAX
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.world.ports import Blob, Clock, Disk, ObjectStore
from hotlog.world.tasks import TaskScope
from tiering.chunk_disk import ChunkDisk
from tiering.lanes import ByteRate, Lane, LaneGate, Ticket

Check = Callable[[int, memoryview], bool]
_DISK_WRITES_MAX = 8  # chunks waiting to be written; more are not kept on disk: a cache must not hold memory hostage
_GET_ATTEMPTS = 2  # wrong bytes may be the path's fault; the store's own retries are below this


@dataclass(frozen=True, slots=True)
class ChunkSource:
    """An object as the cache needs it.  `check(index, chunk)` says whether bytes are what this object holds there."""

    key: str
    data_bytes: int
    object_bytes: int
    topic: str
    check: Check | None = None
    chunk_bytes: int = CHUNK_BYTES

    @property
    def chunk_count(self) -> int:
        return -(-self.data_bytes // self.chunk_bytes)

    @property
    def run_chunks_max(self) -> int:
        """Chunks that one GET brings at most."""
        return max(1, RANGE_BYTES_MAX // self.chunk_bytes)

    def run_end(self, stop: int) -> int:
        """The chunk after the aligned run that holds byte `stop` - 1: neighbours that are fetched together."""
        run_bytes = self.run_chunks_max * self.chunk_bytes
        return min(-(-stop // run_bytes) * self.run_chunks_max, self.chunk_count)

    def holds(self, start: int, data: memoryview) -> bool:
        """Whether `data`, which begins at byte `start` of a chunk and ends with one, is what this object holds there."""
        assert start % self.chunk_bytes == 0
        if self.check is None:
            return True
        step, first = self.chunk_bytes, start // self.chunk_bytes
        return all(self.check(first + at // step, data[at : at + step]) for at in range(0, len(data), step))

    def byte_range(self, first: int, end: int) -> tuple[int, int]:
        """Bytes [start, stop) of chunks [first, end)."""
        return first * self.chunk_bytes, min(end * self.chunk_bytes, self.data_bytes)


@dataclass(slots=True)
class _Flight:
    """A run of chunks on its way; `arrived` holds the chunk of each index."""

    ticket: Ticket
    arrived: asyncio.Future[dict[int, memoryview]]


class ChunkCache:
    """Chunks by (object key, index)."""

    def __init__(
        self, *, store: ObjectStore, clock: Clock, disk: Disk, settings: Settings, metrics: Metrics, cache_dir: str | None
    ) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        memory_bytes = settings.number("hotlog.cache.memory.bytes")
        self._memory: LRUCache[tuple[str, int], memoryview] = LRUCache(maxsize=memory_bytes, getsizeof=len)
        self._disk: ChunkDisk | None = None
        disk_bytes = settings.number("hotlog.cache.disk.bytes")
        if cache_dir is not None and disk_bytes:
            self._disk = ChunkDisk(disk, f"{cache_dir}/chunks", disk_bytes, settings.number("hotlog.disk.reserve.bytes"))
        self._flights: dict[tuple[str, int], _Flight] = {}
        self._disk_writes = 0
        self.gate = LaneGate(settings.number("remote.log.reader.threads"), settings.number("remote.log.reader.max.pending.tasks"))
        self.rate = ByteRate(clock, settings.number("remote.log.manager.fetch.max.bytes.per.second"))
        self.get_seconds = 0.05  # moving mean of one run's GET, for readahead
        self._scope = TaskScope("chunk-cache")

    async def start(self) -> None:
        """Take over what an earlier run left on disk."""
        if self._disk is not None:
            await self._disk.load()
            self._metrics.cache_bytes.labels("disk").set(self._disk.bytes)

    async def close(self) -> None:
        """End what is in flight; readers that still wait see the cancellation."""
        await self._scope.cancel()

    # -- reading --------------------------------------------------------------------------------------------------------

    def peek(self, source: ChunkSource, first: int, end: int) -> list[memoryview]:
        """The chunks [first, end) that are in memory, up to the first that is not."""
        result = []
        for index in range(first, end):
            chunk = self._memory.get((source.key, index))
            if chunk is None:
                break
            result.append(chunk)
        else:
            self._metrics.cache_hits.labels("memory").inc(len(result))
        return result

    async def get(
        self, source: ChunkSource, first: int, end: int, *, lane: Lane = Lane.FETCH, wait_s: float | None = None
    ) -> list[memoryview]:
        """Chunks [first, end), or as many from `first` on without a gap as are there after `wait_s` seconds.

        Raises:
            StoreUnavailable, NotFound: from the GET, once the leading chunk needs it.
            Corrupt: the leading chunk fails its check twice.
            NotReady: the cache is closing.
        """
        found: dict[int, memoryview] = {}
        flights = self._plan(source, first, end, lane, found)
        if flights:
            await asyncio.wait({flight.arrived for flight in flights}, timeout=wait_s)
        self._metrics.cache_hits.labels("memory").inc(len(found))
        result: list[memoryview] = []
        for index in range(first, end):
            chunk = found.get(index)
            if chunk is None:
                chunk = self._arrived(flights, index, is_first=not result)
            if chunk is None:
                break
            result.append(chunk)
        return result

    def prefetch(self, source: ChunkSource, first: int, end: int, *, lane: Lane = Lane.READAHEAD) -> int:
        """Start bringing chunks [first, end) into the cache; return how many bytes are newly on their way."""
        if self.gate.is_full:
            return 0
        before = len(self._flights)
        self._plan(source, first, end, lane, {})
        return (len(self._flights) - before) * source.chunk_bytes

    async def drop(self, source: ChunkSource, index: int) -> None:
        """Forget a chunk whose content proved wrong, in every layer."""
        self._memory.pop((source.key, index), None)
        if self._disk is not None:
            await self._disk.drop(source.key, index)

    @staticmethod
    def _arrived(flights: Sequence[_Flight], index: int, *, is_first: bool) -> memoryview | None:
        for flight in flights:
            if not flight.arrived.done():
                continue
            if flight.arrived.cancelled():
                raise NotReady("the cold tier is closing")
            failure = flight.arrived.exception()
            if failure is None and index in flight.arrived.result():
                return flight.arrived.result()[index]
            if failure is not None and is_first:
                raise failure
        return None

    # -- planning -------------------------------------------------------------------------------------------------------

    def _plan(self, source: ChunkSource, first: int, end: int, lane: Lane, found: dict[int, memoryview]) -> list[_Flight]:
        """Fill `found` from memory; join or start flights for the rest, in order of offset."""
        assert 0 <= first < end <= source.chunk_count, (first, end, source)
        flights: list[_Flight] = []
        run: list[int] = []
        for index in range(first, end):
            key = (source.key, index)
            chunk = self._memory.get(key)
            flight = self._flights.get(key)
            if chunk is not None:
                found[index] = chunk
            elif flight is not None:
                self.gate.promote(flight.ticket, lane)
                if flight not in flights:
                    flights.append(flight)
            else:
                run.append(index)
                if len(run) < source.run_chunks_max:
                    continue
            if run:
                flights.append(self._launch(source, run, lane))
                run = []
        if run:
            flights.append(self._launch(source, run, lane))
        return flights

    def _launch(self, source: ChunkSource, run: list[int], lane: Lane) -> _Flight:
        ticket = Ticket(lane)
        arrived: asyncio.Future[dict[int, memoryview]] = asyncio.get_running_loop().create_future()
        arrived.add_done_callback(lambda future: future.cancelled() or future.exception())  # nobody may be left to see it
        flight = _Flight(ticket, arrived)
        for index in run:
            self._flights[source.key, index] = flight
        self._scope.start(self._fly(source, run, flight))
        return flight

    # -- flying ---------------------------------------------------------------------------------------------------------

    async def _fly(self, source: ChunkSource, run: list[int], flight: _Flight) -> None:
        """Bring one run of neighbouring chunks: from disk what is there, by one GET what lies between."""
        chunks: dict[int, memoryview] = {}
        try:
            missing = await self._from_disk(source, run, chunks)
            if missing:
                await self._from_store(source, missing[0], missing[-1] + 1, flight.ticket, chunks)
        except Exception as failure:
            flight.arrived.set_exception(failure)
        except asyncio.CancelledError:
            flight.arrived.cancel()
            raise
        else:
            for index, chunk in chunks.items():
                self._remember(source.key, index, chunk)
            flight.arrived.set_result(chunks)
        finally:
            for index in run:
                self._flights.pop((source.key, index), None)

    async def _from_disk(self, source: ChunkSource, run: list[int], chunks: dict[int, memoryview]) -> list[int]:
        missing = []
        for index in run:
            chunk = await self._disk.read(source.key, index) if self._disk is not None else None
            if chunk is not None and self._is_good(source, index, chunk):
                chunks[index] = chunk
                self._metrics.cache_hits.labels("disk").inc()
            else:
                missing.append(index)
        return missing

    async def _from_store(self, source: ChunkSource, first: int, end: int, ticket: Ticket, chunks: dict[int, memoryview]) -> None:
        start, stop = source.byte_range(first, end)
        self._metrics.cache_misses.inc()
        for attempt in range(_GET_ATTEMPTS):
            async with self.gate.slot(ticket):
                await self.rate.take(stop - start)
                begun = self._clock.monotonic()
                store = self._store.bind(topic=source.topic, purpose=ticket.lane.purpose)
                blob = await store.get(source.key, start, stop)
                self.get_seconds += 0.2 * (self._clock.monotonic() - begun - self.get_seconds)
            self._metrics.remote_fetch_bytes.labels(source.topic).inc(len(blob.data))
            cut = self._cut(source, first, end, blob)
            if cut is not None:
                break
            self._metrics.corruption.labels("cold-object").inc()
            if attempt == _GET_ATTEMPTS - 1:
                raise Corrupt(f"bytes [{start}, {stop}) of {source.key} are not what was uploaded (size or CRC-32C differs)")
        assert cut is not None
        for index, chunk in cut.items():
            if index not in chunks:
                chunks[index] = chunk
                self._keep_on_disk(source.key, index, chunk)

    def _cut(self, source: ChunkSource, first: int, end: int, blob: Blob) -> dict[int, memoryview] | None:
        """The run as chunks; None if it is not what was asked for.

        A run of several is copied, so that one chunk kept in memory does not hold the buffer of four.
        """
        start, stop = source.byte_range(first, end)
        if len(blob.data) != stop - start or blob.size != source.object_bytes:
            return None
        view = memoryview(blob.data)
        cut = {}
        for index in range(first, end):
            at = (index - first) * source.chunk_bytes
            piece = view[at : at + source.chunk_bytes]
            if not self._is_good(source, index, piece):
                return None
            cut[index] = piece if end - first == 1 else memoryview(bytes(piece))
        return cut

    @staticmethod
    def _is_good(source: ChunkSource, index: int, chunk: memoryview) -> bool:
        start, stop = source.byte_range(index, index + 1)
        return len(chunk) == stop - start and (source.check is None or source.check(index, chunk))

    def _remember(self, key: str, index: int, chunk: memoryview) -> None:
        if len(chunk) <= self._memory.maxsize:
            self._memory[key, index] = chunk
        self._metrics.cache_bytes.labels("memory").set(self._memory.currsize)

    def _keep_on_disk(self, key: str, index: int, chunk: memoryview) -> None:
        if self._disk is None or self._disk_writes >= _DISK_WRITES_MAX:
            return
        self._disk_writes += 1
        self._scope.start(self._write_disk(self._disk, key, index, chunk))

    async def _write_disk(self, disk: ChunkDisk, key: str, index: int, chunk: memoryview) -> None:
        try:
            await disk.write(key, index, chunk)
            self._metrics.cache_bytes.labels("disk").set(disk.bytes)
        finally:
            self._disk_writes -= 1
