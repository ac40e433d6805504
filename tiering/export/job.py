"""`hotlog export`: a topic's committed history to Parquet, exactly once per offset, resumable at any point.

    totals = await export_topic(source=store, target=directory, request=ExportRequest(topic="flights", ...), clock=..., entropy=..., disk=...)

What is exported is the request's range less what the destination's cursors have done; so a second run adds only what is new, and ranges may
be asked for in any order.  Reads the bucket (and, given a data directory, the closed hot segments) without a broker.

Invariants: a unit is pending in the cursor before the first of its files is put, and a pending unit is finished with the same offsets
before anything else; per partition one unit at a time; nothing about the exported topic is changed or held back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from uuid import UUID

import pyarrow as pa

from hotlog.kernel.errors import Invalid, NotFound
from hotlog.kernel.ids import PartitionId, TopicPartition
from hotlog.world.ports import Clock, Disk, Entropy, ObjectStore
from hotlog.world.tasks import TaskScope
from tiering.direct import DirectReader, Hole, Progress
from tiering.export.builder import FILE_BYTES_MAX, Builder, ColumnsChanged, FinishedUnit
from tiering.export.cursor import Cursor
from tiering.export.destination import Destination, KeptSchema
from tiering.export.layout import BUCKET_MS, PartitionBy
from tiering.export.ranges import missing
from tiering.export.source import PartitionSource
from tiering.export.values import ValueColumns
from tiering.history import History, Shelf
from tiering.keys import PartitionKeys
from tiering.lanes import Lane, LaneGate
from tiering.local_segments import LocalSegments
from tiering.manifest_store import ManifestStore
from tiering.places import Place, check_start, offset_of

PARTITIONS_AT_ONCE_MAX = 2  # decoding and compressing is the work: more only cost memory
RANGES_PER_PARTITION = 2
_FOOTERS_BYTES_MAX = 32 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to export.  `schema`: None keeps values as bytes, "auto" infers columns, an Arrow schema gives them."""

    topic: str
    topic_id: UUID
    cluster_id: str
    partitions: Sequence[int]
    start: Place = None
    until: Place = None
    partition_by: PartitionBy = "none"
    schema: pa.Schema | str | None = None
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


async def export_topic(
    *,
    source: ObjectStore | None,
    target: ObjectStore,
    request: ExportRequest,
    clock: Clock,
    entropy: Entropy,
    disk: Disk,
    progress: Callable[[ExportProgress], None] | None = None,
) -> ExportProgress:
    """Export; return this run's totals.

    Args:
        source: the cluster's store; None exports the hot segments in `request.data_dir` alone.
        target: where files go; a store of its own (directory or s3), keys relative to it.
    Raises:
        NotFound: nothing of the topic is in the store or the data directory.
        Invalid: the destination belongs to another export (topic, options), or someone else writes to it now.
        Corrupt, StoreUnavailable: from reading or writing; what was finished stays, the next run goes on from there.
    """
    job = _Job(source, target, request, clock, entropy, disk, progress)
    try:
        return await job.run()
    finally:
        await job.shelf.close()


class _Job:
    def __init__(
        self,
        store: ObjectStore | None,
        target: ObjectStore,
        request: ExportRequest,
        clock: Clock,
        entropy: Entropy,
        disk: Disk,
        show: Callable[[ExportProgress], None] | None,
    ) -> None:
        self._store = store
        self._target = target.bind(topic=request.topic, purpose="export")
        self._request = request
        self._clock = clock
        self._entropy = entropy
        self._disk = disk
        self._show = show
        self._begun = clock.monotonic()
        self._progress = ExportProgress()
        self._kept_schema = KeptSchema(self._target, request.topic)
        self._values: ValueColumns | None = None
        gate = LaneGate(PARTITIONS_AT_ONCE_MAX * RANGES_PER_PARTITION + 2, waiting_max=1000)
        self.shelf = Shelf.of(store or target, gate, _FOOTERS_BYTES_MAX)

    async def run(self) -> ExportProgress:
        sources = [await self._open(partition) for partition in self._request.partitions]
        there = [source for source in sources if source.end_offset > source.start_offset]
        if not there:
            raise NotFound(
                f"nothing of topic {self._request.topic} ({self._request.topic_id}) is tiered, nor in closed local segments"
            )
        check_start(self._request.topic, self._request.start, {source.partition: source.end_offset for source in there})
        await self._open_values()
        plans = [await self._plan(source) for source in there]
        self._progress.partitions = len(plans)
        self._progress.offsets_total = sum(end - start for _, _, ranges in plans for start, end in ranges)
        self._note()
        async with TaskScope("export") as scope:
            for _ in range(min(PARTITIONS_AT_ONCE_MAX, len(plans))):
                scope.start(self._work(plans))
        self._note()
        return self._progress

    async def _work(self, plans: list[tuple[PartitionSource, Destination, list[tuple[int, int]]]]) -> None:
        while plans:
            source, destination, ranges = plans.pop(0)
            for start, end in ranges:
                if destination.cursor.pending is not None:
                    await self._redo(source, destination)
                else:
                    await self._export(source, destination, start, end)
            self._progress.partitions_done += 1
            self._note()

    # -- opening --------------------------------------------------------------------------------------------------------

    async def _open(self, partition: int) -> PartitionSource:
        hot = None
        if self._request.data_dir is not None:
            tp = TopicPartition(self._request.topic, partition)
            hot = await LocalSegments.open(self._disk, self._request.data_dir, tp, self._request.topic_id)
        return PartitionSource(partition, await self._open_cold(partition), hot, self._open_cold)

    async def _open_cold(self, partition: int) -> DirectReader | None:
        if self._store is None:
            return None
        request = self._request
        keys = PartitionKeys(request.cluster_id, PartitionId(request.topic_id, partition))
        store = ManifestStore(self._store, keys, clock=self._clock, entropy=self._entropy, topic=request.topic)
        manifest = await store.load()
        if manifest is None or manifest.end_offset < 0:
            return None
        history = History(self.shelf, keys, request.topic, manifest, lane=Lane.EXPORT)
        return DirectReader(history, depth=RANGES_PER_PARTITION, progress=self._progress.read)

    async def _open_values(self) -> None:
        schema = self._request.schema
        if schema == "auto":
            self._values = ValueColumns(await self._kept_schema.load(), is_open=True)
        elif isinstance(schema, pa.Schema):
            self._values = ValueColumns(schema, is_open=False)
        elif schema is not None:
            raise Invalid(f"schema {schema!r}; allowed are auto and a schema file")

    async def _plan(self, source: PartitionSource) -> tuple[PartitionSource, Destination, list[tuple[int, int]]]:
        """The destination's cursor, and what is to be done: a pending unit first."""
        request = self._request
        fresh = Cursor(
            topic_id=request.topic_id,
            partition=source.partition,
            partition_by=request.partition_by,
            value_mode=request.value_mode,
        )
        destination = Destination(self._target, request.topic, fresh, self._wrote)
        await destination.load()
        at_time, readable_end = source.offset_at_time, source.end_offset
        start = await offset_of(request.start, source.start_offset, end=readable_end, at_time=at_time)
        end = await offset_of(request.until, readable_end, end=readable_end, at_time=at_time)
        start, end = max(start, source.start_offset), min(end, readable_end)
        pending = destination.cursor.pending
        if pending is None:
            return source, destination, list(missing(destination.cursor.done, start, end))
        done = replace(destination.cursor, pending=None)
        return source, destination, [pending, *missing(missing_with(done, pending), start, end)]

    # -- doing ----------------------------------------------------------------------------------------------------------

    def _builder(
        self, source: PartitionSource, start: int, end: int, aborted: Sequence[tuple[int, int, int]], *, is_fixed: bool
    ) -> Builder:
        return Builder(
            source.partition,
            start,
            end,
            bucket_ms=BUCKET_MS[self._request.partition_by],
            aborted=aborted,
            values=self._values,
            file_bytes_max=self._request.file_bytes_max,
            is_fixed=is_fixed,
            records_start=source.start_offset,
        )

    async def _export(self, source: PartitionSource, destination: Destination, start: int, end: int) -> None:
        """One range, in as many units as it takes."""
        builder = self._builder(source, start, end, await source.aborted(start, end), is_fixed=False)
        async with aclosing(source.runs(start, end)) as parts:
            async for part in parts:
                if isinstance(part, Hole):
                    self._progress.holes.append((source.partition, part))
                else:
                    for unit in await self._disk.run(builder.add, part):
                        await self._publish(destination, unit)
        for unit in await self._disk.run(builder.finish):
            await self._publish(destination, unit)

    async def _redo(self, source: PartitionSource, destination: Destination) -> None:
        """Finish the unit that a killed run had announced, with the same offsets."""
        assert destination.cursor.pending is not None
        start, end = destination.cursor.pending
        if end > source.end_offset:
            raise Invalid(
                f"an earlier run was killed while it wrote offsets [{start}, {end}) of partition {source.partition}, and only"
                f" [{source.start_offset}, {source.end_offset}) can be read now: give the data directory as that run had it"
            )
        await destination.abort_uploads((start, end))
        while True:
            builder = self._builder(source, start, end, await source.aborted(start, end), is_fixed=True)
            try:
                async with aclosing(source.runs(max(start, source.start_offset), end)) as parts:
                    async for part in parts:
                        if not isinstance(part, Hole):
                            await self._disk.run(builder.add, part)
                units = await self._disk.run(builder.finish)
            except ColumnsChanged:
                continue
            break
        for unit in units:
            await self._publish(destination, unit)

    async def _publish(self, destination: Destination, unit: FinishedUnit) -> None:
        if self._values is not None and self._values.is_open:
            await self._kept_schema.save(self._values.schema)
        await destination.publish(unit)
        self._progress.rows += unit.rows
        self._progress.files += len(unit.files)
        self._progress.offsets += unit.end - unit.start
        self._note()

    def _wrote(self, size: int) -> None:
        self._progress.bytes_written += size

    def _note(self) -> None:
        self._progress.seconds = self._clock.monotonic() - self._begun
        if self._show is not None:
            self._show(self._progress)


def missing_with(cursor: Cursor, pending: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """What is done once the pending unit is."""
    return replace(cursor, pending=pending).finished(0, 0, 0).done
