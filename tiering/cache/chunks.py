"""Aligned chunks of segment objects: memory, then disk, then one ranged GET for however many readers want it.

A chunk is bytes [i * chunk_bytes, (i + 1) * chunk_bytes) of a segment's log data (the last one shorter), the unit of the checksums in its
footer.  Objects are immutable and their keys are never used twice, so a chunk never goes stale.

Invariants: N readers of one chunk cost one GET; a started GET ends in the cache, whoever went away meanwhile; a chunk is returned only
after its source's check passed; memory and disk stay within hotlog.cache.memory.bytes and hotlog.cache.disk.bytes, what is in flight
within remote.log.reader.threads * RANGE_BYTES_MAX; one GET reads at most RANGE_BYTES_MAX of log, less where `share` says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hotlog.kernel.errors import Corrupt, NotReady
from hotlog.kernel.limits import CHUNK_BYTES, RANGE_BYTES_MAX
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.world.ports import Buffer, Clock, Disk, ObjectStore
from hotlog.world.tasks import TaskScope
from tiering.cache.keeping import DiskKeeping
from tiering.cache.loans import Loans
from tiering.cache.memory import ChunkMemory, Run
from tiering.cache.source import ChunkSource, joined
from tiering.store.brake import ReadRate
from tiering.store.lanes import Lane, LaneGate, Ticket

_RUNS_BESIDE_TAIL = (
    2  # what a reader holds while it goes over the border of two runs, with the object's last one here since its footer is
)
_GET_ATTEMPTS = 2  # wrong bytes may be the path's fault; the store's own retries are below this


class _Landed(NamedTuple):
    """What a flight brought: runs, and why chunks are not among them."""

    runs: list[Run]
    failures: dict[int, Corrupt]


@dataclass(slots=True)
class _Flight:
    """Neighbouring chunks on their way."""

    ticket: Ticket
    arrived: asyncio.Future[_Landed]


class ChunkCache:
    """Chunks by (object key, index)."""

    def __init__(
        self, *, store: ObjectStore, clock: Clock, disk: Disk, settings: Settings, metrics: Metrics, cache_dir: str | None
    ) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self.memory_bytes_max = settings.number("hotlog.cache.memory.bytes")
        self._memory = ChunkMemory(self.memory_bytes_max)
        self._loans = Loans()
        self._memory_hits = metrics.cache_hits.labels("memory")
        self._run_bytes_max = self.memory_bytes_max // 4  # several runs fit, or a run is one chunk
        self._has_room_for_tails = True
        self._disk = disk
        self._scope = TaskScope("chunk-cache")
        self._kept = DiskKeeping(disk, cache_dir, clock=clock, settings=settings, metrics=metrics, scope=self._scope)
        self._flights: dict[tuple[str, int], _Flight] = {}
        self.gate = LaneGate(settings.number("remote.log.reader.threads"), settings.number("remote.log.reader.max.pending.tasks"))
        self.rate = ReadRate(clock, settings, metrics)
        self.get_seconds = 0.05  # moving mean of one run's GET, for readahead

    async def load_disk(self) -> None:
        """Take over what an earlier run left on disk."""
        await self._kept.load()

    async def close(self) -> None:
        """End what is in flight; readers that still wait see the cancellation."""
        await self._scope.cancel()

    @property
    def writes_under_way(self) -> int:
        """Chunks and footers that are on their way to the disk."""
        return self._kept.chunk_writes + self._kept.footer_writes

    @property
    def lent_bytes(self) -> int:
        """Memory of bodies that are not in the cache (any more) and that somebody still looks at: an answer that a slow client takes."""
        return self._loans.bytes - self._memory.bytes

    # -- runs: how much one GET brings -------------------------------------------------------------------------------------

    def share(self, readers: int) -> None:
        """`readers` sequential readers are at work: two runs of each fit into memory at once, or a run is one chunk."""
        self._run_bytes_max = self.memory_bytes_max // max(4, 2 * readers)
        held = (_RUNS_BESIDE_TAIL + 1) * readers * self._run_chunks(CHUNK_BYTES) * CHUNK_BYTES
        self._has_room_for_tails = held <= self.memory_bytes_max

    def run_chunks(self, source: ChunkSource) -> int:
        """Chunks that one GET brings at most: a power of two, so that smaller runs begin where larger ones do."""
        return self._run_chunks(source.chunk_bytes)

    def _run_chunks(self, chunk_bytes: int) -> int:
        bytes_max = min(RANGE_BYTES_MAX, self._run_bytes_max)
        return 1 << max(0, (bytes_max // chunk_bytes).bit_length() - 1)

    def run_bytes(self, source: ChunkSource) -> int:
        """Bytes of a whole run, which begins at a multiple of this."""
        return self.run_chunks(source) * source.chunk_bytes

    def run_end(self, source: ChunkSource, stop: int) -> int:
        """The chunk after the aligned run that holds byte `stop` - 1: neighbours that are fetched together."""
        return min(-(-stop // self.run_bytes(source)) * self.run_chunks(source), source.chunk_count)

    # -- reading --------------------------------------------------------------------------------------------------------

    def window(self, source: ChunkSource, start: int, stop: int) -> memoryview | None:
        """Bytes [start, stop) of the object if they are in memory; without a copy where one GET brought them."""
        step = source.chunk_bytes
        first, end = start // step, -(-stop // step)
        view = self._memory.span(source.key, first, start, stop)
        if view is None:
            chunks = []
            for index in range(first, end):
                chunk = self._memory.chunk(source.key, index)
                if chunk is None:
                    return None
                chunks.append(chunk)
            view = joined(chunks, start - first * step, stop - start)
        self._memory_hits.inc(end - first)
        return view

    def passed(self, source: ChunkSource, start: int, stop: int) -> None:
        """A sequential reader, the last one hereabouts, went on from byte `start` to `stop` of the object."""
        step = source.chunk_bytes
        for index in range(start // step, -(-stop // step)):
            self._memory.finish(source.key, index, stop)

    async def get(
        self, source: ChunkSource, first: int, end: int, *, reach: int = 0, lane: Lane = Lane.FETCH, wait_s: float | None = None
    ) -> list[memoryview]:
        """Chunks [first, end), or as many from `first` on without a gap as are there after `wait_s` seconds.

        What is missing is brought up to chunk `reach`, for a reader that will come to it.

        Raises:
            StoreUnavailable, NotFound: from the GET, once the leading chunk needs it.
            Corrupt: the leading chunk fails its check twice.
            NotReady: the cache is closing.
        """
        found: dict[int, memoryview] = {}
        flights = self._plan(source, first, end, lane, found, reach)
        if flights:
            await asyncio.wait({flight.arrived for flight in flights}, timeout=wait_s)
        self._memory_hits.inc(len(found))
        result: list[memoryview] = []
        for index in range(first, end):
            chunk = found.get(index)
            if chunk is None:
                chunk = self._arrived(flights, index, is_first=not result)
            if chunk is None:
                break
            result.append(chunk)
        return result

    def prefetch(self, source: ChunkSource, first: int, end: int, *, lane: Lane = Lane.READAHEAD) -> None:
        """Start bringing chunks [first, end) into the cache."""
        if not self.gate.is_full:
            self._plan(source, first, end, lane, {})

    # -- what comes with footers ----------------------------------------------------------------------------------------

    async def recall_footer(self, key: str) -> memoryview | None:
        """Footer bytes of an object that an earlier run (or this one) kept on disk."""
        return await self._kept.footer(key)

    def keep_footer(self, key: str, data: memoryview) -> None:
        """Keep proven footer bytes on disk, behind the caller."""
        self._kept.keep_footer(key, data)

    async def write_footer(self, key: str, data: Buffer) -> None:
        """The same for one who can wait: the footer is on disk afterwards, if there is room."""
        await self._kept.write_footer(key, data)

    def tail_start(self, log_bytes: int) -> int:
        """Where the last range of an object begins, which may come with its footer, by one GET; its end where there is no room for that."""
        if not self._has_room_for_tails:
            return log_bytes
        step = self._run_chunks(CHUNK_BYTES) * CHUNK_BYTES
        return (log_bytes - 1) // step * step

    async def make_way(self, size: int) -> None:
        """What the rate of reads says of log bytes that come with a footer."""
        await self.rate.pace(size)

    async def offer(self, source: ChunkSource, start: int, data: memoryview) -> None:
        """Keep log bytes from `start` to the end, which came with the footer, if they are what the source says."""
        self._metrics.remote_fetch_bytes.labels(source.topic).inc(len(data))
        first, lent = start // source.chunk_bytes, self._loans.lend(data)
        run = Run(source.key, first, source.chunk_count - first, source.chunk_bytes, lent)
        if start % source.chunk_bytes == 0 and await self._disk.run(self._is_good, source, run):
            self._remember([run])
            for index in range(first, source.chunk_count):
                self._kept.keep_chunk(run.key, index, run.chunk(index))

    @staticmethod
    def _arrived(flights: Sequence[_Flight], index: int, *, is_first: bool) -> memoryview | None:
        for flight in flights:
            if not flight.arrived.done():
                continue
            if flight.arrived.cancelled():
                raise NotReady("the cold tier is closing")
            failure = flight.arrived.exception()
            if failure is not None:
                if is_first:
                    raise failure
                continue
            landed = flight.arrived.result()
            if index in landed.failures and is_first:
                raise landed.failures[index]
            for run in landed.runs:
                if run.first <= index < run.first + run.length:
                    return run.chunk(index)
        return None

    # -- planning -------------------------------------------------------------------------------------------------------

    def _plan(
        self, source: ChunkSource, first: int, end: int, lane: Lane, found: dict[int, memoryview], reach: int = 0
    ) -> list[_Flight]:
        """Fill `found` from memory; join or start flights for the rest, in order of offset.

        A flight that begins before `end` goes on up to `reach` where nothing of that is here or on its way.
        """
        assert 0 <= first < end <= source.chunk_count, (first, end, source)
        flights: list[_Flight] = []
        run: list[int] = []
        run_chunks_max = self.run_chunks(source)
        for index in range(first, end):
            key = (source.key, index)
            chunk = self._memory.chunk(*key)
            flight = self._flights.get(key)
            if chunk is not None:
                found[index] = chunk
            elif flight is not None:
                self.gate.promote(flight.ticket, lane)
                if flight not in flights:
                    flights.append(flight)
            else:
                run.append(index)
                if len(run) < run_chunks_max:
                    continue
            if run:
                flights.append(self._launch(source, run, lane))
                run = []
        if run:
            for index in range(end, min(reach, source.chunk_count)):
                if len(run) == run_chunks_max or self._memory.has(source.key, index) or (source.key, index) in self._flights:
                    break
                run.append(index)
            flights.append(self._launch(source, run, lane))
        return flights

    def _launch(self, source: ChunkSource, run: list[int], lane: Lane) -> _Flight:
        ticket = Ticket(lane)
        arrived: asyncio.Future[_Landed] = asyncio.get_running_loop().create_future()
        arrived.add_done_callback(lambda future: future.cancelled() or future.exception())  # nobody may be left to see it
        flight = _Flight(ticket, arrived)
        for index in run:
            self._flights[source.key, index] = flight
        self._scope.spawn(self._fly(source, run, flight))
        return flight

    # -- flying ---------------------------------------------------------------------------------------------------------

    async def _fly(self, source: ChunkSource, wanted: list[int], flight: _Flight) -> None:
        """Bring neighbouring chunks: from disk what is there, by one GET what is missing and lies between."""
        try:
            runs = await self._from_disk(source, wanted)
            there = {run.first for run in runs}
            missing = [index for index in wanted if index not in there]
            failures: dict[int, Corrupt] = {}
            if missing:
                fetched, failures = await self._from_store(source, missing[0], missing[-1] + 1, flight.ticket)
                runs = [run for run in runs if not missing[0] <= run.first <= missing[-1]] + fetched
                for run in fetched:
                    for index in range(run.first, run.first + run.length):
                        self._kept.keep_chunk(run.key, index, run.chunk(index))
        except Exception as failure:
            flight.arrived.set_exception(failure)
        except asyncio.CancelledError:
            flight.arrived.cancel()
            raise
        else:
            self._remember(runs)
            flight.arrived.set_result(_Landed(runs, failures))
        finally:
            for index in wanted:
                self._flights.pop((source.key, index), None)

    async def _from_disk(self, source: ChunkSource, wanted: list[int]) -> list[Run]:
        found = []
        for index in wanted if self._kept.has_chunks else ():
            chunk = await self._kept.chunk(source.key, index)
            if chunk is None:
                continue
            run = Run(source.key, index, 1, source.chunk_bytes, self._loans.lend(chunk))
            if await self._disk.run(self._is_good, source, run):
                found.append(run)
                self._metrics.cache_hits.labels("disk").inc()
        return found

    async def _from_store(
        self, source: ChunkSource, first: int, end: int, ticket: Ticket
    ) -> tuple[list[Run], dict[int, Corrupt]]:
        """Chunks [first, end) by one GET (a second one where bytes are wrong); which of them are damaged in the store."""
        start, stop = source.byte_range(first, end)
        self._metrics.cache_misses.inc()
        run = None
        for _ in range(_GET_ATTEMPTS):
            try:
                data = await self._read_range(source, start, stop, ticket)
            except Corrupt:  # short, or not the range that was asked for
                self._metrics.corruption.labels("cold-object").inc()
                continue
            run = Run(source.key, first, end - first, source.chunk_bytes, data)
            # Checksums of megabytes are no work for the event loop; crc32c lets other threads run.
            if await self._disk.run(self._is_good, source, run):
                return [run], {}
            self._metrics.corruption.labels("cold-object").inc()
        return self._salvaged(source, first, end, run)

    async def _read_range(self, source: ChunkSource, start: int, stop: int, ticket: Ticket) -> memoryview:
        async with self.gate.slot(ticket):
            await self.rate.pace(stop - start)
            begun = self._clock.monotonic()
            blob = await self._store.bind(topic=source.topic, purpose=ticket.lane.purpose).get(
                source.object_key, source.object_start + start, source.object_start + stop
            )
            self.get_seconds += 0.2 * (self._clock.monotonic() - begun - self.get_seconds)
        self._metrics.remote_fetch_bytes.labels(source.topic).inc(len(blob.data))
        if len(blob.data) != stop - start or not source.is_of(blob.size):
            raise Corrupt(
                f"{source.key}: {len(blob.data)} bytes of {blob.size} came for [{start}, {stop}) of {source.object_end}"
            )
        return self._loans.lend(blob.data)

    def _salvaged(self, source: ChunkSource, first: int, end: int, run: Run | None) -> tuple[list[Run], dict[int, Corrupt]]:
        """The good chunks of a damaged run, each a run of its own: an error reaches only its range."""
        good: list[Run] = []
        failures: dict[int, Corrupt] = {}
        for index in range(first, end):
            chunk = run.chunk(index) if run is not None else None
            if chunk is not None and source.holds(index * source.chunk_bytes, chunk):
                good.append(Run(source.key, index, 1, source.chunk_bytes, self._loans.lend(bytes(chunk))))
            else:
                start, stop = source.byte_range(index, index + 1)
                failures[index] = Corrupt(
                    f"bytes [{start}, {stop}) of {source.key} are not what was uploaded (size or CRC-32C differs)"
                )
        return good, failures

    @staticmethod
    def _is_good(source: ChunkSource, run: Run) -> bool:
        start, stop = source.byte_range(run.first, run.first + run.length)
        return len(run.data) == stop - start and source.holds(start, run.data)

    def _remember(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self._memory.keep(run)
        self._metrics.cache_bytes.labels("memory").set(self._memory.bytes)
