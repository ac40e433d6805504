"""The chunk cache: one GET for many readers, layers that survive, nothing wrong ever served."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlog.kernel.errors import Corrupt, NotFound, StoreUnavailable
from hotlog.kernel.limits import CHUNK_BYTES, MiB
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.world.pacing import ByteRate
from hotlog.world.posix import PosixDisk
from tests.support.clocks import HandClock
from tests.support.scripted_store import Call, ScriptedStore
from tiering.cache import disk as disk_layer
from tiering.cache.chunks import ChunkCache
from tiering.cache.source import ChunkSource
from tiering.store.lanes import Lane, LaneGate, Ticket

SIZE = 5 * CHUNK_BYTES + 1234
DATA = b"".join(bytes([65 + n]) * CHUNK_BYTES for n in range(6))[:SIZE]
SOURCE = ChunkSource("data/one.seg", SIZE, SIZE + 100, "clicks")


def cache_of(store: ScriptedStore, cache_dir: Path | None = None, metrics: Metrics | None = None, **given: str) -> ChunkCache:
    settings = Settings.resolve({name.replace("_", "."): value for name, value in given.items()})
    return ChunkCache(
        store=store,  # type: ignore[arg-type]
        clock=HandClock(),
        disk=PosixDisk(),
        settings=settings,
        metrics=metrics or Metrics(),
        cache_dir=str(cache_dir) if cache_dir else None,
    )


def store_with_data() -> ScriptedStore:
    return ScriptedStore({"data/one.seg": DATA + b"f" * 100})


async def test_readers_of_one_chunk_cost_one_get() -> None:
    store = store_with_data()
    store.hold = asyncio.Event()
    cache = cache_of(store)
    readers = [asyncio.create_task(cache.get(SOURCE, 1, 2)) for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.hold.set()
    for chunks in await asyncio.gather(*readers):
        assert bytes(chunks[0]) == b"B" * CHUNK_BYTES
    assert [(call.start, call.end) for call in store.gets] == [(CHUNK_BYTES, 2 * CHUNK_BYTES)]
    await cache.get(SOURCE, 1, 2)
    assert len(store.gets) == 1, "the second time it is in memory"
    await cache.close()


async def test_a_get_goes_on_when_its_reader_leaves() -> None:
    store = store_with_data()
    store.hold = asyncio.Event()
    cache = cache_of(store)
    assert await cache.get(SOURCE, 0, 1, wait_s=0.01) == []
    leaving = asyncio.create_task(cache.get(SOURCE, 0, 1))
    await asyncio.sleep(0)
    leaving.cancel()
    store.hold.set()
    (chunk,) = await cache.get(SOURCE, 0, 1)
    assert bytes(chunk) == b"A" * CHUNK_BYTES
    assert len(store.gets) == 1
    await cache.close()


async def test_a_run_of_chunks_is_one_get_of_at_most_a_range() -> None:
    store = store_with_data()
    cache = cache_of(store)
    chunks = await cache.get(SOURCE, 0, 6)
    assert b"".join(chunks) == DATA
    assert sorted((call.start // CHUNK_BYTES, call.end) for call in store.gets) == [(0, 4 * CHUNK_BYTES), (4, SIZE)]
    await cache.close()


async def test_only_what_is_missing_is_fetched() -> None:
    store = store_with_data()
    cache = cache_of(store)
    await cache.get(SOURCE, 1, 2)
    chunks = await cache.get(SOURCE, 0, 3)
    assert b"".join(chunks) == DATA[: 3 * CHUNK_BYTES]
    assert sorted(call.start // CHUNK_BYTES for call in store.gets) == [0, 1, 2]
    await cache.close()


async def test_disk_layer_survives_a_restart(tmp_path: Path) -> None:
    store = store_with_data()
    cache = cache_of(store, tmp_path)
    await cache.load_disk()
    await cache.get(SOURCE, 0, 2)
    await written(cache)
    await cache.close()
    again = cache_of(store, tmp_path)
    await again.load_disk()
    chunks = await again.get(SOURCE, 0, 2)
    assert b"".join(chunks) == DATA[: 2 * CHUNK_BYTES]
    assert len(store.gets) == 1
    await again.close()


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
async def test_a_damaged_file_is_a_miss(tmp_path: Path, damage: str) -> None:
    store = store_with_data()
    cache = cache_of(store, tmp_path)
    await cache.load_disk()
    await cache.get(SOURCE, 0, 1)
    await written(cache)
    await cache.get(SOURCE, 1, 2)
    await written(cache)
    await cache.close()
    first, second = (tmp_path / "chunks" / disk_layer._name(SOURCE.key, index) for index in (0, 1))
    raw = bytearray(first.read_bytes())
    if damage == "flip":
        raw[len(raw) // 2] ^= 1
    first.write_bytes({"cut": raw[: len(raw) // 2], "flip": raw, "empty": b"", "other": second.read_bytes()}[damage])
    again = cache_of(store, tmp_path)
    await again.load_disk()
    (chunk,) = await again.get(SOURCE, 0, 1)
    assert bytes(chunk) == b"A" * CHUNK_BYTES
    assert len(store.gets) == 3
    await again.close()


async def test_disk_layer_stays_within_its_bound(tmp_path: Path) -> None:
    store = ScriptedStore({f"data/{n}": bytes([n]) * CHUNK_BYTES for n in range(8)})
    bytes_max = (3 * CHUNK_BYTES + 1000) * 16 // 15 + 1  # a sixteenth is for footers
    cache = cache_of(store, tmp_path, hotlog_cache_disk_bytes=str(bytes_max))
    await cache.load_disk()
    for n in range(8):
        await cache.write_footer(f"data/{n}", bytes([n]) * (CHUNK_BYTES // 16))
        await cache.get(ChunkSource(f"data/{n}", CHUNK_BYTES, CHUNK_BYTES, "t"), 0, 1)
        await written(cache)
        assert sum(file.stat().st_size for file in tmp_path.glob("*/*.chunk")) <= bytes_max
    await cache.close()
    again = cache_of(store, tmp_path, hotlog_cache_memory_bytes="0")
    await again.load_disk()
    for n in (7, 6, 5):
        await again.get(ChunkSource(f"data/{n}", CHUNK_BYTES, CHUNK_BYTES, "t"), 0, 1)
    assert len(store.gets) == 8, "the newest three are still there"
    await again.get(ChunkSource("data/0", CHUNK_BYTES, CHUNK_BYTES, "t"), 0, 1)
    assert len(store.gets) == 9
    await again.close()


async def test_chunks_never_push_footers_from_the_disk(tmp_path: Path) -> None:
    store = ScriptedStore({f"data/{n}": bytes([n]) * CHUNK_BYTES for n in range(8)})
    given = {"hotlog_cache_disk_bytes": str(4 * CHUNK_BYTES)}
    cache = cache_of(store, tmp_path, **given)
    await cache.load_disk()
    await cache.write_footer("data/0", b"footer of 0")
    for n in range(8):
        await cache.get(ChunkSource(f"data/{n}", CHUNK_BYTES, CHUNK_BYTES, "t"), 0, 1)
        await written(cache)
    await cache.close()
    again = cache_of(store, tmp_path, **given)
    await again.load_disk()
    assert await again.recall_footer("data/0") == b"footer of 0"
    await again.close()


async def test_a_fast_replay_does_not_take_the_disk(tmp_path: Path) -> None:
    count = 24
    store = ScriptedStore({f"data/{n}": bytes([n]) * CHUNK_BYTES for n in range(count)})
    cache = cache_of(store, tmp_path)
    await cache.load_disk()
    for n in range(count):  # all within one instant of the clock
        await cache.get(ChunkSource(f"data/{n}", CHUNK_BYTES, CHUNK_BYTES, "t"), 0, 1)
        await written(cache)
    assert len(list((tmp_path / "chunks").iterdir())) == 64 * MiB // CHUNK_BYTES
    cache.keep_footer("data/0", memoryview(b"footer of 0"))
    await written(cache)
    assert await cache.recall_footer("data/0") == b"footer of 0", "footers have their own place, and need not wait for chunks"
    await cache.close()


async def test_memory_stays_within_its_bound() -> None:
    store = ScriptedStore({f"data/{n}": bytes([n]) * CHUNK_BYTES for n in range(8)})
    metrics = Metrics()
    cache = cache_of(store, metrics=metrics, hotlog_cache_memory_bytes=str(3 * CHUNK_BYTES))
    for n in range(8):
        await cache.get(ChunkSource(f"data/{n}", CHUNK_BYTES, CHUNK_BYTES, "t"), 0, 1)
    assert metrics.registry.get_sample_value("hotlog_cache_bytes", {"layer": "memory"}) == 3 * CHUNK_BYTES
    await cache.close()


async def test_finished_runs_are_few_and_go_first() -> None:
    """A replay of far more than the cache holds goes round in little of it, and leaves alone what others use."""
    store = ScriptedStore({f"data/{n}": bytes([n]) * CHUNK_BYTES for n in range(12)})
    cache = cache_of(store, hotlog_cache_memory_bytes=str(16 * CHUNK_BYTES))
    sources = [ChunkSource(f"data/{n}", CHUNK_BYTES, CHUNK_BYTES, "t") for n in range(12)]
    await cache.get(sources[0], 0, 1)
    for source in sources[1:]:
        await cache.get(source, 0, 1)
        cache.passed(source, 0, CHUNK_BYTES)
    assert cache._memory.bytes == 3 * CHUNK_BYTES, "one that is not finished, and an eighth"
    assert cache.window(sources[0], 0, 10) is not None
    assert cache.window(sources[9], 0, 10) is None
    assert cache.window(sources[10], 0, 10) is not None, "wanted by another reader: not finished any more"
    await cache.get(sources[1], 0, 1)
    cache.passed(sources[1], 0, CHUNK_BYTES)
    cache.passed(sources[1], 0, CHUNK_BYTES)
    assert cache.window(sources[10], 0, 10) is not None
    assert cache._memory.bytes == 4 * CHUNK_BYTES
    await cache.close()


async def test_a_run_is_finished_only_when_its_end_was_passed() -> None:
    store = store_with_data()
    cache = cache_of(store, hotlog_cache_memory_bytes=str(32 * CHUNK_BYTES))
    await cache.get(SOURCE, 0, 4)
    await cache.get(SOURCE, 4, 6)
    cache.passed(SOURCE, 0, 4 * CHUNK_BYTES - 1)
    assert cache._memory._finished_bytes == 0
    cache.passed(SOURCE, 4 * CHUNK_BYTES - 1, 4 * CHUNK_BYTES + 1)
    assert cache._memory._finished_bytes == 4 * CHUNK_BYTES
    cache.passed(SOURCE, 4 * CHUNK_BYTES + 1, SIZE)
    assert cache._memory._finished_bytes == SIZE - 4 * CHUNK_BYTES, "the elder one is beyond the share: gone"
    assert cache.window(SOURCE, 0, 1) is None
    await cache.close()


async def test_bytes_that_fail_their_check_are_asked_for_once_more_and_then_refused() -> None:
    store = store_with_data()
    metrics = Metrics()
    cache = cache_of(store, metrics=metrics)
    bad = [True]

    def spoil(call: Call, data: bytes) -> bytes:
        return b"x" + data[1:] if bad[0] else data

    store.spoil = spoil
    checked = ChunkSource(SOURCE.key, SIZE, SIZE + 100, "clicks", lambda index, chunk: chunk[0] == 65 + index)
    with pytest.raises(Corrupt, match=r"one\.seg"):
        await cache.get(checked, 0, 1)
    assert len(store.gets) == 2
    bad[0] = False
    (chunk,) = await cache.get(checked, 0, 1)
    assert chunk[0] == 65, "the failure was not remembered"
    assert metrics.registry.get_sample_value("hotlog_corruption_total", {"where": "cold-object"}) == 2
    await cache.close()


@pytest.mark.parametrize("kind", ["short", "other object"])
async def test_a_get_that_answers_something_else_is_refused(kind: str) -> None:
    store = store_with_data()
    cache = cache_of(store)
    store.spoil = lambda call, data: data[:-1]
    if kind == "other object":
        store.spoil = None
        store.objects[SOURCE.key] += b"more"
    with pytest.raises(Corrupt):
        await cache.get(SOURCE, 0, 1)
    await cache.close()


async def test_errors_reach_the_reader_and_are_not_kept() -> None:
    store = ScriptedStore()
    cache = cache_of(store)
    with pytest.raises(NotFound):
        await cache.get(SOURCE, 0, 1)
    store.objects.update(store_with_data().objects)
    assert len(await cache.get(SOURCE, 0, 1)) == 1
    await cache.close()


async def test_too_many_waiting_reads_are_refused() -> None:
    store = store_with_data()
    store.hold = asyncio.Event()
    given = {"remote.log.reader.threads": "1", "remote.log.reader.max.pending.tasks": "2"}
    cache = cache_of(store, **given)
    readers = [asyncio.create_task(cache.get(SOURCE, n, n + 1)) for n in range(4)]
    with pytest.raises(StoreUnavailable, match=r"max\.pending\.tasks"):
        await readers[3]
    assert len(store.gets) == 1
    store.hold.set()
    await asyncio.gather(*readers[:3])
    await cache.close()


async def test_a_fetch_goes_before_readahead_and_export() -> None:
    gate = LaneGate(slots=2, waiting_max=10)
    order: list[str] = []
    go = asyncio.Event()

    async def work(name: str, lane: Lane, ticket: Ticket | None = None) -> None:
        async with gate.slot(ticket or Ticket(lane)):
            order.append(name)
            await go.wait()

    later = Ticket(Lane.EXPORT)
    tasks = [
        asyncio.create_task(work("readahead 1", Lane.READAHEAD)),
        asyncio.create_task(work("readahead 2", Lane.READAHEAD)),
        asyncio.create_task(work("export", Lane.EXPORT)),
        asyncio.create_task(work("raised", Lane.EXPORT, later)),
    ]
    await asyncio.sleep(0)
    assert order == ["readahead 1"], "the lower lanes never hold every slot"
    tasks.append(asyncio.create_task(work("fetch", Lane.FETCH)))
    await asyncio.sleep(0)
    assert order == ["readahead 1", "fetch"]
    gate.promote(later, Lane.FETCH)
    go.set()
    await asyncio.gather(*tasks)
    assert order[2] == "raised"
    assert order[-1] == "export"
    assert gate.waiting == 0


async def test_leaving_the_gate_while_waiting_loses_no_slot() -> None:
    gate = LaneGate(slots=1, waiting_max=10)
    inside = asyncio.Event()

    async def work(lane: Lane) -> None:
        async with gate.slot(Ticket(lane)):
            await inside.wait()

    tasks = [asyncio.create_task(work(lane)) for lane in (Lane.EXPORT, Lane.FETCH, Lane.FETCH)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[0].cancel()
    inside.set()
    await asyncio.wait(tasks)
    async with gate.slot(Ticket(Lane.EXPORT)):
        assert gate.waiting == 0


async def test_byte_rate_makes_later_reads_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = HandClock()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.ms += round(seconds * 1000)

    monkeypatch.setattr("hotlog.world.pacing.asyncio.sleep", sleep)
    rate = ByteRate(clock, 1 * MiB)
    for _ in range(5):
        await rate.pace(1 * MiB)
    assert sum(slept) == pytest.approx(3, abs=0.01)
    clock.ms += 60_000
    slept.clear()
    await rate.pace(1 * MiB)
    assert slept == []


@given(st.binary(min_size=1, max_size=300), st.text(max_size=20), st.integers(0, 2**32 - 1), st.data())
def test_chunk_file_bytes(data: bytes, key: str, index: int, draw: st.DataObject) -> None:
    raw = bytearray(disk_layer.build_head(key, index, data) + data)
    assert bytes(disk_layer.parse(memoryview(raw), key, index) or b"") == data
    assert disk_layer.parse(memoryview(raw), key + "x", index) is None
    position = draw.draw(st.integers(0, len(raw) - 1))
    assert disk_layer.parse(memoryview(raw)[:position], key, index) is None
    raw[position] ^= draw.draw(st.integers(1, 255))
    assert disk_layer.parse(memoryview(raw), key, index) is None


async def written(cache: ChunkCache) -> None:
    """Until the disk layer has taken what it was given."""
    while cache.writes_under_way:
        await asyncio.sleep(0.001)


async def test_the_set_rate_paces_reads_from_the_store_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """remote.log.manager.fetch.max.bytes.per.second: a second of waiting for each second's worth beyond the burst, before the GET leaves."""
    store = store_with_data()
    cache = cache_of(store, remote_log_manager_fetch_max_bytes_per_second=str(CHUNK_BYTES))
    clock = cache._clock
    assert isinstance(clock, HandClock)
    asked_after: list[float] = []
    slept: list[float] = []
    wait = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds:
            slept.append(seconds)
            clock.ms += round(seconds * 1000)
        await wait(0)

    def note(call: Call, data: bytes) -> bytes:
        asked_after.append(round(sum(slept), 3))
        return data

    store.spoil = note
    monkeypatch.setattr("hotlog.world.pacing.asyncio.sleep", sleep)
    for index in range(5):
        await cache.get(SOURCE, index, index + 1)
    assert asked_after == [0, 0, 1, 2, 3]
    slept.clear()
    await cache.get(SOURCE, 0, 1)
    assert (slept, len(store.gets)) == ([], 5), "what is in memory costs nobody a wait"
    await cache.close()
