"""Cold reads, replay and export on every real form of store: a directory, MinIO, a second S3 server."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.world.ports import ObjectStore
from hotlog.world.posix import PosixDisk, SystemClock, SystemEntropy
from tests.cold.lake import CLUSTER, TOPIC_ID, Lake, random_lake
from tests.conftest import OpenStore
from tests.tools.patience import PATIENCE_S
from tiering.export.job import ExportRequest, export_topic
from tiering.read.reader import ColdReader
from tiering.replay.places import AtTime
from tiering.replay.sinks import RawLogSink
from tiering.replay.topic import ReplayRequest, direct_replay


async def moved(store: ObjectStore, count: int = 2) -> list[Lake]:
    lakes = [random_lake(number + 60, partition=number, archived=4, holes=True) for number in range(count)]
    for lake in lakes:
        for key, data in lake.store.objects.items():
            await store.put(key, data)
    return lakes


async def test_a_topic_is_read_whole(store: ObjectStore, tmp_path: Path) -> None:
    (lake,) = await moved(store, 1)
    reader = ColdReader(
        store=store,
        clock=SystemClock(),
        disk=PosixDisk(2),
        settings=Settings.resolve({}),
        metrics=Metrics(),
        cache_dir=str(tmp_path / "cache"),
    )
    await reader.load_disk()
    offset, data = 0, b""
    while True:
        read = await reader.read(lake, offset, 4000, wait_ms=int(PATIENCE_S * 1000))
        if not len(read.data):
            break
        data += bytes(read.data)
        offset = read.end_offset_limit
    assert data == b"".join(lake.batches)
    time = lake.records()[len(lake.records()) // 2][1]
    assert await reader.offset_for_timestamp(lake, time) == lake.for_timestamp(time)
    await reader.close()


async def test_a_replay_between_times_gives_the_batches(store: ObjectStore, tmp_path: Path) -> None:
    lakes = await moved(store)
    time = sorted(row[1] for row in lakes[0].records())[len(lakes[0].records()) // 3]
    sink = RawLogSink(PosixDisk(2), str(tmp_path / "raw"), "clicks")
    request = ReplayRequest(topic="clicks", cluster_id=CLUSTER, topic_id=TOPIC_ID, partitions=range(2), start=AtTime(time))
    await direct_replay(store, request, sink, clock=SystemClock(), entropy=SystemEntropy())
    await sink.close()
    for number, lake in enumerate(lakes):
        first = lake.for_timestamp(time)
        wanted = [b for b, h in zip(lake.batches, lake.headers(), strict=True) if first and h.last_offset >= first[0]]
        assert (tmp_path / "raw" / f"clicks-{number}.log").read_bytes() == b"".join(wanted)


async def test_an_export_from_and_to_the_store(
    store: ObjectStore, store_url: str, open_test_store: OpenStore, tmp_path: Path
) -> None:
    lakes = await moved(store)
    base, _, query = store_url.partition("?")
    target = await open_test_store(f"{base}/out" + (f"?{query}" if query else ""))
    request = ExportRequest(topic="clicks", topic_id=TOPIC_ID, cluster_id=CLUSTER, partitions=range(2), partition_by="hour")
    world = {"clock": SystemClock(), "entropy": SystemEntropy(), "disk": PosixDisk(2)}
    first = await export_topic(source=store, target=target, request=request, **world)  # type: ignore[arg-type]
    assert first.rows == sum(len(lake.records()) for lake in lakes)
    again = await export_topic(source=store, target=target, request=request, **world)  # type: ignore[arg-type]
    assert (again.rows, again.files) == (0, 0)
    keys = [info.key async for info in target.list("date=")]
    assert len(keys) == first.files
    local = tmp_path / "copy"
    local.mkdir()
    for number, key in enumerate(keys):
        (local / f"{number}.parquet").write_bytes(bytes((await target.get(key)).data))
        assert pq.read_metadata(local / f"{number}.parquet").num_rows > 0
    assert duckdb.sql(f'select count(*), count(distinct ("partition", "offset")) from \'{local}/*.parquet\'').fetchall() == [
        (first.rows,) * 2
    ]
