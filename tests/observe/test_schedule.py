"""Beats: work is done however much it is, and others have their turn in between."""

from __future__ import annotations

import asyncio

import pytest

from hotlog import schedule
from hotlog.kernel.beats import Beat
from hotlog.kernel.metrics import Metrics
from hotlog.schedule import TICKS_IN_A_ROW_MAX, Schedule
from tests.tools.patience import SOON_S


async def test_a_worker_with_much_to_do_is_called_until_it_is_done_and_never_keeps_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule, "PAUSE_S", 0.001)
    ticks, turns, done = 0, 0, asyncio.Event()
    wanted = 3 * TICKS_IN_A_ROW_MAX

    async def tick() -> bool:
        nonlocal ticks
        ticks += 1
        assert turns >= ticks - 2, "the loop turned between two ticks"
        if ticks == wanted:
            done.set()
        return ticks < wanted

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    beats = Schedule([Beat("work", tick, 3600.0)], Metrics())
    running = asyncio.create_task(beats._run(Beat("work", tick, 3600.0)))
    async with asyncio.timeout(SOON_S):
        await done.wait()
        await running
    assert ticks == wanted, "not a part of it now and the rest an interval later"
    turning.cancel()
    await beats.close()


async def test_closing_ends_a_worker_that_always_finds_work() -> None:
    started = asyncio.Event()

    async def tick() -> bool:
        started.set()
        return True

    beats = Schedule([], Metrics())
    running = asyncio.create_task(beats._run(Beat("work", tick, 3600.0)))
    async with asyncio.timeout(SOON_S):
        await started.wait()
        await beats.close()
        await running
