"""Cold reads of damaged, missing, replaced and unreachable objects: refused or repaired, and only where it hurts."""

from __future__ import annotations

import pytest

from hotlog.kernel.errors import Corrupt, StoreUnavailable
from hotlog.kernel.metrics import Metrics
from tests.cold.lake import Lake, random_lake
from tests.cold.reading import FOREVER_MS, reader_of, sequential_lake
from tests.support.scripted_store import Call


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


@pytest.mark.parametrize("heights", [0, 1])
@pytest.mark.parametrize("kind", [".parquet", ".index"])
async def test_a_missing_page_is_looked_for_in_the_newest_root_and_asked_for_once(heights: int, kind: str) -> None:
    lake, metrics = random_lake(11, segments=6, archived=4, heights=heights), Metrics()
    key = next((key for key in lake.store.objects if key.endswith(kind)), None)
    if key is None:
        assert (heights, kind) == (0, ".index")
        return
    del lake.store.objects[key]
    reader = reader_of(lake, metrics)
    with pytest.raises(Corrupt, match="missing"):
        await reader.read(lake, lake.rows[0].base_offset, 1000, wait_ms=FOREVER_MS)
    assert [call.key for call in lake.store.gets if call.key == key] == [key]
    assert lake.reloads == 1
    assert metrics.registry.get_sample_value("hotlog_corruption_total", {"where": "cold-read"}) == 1
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
