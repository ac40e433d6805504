"""Cold reads for fetches: what is in memory is there at once, and counted like the rest."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import pytest

from hotlog.apis.fetch import cold_reads
from hotlog.apis.fetch.cold_reads import ColdFetches, ColdWish
from hotlog.kernel.ids import TopicPartition
from hotlog.partitions.partition import Partition
from hotlog.wire.records import NewRecord
from tests.cold.lake import TOPIC_ID, Lake
from tests.cold.reading import drained, reader_of
from tests.support.scripted_store import ScriptedStore
from tiering.cold_partition import ColdPartition
from tiering.objects.segment import AbortedTransaction

SIZE = 3000


def lake_of(aborted: list[AbortedTransaction] | None = None) -> Lake:
    lake = Lake(ScriptedStore())
    for _ in range(3):
        lake.segment([lake.batch([NewRecord(1000, None, bytes(1000))]) for _ in range(40)], aborted or [])
    lake.commit()
    return lake


class World:
    """A real cold reader over a lake, as a partition that fetches ask; the manifest is the lake's."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.reader = reader_of(lake)
        manifest: Any = SimpleNamespace(view=lake.manifest)
        target: Any = SimpleNamespace(keys=lake.keys, topic=lake.topic, log=None, leader_epoch=0, manifest=manifest)
        home: Any = SimpleNamespace(reader=self.reader)
        self.cold = ColdPartition(home, target)
        self.cold.ready = True
        log: Any = Mock()
        log.has_aborted = lambda: False  # all transactions of this topic ended in the store
        self.partition = Partition(TopicPartition("clicks", 0), TOPIC_ID, 0, log, Mock())
        self.partition.cold = self.cold

    def wish(self, offset: int, *, committed: bool = False) -> ColdWish:
        return ColdWish(UUID(int=TOPIC_ID.int), 0, offset, SIZE, committed)


@pytest.mark.parametrize("committed", [False, True])
async def test_a_sequential_reader_is_answered_without_a_task(committed: bool) -> None:
    world, fetches = World(lake_of()), ColdFetches()
    first = world.wish(0, committed=committed)
    await fetches.begin_read(first, world.partition)
    taken = fetches.hand_out(first)
    assert taken is not None
    await drained(world.reader)
    wish = world.wish(taken.data.end_offset_limit, committed=committed)
    assert fetches.begin_read(wish, world.partition).done(), "no waiting"
    assert fetches._tasks == {}
    assert fetches._result_bytes > 0
    assert fetches.first_batch_bytes(wish) > 1000
    again = fetches.hand_out(wish)
    assert again is not None
    assert bytes(again.data.data) == world.lake.expected(wish.offset, SIZE)
    assert again.aborted == ([] if committed else None)
    assert (fetches._result_bytes, fetches.hand_out(wish)) == (0, None), "handed out once"
    await fetches.close()
    await world.reader.close()


async def test_with_aborted_transactions_they_are_looked_up() -> None:
    aborted = AbortedTransaction(7, 0, 39, 40)
    world, fetches = World(lake_of([aborted])), ColdFetches()
    offset = 0
    for _ in range(3):
        wish = world.wish(offset, committed=True)
        task = fetches.begin_read(wish, world.partition)
        assert not task.done()
        await task
        taken = fetches.hand_out(wish)
        assert taken is not None
        assert taken.aborted is not None
        assert taken.aborted[0] == (7, 0)
        offset = taken.data.end_offset_limit
        await drained(world.reader)
    await fetches.close()
    await world.reader.close()


async def test_results_nobody_asks_for_again_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_reads, "RESULT_BYTES_MAX", 2 * SIZE)
    world, fetches = World(lake_of()), ColdFetches()
    offset = 0
    for _ in range(10):
        task = fetches.begin_read(world.wish(offset), world.partition)
        offset = (await task).data.end_offset_limit
        await drained(world.reader)
        await asyncio.sleep(0)
        assert fetches._result_bytes <= 2 * SIZE
    assert 0 < len(fetches._reads) < 10
    await fetches.close()
    await world.reader.close()


async def test_what_was_aborted_is_found_though_its_segment_is_copied_meanwhile() -> None:
    """The marker's segment leaves the local log for the store between the two looks: one of them must see it."""
    places = {"local": [(7, 0)], "store": []}

    async def look(place: str) -> list[tuple[int, int]]:
        found = list(places[place])
        places["local"], places["store"] = [], [(7, 0)]
        return found

    log = SimpleNamespace(has_aborted=lambda: bool(places["local"]), aborted_transactions=lambda *_: look("local"))
    store = SimpleNamespace(aborted_transactions=lambda *_: look("store"))
    partition: Any = SimpleNamespace(log=log)
    assert await Partition._aborted(partition, store, 0, 100) == [(7, 0)]  # type: ignore[arg-type]
