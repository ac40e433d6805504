"""The loop's delay is counted from when a callback was due, on the World's clock."""

from __future__ import annotations

import asyncio

import pytest

from hotlog.kernel.metrics import Metrics
from hotlog.observe.loop_lag import INTERVAL_S, LOOKS, LoopLag
from tests.support.clocks import HandClock

BLOCKED_S = 3.0


async def seen(metrics: Metrics, count: int) -> float:
    """The sum of delays once `count` callbacks ran."""
    while metrics.registry.get_sample_value("hotlog_loop_lag_seconds_count") < count:  # type: ignore[operator]
        await asyncio.sleep(INTERVAL_S / 4)
    return metrics.registry.get_sample_value("hotlog_loop_lag_seconds_sum") or 0.0


async def test_what_blocks_the_loop_is_seen_and_nothing_after_it() -> None:
    metrics, clock = Metrics(), HandClock()
    lag = LoopLag(clock, metrics)
    lag.start()
    clock.ms += int((INTERVAL_S + BLOCKED_S) * 1000)  # a callback took this long
    assert abs(await seen(metrics, 1) - BLOCKED_S) < 1e-6
    await seen(metrics, 3)  # later callbacks: the clock stands, nothing is late
    lag.close()
    assert abs(await seen(metrics, 3) - BLOCKED_S) < 1e-6


async def test_it_stops_when_it_is_closed() -> None:
    closed, other = Metrics(), Metrics()
    lag, witness = LoopLag(HandClock(), closed), LoopLag(HandClock(), other)
    lag.start()
    lag.close()
    witness.start()
    await seen(other, 2)
    witness.close()
    assert closed.registry.get_sample_value("hotlog_loop_lag_seconds_count") == 0


@pytest.mark.parametrize(("times", "told_s"), [(1, 0.0), (2, BLOCKED_S)])
async def test_how_late_it_was_is_told_but_for_the_worst_moment(times: int, told_s: float) -> None:
    told: list[float] = []
    metrics, clock = Metrics(), HandClock()
    lag = LoopLag(clock, metrics, told.append)
    lag.start()
    for number in range(times):
        clock.ms += int((INTERVAL_S + BLOCKED_S) * 1000)
        await seen(metrics, number + 1)
    await seen(metrics, LOOKS)
    lag.close()
    assert [round(late_s, 6) for late_s in told] == [told_s]
