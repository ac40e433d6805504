"""Reading ahead of a sequential reader: nothing twice, what is there at once is given at once, and little memory is held."""

from __future__ import annotations

import pytest

from hotlog.kernel.errors import Corrupt
from hotlog.wire.records import NewRecord
from tests.cold.reading import FOREVER_MS, drained, reader_of, sequential_lake


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
