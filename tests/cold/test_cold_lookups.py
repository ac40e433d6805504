"""Offsets by time, ends of epochs and aborted transactions of the cold tier, as a full local log of the same batches has them."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlog.kernel.ids import PartitionId
from hotlog.wire.records import NewRecord
from hotlog.world.ports import Buffer
from tests.cold.lake import Lake, random_lake
from tests.cold.reading import reader_of
from tests.support.scripted_store import ScriptedStore
from tiering.manifest.root import PageRef
from tiering.manifest.tree import Node, parse_node
from tiering.objects.segment import AbortedTransaction
from tiering.read import history


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), archived=st.sampled_from([0, 4]), start=st.floats(0, 0.9), data=st.data())
async def test_times_are_found_as_in_a_local_log(seed: int, archived: int, start: float, data: st.DataObject) -> None:
    lake = random_lake(seed, archived=archived, holes=True, heights=seed % 3)
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
    lake = random_lake(seed, archived=archived, holes=True, heights=seed % 3)
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


@pytest.mark.parametrize("heights", [0, 2])
async def test_aborted_transactions_are_found_in_the_segment_of_their_marker(heights: int) -> None:
    lake = Lake(ScriptedStore(), archived=4, page_rows=1 if heights else 4, heights=heights)
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


def _page_gets(lake: Lake) -> list[str]:
    return [call.key for call in lake.store.gets if "/archive/" in call.key]


async def test_a_look_up_reads_one_way_down_once_and_parses_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the import of what pages are parsed with is the thread's: half a second that nobody else waits for."""
    threads: list[str] = []

    def parse(data: Buffer, pid: PartitionId, ref: PageRef) -> Node:
        threads.append(threading.current_thread().name)
        return parse_node(data, pid, ref)

    monkeypatch.setattr(history, "parse_node", parse)
    lake = random_lake(9, segments=40, archived=32, heights=1)
    reader = reader_of(lake)
    wanted = lake.rows[17]
    found = await reader.offset_for_timestamp(lake, wanted.max_timestamp)
    assert found == lake.for_timestamp(wanted.max_timestamp)
    first = _page_gets(lake)
    assert [key.rpartition(".")[2] for key in first] == ["index", "parquet"]
    assert len(threads) == 2
    assert threading.main_thread().name not in threads
    for _ in range(3):
        await reader.offset_for_timestamp(lake, wanted.max_timestamp)
        await reader.read(lake, wanted.base_offset, 10_000)
    assert _page_gets(lake) == first, "a warm look-up reads no page, and parses none"
    assert len(threads) == 2
    await reader.close()
