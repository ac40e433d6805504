"""Who waits within a tenure is told when it ends, and a cancellation from elsewhere stays one."""

from __future__ import annotations

import asyncio

import pytest

from hotlog.coordinators.tenure import NotCoordinator, Tenure


async def waits(tenure: Tenure, gate: asyncio.Event) -> str:
    with tenure:
        await gate.wait()
    return "done"


async def test_who_waits_is_told_and_who_comes_later_too() -> None:
    tenure, gate = Tenure("p"), asyncio.Event()
    waiting = [asyncio.create_task(waits(tenure, gate)) for _ in range(3)]
    await asyncio.sleep(0)
    tenure.end()
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, NotCoordinator)
        assert str(outcome) == "p is not coordinated here any more"
    with pytest.raises(NotCoordinator):
        await waits(tenure, gate)
    tenure.end()


async def test_who_is_cancelled_stays_cancelled() -> None:
    tenure, gate = Tenure("p"), asyncio.Event()
    before, after, only = (asyncio.create_task(waits(tenure, gate)) for _ in range(3))
    await asyncio.sleep(0)
    only.cancel()
    await asyncio.wait([only])
    before.cancel()
    tenure.end()
    after.cancel()
    await asyncio.wait([before, after])
    assert only.cancelled()
    assert before.cancelled()
    assert after.cancelled()


async def test_who_has_what_it_waited_for_is_told_too_and_goes_on_afterwards() -> None:
    tenure, gate = Tenure("p"), asyncio.Event()

    async def tries_twice() -> str:
        with pytest.raises(NotCoordinator):
            await waits(tenure, gate)
        await asyncio.sleep(0)  # its cancellation is not pending any more
        return "went on"

    waiting = asyncio.create_task(tries_twice())
    await asyncio.sleep(0)
    gate.set()
    tenure.end()
    assert await waiting == "went on"


async def test_who_left_in_time_hears_nothing() -> None:
    tenure, gate = Tenure("p"), asyncio.Event()
    gate.set()
    assert await waits(tenure, gate) == "done"
    tenure.end()
    await asyncio.sleep(0)
