"""An export of scripted stores, and what it should have written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hotlog.wire.records import NewRecord
from hotlog.world.posix import PosixDisk, SystemClock, SystemEntropy
from tests.cold.lake import CLUSTER, TOPIC_ID, Lake, random_lake
from tests.support.scripted_store import ScriptedStore
from tiering.export.job import ExportProgress, ExportRequest, export_topic

DAY_MS = 86_400_000


async def export(source: ScriptedStore | None, target: Any, **options: Any) -> ExportProgress:
    progress = options.pop("progress", None)
    request = ExportRequest(**{"topic": "clicks", "topic_id": TOPIC_ID, "cluster_id": CLUSTER, "partitions": range(3), **options})
    return await export_topic(
        source=source,  # type: ignore[arg-type]
        target=target,
        request=request,
        clock=SystemClock(),
        entropy=SystemEntropy(),
        disk=PosixDisk(),
        progress=progress,
    )


def tables(target: ScriptedStore) -> Iterator[tuple[str, pa.Table]]:
    for key, data in sorted(target.objects.items()):
        if key.endswith(".parquet"):
            yield key, pq.read_table(pa.BufferReader(data), partitioning=None)


def exported(target: ScriptedStore) -> list[tuple[int, int, int, bytes | None, bytes | None]]:
    """(partition, offset, timestamp, key, value) of all visible rows."""
    rows = []
    for _, table in tables(target):
        times = table.column("timestamp").cast(pa.int64()).to_pylist()
        columns = [table.column(name).to_pylist() for name in ("partition", "offset", "key", "value")]
        rows += [(p, o, t, k, v) for (p, o, k, v), t in zip(zip(*columns, strict=True), times, strict=True)]
    return sorted(rows)


def wanted(*lakes: Lake) -> list[tuple[int, int, int, bytes | None, bytes | None]]:
    return sorted((lake.partition, o, t, k, v) for lake in lakes for o, t, _, k, v in lake.records())


def topic(count: int = 2, **options: Any) -> tuple[ScriptedStore, list[Lake]]:
    store = ScriptedStore()
    lakes = []
    for number in range(count):
        lake = random_lake(number + 40, partition=number, **options)
        store.objects.update(lake.store.objects)
        lake.store = store
        lakes.append(lake)
    return store, lakes


def grow(lake: Lake, records: list[NewRecord] | None = None) -> None:
    lake.segment([lake.batch(records or [NewRecord(5_000_000 + lake.next_offset, b"k", b"more")] * 3) for _ in range(4)])
    lake.commit()
