"""The face of a partition: over both tiers it answers what one long local log would, and what no tier has is an error."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlog.kernel.errors import Corrupt, NotReady, OutOfRange, StorageFailed, StoreUnavailable
from hotlog.partitions.answers import Found, Place, Ranges
from hotlog.partitions.partition import Partition
from hotlog.partitions.upkeep import Upkeep
from hotlog.wire.batch import walk
from tests.log.support import append, batch
from tests.partitions.two_tiers import Batch, TwoTiers, two_tiers

TIMES = (10, 20, 20, 30, 15, 40, 35, 50)
BATCHES = [Batch(epoch, (time, time + 5)) for epoch, time in zip((0, 0, 1, 1, 3, 3, 4, 4), TIMES, strict=True)]

HISTORIES = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.integers(0, 60), min_size=1, max_size=3)), min_size=2, max_size=9
).map(lambda steps: [Batch(e, tuple(t)) for e, (_, t) in zip(accumulate(s for s, _ in steps), steps, strict=True)])


def offsets_in(data: Any, offset: int) -> list[int]:
    """Base offsets of the whole batches of an answer."""
    view = memoryview(data)
    return [header.base_offset for at, header in walk(view) if at + header.size <= len(view) and header.next_offset > offset]


async def read_all(partition: Partition) -> list[int]:
    """Base offsets of all batches, as a reader comes to them that asks for a little at a time."""
    found: list[int] = []
    offset = partition.log_start_offset
    while offset < partition.committed_end:
        headers = [header for _, header in walk(memoryview((await partition.read(offset, 150)).data))]
        found.append(headers[0].base_offset)
        offset = headers[0].next_offset
    assert not (await partition.read(offset, 150)).data
    return found


async def answers(partition: Partition) -> dict[str, Any]:
    """Everything that can be asked over both tiers."""
    return {
        "batches": await read_all(partition),
        "times": [await partition.offset_for_time(time) for time in range(0, 70, 3)],
        "largest": await partition.offset_of_max_time(),
        "ends": (partition.log_start_offset, partition.committed_end, partition.log_end_offset),
    }


async def epoch_ends(partition: Partition) -> list[tuple[int, int]]:
    return [await partition.end_offset_for_epoch(epoch) for epoch in range(partition.log.leader_epoch + 2)]


@settings(deadline=None, max_examples=40)
@given(data=st.data(), batches=HISTORIES)
async def test_both_tiers_answer_what_one_long_log_would(data: st.DataObject, batches: list[Batch]) -> None:
    stored = data.draw(st.integers(1, len(batches)), label="stored")
    local = data.draw(st.integers(0, min(stored, len(batches) - 1)), label="local")
    with TemporaryDirectory() as path:
        async with two_tiers(Path(path), batches, stored=stored, local=local) as tiers:
            assert await answers(tiers.split) == await answers(tiers.whole)
            assert await epoch_ends(tiers.split) == await epoch_ends(tiers.whole)


async def test_places_and_ranges(tmp_path: Path) -> None:
    async with two_tiers(tmp_path, BATCHES, stored=5, local=3) as tiers:
        split = tiers.split
        places = [split.place_of(offset, is_committed_only=False) for offset in (-1, 0, 5, 6, 15, 16, 17)]
        assert places == [
            Place.OUTSIDE, Place.COLD, Place.COLD, Place.HOT, Place.HOT, Place.AT_END, Place.OUTSIDE,
        ]  # fmt: skip
        assert split.ranges() == Ranges(start=0, stored_end=10, local_start=6, committed_end=16, end_offset=16)
        assert split.ranges().is_tiered
        assert [split.is_stored(offset) for offset in (-1, 0, 9, 10)] == [False, True, True, False]
        assert split.stored_bytes == sum(row.log_bytes for row in tiers.lake.rows)
        assert not tiers.whole.ranges().is_tiered


async def test_what_is_not_committed_is_not_read(tmp_path: Path) -> None:
    async with two_tiers(tmp_path, BATCHES, stored=5, local=3) as tiers:
        split = tiers.split
        split.reconfigure(split.config.__class__.resolve({"remote.storage.enable": "true", "hotlog.durability": "fsync"}))
        appended = append(split.log, batch(b"not yet"))
        assert split.place_of(appended.base_offset, is_committed_only=False) is Place.AT_END
        await split.committed(appended.end_offset)
        assert split.place_of(appended.base_offset, is_committed_only=False) is Place.HOT
        assert split.committed_end == split.log_end_offset == appended.end_offset


async def test_an_ack_waits_for_the_fsync_where_every_message_is_flushed(tmp_path: Path) -> None:
    """flush.messages=1 with page-cache durability."""
    async with two_tiers(tmp_path, BATCHES, stored=5, local=3) as tiers:
        split = tiers.split
        changed = {"remote.storage.enable": "true", "hotlog.durability": "page-cache", "flush.messages": "1"}
        split.reconfigure(split.config.__class__.resolve(changed))
        appended = append(split.log, batch(b"not yet"))
        assert split.committed_end < appended.end_offset
        await split.committed(appended.end_offset)
        assert split.log.durable_end >= split.committed_end == appended.end_offset


async def test_a_damaged_local_copy_is_made_good_by_the_store(tmp_path: Path) -> None:
    async with two_tiers(tmp_path, BATCHES, stored=5, local=3) as tiers:
        split, expected = tiers.split, await read_all(tiers.whole)

        async def damaged(offset: int, *_: Any, **__: Any) -> Any:
            raise Corrupt("rotten (test)")

        split.read_disk = damaged  # type: ignore[assignment]
        assert offsets_in((await split.read(8, 10)).data, 8) == [8]
        with pytest.raises(Corrupt):
            await split.read(10, 10)  # the store has it not
        assert expected[4] == 8


async def test_what_no_tier_has_is_an_error(tmp_path: Path) -> None:
    async with two_tiers(tmp_path, BATCHES, stored=3, local=3) as tiers:
        split = tiers.split
        assert split.cold is not None
        view = split.cold.manifest.view
        assert view is not None
        split.cold.target.manifest.view = None  # type: ignore[misc]
        with pytest.raises(StorageFailed):
            await split.read(2, 10)
        split.cold.target.manifest.view = view  # type: ignore[misc]
        split.check_cold(2)
        with pytest.raises(OutOfRange):
            await split.read(99, 10)
        with pytest.raises(OutOfRange):
            await split.read(-1, 10)


async def test_while_the_store_is_away_nothing_is_called_missing(tmp_path: Path) -> None:
    async with two_tiers(tmp_path, BATCHES, stored=3, local=3) as tiers:
        split = tiers.split
        assert split.cold is not None
        split.cold.ready = False
        split.check_cold(2)
        for asked in (split.read(2, 10), split.offset_for_time(10), split.offset_of_max_time()):
            with pytest.raises((NotReady, StoreUnavailable)):
                await asked
        assert split.stored_range() is None
        assert Upkeep(split).manifest is None
        assert not split.is_stored(2)

        split.cold.damage = Corrupt("the manifest is damaged (test)")
        with pytest.raises(Corrupt):
            split.check_cold(2)
        split.cold = None
        with pytest.raises(StorageFailed):
            split.check_cold(2)
        split.home = SimpleNamespace(has_tier=True, awaits_store=True)
        split.check_cold(2)


async def test_a_reader_goes_on_behind_a_recorded_hole(tmp_path: Path) -> None:
    async with two_tiers(tmp_path, BATCHES, stored=3, local=5) as tiers:
        split = tiers.split
        assert split.cold is not None
        tiers.lake.hole(tiers.local_start)
        split.cold.target.manifest.view = tiers.lake.commit()  # type: ignore[misc]
        assert split.behind_hole(5) is None, "the store has records there"
        assert split.behind_hole(6) == split.behind_hole(9) == 10
        assert offsets_in((await split.read(7, 1000)).data, 7)[0] == 10


async def delete(tiers: TwoTiers, offset: int) -> tuple[int, list[tuple[int, int]]]:
    """The answered log start, and (offset given up in the store, log start then)."""
    moves: list[tuple[int, int]] = []

    async def advance(offset: int) -> None:
        moves.append((offset, tiers.split.log_start_offset))

    assert tiers.split.cold is not None
    tiers.split.cold.advance_start = advance  # type: ignore[method-assign]
    return await tiers.split.delete_records(offset), moves


async def test_deleting_moves_the_local_start_first(tmp_path: Path) -> None:
    async with two_tiers(tmp_path, BATCHES, stored=5, local=3) as tiers:
        assert await delete(tiers, 4) == (4, [(4, 4)])
        assert await delete(tiers, 2) == (4, [(2, 4)])
        assert await delete(tiers, -1) == (16, [(16, 16)])
        for wrong in (17, -2):
            with pytest.raises(OutOfRange):
                await delete(tiers, wrong)


async def test_retention_moves_the_manifest_first_and_waits_for_the_store(tmp_path: Path) -> None:
    async with two_tiers(tmp_path, BATCHES, stored=5, local=3) as tiers:
        split, moves = tiers.split, []
        assert split.cold is not None

        async def advance(offset: int) -> None:
            moves.append((offset, split.log_start_offset))

        async def away(offset: int) -> None:
            raise StoreUnavailable("away (test)")

        split.cold.advance_start = away  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            await Upkeep(split).expire(4, goes_without_store=False)
        assert split.log_start_offset == 0
        split.cold.advance_start = advance  # type: ignore[method-assign]
        assert await Upkeep(split).expire(4, goes_without_store=False)
        assert (moves, split.log_start_offset) == ([(4, 0)], 4)
        split.cold.advance_start = away  # type: ignore[method-assign]
        assert await Upkeep(split).expire(8, goes_without_store=True)
        assert split.log_start_offset == 8


async def test_the_store_is_asked_for_the_very_record(tmp_path: Path) -> None:
    async with two_tiers(tmp_path, BATCHES, stored=5, local=3) as tiers:
        assert await Upkeep(tiers.split).stores_record(3, wait_ms=10_000)
        assert not await Upkeep(tiers.whole).stores_record(3, wait_ms=10_000)


async def test_a_time_is_found_in_the_tier_that_has_it_first(tmp_path: Path) -> None:
    async with two_tiers(tmp_path, BATCHES, stored=5, local=3) as tiers:
        assert await tiers.split.offset_for_time(25) == Found(offset=3, timestamp=25, leader_epoch=0)
        assert await tiers.split.offset_for_time(52) == Found(offset=15, timestamp=55, leader_epoch=4)
        assert await tiers.split.offset_for_time(56) is None
        assert [tiers.split.epoch_at(offset) for offset in (-1, 6, 15)] == [-1, 1, 4]


async def test_an_epoch_under_which_nobody_led_is_answered_with_the_one_before_it(tmp_path: Path) -> None:
    """KIP-279, where the local log began anew and only the store knows the epochs before."""
    batches = [Batch(0, (10,)), Batch(1, (20,)), Batch(4, (30,))]
    async with two_tiers(tmp_path, batches, stored=2, local=2) as tiers:
        for partition in (tiers.whole, tiers.split):
            assert [await partition.end_offset_for_epoch(epoch) for epoch in range(6)] == [
                (0, 1), (1, 2), (1, 2), (1, 2), (4, 3), (-1, -1),
            ]  # fmt: skip


async def test_of_two_largest_timestamps_the_older_record_is_told(tmp_path: Path) -> None:
    batches = [Batch(0, (50,)), Batch(0, (10,)), Batch(0, (50,))]
    async with two_tiers(tmp_path, batches, stored=2, local=2) as tiers:
        assert await tiers.split.offset_of_max_time() == Found(offset=0, timestamp=50, leader_epoch=0)
