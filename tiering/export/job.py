"""`hotlog export`: a topic's committed history to Parquet, exactly once per offset, resumable at any point.

    totals = await export_topic(source=store, target=directory, request=ExportRequest(topic="flights", ...), clock=..., entropy=..., disk=...)

What is exported is the request's range less what the destination's cursor has done; so a second run adds only what is new, and ranges may
be asked for in any order.  Reads the bucket, the closed hot segments of a data directory, and what a broker has behind them (`tails`), where
these are given.

With `--schema auto` everything is read twice: first to learn what the values are, then to write files of one schema.

Invariants: a unit is pending in the cursor before the first of its files is put, and pending units are finished with the same offsets
before anything else; units are published one at a time; nothing about the exported topic is changed or held back; the cursor has no offset
that was not exported, or is known not to be there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from hotlog.kernel.errors import Invalid
from hotlog.kernel.ids import PartitionId, TopicPartition
from hotlog.world.ports import Clock, Disk, Entropy, ObjectStore
from hotlog.world.tasks import TaskScope
from tiering.export.builder import FILE_BYTES_MAX, Builder, FinishedUnit
from tiering.export.columns import Block, Rows
from tiering.export.cursor import Cursor, Unit
from tiering.export.destination import Destination, KeptSchema
from tiering.export.layout import PartitionBy
from tiering.export.ranges import Range, Ranges, missing
from tiering.export.shapes import Fields
from tiering.export.values import ValueColumns
from tiering.manifest.store import ManifestMeans, ManifestStore
from tiering.objects.keys import PartitionKeys
from tiering.read.history import History, Shelf
from tiering.replay.direct import DirectReader, Hole, Progress
from tiering.replay.local_segments import LocalSegments
from tiering.replay.places import Place, check_start, offset_of
from tiering.replay.source import PartitionSource, Tail
from tiering.store.lanes import Lane, LaneGate

PARTITIONS_AT_ONCE_MAX = 2  # decoding and compressing is the work: more only cost memory
RANGES_PER_PARTITION = 2
_FOOTERS_BYTES_MAX = 32 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to export.  `schema`: None keeps values as bytes, "auto" learns columns, fields give them."""

    topic: str
    topic_id: UUID
    cluster_id: str
    partitions: Sequence[int]
    start: Place = None
    until: Place = None
    partition_by: PartitionBy = "none"
    schema: Fields | str | None = None
    data_dir: str | None = None
    file_bytes_max: int = FILE_BYTES_MAX

    @property
    def value_mode(self) -> str:
        return "raw" if self.schema is None else "auto" if self.schema == "auto" else "given"


@dataclass
class ExportProgress:
    """Totals of this run so far; handed to the progress callback, do not keep."""

    rows: int = 0
    files: int = 0
    bytes_written: int = 0
    offsets: int = 0
    offsets_total: int = 0
    seconds: float = 0.0
    partitions: int = 0
    partitions_done: int = 0
    read: Progress = field(default_factory=Progress)  # bytes and requests at the source
    holes: list[tuple[int, Hole]] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)  # per partition: the offset after the last one that this run could read


async def export_topic(
    *,
    source: ObjectStore | None,
    target: ObjectStore,
    request: ExportRequest,
    clock: Clock,
    entropy: Entropy,
    disk: Disk,
    tails: Mapping[int, Tail] | None = None,
    progress: Callable[[ExportProgress], None] | None = None,
) -> ExportProgress:
    """Export; return this run's totals.

    Args:
        source: the cluster's store; None exports the hot segments in `request.data_dir` alone.
        target: where files go; a store of its own (directory or s3), keys relative to it.
        tails: what a broker has of each partition.
    Raises:
        Invalid: the destination belongs to another export (topic, options), or someone else writes to it now.
        Corrupt, StoreUnavailable: from reading or writing; what was finished stays, the next run goes on from there.
    """
    job = _Job(source, target, request, clock, entropy, disk, tails or {}, progress)
    try:
        return await job.run()
    finally:
        await job.shelf.close()


class _Plan(NamedTuple):
    """What is to be done of one partition."""

    source: PartitionSource
    ranges: Ranges


class _Job:
    def __init__(
        self,
        store: ObjectStore | None,
        target: ObjectStore,
        request: ExportRequest,
        clock: Clock,
        entropy: Entropy,
        disk: Disk,
        tails: Mapping[int, Tail],
        show: Callable[[ExportProgress], None] | None,
    ) -> None:
        self._store = store
        self._target = target.bind(topic=request.topic, purpose="export")
        self._request = request
        self._clock = clock
        self._entropy = entropy
        self._disk = disk
        self._tails = tails
        self._show = show
        self._begun = clock.monotonic()
        self._progress = ExportProgress()
        self._kept_schema = KeptSchema(self._target, request.topic)
        self._values: ValueColumns | None = None
        self._publishing = asyncio.Lock()
        fresh = Cursor(topic_id=request.topic_id, partition_by=request.partition_by, value_mode=request.value_mode)
        self._destination = Destination(self._target, request.topic, fresh, self._wrote)
        gate = LaneGate(PARTITIONS_AT_ONCE_MAX * RANGES_PER_PARTITION + 2, waiting_max=1000)
        self.shelf = Shelf.of(store or target, gate, _FOOTERS_BYTES_MAX)

    async def run(self) -> ExportProgress:
        sources = [await self._open(partition) for partition in self._request.partitions]
        ends = {source.partition: source.end_offset for source in sources}
        if any(ends.values()):
            check_start(self._request.topic, self._request.start, ends)
        await self._destination.load(self._request.partitions)
        plans = [await self._plan(source) for source in sources]
        plans = [plan for plan in plans if plan.ranges]
        pending = self._destination.cursor.pending
        self._progress.ends = ends
        self._progress.partitions = len(plans)
        units = sum(end - start for unit in pending for ranges in unit.parts.values() for start, end in ranges)
        self._progress.offsets_total = units + sum(end - start for plan in plans for start, end in plan.ranges)
        self._note()
        await self._open_values()
        by_partition = {source.partition: source for source in sources}
        for unit in pending:
            await self._redo(unit, by_partition)
        if self._values is not None and self._values.is_open and plans:
            await self._learn_shapes(plans, self._values)
        await self._write(plans)
        self._note()
        return self._progress

    # -- opening --------------------------------------------------------------------------------------------------------

    async def _open(self, partition: int) -> PartitionSource:
        hot = None
        if self._request.data_dir is not None:
            tp = TopicPartition(self._request.topic, partition)
            hot = await LocalSegments.open(self._disk, self._request.data_dir, tp, self._request.topic_id)
        cold = await self._open_cold(partition)
        return PartitionSource(partition, cold, self._tails.get(partition), hot, self._open_cold)

    async def _open_cold(self, partition: int) -> DirectReader | None:
        if self._store is None:
            return None
        request = self._request
        keys = PartitionKeys(request.cluster_id, PartitionId(request.topic_id, partition))
        store = ManifestStore(
            ManifestMeans(store=self._store, clock=self._clock, entropy=self._entropy), keys, topic=request.topic
        )
        manifest = await store.load()
        if manifest is None or manifest.end_offset < 0:
            return None
        history = History(self.shelf, keys, request.topic, manifest, lane=Lane.EXPORT)
        return DirectReader(history, depth=RANGES_PER_PARTITION, progress=self._progress.read)

    async def _open_values(self) -> None:
        schema = self._request.schema
        if schema == "auto":
            self._values = ValueColumns(await self._kept_schema.load(), is_open=True)
        elif isinstance(schema, Fields):
            self._values = ValueColumns(schema, is_open=False)
        elif schema is not None:
            raise Invalid(f"schema {schema!r}; allowed are auto and a schema file")

    async def _plan(self, source: PartitionSource) -> _Plan:
        """What the destination has neither done nor announced."""
        at_time, readable_end = source.offset_at_time, source.end_offset
        start = await offset_of(self._request.start, source.start_offset, end=readable_end, at_time=at_time)
        end = await offset_of(self._request.until, readable_end, end=readable_end, at_time=at_time)
        start, end = max(start, source.start_offset), min(end, readable_end)
        return _Plan(source, missing(self._destination.cursor.done_of(source.partition), start, end))

    # -- doing ----------------------------------------------------------------------------------------------------------

    async def _each(self, plans: Sequence[_Plan], work: Callable[[_Plan], Awaitable[None]]) -> None:
        """`work` on all plans, PARTITIONS_AT_ONCE_MAX side by side."""
        left = list(plans)

        async def worker() -> None:
            while left:
                await work(left.pop(0))

        async with TaskScope("export") as scope:
            for _ in range(min(PARTITIONS_AT_ONCE_MAX, len(left))):
                scope.spawn(worker())

    async def _learn_shapes(self, plans: Sequence[_Plan], values: ValueColumns) -> None:
        """The first pass: what the values are.  Kept before the first file has its columns."""

        def learn_blocks(blocks: Iterator[Block]) -> None:
            for block in blocks:
                values.learn_shapes(block.values)

        async def work(plan: _Plan) -> None:
            for start, end in plan.ranges:
                rows = await self._rows(plan.source, start, end)
                async with aclosing(plan.source.runs(start, end)) as parts:
                    async for part in parts:
                        if not isinstance(part, Hole):
                            await self._disk.run(learn_blocks, rows.blocks_of(part))
                await self._disk.run(learn_blocks, iter([rows.last_block()]))

        await self._each(plans, work)
        values.fix()
        await self._kept_schema.save(values.shape)

    async def _write(self, plans: Sequence[_Plan]) -> None:
        """The second pass, or the only one."""
        builder = self._builder(is_fixed=False)

        async def work(plan: _Plan) -> None:
            for start, end in plan.ranges:
                async for built in self._build(builder, plan.source, start, end):
                    await self._publish(built)
            self._progress.partitions_done += 1

        await self._each(plans, work)
        last = await self._disk.run(builder.finish_unit)
        if last is not None:
            await self._publish(last)

    def _builder(self, *, is_fixed: bool) -> Builder:
        request = self._request
        return Builder(
            partition_by=request.partition_by, values=self._values, file_bytes_max=request.file_bytes_max, is_fixed=is_fixed
        )

    async def _rows(self, source: PartitionSource, start: int, end: int) -> Rows:
        aborted = await source.aborted(start, end)
        columns = self._values.leaves if self._values is not None else 0
        return Rows(source.partition, start, end, aborted=aborted, records_start=source.start_offset, columns=columns)

    async def _build(self, builder: Builder, source: PartitionSource, start: int, end: int) -> AsyncIterator[FinishedUnit]:
        """Rows of one range into the builder; the units that end meanwhile."""
        rows = await self._rows(source, start, end)

        def add_blocks(blocks: Iterator[Block]) -> list[FinishedUnit]:
            return [unit for block in blocks for unit in builder.add_block(block)]

        async with aclosing(source.runs(max(start, source.start_offset), end)) as parts:
            async for part in parts:
                if isinstance(part, Hole):
                    self._progress.holes.append((source.partition, part))
                    continue
                for unit in await self._disk.run(add_blocks, rows.blocks_of(part)):
                    yield unit
        for unit in await self._disk.run(add_blocks, iter([rows.last_block()])):
            yield unit

    async def _redo(self, unit: Unit, sources: Mapping[int, PartitionSource]) -> None:
        """Finish a unit that a killed run had announced, with the same offsets."""
        for partition, ranges in unit.parts.items():
            source = sources.get(partition)
            if source is None or ranges[-1][1] > source.end_offset:
                can = f"[{source.start_offset}, {source.end_offset})" if source is not None else "nothing"
                raise Invalid(
                    f"an earlier run was killed while it wrote offsets {_words(ranges)} of partition {partition}, and only {can} can be"
                    " read now: give the data directory, or the broker, as that run had it"
                )
        await self._destination.abort_uploads(unit)
        builder = self._builder(is_fixed=True)
        for partition, ranges in unit.parts.items():
            for start, end in ranges:
                async for _ in self._build(builder, sources[partition], start, end):
                    raise AssertionError("a fixed unit ends once")
        built = await self._disk.run(builder.finish_unit)
        assert built is not None
        await self._publish(built, unit)

    async def _publish(self, built: FinishedUnit, unit: Unit | None = None) -> None:
        async with self._publishing:
            await self._destination.publish(built, unit)
        self._progress.rows += built.rows
        self._progress.files += len(built.files)
        self._progress.offsets += built.offsets
        self._note()

    def _wrote(self, size: int) -> None:
        self._progress.bytes_written += size

    def _note(self) -> None:
        self._progress.seconds = self._clock.monotonic() - self._begun
        if self._show is not None:
            self._show(self._progress)


def _words(ranges: Sequence[Range]) -> str:
    return ", ".join(f"[{start}, {end})" for start, end in ranges)
