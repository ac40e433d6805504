"""Where a log is committed up to: any end of an append, as the rule that is handed in says."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlog.kernel.errors import StorageFailed
from hotlog.log.marks import Marks, Watermark, when_appended, when_durable
from hotlog.log.producers import Producers
from hotlog.log.waiters import OffsetWaiters
from tests.log.support import Ear, append, batch, config, new_log, opened, read_all
from tests.support.disks import IO, FaultyDisk
from tests.tools.patience import SOON_S


def marks_at_zero(rule: object = when_durable) -> Marks:
    start = Watermark(0, 0, 0)
    return Marks(log_start=0, local_start=0, committed=start, log_end=0, producers=Producers(1000), rule=rule)  # type: ignore[arg-type]


MOVES = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 5)),
    st.tuples(st.just("sync"), st.integers(0, 40)),
    st.tuples(st.just("hear"), st.integers(0, 40)),
    st.tuples(st.just("cut"), st.integers(0, 40)),
)


@given(st.lists(MOVES, max_size=60))
def test_the_committed_end_is_the_last_end_of_an_append_that_the_rule_covers(moves: list[tuple[str, int]]) -> None:
    """Against a model: a list of ends, what the device has and what a follower has."""
    heard = 0
    marks = marks_at_zero(lambda log_end, durable_end: min(log_end, durable_end, heard))
    ends, durable, committed = [0], 0, 0
    for move, number in moves:
        if move == "append":
            ends.append(ends[-1] + number)
            marks.appended(ends[-1], 0, 10 * ends[-1])
        elif move == "sync":
            durable = max(durable, min(number, ends[-1]))
            marks.synced(min(number, ends[-1]))
        elif move == "hear":
            heard = number
            marks.recommit()
        else:
            ends = [end for end in ends if end <= number]
            durable, committed = min(durable, ends[-1]), min(committed, ends[-1])
            marks.truncate(Watermark(ends[-1], 0, 10 * ends[-1]), StorageFailed("cut"))
        if move != "cut":
            committed = max(committed, *(end for end in ends if end <= min(durable, heard)), 0)
        assert marks.committed == (committed, 0, 10 * committed)
        assert (marks.high_watermark, marks.log_end_offset, marks.durable_end) == (committed, ends[-1], durable)


async def test_a_rule_that_is_handed_in_decides_and_is_asked_again(tmp_path: Path) -> None:
    follower = 0
    async with opened(tmp_path) as logs:
        log = await new_log(logs)
        log.set_commit_rule(lambda log_end, durable_end: min(log_end, durable_end, follower))
        for _ in range(4):
            append(log, batch(b"x", b"y"))
        await log.wait_durable(8)
        assert (log.high_watermark, log.durable_end, log.log_end_offset) == (0, 8, 8)
        assert await read_all(log) == []
        seen: list[int] = []
        log.add_ear(Ear(lambda: seen.append(log.high_watermark)))
        waiting = [asyncio.ensure_future(log.wait_committed(end)) for end in (2, 4, 6, 8)]
        await asyncio.sleep(0)
        follower = 5  # within a batch
        log.recommit()
        await asyncio.sleep(0)
        assert log.high_watermark == 4 and seen == [4]
        assert [header.base_offset for header in await read_all(log)] == [0, 2]
        assert [each.done() for each in waiting] == [True, True, False, False]
        follower = 100
        log.recommit()
        await asyncio.wait_for(asyncio.gather(*waiting), SOON_S)
        follower = 3
        log.recommit()
        assert log.high_watermark == 8, "what is committed stays so"
        log.set_commit_rule(None)
        append(log, batch(b"z"))
        await asyncio.wait_for(log.wait_committed(9), SOON_S)


async def test_a_rule_may_trust_the_page_cache_of_others(tmp_path: Path) -> None:
    """Nothing waits for the disk then."""
    disk = FaultyDisk()
    async with opened(tmp_path, config(hotlog_durability="page-cache"), disk=disk) as logs:
        log = await new_log(logs, config(hotlog_durability="page-cache"))
        disk.hold()
        log.set_commit_rule(lambda log_end, durable_end: log_end - 1)
        for _ in range(3):
            append(log, batch(b"x"))
        assert (log.high_watermark, log.durable_end) == (2, 0)
        log.set_commit_rule(None)
        assert log.high_watermark == 3
        disk.let_go()


async def test_who_waits_for_a_commit_hears_that_it_cannot_come(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, disk=disk) as logs:
        log = await new_log(logs)
        log.set_commit_rule(lambda log_end, durable_end: 0)
        append(log, batch(b"x"))
        waiting = asyncio.ensure_future(log.wait_committed(1))
        await log.wait_durable(1)
        disk.fail("sync", "*.log", IO)
        append(log, batch(b"y"))
        with pytest.raises(StorageFailed):
            await asyncio.wait_for(waiting, SOON_S)
        log.set_commit_rule(None)
        assert log.high_watermark == 0, "a log whose disk failed commits nothing more"
        with pytest.raises(StorageFailed):
            await log.wait_committed(1)


async def test_waiters_are_released_by_offset_and_who_leaves_is_forgotten() -> None:
    waiters = OffsetWaiters()
    many = [asyncio.ensure_future(waiters.wait(offset)) for offset in range(300, 0, -1)]
    await asyncio.sleep(0)
    waiters.release(100)
    await asyncio.sleep(0)
    assert [each.done() for each in many] == [False] * 200 + [True] * 100
    for each in many[:150]:
        each.cancel()
    await asyncio.sleep(0)
    assert len(waiters.waiting) <= 50 + 64, "those who left are swept out"
    waiters.refuse(StorageFailed("no"), above=140)
    await asyncio.sleep(0)
    assert [each.done() for each in many[160:200]] == [False] * 40, "101 to 140 can still be reached"
    waiters.refuse(StorageFailed("no"))
    outcomes = await asyncio.gather(*many, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == ([asyncio.CancelledError] * 150 + [StorageFailed] * 50 + [type(None)] * 100)


async def test_callbacks_are_told_once_in_order_and_in_time() -> None:
    waiters, told = OffsetWaiters(), list[tuple[int, type | None]]()

    def note(offset: int, error: Exception | None) -> None:
        told.append((offset, None if error is None else type(error)))

    def fails(error: Exception | None) -> None:
        raise ValueError("a bug")

    loop = asyncio.get_running_loop()
    late = loop.create_future()
    waiters.add(7, partial(note, 7), 3600)
    waiters.add(5, lambda error: late.set_result(error), 0.001)
    waiters.add(3, partial(note, 3), 3600)
    waiters.add(1, fails)
    waiters.add(3, partial(note, 30))
    waiters.release(2)
    assert isinstance(await asyncio.wait_for(late, SOON_S), TimeoutError)
    assert told == []
    waiters.release(6)
    assert told == [(3, None), (30, None)], "who came first is told first, whatever another one did"
    waiters.refuse(StorageFailed("no"))
    waiters.release(9)
    assert told[2:] == [(7, StorageFailed)]
    assert not waiters.waiting


async def test_who_is_told_may_have_the_others_refused_and_each_is_told_once() -> None:
    waiters, told = OffsetWaiters(), list[tuple[int, type | None]]()

    def note(offset: int, error: Exception | None) -> None:
        told.append((offset, None if error is None else type(error)))
        if offset == 1:
            waiters.refuse(StorageFailed("the disk failed in what the first one did next"))

    for offset in (1, 2, 3):
        waiters.add(offset, partial(note, offset))
    waiters.release(9)
    assert told == [(1, None), (2, StorageFailed), (3, StorageFailed)]


async def test_a_commit_is_told_to_callbacks(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, disk=disk) as logs:
        log, told = await new_log(logs), list[object]()
        append(log, batch(b"a"))
        append(log, batch(b"b"))
        log.when_committed(2, told.append)
        log.when_committed(1, told.append, 3600)
        assert told == []
        await log.wait_durable(2)
        assert told == [None, None]
        log.when_committed(2, told.append)
        assert told == [None] * 3, "nothing to wait for"
        disk.fail("sync", "*.log", IO)
        append(log, batch(b"c"))
        log.when_committed(3, told.append, 3600)
        with pytest.raises(StorageFailed):
            await log.wait_durable(3)
        log.when_committed(3, told.append)
        assert [type(each) for each in told[3:]] == [StorageFailed] * 2


def test_rules_of_a_single_replica() -> None:
    assert (when_appended(9, 4), when_durable(9, 4)) == (9, 4)
