"""Cold reads answer what a full local log of the same batches would, at a small price."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlog.kernel.errors import OutOfRange
from hotlog.wire.batch import walk
from hotlog.wire.records import NewRecord
from tests.cold.lake import Lake, random_lake
from tests.cold.reading import FOREVER_MS, reader_of, sequential_lake
from tests.support.scripted_store import ScriptedStore
from tiering.objects import batch_runs


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    archived=st.sampled_from([0, 3, 6]),
    holes=st.booleans(),
    at=st.floats(0, 1, exclude_max=True),
    bytes_max=st.sampled_from([0, 1, 61, 500, 4096, 10_000, 1_000_000]),
)
async def test_a_read_gives_what_a_local_log_would(seed: int, archived: int, holes: bool, at: float, bytes_max: int) -> None:
    lake = random_lake(seed, archived=archived, holes=holes, heights=seed % 3)
    reader = reader_of(lake)
    offset = int(at * lake.next_offset)
    for _ in range(3):  # the second and third read go on from a cursor
        read = await reader.read(lake, offset, bytes_max, wait_ms=FOREVER_MS)
        expected = lake.expected(offset, bytes_max)
        if expected:
            assert bytes(read.data) == expected
            last = [header for _, header in walk(read.data)][-1]
            assert read.end_offset_limit == last.next_offset
        else:
            assert len(read.data) == 0
        offset = read.end_offset_limit
        if offset >= lake.next_offset:
            break
    await reader.close()


async def test_a_whole_topic_is_read_in_order_over_every_border() -> None:
    lake = random_lake(7, segments=12, archived=8, holes=True)
    reader = reader_of(lake)
    offset, data = 0, b""
    while True:
        read = await reader.read(lake, offset, 3000, wait_ms=FOREVER_MS)
        if not len(read.data):
            break
        data += bytes(read.data)
        offset = read.end_offset_limit
    assert data == b"".join(lake.batches)
    segments = {call.key for call in lake.store.gets if call.key.endswith(".seg")}
    assert len(segments) == len([row for row in lake.rows if not row.is_hole])
    pages = [call.key for call in lake.store.gets if call.key.endswith(".parquet")]
    assert len(pages) == len(set(pages)) == 2, "a page is read once"
    await reader.close()


async def test_without_min_one_a_batch_above_the_budget_is_not_given() -> None:
    lake = random_lake(3)
    reader = reader_of(lake)
    read = await reader.read(lake, 0, 10, min_one=False, wait_ms=FOREVER_MS)
    assert (len(read.data), read.end_offset_limit) == (0, 0)
    await reader.close()


async def test_offsets_outside_the_tier_are_refused() -> None:
    lake = random_lake(3)
    lake.change(log_start_offset=5)
    reader = reader_of(lake)
    with pytest.raises(OutOfRange, match="offset 4"):
        await reader.read(lake, 4, 100, wait_ms=FOREVER_MS)
    with pytest.raises(OutOfRange):
        await reader.read(lake, lake.next_offset + 1, 100)
    assert len((await reader.read(lake, lake.next_offset, 100)).data) == 0
    lake.manifest = None
    with pytest.raises(OutOfRange, match="nothing"):
        await reader.read(lake, 5, 100)
    await reader.close()


async def test_a_read_that_has_waited_answers_empty_and_its_get_ends_in_the_cache() -> None:
    lake = random_lake(3, segments=1)
    lake.store.hold = asyncio.Event()
    reader = reader_of(lake)
    assert len((await reader.read(lake, 0, 1000, wait_ms=1)).data) == 0
    lake.store.hold.set()
    assert bytes((await reader.read(lake, 0, 1000, wait_ms=FOREVER_MS)).data) == lake.expected(0, 1000)
    keys = [(call.key, call.start) for call in lake.store.gets]
    assert len(keys) == len(set(keys)), "nothing was asked for twice"
    await reader.close()


async def test_many_readers_of_one_place_cost_one_set_of_gets() -> None:
    lake = random_lake(5, segments=3)
    reader = reader_of(lake)
    reads = await asyncio.gather(*(reader.read(lake, 0, 5000, wait_ms=FOREVER_MS) for _ in range(10)))
    assert {bytes(read.data) for read in reads} == {lake.expected(0, 5000)}
    keys = [(call.key, call.start) for call in lake.store.gets]
    assert len(keys) == len(set(keys))
    await reader.close()


async def test_a_small_object_costs_one_get_footer_included() -> None:
    lake = random_lake(8, segments=5)
    reader = reader_of(lake)
    offset = 0
    while offset < lake.next_offset:
        offset = (await reader.read(lake, offset, 2000, wait_ms=FOREVER_MS)).end_offset_limit
    assert len(lake.store.gets) == len({call.key for call in lake.store.gets}) == 5
    await reader.close()


async def test_after_a_restart_the_disk_answers_without_the_store(tmp_path: Path) -> None:
    lake = sequential_lake(3, chunk_bytes=16_384)
    for _ in range(2):
        reader = reader_of(lake, cache_dir=tmp_path, **{"hotlog.readahead.bytes": "0"})
        await reader.load_disk()
        offset, data = 0, b""
        while offset < lake.next_offset:
            read = await reader.read(lake, offset, 5000, wait_ms=FOREVER_MS)
            data += bytes(read.data)
            offset = read.end_offset_limit
            while (
                reader.chunks.writes_under_way
            ):  # a reader that is faster than its disk leaves chunks out: here none may be missing
                await asyncio.sleep(0.001)
        assert data == b"".join(lake.batches)
        await reader.close()
        lake.store.objects.clear()


async def test_the_cost_of_a_read_does_not_follow_the_number_of_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(ScriptedStore(), chunk_bytes=16_384)
    lake.segment([lake.batch([NewRecord(1, None, b"small")]) for _ in range(2000)])
    lake.commit()
    looked: list[int] = []
    real = batch_runs._SHORT

    class Counting:
        @staticmethod
        def unpack_from(data: memoryview, position: int) -> tuple[int, ...]:
            looked.append(position)
            return real.unpack_from(data, position)

    monkeypatch.setattr(batch_runs, "_SHORT", Counting)
    reader = reader_of(lake)
    for bytes_max in (20_000, 100_000, 10_000_000):
        read = await reader.read(lake, 300, bytes_max, wait_ms=FOREVER_MS)
        assert bytes(read.data) == lake.expected(300, bytes_max)
    assert len(looked) < 3 * 2 * 16_384 // 3 // len(lake.batches[0]) + 50
    await reader.close()
