"""The memory of an export is bounded whatever the records are: measured from outside, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hotlog.kernel.limits import MiB
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.wire.records import NewRecord
from hotlog.world.posix import PosixDisk, SystemClock, SystemEntropy
from tests.cold.lake import CLUSTER, TOPIC_ID, Lake
from tests.support.scripted_store import ScriptedStore
from tests.tools.patience import PATIENCE_S
from tiering.export.job import ExportRequest, export_topic
from tiering.store import open_store

if TYPE_CHECKING:  # what the child need not load
    from tests.conftest import OpenStore

# Python, pyarrow and four ranges of 16 MiB are there before the first record; 64 + 32 MiB of files and rows, and a block, are the export's.
PEAK_BYTES_MAX = 600 * MiB


async def export(source_url: str, target_url: str, schema: str, by: str) -> None:
    world = {"clock": SystemClock(), "entropy": SystemEntropy(), "disk": PosixDisk(2)}
    more = {"settings": Settings.resolve({}), "metrics": Metrics()}
    source, target = await open_store(source_url, **world, **more), await open_store(target_url, **world, **more)  # type: ignore[arg-type]
    request = ExportRequest(
        topic="clicks", topic_id=TOPIC_ID, cluster_id=CLUSTER, partitions=range(1), schema=schema or None, partition_by=by  # type: ignore[arg-type]
    )  # fmt: skip
    try:
        done = await export_topic(source=source, target=target, request=request, **world)  # type: ignore[arg-type]
    finally:
        await source.close()
        await target.close()
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    print(json.dumps({"rows": done.rows, "peak": int(peak[1]) * 1024}))


def many_headers() -> Iterator[list[NewRecord]]:
    headers = [(f"header-{n:03d}", b"v%03d" % n) for n in range(200)]
    for first in range(0, 60_000, 1000):
        yield [NewRecord(first + n, None, b"value", headers) for n in range(1000)]


def headers_in_one_batch() -> Iterator[list[NewRecord]]:
    """A batch that compresses so well that no limit on its bytes says what it becomes."""
    yield [NewRecord(n, None, None, [("h", None)] * 200) for n in range(40_000)]


def many_names() -> Iterator[list[NewRecord]]:
    for first in range(0, 12_000, 1000):
        yield [NewRecord(first + n, None, b'{"id": 1, "name-%05d": {"x": 1}}' % (first + n)) for n in range(1000)]


def many_names_at_once() -> Iterator[list[NewRecord]]:
    for first in range(0, 300, 10):
        value = json.dumps({f"n{n}": n for n in range(first * 100, first * 100 + 5000)}).encode()
        yield [NewRecord(n, None, value) for n in range(10)]


def large_keys() -> Iterator[list[NewRecord]]:
    for first in range(0, 300, 3):
        yield [NewRecord(first + n, b"k" * MiB, b"v") for n in range(3)]


def many_hours() -> Iterator[list[NewRecord]]:
    for first in range(0, 2000, 1000):
        yield [
            NewRecord((first + n) * 3_600_000, None, json.dumps({f"c{m}": n for m in range(40)}).encode()) for n in range(1000)
        ]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
@pytest.mark.parametrize(
    ("records", "schema", "by"),
    [
        (many_headers, "", "none"),
        (headers_in_one_batch, "", "none"),
        (many_names, "auto", "none"),
        (many_names_at_once, "auto", "none"),
        (large_keys, "", "none"),
        (many_hours, "auto", "hour"),
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
async def test_memory_is_bounded(records: object, schema: str, by: str, tmp_path: Path, open_test_store: OpenStore) -> None:
    lake, count = Lake(ScriptedStore()), 0
    for batch in records():  # type: ignore[operator]
        lake.segment([lake.batch(batch, codec="zstd")])
        count += len(batch)
    lake.commit()
    source = await open_test_store(f"file://{tmp_path}/source")
    for key, data in lake.store.objects.items():
        await source.put(key, data)
    (tmp_path / "out").mkdir()
    command = [
        sys.executable,
        "-m",
        "tests.export.test_memory",
        f"file://{tmp_path}/source",
        f"file://{tmp_path}/out",
        schema,
        by,
    ]
    child = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    said = json.loads(child.stdout)
    assert said["rows"] == count
    assert said["peak"] < PEAK_BYTES_MAX, f"{said['peak'] // MiB} MiB"


if __name__ == "__main__":
    asyncio.run(export(*sys.argv[1:]))
