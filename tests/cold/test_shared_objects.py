"""Segments that are parts of an object which partitions share: read, looked up, replayed and proven as those that are objects of their own."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest

from hotlog.kernel.errors import Corrupt
from hotlog.kernel.limits import CHUNK_BYTES
from hotlog.wire.records import NewRecord
from tests.cold.lake import CLUSTER, Lake, random_lake
from tests.cold.reading import FOREVER_MS, drained, reader_of, sequential_lake
from tests.cold.test_replay import direct_of
from tests.support.scripted_store import ScriptedStore
from tiering.manifest.verify import verify_partition
from tiering.replay.direct import Run


def packed_lake(seed: int, *, archived: int = 0) -> Lake:
    lake = random_lake(seed, segments=9, archived=archived)
    lake.pack()
    lake.commit()
    return lake


async def all_of(lake: Lake, reader) -> bytes:  # type: ignore[no-untyped-def]
    offset, data = 0, b""
    while offset < lake.next_offset:
        read = await reader.read(lake, offset, 3000, wait_ms=FOREVER_MS)
        data += bytes(read.data)
        offset = read.end_offset_limit
        await drained(reader)
    return data


@pytest.mark.parametrize("archived", [0, 8])
@pytest.mark.parametrize("seed", range(4))
async def test_reads_and_look_ups_are_those_of_a_local_log(seed: int, archived: int) -> None:
    lake = packed_lake(seed, archived=archived)
    reader = reader_of(lake)
    assert await all_of(lake, reader) == b"".join(lake.batches)
    for offset in range(0, lake.next_offset, 7):
        given = bytes((await reader.read(lake, offset, 500, wait_ms=FOREVER_MS)).data)
        assert given.startswith(lake.expected(offset, 1)), "another part of the same object must not be taken for this one"
    for _, time, *_ in lake.records()[::11]:
        assert await reader.offset_for_timestamp(lake, time) == lake.for_timestamp(time)
    names = {call.key for call in lake.store.gets if not call.key.endswith(".parquet")}
    assert names == {f"{CLUSTER}/packs/{first:04x}.pack" for first in (0, 3, 6)}
    await reader.close()


async def test_the_disk_cache_keeps_parts_apart(tmp_path: Path) -> None:
    lake = sequential_lake(6, batches=8)
    lake.pack()
    lake.commit()
    for life in range(2):
        reader = reader_of(lake, cache_dir=tmp_path, **{"hotlog.readahead.bytes": "0"})
        await reader.load_disk()
        assert await all_of(lake, reader) == b"".join(lake.batches)
        await drained(reader)
        await reader.close()
        if life == 0:
            lake.store.gets.clear()
    assert lake.store.gets == [], "after a restart the disk has footers and chunks of every part"


@pytest.mark.parametrize("range_bytes", [4096, 16 << 20])
async def test_a_direct_replay_gives_the_same_batches(range_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiering.replay.direct.RANGE_BYTES_MAX", range_bytes)
    lake = packed_lake(5, archived=4)
    data = b""
    async with aclosing(direct_of(lake).runs(0, lake.next_offset)) as runs:
        async for run in runs:
            assert isinstance(run, Run)
            data += bytes(run.data)
    assert data == b"".join(lake.batches)


async def test_a_walk_proves_every_part_and_names_the_damaged_one() -> None:
    lake = Lake(ScriptedStore(), chunk_bytes=CHUNK_BYTES)
    for _ in range(6):
        lake.segment([lake.batch([NewRecord(1000, None, bytes(1000))]) for _ in range(4)])
    lake.pack()
    lake.commit()
    report = await verify_partition(lake.store, CLUSTER, lake.keys.pid, deep=True)  # type: ignore[arg-type]
    assert report.problems == []
    assert (report.objects, report.log_bytes_proven) == (6, sum(row.log_bytes for row in lake.rows))
    row = lake.rows[4]
    key = lake.keys.object(row.object)
    whole = bytearray(lake.store.objects[key])
    whole[row.object_start + 100] ^= 1
    lake.store.objects[key] = bytes(whole)
    report = await verify_partition(lake.store, CLUSTER, lake.keys.pid, deep=True)  # type: ignore[arg-type]
    assert [(problem.kind, problem.start_offset) for problem in report.problems] == [("damaged", row.base_offset)]
    reader = reader_of(lake)
    with pytest.raises(Corrupt):
        await reader.read(lake, row.base_offset, 100, wait_ms=FOREVER_MS)
    for good in (lake.rows[3], lake.rows[5]):
        assert len((await reader.read(lake, good.base_offset, 100, wait_ms=FOREVER_MS)).data)
    await reader.close()


async def test_an_object_that_is_cut_off_is_corrupt() -> None:
    lake = packed_lake(2)
    row = lake.rows[2]
    key = lake.keys.object(row.object)
    lake.store.objects[key] = lake.store.objects[key][: row.object_end - 1]
    reader = reader_of(lake)
    with pytest.raises(Corrupt):
        await reader.read(lake, row.base_offset, 100, wait_ms=FOREVER_MS)
    await reader.close()
