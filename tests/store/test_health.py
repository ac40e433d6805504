"""Whether the store serves us: said once when it stops, once when it is back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from hotlog.kernel.errors import HotlogError, NotFound, StoreRefused
from tests.sim.bucket import Bucket
from tests.sim.clock import SimClock
from tests.sim.entropy import SimEntropy, stream
from tests.sim.fuse import Fuse
from tests.sim.loop import SimLoop, run
from tests.sim.store import SimStore
from tests.sim.trace import Trace
from tiering.store.health import AWAY_S, StoreHealth
from tiering.store.resilient import Policy, ResilientStore, Retrier

Body = Callable[[Bucket, ResilientStore, StoreHealth], Coroutine[Any, Any, None]]


def with_store(body: Body) -> None:
    async def main(loop: SimLoop) -> None:
        clock = SimClock(loop)
        bucket, health = Bucket(clock, stream(1, "store")), StoreHealth(clock)
        raw = SimStore(bucket, Trace(loop), Fuse())
        await body(bucket, ResilientStore(raw, Retrier(Policy(), clock, SimEntropy(1), health)), health)

    run(main)


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(one.levelname, one.message.split(":")[0]) for one in caplog.records if one.name == "hotlog.store"]


AWAY = ("WARNING", "the object store does not serve this broker")


def test_a_store_that_goes_away_is_told_once_and_once_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="hotlog.store")

    async def body(bucket: Bucket, store: ResilientStore, health: StoreHealth) -> None:
        await store.put("x", b"x")
        bucket.weather.down = True
        for _ in range(3):
            with pytest.raises(HotlogError):
                await store.get("x")
        assert not health.is_up
        assert "last error: get x: 503 slow down" in health.trouble
        assert health.wants_probe
        assert told(caplog) == [AWAY]
        bucket.weather.down = False
        with pytest.raises(NotFound):  # an answer all the same
            await store.get("y")
        assert (health.is_up, health.trouble, health.wants_probe) == (True, "", False)
        assert [level for level, _ in told(caplog)] == ["WARNING", "INFO"]
        assert "the object store is back after" in caplog.records[-1].message

    with_store(body)


def test_weather_between_answers_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async def body(bucket: Bucket, store: ResilientStore, health: StoreHealth) -> None:
        bucket.weather.unavailable = 0.2
        for _ in range(200):
            await store.put("x", b"x")
            await asyncio.sleep(1)
            assert health.is_up
        assert told(caplog) == []

    with_store(body)


def test_a_call_that_hangs_is_told_when_nothing_else_was_answered() -> None:
    async def body(bucket: Bucket, store: ResilientStore, health: StoreHealth) -> None:
        bucket.fail("get", "hang", times=3)
        reading = asyncio.ensure_future(store.get("x"))
        for _ in range(25):
            await asyncio.sleep(1)
            await store.put("x", b"x")
        await asyncio.sleep(10)
        assert health.is_up, "one call was too slow; others were answered"
        await asyncio.sleep(40)
        assert "get x: no answer in 30.0 s" in health.trouble
        await reading
        assert health.is_up

    with_store(body)


def test_refused_credentials_are_told_with_the_stores_words() -> None:
    async def body(bucket: Bucket, store: ResilientStore, health: StoreHealth) -> None:
        for _ in range(2):
            health.saw(StoreRefused("put x: the store answered 403 InvalidAccessKeyId"), began=asyncio.get_running_loop().time())
            await asyncio.sleep(AWAY_S)
        assert "InvalidAccessKeyId" in health.trouble

    with_store(body)


def test_a_store_that_nobody_calls_is_asked_now_and_then() -> None:
    async def body(bucket: Bucket, store: ResilientStore, health: StoreHealth) -> None:
        await store.put("x", b"x")
        assert not health.wants_probe
        await asyncio.sleep(60)
        assert health.wants_probe

    with_store(body)
