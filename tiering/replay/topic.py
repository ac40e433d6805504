"""Direct replay: months of history from the bucket to a sink, without a broker, partitions in parallel, order kept in each.

    request = ReplayRequest(topic="flights", cluster_id=..., topic_id=..., partitions=range(6), start=AtTime(ms), until=AtTime(ms))
    totals = await direct_replay(store, request, sink, clock=..., entropy=..., progress=show)

A sink gets runs of whole, proven batches; the first and last batch of a replay may hold records before `start` or at and after `until`
(a batch is opaque here): sinks that open batches leave those out (`Sink.begin`).

Invariants: per partition, runs reach the sink in order and one at a time; memory is bounded by RANGES_IN_FLIGHT ranges over all
partitions; a recorded hole is reported, a missing or damaged object ends the replay with Corrupt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from hotlog.kernel.errors import Invalid
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.limits import MiB
from hotlog.world.ports import Clock, Entropy, ObjectStore
from hotlog.world.tasks import TaskScope
from tiering.manifest.root import Manifest
from tiering.manifest.store import ManifestMeans, ManifestStore
from tiering.objects.keys import PartitionKeys
from tiering.read.history import History, Shelf
from tiering.replay.direct import DirectReader, Hole, Progress, Run
from tiering.replay.places import AtOffset, Place, check_start, offset_of
from tiering.replay.source import PartitionSource, Tail
from tiering.store.lanes import Lane, LaneGate

RANGES_IN_FLIGHT = 12  # times RANGE_BYTES_MAX is the memory of a replay
PARTITIONS_AT_ONCE_MAX = 6
FOOTERS_BYTES_MAX = 64 * MiB


class Sink(Protocol):
    """Where a replay goes."""

    async def begin(self, partition: int, wanted: range, aborted: Sequence[tuple[int, int, int]]) -> None:
        """A partition's replay begins.

        Records outside the `wanted` offsets are not part of it, nor are those of `aborted` transactions: (producer id, first offset,
        last offset), inclusive.
        """
        ...

    async def take_run(self, partition: int, run: Run) -> None:
        """One run of whole batches, in order."""
        ...

    async def hole(self, partition: int, hole: Hole) -> None:
        """Offsets that no tier has."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """What to replay: [start, until) of a topic's partitions; None is the first, and the end of, what the store and the tails have."""

    topic: str
    topic_id: UUID
    cluster_id: str
    partitions: Sequence[int]
    start: Place = None
    until: Place = None


@dataclass(frozen=True, slots=True)
class TopicHistories:
    """The tiered partitions of one topic, opened from the bucket."""

    topic: str
    histories: dict[int, History]
    shelf: Shelf

    async def close(self) -> None:
        await self.shelf.close()


async def open_histories(
    store: ObjectStore, request: ReplayRequest, *, clock: Clock, entropy: Entropy, lane: Lane
) -> TopicHistories:
    """Load the manifests of the request's partitions; those without one (nothing tiered yet) are left out.

    Raises:
        StoreUnavailable, Corrupt: as reading a manifest does.
    """
    gate = LaneGate(RANGES_IN_FLIGHT + 1, waiting_max=4 * RANGES_IN_FLIGHT * PARTITIONS_AT_ONCE_MAX)
    shelf = Shelf.of(store, gate, FOOTERS_BYTES_MAX)
    means = ManifestMeans(store=store, clock=clock, entropy=entropy)
    histories: dict[int, History] = {}
    for partition in request.partitions:
        keys = PartitionKeys(request.cluster_id, PartitionId(request.topic_id, partition))
        manifest: Manifest | None = await ManifestStore(means, keys, topic=request.topic).load()
        if manifest is not None and manifest.end_offset >= 0:
            histories[partition] = History(shelf, keys, request.topic, manifest, lane=lane)
    return TopicHistories(request.topic, histories, shelf)


async def direct_replay(
    store: ObjectStore,
    request: ReplayRequest,
    sink: Sink,
    *,
    clock: Clock,
    entropy: Entropy,
    tails: Mapping[int, Tail] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Replay what `request` names into `sink`.

    Args:
        tails: what a broker has of each partition; read for what follows the tiered part.
        progress: called after each run with the totals so far (bytes read, requests, offsets delivered and to be delivered).
    Returns:
        the totals; `ends` has, per partition, the offset after the last one that could be read.
    Raises:
        Invalid: `until` lies before `start`.
        OutOfRange: `start` is an offset that no partition has reached.
        Corrupt, StoreUnavailable: as reads do; what the sink got before was right.
    """
    opened = await open_histories(store, request, clock=clock, entropy=entropy, lane=Lane.REPLAY)
    try:
        return await _Replay(opened, request.partitions, tails or {}, sink, clock, progress).run(request.start, request.until)
    finally:
        await opened.close()


class _Replay:
    def __init__(
        self,
        opened: TopicHistories,
        partitions: Sequence[int],
        tails: Mapping[int, Tail],
        sink: Sink,
        clock: Clock,
        show: Callable[[Progress], None] | None,
    ) -> None:
        self._opened = opened
        self._sink = sink
        self._clock = clock
        self._show = show
        self._begun = clock.monotonic()
        self._progress = Progress()
        self._at_once = min(max(len(opened.histories), len(tails), 1), PARTITIONS_AT_ONCE_MAX)
        self._sources = {partition: self._source(partition, tails.get(partition)) for partition in partitions}
        self._progress.ends = {partition: source.end_offset for partition, source in self._sources.items()}

    def _source(self, partition: int, tail: Tail | None) -> PartitionSource:
        history = self._opened.histories.get(partition)
        depth = max(2, RANGES_IN_FLIGHT // self._at_once)
        cold = DirectReader(history, depth=depth, progress=self._progress) if history is not None else None
        return PartitionSource(partition, cold, tail)

    async def run(self, start: Place, until: Place) -> Progress:
        ends = self._progress.ends
        if any(ends.values()):
            check_start(self._opened.topic, start, ends)
        there = {partition: source for partition, source in self._sources.items() if ends[partition]}
        ranges = {partition: await self._range(source, start, until) for partition, source in there.items()}
        self._progress.partitions = len(there)
        self._progress.offsets_total = sum(len(wanted) for wanted in ranges.values())
        self._note()
        left = list(ranges.items())
        async with TaskScope("replay") as scope:
            for _ in range(self._at_once):
                scope.spawn(self._work(left))
        self._note()
        return self._progress.copy()

    async def _work(self, left: list[tuple[int, range]]) -> None:
        while left:
            partition, wanted = left.pop(0)
            if wanted:
                await self._partition(partition, wanted)
            self._progress.partitions_done += 1
            self._note()

    async def _partition(self, partition: int, wanted: range) -> None:
        source = self._sources[partition]
        cold_end = source.cold_end
        await self._sink.begin(partition, wanted, await source.aborted(wanted.start, wanted.stop))
        async with aclosing(source.runs(wanted.start, wanted.stop)) as parts:
            async for part in parts:
                if isinstance(part, Hole):
                    await self._sink.hole(partition, part)
                else:
                    if part.start_offset >= cold_end:
                        self._count(part, wanted)
                    await self._sink.take_run(partition, part)
                self._note()

    def _count(self, run: Run, wanted: range) -> None:
        """What came from a broker; direct readers count their own."""
        self._progress.offsets += min(run.end_offset, wanted.stop) - max(run.start_offset, wanted.start)
        self._progress.bytes += len(run.data)
        self._progress.requests += 1

    async def _range(self, source: PartitionSource, start: Place, until: Place) -> range:
        at_time, begin, readable_end = source.offset_at_time, source.start_offset, source.end_offset
        first = await offset_of(start, begin, end=readable_end, at_time=at_time)
        end = await offset_of(until, readable_end, end=readable_end, at_time=at_time)
        if isinstance(start, AtOffset) and isinstance(until, AtOffset) and until.offset < start.offset:
            raise Invalid(f"the end, offset {until.offset}, lies before the start, offset {start.offset}")
        first = min(max(first, begin), readable_end)
        return range(first, max(first, min(end, readable_end)))

    def _note(self) -> None:
        self._progress.seconds = self._clock.monotonic() - self._begun
        if self._show is not None:
            self._show(self._progress)
