"""The virtual loop: time jumps, order holds, waiting for ever is an error.  Also pins what it uses of asyncio's private parts."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from tests.sim.clock import DAY_MS, SimClock
from tests.sim.entropy import SimEntropy, stream
from tests.sim.loop import Deadlock, SimLoop, run


def test_asyncio_still_works_as_the_loop_needs() -> None:
    source = inspect.getsource(asyncio.base_events.BaseEventLoop._run_once)  # type: ignore[attr-defined]
    for used in (
        "self._selector.select(timeout)",
        "self._process_events(event_list)",
        "self._scheduled",
        "self._ready",
        "self.time()",
    ):
        assert used in source, f"asyncio's _run_once no longer has {used}: tests/sim/loop.py must be looked at"


def test_ninety_days_pass_in_few_rounds_and_land_exactly() -> None:
    rounds = 0

    async def main(loop: SimLoop) -> float:
        nonlocal rounds
        for _ in range(90):
            await asyncio.sleep(86_400)
            rounds += 1
        return loop.time()

    assert run(main) == 90 * 86_400
    assert rounds == 90


def test_sleepers_wake_by_time_and_equal_times_by_start() -> None:
    async def main(loop: SimLoop) -> list[str]:
        order: list[str] = []

        async def sleeper(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            order.append(name)

        await asyncio.gather(sleeper("late", 2), sleeper("a", 1), sleeper("b", 1), sleeper("now", 0))
        return order

    assert run(main) == ["now", "a", "b", "late"]


def test_waiting_for_nothing_is_an_error_that_names_who_waits() -> None:
    async def main(loop: SimLoop) -> None:
        await loop.create_future()

    with pytest.raises(Deadlock, match=r"main: .*test_loop"):
        run(main)


def test_a_thread_is_refused() -> None:
    async def main(loop: SimLoop) -> None:
        await asyncio.to_thread(print)

    with pytest.raises(RuntimeError, match=r"disk\.run"):
        run(main)


def test_timeouts_are_virtual() -> None:
    async def main(loop: SimLoop) -> float:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(1e9), 3600)
        return loop.time()

    assert run(main) == 3600


def test_leftover_tasks_are_cancelled_and_their_cleanup_runs() -> None:
    ended: list[str] = []

    async def stays() -> None:
        try:
            await asyncio.sleep(1e6)
        finally:
            ended.append("cleanup")

    async def main(loop: SimLoop) -> None:
        loop.create_task(stays())
        await asyncio.sleep(1)

    run(main)
    assert ended == ["cleanup"]


def test_wall_clock_steps_and_monotonic_does_not() -> None:
    async def main(loop: SimLoop) -> None:
        clock = SimClock(loop)
        start = clock.now_ms()
        await asyncio.sleep(10)
        assert clock.now_ms() - start == 10_000
        clock.step(365 * DAY_MS)
        assert clock.now_ms() - start == 10_000 + 365 * DAY_MS
        clock.step(-366 * DAY_MS)
        assert clock.now_ms() < start
        assert clock.monotonic() == 10

    run(main)


def test_streams_depend_on_seed_and_name_only() -> None:
    assert SimEntropy(1).uuid() == SimEntropy(1).uuid()
    assert SimEntropy(1).uuid() != SimEntropy(2).uuid()
    assert stream(1, "disk").random() != stream(1, "store").random()
    assert stream(7, "disk").random() == 0.4224526680984132
