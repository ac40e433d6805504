"""kill -9 of a real exporting process, again and again: nothing half is ever visible, nothing is twice, nothing is missing."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow.parquet as pq

from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.wire.records import NewRecord
from hotlog.world.posix import PosixDisk, SystemClock, SystemEntropy
from tests.cold.lake import CLUSTER, TOPIC_ID, Lake
from tests.support.scripted_store import ScriptedStore
from tiering.export.job import ExportProgress, ExportRequest, export_topic
from tiering.store import open_store

if TYPE_CHECKING:  # what the child need not load
    from tests.conftest import OpenStore

KILLS = 4
RUNS_ON = 1  # steps
UNIT_ROWS = 40


def told_until(steps_max: int) -> Callable[[ExportProgress], None]:
    """One line per step, so that the test can kill at a step and not at a time; after `steps_max` of them it waits for that."""
    steps = itertools.count(1)

    def told(progress: ExportProgress) -> None:
        print(json.dumps({"files": progress.files, "written": progress.bytes_written}), flush=True)
        if next(steps) >= steps_max:
            signal.pause()

    return told


async def export(source_url: str, target_url: str, steps_max: int = 0) -> ExportProgress:
    import tiering.export.columns as columns

    columns.BLOCK_ROWS_MAX = UNIT_ROWS
    world = {"clock": SystemClock(), "entropy": SystemEntropy(), "disk": PosixDisk(2)}
    more = {"settings": Settings.resolve({}), "metrics": Metrics()}
    source, target = await open_store(source_url, **world, **more), await open_store(target_url, **world, **more)  # type: ignore[arg-type]
    request = ExportRequest(
        topic="clicks", topic_id=TOPIC_ID, cluster_id=CLUSTER, partitions=range(1), partition_by="day", schema="auto", file_bytes_max=1
    )  # fmt: skip
    try:
        return await export_topic(
            source=source, target=target, request=request, progress=told_until(steps_max) if steps_max else None, **world
        )  # type: ignore[arg-type]
    finally:
        await source.close()
        await target.close()


def visible(folder: Path) -> list[int]:
    """Offsets of all visible rows; reading a half file would raise."""
    paths = sorted(folder.rglob("date=*/*.parquet"))
    return [offset for path in paths for offset in pq.ParquetFile(path).read(["offset"]).column(0).to_pylist()]


async def test_an_export_survives_kill_9(tmp_path: Path, open_test_store: OpenStore) -> None:
    lake = Lake(ScriptedStore())
    total = 0
    for segment in range(10):
        records = [NewRecord(segment * 20_000_000 + n * 1000, b"k", json.dumps({"n": n}).encode()) for n in range(UNIT_ROWS)]
        lake.segment([lake.batch(records), lake.batch(records)])
        total += 2 * UNIT_ROWS
    lake.commit()
    source = await open_test_store(f"file://{tmp_path}/source")
    for key, data in lake.store.objects.items():
        await source.put(key, data)
    urls = [f"file://{tmp_path}/source", f"file://{tmp_path}/out"]
    (tmp_path / "out").mkdir()
    done = 0
    for steps in range(1, KILLS + 1):
        lines = steps + 1
        # It runs on while we kill, so that it dies anywhere, but however late we are not to its end.
        command = [sys.executable, "-m", "tests.export.test_kill", *urls, str(lines + RUNS_ON)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(lines):
            await asyncio.to_thread(child.stdout.readline)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        offsets = visible(tmp_path / "out")
        assert len(offsets) == len(set(offsets))
        assert len(offsets) >= done, "what was there stays"
        done = len(offsets)
    assert 0 < done < total
    await export(*urls)
    assert sorted(visible(tmp_path / "out")) == list(range(total))
    assert duckdb.sql(f"select count(*), max(n) from '{tmp_path}/out/date=*/*.parquet'").fetchall() == [(total, UNIT_ROWS - 1)]


if __name__ == "__main__":
    asyncio.run(export(sys.argv[1], sys.argv[2], int(sys.argv[3])))
