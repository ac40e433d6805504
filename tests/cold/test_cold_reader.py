"""Cold reads answer what a full local log of the same batches would, or say why not."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlog.kernel.errors import Corrupt, OutOfRange, StoreUnavailable
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.wire.batch import walk
from hotlog.wire.records import NewRecord
from hotlog.world.posix import PosixDisk
from tests.cold.lake import Lake, random_lake
from tests.cold.support import Call, ScriptedStore, Ticking
from tiering import batch_runs
from tiering.cold_reader import ColdReader
from tiering.segment_object import AbortedTransaction

FOREVER_MS = 60_000


def reader_of(lake: Lake, metrics: Metrics | None = None, cache_dir: Path | None = None, **given: str) -> ColdReader:
    return ColdReader(
        store=lake.store,  # type: ignore[arg-type]
        clock=Ticking(),
        disk=PosixDisk(),
        settings=Settings.resolve(given),
        metrics=metrics or Metrics(),
        cache_dir=str(cache_dir) if cache_dir else None,
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    archived=st.sampled_from([0, 3, 6]),
    holes=st.booleans(),
    at=st.floats(0, 1, exclude_max=True),
    bytes_max=st.sampled_from([0, 1, 61, 500, 4096, 10_000, 1_000_000]),
)
async def test_a_read_gives_what_a_local_log_would(seed: int, archived: int, holes: bool, at: float, bytes_max: int) -> None:
    lake = random_lake(seed, archived=archived, holes=holes)
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


def sequential_lake(segments: int = 8, batches: int = 40, chunk_bytes: int = 4096) -> Lake:
    lake = Lake(ScriptedStore(), chunk_bytes=chunk_bytes)
    for _ in range(segments):
        lake.segment([lake.batch([NewRecord(1000, None, bytes(1000))]) for _ in range(batches)])
    lake.commit()
    return lake


async def drained(reader: ColdReader) -> None:
    while reader._ahead._scope._tasks or reader.chunks._scope._tasks:
        await asyncio.sleep(0)


async def test_readahead_crosses_objects_before_the_reader_does() -> None:
    lake = sequential_lake()
    reader = reader_of(lake)
    first = await reader.read(lake, 0, 3000, wait_ms=FOREVER_MS)
    await drained(reader)
    assert {call.purpose for call in lake.store.gets} == {"fetch"}, "one read is not a pattern"
    await reader.read(lake, first.end_offset_limit, 3000, wait_ms=FOREVER_MS)
    await drained(reader)
    ahead = [call for call in lake.store.gets if call.purpose == "readahead"]
    assert len({call.key for call in ahead}) >= 3
    before = len(lake.store.gets)
    offset = first.end_offset_limit * 2
    while offset < lake.rows[1].end_offset:
        offset = (await reader.read(lake, offset, 3000, wait_ms=0)).end_offset_limit
    assert [call for call in lake.store.gets[before:] if call.purpose == "fetch"] == []
    await reader.close()


async def test_readahead_asks_for_nothing_twice_and_goes_on_behind_what_was_the_end() -> None:
    lake = sequential_lake(segments=6)
    reader = reader_of(lake)
    offset = 0
    while offset < lake.rows[-2].base_offset:
        offset = (await reader.read(lake, offset, 5000, wait_ms=FOREVER_MS)).end_offset_limit
        await drained(reader)
    asked = [(call.key, call.start, call.end) for call in lake.store.gets]
    assert len(asked) == len(set(asked))
    assert len({key for key, _, _ in asked}) == 6, "all that is there was asked for"
    lake.segment([lake.batch([NewRecord(1000, None, bytes(1000))]) for _ in range(40)])
    lake.commit()
    while offset < lake.next_offset:
        offset = (await reader.read(lake, offset, 5000, wait_ms=0)).end_offset_limit
        await drained(reader)
    assert {call.purpose for call in lake.store.gets[len(asked) :]} == {"readahead"}
    await reader.close()


async def test_readahead_that_was_lost_is_begun_again() -> None:
    lake = sequential_lake()
    reader = reader_of(lake)
    offset = 0
    for _ in range(3):
        offset = (await reader.read(lake, offset, 3000, wait_ms=FOREVER_MS)).end_offset_limit
        await drained(reader)
    for place in list(reader.chunks._memory):
        del reader.chunks._memory[place]
    before = len(lake.store.gets)
    offset = (await reader.read(lake, offset, 3000, wait_ms=FOREVER_MS)).end_offset_limit
    await drained(reader)
    assert {call.purpose for call in lake.store.gets[before:]} == {"fetch", "readahead"}
    await reader.close()


async def test_what_is_in_memory_is_read_at_once_and_the_same() -> None:
    lake = sequential_lake()
    reader = reader_of(lake)
    assert reader.read_now(lake, 0, 3000) is None, "nobody has read up to there"
    offset = (await reader.read(lake, 0, 3000, wait_ms=FOREVER_MS)).end_offset_limit
    assert reader.read_now(lake, offset + 1, 3000) is None, "not where a reader stands"
    at_once = 0
    while offset < lake.next_offset:
        await drained(reader)
        read = reader.read_now(lake, offset, 3000)
        at_once += read is not None
        if read is None:
            read = await reader.read(lake, offset, 3000, wait_ms=FOREVER_MS)
        assert bytes(read.data) == lake.expected(offset, 3000)[: len(read.data)]
        assert len(read.data) > 0
        offset = read.end_offset_limit
    assert at_once > 50
    await reader.close()


async def test_what_cannot_be_read_at_once_is_left_to_the_ordinary_read() -> None:
    lake = sequential_lake()
    reader = reader_of(lake)
    offset = (await reader.read(lake, 0, 3000, wait_ms=FOREVER_MS)).end_offset_limit
    await drained(reader)
    assert reader.read_now(lake, offset, 100) is None, "a batch larger than the budget"
    lake.change(log_start_offset=offset + 1)
    assert reader.read_now(lake, offset, 3000) is None, "below the log start"
    lake.change(log_start_offset=0)
    for run in list(reader.chunks._memory.values()):
        damaged = memoryview(b"\xff" * len(run.data))
        reader.chunks._memory.keep(run._replace(data=damaged))
    assert reader.read_now(lake, offset, 3000) is None, "no batches"
    with pytest.raises(Corrupt):
        await reader.read(lake, offset, 3000, wait_ms=FOREVER_MS)
    await reader.close()


async def test_a_replay_goes_round_in_little_memory_unless_another_follows() -> None:
    """Chunks that the last reader hereabouts has left behind go; a second reader behind the first still finds them."""
    lake = sequential_lake(segments=24)
    size = sum(row.log_bytes for row in lake.rows)
    reader = reader_of(lake, **{"hotlog.cache.memory.bytes": str(2 * size)})

    async def some(offset: int, reads: int) -> int:
        for _ in range(reads):
            if offset < lake.next_offset:
                offset = (await reader.read(lake, offset, 4000, wait_ms=FOREVER_MS)).end_offset_limit
                await drained(reader)
        return offset

    ahead = await some(0, 100)
    behind = await some(0, 3)
    while ahead < lake.next_offset:
        ahead = await some(ahead, 5)
        behind = await some(behind, 1)
    gets = len(lake.store.gets)
    held = reader.chunks._memory.bytes
    while behind < lake.next_offset // 2:
        behind = await some(behind, 5)
    assert lake.store.gets[gets:] == []
    while behind < lake.next_offset:
        behind = await some(behind, 5)
    assert reader.chunks._memory.bytes <= 2 * size // 8 + lake.rows[0].log_bytes < held
    await reader.close()


async def test_no_readahead_when_it_is_turned_off() -> None:
    lake = sequential_lake()
    reader = reader_of(lake, **{"hotlog.readahead.bytes": "0"})
    offset = 0
    for _ in range(5):
        offset = (await reader.read(lake, offset, 3000, wait_ms=FOREVER_MS)).end_offset_limit
    await drained(reader)
    assert {call.purpose for call in lake.store.gets} == {"fetch"}
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
        await reader.start()
        offset, data = 0, b""
        while offset < lake.next_offset:
            read = await reader.read(lake, offset, 5000, wait_ms=FOREVER_MS)
            data += bytes(read.data)
            offset = read.end_offset_limit
            while reader.chunks._disk_writes:  # a reader that is faster than its disk leaves chunks out: here none may be missing
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


# -- trouble


@pytest.mark.parametrize("kind", ["log", "footer", "trailer", "page"])
async def test_a_flipped_bit_is_reported_and_only_its_range_suffers(kind: str) -> None:
    lake = random_lake(11, segments=6, archived=4)
    metrics = Metrics()
    reader = reader_of(lake, metrics)
    row = lake.rows[1]
    key = lake.keys.object(row.name) if kind != "page" else next(k for k in lake.store.objects if k.endswith(".parquet"))
    raw = bytearray(lake.store.objects[key])
    raw[{"log": 40, "footer": row.log_bytes + 5, "trailer": len(raw) - 100, "page": len(raw) // 2}[kind]] ^= 4
    lake.store.objects[key] = bytes(raw)
    with pytest.raises(Corrupt):
        await reader.read(lake, row.base_offset, 1000, wait_ms=FOREVER_MS)
    assert metrics.registry.get_sample_value("hotlog_corruption_total", {"where": "cold-read"}) == 1
    fine = lake.rows[5].base_offset
    assert bytes((await reader.read(lake, fine, 1000, wait_ms=FOREVER_MS)).data) == lake.expected(fine, 1000)
    await reader.close()


async def test_only_the_chunk_with_the_flipped_bit_is_refused() -> None:
    lake = sequential_lake(2, batches=400)
    reader = reader_of(lake)
    row = lake.rows[0]
    source_key = lake.keys.object(row.name)
    raw = bytearray(lake.store.objects[source_key])
    bad = 5 * lake.chunk_bytes + 99
    raw[bad] ^= 1
    lake.store.objects[source_key] = bytes(raw)
    served, refused, position = [], [], 0
    for batch, header in zip(lake.batches, lake.headers(), strict=True):
        if header.base_offset >= row.end_offset:
            break
        try:
            data = bytes((await reader.read(lake, header.base_offset, 1, wait_ms=FOREVER_MS)).data)
            assert data == batch
            served.append(header.base_offset)
        except Corrupt:
            refused.append((position, position + len(batch)))
        position += len(batch)
    chunk = (5 * lake.chunk_bytes, 6 * lake.chunk_bytes)
    assert refused
    # Behind the chunk, up to one entry of the sparse index cannot be found without it.
    interval = lake.chunk_bytes // 3 + 2 * len(lake.batches[0])
    assert all(end > chunk[0] and start < chunk[1] + interval for start, end in refused)
    assert len(served) == 400 - len(refused) > 390
    await reader.close()


async def test_what_lies_before_damage_is_served() -> None:
    lake = random_lake(11, segments=4)
    del lake.store.objects[lake.keys.object(lake.rows[2].name)]
    reader = reader_of(lake)
    read = await reader.read(lake, 0, 1 << 20, wait_ms=FOREVER_MS)
    assert read.end_offset_limit == lake.rows[2].base_offset
    assert bytes(read.data) == b"".join(
        b for b, h in zip(lake.batches, lake.headers(), strict=True) if h.base_offset < read.end_offset_limit
    )
    with pytest.raises(Corrupt, match="missing"):
        await reader.read(lake, read.end_offset_limit, 1 << 20, wait_ms=FOREVER_MS)
    await reader.close()


async def test_a_flip_on_the_way_is_repaired_by_asking_again() -> None:
    lake = random_lake(11)
    flips = [1, 1]

    def spoil(call: Call, data: bytes) -> bytes:
        if call.start == 0 and flips:
            flips.pop()
            return data[:20] + b"?" + data[21:] if len(flips) else data
        return data

    lake.store.spoil = spoil
    reader = reader_of(lake)
    assert bytes((await reader.read(lake, 0, 1000, wait_ms=FOREVER_MS)).data) == lake.expected(0, 1000)
    await reader.close()


async def test_another_objects_bytes_are_recognised() -> None:
    lake = random_lake(11)
    other = random_lake(11, partition=1)
    ours, theirs = (it.keys.object(it.rows[0].name) for it in (lake, other))
    assert len(lake.store.objects[ours]) == len(other.store.objects[theirs])
    lake.store.objects[ours] = other.store.objects[theirs]
    reader = reader_of(lake)
    with pytest.raises(Corrupt, match="asked for"):
        await reader.read(lake, 0, 1000, wait_ms=FOREVER_MS)
    await reader.close()


async def test_a_missing_live_object_is_corrupt_and_never_skipped() -> None:
    lake = random_lake(11)
    metrics = Metrics()
    reader = reader_of(lake, metrics)
    row = lake.rows[1]
    del lake.store.objects[lake.keys.object(row.name)]
    with pytest.raises(Corrupt, match="missing"):
        await reader.read(lake, row.base_offset, 1000, wait_ms=FOREVER_MS)
    assert lake.reloads == 1
    offset = row.base_offset - 1
    with pytest.raises(Corrupt):  # nor does a read that begins before it go over it
        for _ in range(20):
            offset = (await reader.read(lake, offset, 500, wait_ms=FOREVER_MS)).end_offset_limit
            assert offset <= row.base_offset
    await reader.close()


async def test_a_missing_object_that_was_replaced_is_read_from_the_new_root() -> None:
    lake = random_lake(11)
    row = lake.rows[1]
    old = lake.manifest
    moved = row._replace(nonce="f" * 32)
    log = lake.store.objects.pop(lake.keys.object(row.name))[: row.log_bytes]
    lake.rows[1] = moved
    again = random_lake(11)
    again.rows.clear()
    # the same batches under a new nonce: build the object anew
    batches = [batch for batch in lake.batches if log.find(batch) >= 0]
    fresh = Lake(lake.store, chunk_bytes=lake.chunk_bytes, epoch=row.epoch, next_offset=row.base_offset, lineage=lake.lineage)
    fresh.rows = [row] * 1000  # its number becomes the nonce
    lake.rows[1] = fresh.segment(batches)
    lake.commit()
    newest, lake.manifest = lake.manifest, old

    async def reload() -> object:
        lake.manifest = newest
        return newest

    lake.reload = reload  # type: ignore[method-assign,assignment]
    reader = reader_of(lake)
    read = await reader.read(lake, row.base_offset, 1000, wait_ms=FOREVER_MS)
    assert bytes(read.data) == lake.expected(row.base_offset, 1000)
    await reader.close()


async def test_an_unreachable_store_is_retriable() -> None:
    lake = random_lake(11)
    metrics = Metrics()

    def spoil(call: Call, data: bytes) -> bytes:
        raise StoreUnavailable("503")

    lake.store.spoil = spoil
    reader = reader_of(lake, metrics)
    with pytest.raises(StoreUnavailable):
        await reader.read(lake, 0, 1000, wait_ms=FOREVER_MS)
    lake.store.spoil = None
    assert bytes((await reader.read(lake, 0, 1000, wait_ms=FOREVER_MS)).data) == lake.expected(0, 1000)
    await reader.close()


# -- look-ups


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), archived=st.sampled_from([0, 4]), start=st.floats(0, 0.9), data=st.data())
async def test_times_are_found_as_in_a_local_log(seed: int, archived: int, start: float, data: st.DataObject) -> None:
    lake = random_lake(seed, archived=archived, holes=True)
    lake.log_start = int(start * lake.next_offset)
    lake.change(log_start_offset=lake.log_start)
    reader = reader_of(lake)
    times = [time for _, time, _, _, _ in lake.records()]
    wanted = data.draw(st.sampled_from([*times, 0, max(times) + 1]) | st.integers(min(times) - 5, max(times) + 5))
    assert await reader.offset_for_timestamp(lake, wanted) == lake.for_timestamp(wanted)
    await reader.close()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), archived=st.sampled_from([0, 4, 6]), start=st.floats(0, 1))
async def test_the_largest_time_is_found(seed: int, archived: int, start: float) -> None:
    lake = random_lake(seed, archived=archived, holes=True)
    lake.log_start = int(start * lake.next_offset)
    lake.change(log_start_offset=lake.log_start)
    reader = reader_of(lake)
    largest = max((time for _, time, _, _, _ in lake.records()), default=None)
    expected = None if largest is None else lake.for_timestamp(largest)
    assert await reader.offset_of_max_timestamp(lake) == expected
    await reader.close()


async def test_epochs_end_where_the_next_one_begins() -> None:
    lake = random_lake(2, segments=8, archived=4)
    reader = reader_of(lake)
    lineage = lake.lineage
    assert len(lineage) > 2
    for (epoch, _), (_, following) in pairwise(lineage):
        assert await reader.end_offset_for_epoch(lake, epoch) == (epoch, following)
    newest = lineage[-1][0]
    assert await reader.end_offset_for_epoch(lake, newest) == (newest, lake.next_offset)
    assert await reader.end_offset_for_epoch(lake, newest + 1) == (-1, -1)
    await reader.close()


async def test_aborted_transactions_are_found_in_the_segment_of_their_marker() -> None:
    lake = Lake(ScriptedStore(), archived=4)
    for number in range(8):
        batches = [lake.batch([NewRecord(1, None, b"x")] * 10, producer_id=7, transactional=True)]
        aborted = [AbortedTransaction(7, 25, 52, 53), AbortedTransaction(9, 50, 55, 56)] if number == 5 else []
        lake.segment(batches, aborted)
    lake.commit()
    reader = reader_of(lake)
    assert await reader.aborted_transactions(lake, 0, 20) == []
    assert await reader.aborted_transactions(lake, 20, 40) == [(7, 25)]
    assert await reader.aborted_transactions(lake, 53, 80) == [(9, 50)]
    assert await reader.aborted_transactions(lake, 0, 80) == [(7, 25), (9, 50)]
    before = len(lake.store.gets)
    clean = random_lake(1)
    assert await reader_of(clean).aborted_transactions(clean, 0, 10) == []
    assert clean.store.gets == []
    assert len([call for call in lake.store.gets[:before] if call.key.endswith(".seg")]) == 1
    await reader.close()
