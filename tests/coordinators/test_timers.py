"""Timers by key: due at their time, whatever was written down before; a heartbeat makes nothing new."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlog.coordinators.timers import Timers
from tests.sim.loop import SimLoop, run

pytestmark = pytest.mark.timeout(300)  # virtual time or many examples: it ends by itself

MOVES = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["arm", "arm", "arm", "disarm"]), st.integers(0, 50), st.integers(0, 30))
)


@given(MOVES)
@settings(deadline=None)
def test_a_timer_is_due_when_it_was_last_armed_for(moves: list[tuple[str, str, int, int]]) -> None:
    async def main(loop: SimLoop) -> None:
        due: list[tuple[str, int]] = []
        timers = Timers(due.append)
        armed: dict[str, tuple[int, float]] = {}  # number of the move, and when it is due
        expected: list[tuple[str, int]] = []
        for number, (key, move, delay, pause) in enumerate(moves):
            if move == "arm":
                timers.arm(key, delay, (key, number))
                armed[key] = (number, loop.time() + delay / 1000)
            else:
                timers.disarm(key)
                armed.pop(key, None)
            await asyncio.sleep(pause / 1000 + 1e-4)  # never the instant of a timer
            for other, (at, when) in list(armed.items()):
                if when <= loop.time():
                    expected.append((other, at))
                    del armed[other]
            assert sorted(due) == sorted(expected)
            assert len(timers) == len(armed)

    run(main)


def test_putting_off_makes_no_timer_of_the_loop() -> None:
    async def main(loop: SimLoop) -> None:
        due: list[float] = []
        timers = Timers(lambda event: due.append(loop.time()))
        timers.arm("session", 10_000, None)
        for _ in range(1_000):
            await asyncio.sleep(1)
            timers.arm("session", 10_000, None)
            assert len(loop._scheduled) < 5  # type: ignore[attr-defined]
        await asyncio.sleep(20)
        assert due == [1_010.0]
        timers.arm("session", 10_000, None)
        timers.arm("session", 1_000, None)  # sooner
        await asyncio.sleep(1.5)
        assert due == [1_010.0, 1_021.0]
        timers.arm("session", 10, None)
        timers.clear()
        await asyncio.sleep(1)
        assert len(due) == 2

    run(main)


def test_every_timer_runs_out_on_uvloop_too() -> None:
    """Its handles say other times than were asked for, and one that is due at once says none."""

    async def main() -> tuple[list[int], list[object]]:
        due: list[int] = []
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context.get("exception")))
        timers = Timers(due.append)
        for number in range(200):
            timers.arm(number, number % 100, number)
            if number % 10 == 0:
                await asyncio.sleep(0.003)
        for _ in range(500):
            if not timers or failures:
                break
            await asyncio.sleep(0.01)
        return due, failures

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        due, failures = runner.run(main())
    assert not failures
    assert sorted(due) == list(range(200))
