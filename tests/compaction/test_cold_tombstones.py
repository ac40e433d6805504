"""Tombstones in the store: their time begins when what they stand against goes there, not when it went from the local log."""

from __future__ import annotations

import asyncio

from hotlog.partitions.partition import Partition
from hotlog.wire.batch import check_produced, walk
from hotlog.wire.records import decode_batch
from tests.compaction.cleaning import Pair, keyed
from tests.compaction.test_cold_cleaner import SETTINGS, Changes
from tests.sim.clock import MINUTE_MS
from tests.sim.world import SimWorld, simulate

HOUR_S = 3600
VALUE = b"." * 300


async def written(world: SimWorld, partition: Partition, *pairs: Pair) -> None:
    """A segment of the log."""
    data = memoryview(keyed(pairs, timestamp=world.clock.now_ms()))
    partition.append(data, check_produced(data, batch_bytes_max=1 << 20), now_ms=world.clock.now_ms())
    await partition.committed(partition.log_end_offset)
    partition.roll(world.clock.now_ms())


async def read_from(partition: Partition, offset: int) -> list[tuple[int, bytes | None, bool]]:
    """(offset, key, whether it has a value)."""
    found = []
    while offset < partition.committed_end:
        piece = memoryview((await partition.read(offset, 700)).data)
        for at, header in walk(piece):
            records = decode_batch(piece[at : at + header.size])
            found += [(each.offset, each.key, each.value is not None) for each in records if each.offset >= offset]
            offset = max(offset, header.next_offset)
    return found


async def a_slow_reader(world: SimWorld) -> None:
    life = world.begin()
    await life.open()
    partition = await Changes(world).partition(life)
    await written(world, partition, (b"a", VALUE), (b"b", VALUE))
    await asyncio.sleep(600)
    await life.beat("cleaner", "copy")
    await written(world, partition, (b"a", None), (b"c", VALUE))
    await asyncio.sleep(600)
    await life.beat("cleaner", "copy")
    await asyncio.sleep(HOUR_S)  # longer than delete.retention.ms from when the local log was cleaned
    await written(world, partition, (b"d", VALUE))
    await asyncio.sleep(60)
    await life.beat("cleaner", "copy", "retention")
    assert partition.local_log_start_offset > 3
    assert (await read_from(partition, 0))[:3] == [(0, b"a", True), (1, b"b", True), (2, b"a", False)], (
        "the reader comes to offset 2"
    )
    await life.beat("cold-cleaner")
    (root,) = world.manifests().values()
    assert root.cleaned_end > 2 and 0 not in [offset for offset, *_ in await read_from(partition, 0)]
    assert (await read_from(partition, 2))[0] == (2, b"a", False), "the reader goes on, and has to hear of it"
    await asyncio.sleep(30 * MINUTE_MS / 1000 + 1)  # delete.retention.ms
    for number in range(2):
        await written(world, partition, (b"d", b"%d" % number + VALUE))
        await asyncio.sleep(60)
        await life.beat("cleaner", "copy", "cold-cleaner")
    assert (await read_from(partition, 0))[:2] == [(1, b"b", True), (3, b"c", True)], "its time is over"
    await life.end("stop")


def test_whoever_read_an_older_value_in_the_store_has_the_time_to_come_to_its_tombstone() -> None:
    simulate(0, a_slow_reader, settings=SETTINGS)
