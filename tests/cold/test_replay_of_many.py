"""One client replays many partitions at once: what is fetched for it, counted at the store, and the memory its answers hold.

Everything is a thousandth of its size: ranges of 16 KiB, chunks of 4 KiB, reads of 2 KiB.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hotlog.kernel.limits import KiB
from hotlog.wire.records import NewRecord
from hotlog.world.posix import PosixDisk
from tests.cold.lake import Lake
from tests.cold.reading import FOREVER_MS, drained, reader_of
from tests.support.scripted_store import Call, ScriptedStore
from tiering.read.reader import LENT_BYTES_MAX, ColdReader

PARTITIONS = 16
CHUNK, RANGE, READ = 4 * KiB, 16 * KiB, 2 * KiB
BATCHES = 500  # of about 250 bytes in an object: some 8 ranges
SMALL = {
    "tiering.cache.chunks.RANGE_BYTES_MAX": RANGE,
    "tiering.cache.chunks.CHUNK_BYTES": CHUNK,
    "tiering.read.window.RANGE_BYTES_MAX": RANGE,
    "tiering.read.window.CHUNK_BYTES": CHUNK,
    "tiering.read.history.CHUNK_BYTES": CHUNK,
    "tiering.read.reader._SKIP_BYTES": 128,
    "tiering.read.reader.LENT_BYTES_MAX": LENT_BYTES_MAX // KiB,
}


@pytest.fixture(autouse=True)
def thousandth(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, small in SMALL.items():
        monkeypatch.setattr(name, small)

    async def run(
        _: PosixDisk, work: Callable[..., Any], *arguments: Any
    ) -> Any:  # in a thread, its time would be anybody's guess
        await asyncio.sleep(0)
        return work(*arguments)

    monkeypatch.setattr(PosixDisk, "run", run)


@dataclass
class Topic:
    store: ScriptedStore
    lakes: list[Lake]

    @property
    def log_bytes(self) -> int:
        return sum(row.log_bytes for lake in self.lakes for row in lake.rows)

    def ranges(self) -> list[Call]:
        """GETs of log bytes: not of footers."""
        ends = {lake.keys.object(row.name): row.log_bytes for lake in self.lakes for row in lake.rows}
        return [call for call in self.store.gets if call.start < ends[call.key]]

    def log_bytes_of(self, calls: list[Call]) -> int:
        """What they read of logs: without the footers that come with last ranges."""
        ends = {lake.keys.object(row.name): row.log_bytes for lake in self.lakes for row in lake.rows}
        return sum(min(call.end, ends[call.key]) - call.start for call in calls)


def topic(partitions: int = PARTITIONS, objects: int = 2, batches: int = BATCHES) -> Topic:
    store = ScriptedStore()
    lakes = [Lake(store, partition=number, chunk_bytes=CHUNK) for number in range(partitions)]
    for lake in lakes:
        for _ in range(objects):
            lake.segment([lake.batch([NewRecord(1000, None, bytes(180))]) for _ in range(batches)])
        lake.commit()
    return Topic(store, lakes)


async def replay(reader: ColdReader, lakes: list[Lake], chance: random.Random, *, until: float = 1.0) -> None:
    """Read all partitions to their end as one client does: each in turn, at once where that goes, waiting where it does not."""

    async def one(lake: Lake) -> None:
        offset = 0
        while offset < int(lake.next_offset * until):
            read = reader.read_now(lake, offset, READ)
            if read is None:
                read = await reader.read(lake, offset, READ, wait_ms=FOREVER_MS)
            assert read.data, "progress"
            offset = read.end_offset_limit
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)

    await asyncio.gather(*(one(lake) for lake in lakes))
    await drained(reader)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("ranges", [2, 1, 0.5], ids=["two ranges each", "one", "half a one"])
async def test_every_byte_of_a_replay_is_fetched_once(seed: int, ranges: float) -> None:
    """With memory for two whole ranges a partition by whole ranges, with less by smaller ones."""
    chance = random.Random(seed)
    made = topic()
    reader = reader_of(made.lakes[0], **{"hotlog.cache.memory.bytes": str(int(PARTITIONS * ranges * RANGE))})
    rounds = 2
    for number in range(rounds):
        before = len(made.ranges())
        await replay(reader, made.lakes, chance)
        asked = made.ranges()[before:]
        twice = [
            place
            for place, count in Counter((call.key, at) for call in asked for at in range(call.start, call.end, CHUNK)).items()
            if count > 1
        ]
        assert not twice, f"replay {number}: {twice[:4]}"
        assert made.log_bytes_of(asked) <= made.log_bytes
        if ranges == 2:  # 64 for a gigabyte if all ranges were whole; each object ends with a shorter one
            assert len(asked) <= made.log_bytes / RANGE + 2 * PARTITIONS
            assert len(asked) <= 70 * made.log_bytes / (1024 * KiB)
    await reader.close()


@pytest.mark.parametrize("is_restarted", [False, True], ids=["same run", "after a restart"])
async def test_a_replay_costs_one_get_for_a_range_footers_included(tmp_path: Path, is_restarted: bool) -> None:
    """Segments of 64 MiB, four ranges each: a fifth GET for every footer would be 80 for a gigabyte.  What was copied here is known."""
    made = topic(objects=4, batches=256)
    given = {"hotlog.cache.memory.bytes": str(PARTITIONS * 2 * RANGE), "hotlog.cache.disk.bytes": str(64 * KiB * KiB)}
    reader = reader_of(made.lakes[0], cache_dir=tmp_path, **given)
    await reader.load_disk()
    for lake in made.lakes:
        for row in lake.rows:
            assert 3 * RANGE < row.log_bytes <= 4 * RANGE
            await reader.copied(lake.keys, row, lake.store.objects[lake.keys.object(row.name)][row.log_bytes :])
    if is_restarted:
        await reader.close()
        reader = reader_of(made.lakes[0], cache_dir=tmp_path, **given)
        await reader.load_disk()
    await replay(reader, made.lakes, random.Random(3))
    assert len(made.store.gets) == PARTITIONS * 4 * 4
    assert len(made.store.gets) <= 70 * made.log_bytes / (1024 * KiB)
    await reader.close()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ranges", [2, 3, 8], ids=["two ranges each", "three", "eight"])
async def test_so_it_does_where_nothing_of_it_was_copied(seed: int, ranges: int) -> None:
    """No footer is here: that of an object comes with the last range of its log, which is then kept until it is read; so there must be room
    for a third range.  With two, footers come by themselves, and still no byte twice."""
    made = topic(objects=4, batches=256)
    reader = reader_of(made.lakes[0], **{"hotlog.cache.memory.bytes": str(PARTITIONS * ranges * RANGE)})
    await replay(reader, made.lakes, random.Random(seed))
    assert made.log_bytes_of(made.ranges()) == made.log_bytes, "every byte once"
    footers = 4 if ranges == 2 else 1  # of a partition: one for where it began
    assert len(made.store.gets) == PARTITIONS * (4 * 4 + footers)
    assert ranges == 2 or len(made.store.gets) <= 70 * made.log_bytes / (1024 * KiB)
    await reader.close()


@pytest.mark.parametrize("at_once", [False, True], ids=["each place waited for", "in memory already"])
async def test_what_answers_hold_is_bounded_by_their_size_not_by_the_ranges_they_lie_in(at_once: bool) -> None:
    """Clients that never take their answers, or that went away while the answer was made: a piece of 2 KiB must not keep 16.

    Pieces are given away at two places: by a read that waits, and by one that finds its next batches in memory.
    """
    made = topic(partitions=1, objects=24)
    lake, memory, lent_max = made.lakes[0], 4 * RANGE, SMALL["tiering.read.reader.LENT_BYTES_MAX"]
    reader = reader_of(lake, **{"hotlog.cache.memory.bytes": str(memory)})
    held: list[object] = []
    offset, passed = 0, RANGE
    while offset < lake.next_offset:
        found = reader.read_now(lake, offset, READ)
        read = found or await reader.read(lake, offset, READ, wait_ms=FOREVER_MS)
        offset, passed = read.end_offset_limit, passed + len(read.data)
        if not at_once:
            held.append(read.data)
            offset += BATCHES // 30  # more than half a range on
        elif found is not None and passed > RANGE // 2:  # one of the pieces of each half
            held.append(read.data)
            passed = 0
        assert reader.chunks.lent_bytes <= lent_max + memory + 2 * RANGE
    assert len(held) * CHUNK > 3 * (lent_max + memory), "nothing was shown"
    held.clear()
    del found, read
    await drained(reader)
    assert reader.chunks.lent_bytes == 0
    await reader.close()
