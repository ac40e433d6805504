"""A store that was away when the broker started is examined when it is back, before anything is written to it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from controller.metadata import State
from hotlog.kernel.errors import Retry, StoreUnavailable
from hotlog.observe.health import Health
from tests.sim.bucket import Bucket
from tests.sim.checker import check_partition
from tests.sim.test_faults import Scene
from tests.sim.test_ninety_days import CLICKS, SETTINGS
from tests.sim.world import Life, SimWorld, simulate


@pytest.mark.parametrize("is_careless", [True, False])
def test_a_store_that_comes_back_ignoring_conditions_is_never_written_to(
    is_careless: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Bucket.put

    def careless(self: Bucket, key: str, body: bytes, if_match: str | None, if_absent: bool, parts: int = 0) -> str:
        return honest(self, key, body, None, False, parts)

    async def main(world: SimWorld) -> None:
        scene = await Scene.open(world, CLICKS, hours=24)
        await scene.life.end("stop")
        world.bucket.weather.down = True
        scene.life = await world.boot()
        await scene.hours(24)
        assert scene.life.node.metadata.state is State.OFFLINE
        before = committed(world)
        world.bucket.weather.down = False
        if is_careless:
            monkeypatch.setattr(Bucket, "put", careless)
        partition, ledger = scene.first
        assert partition.cold is not None
        while not partition.cold.ready:
            await scene.life.beat("copy")
            await asyncio.sleep(60)
        with pytest.raises(StoreUnavailable, match="not examined yet"):
            await partition.cold.advance_start(partition.log_start_offset + 1)
        await scene.life.beat("copy", "retention", "reaper", "reconcile")
        assert committed(world) == before, "nobody writes to a store that nobody has examined"
        await asyncio.sleep(3600)
        await scene.hours(24)
        if is_careless:
            assert scene.life.node.metadata.state is State.FENCED
            assert committed(world) == before
            assert "a stale If-Match was accepted" in str(scene.life.node.health().refusing)
        else:
            assert scene.life.node.metadata.state is State.ACTIVE
            assert committed(world) != before
            await check_partition(partition, ledger)

    simulate(7, main, settings=SETTINGS)


def committed(world: SimWorld) -> dict[str, Any]:
    """What the cluster has in the bucket: all but the traces of examinations."""
    return {key: stored.etag for key, stored in world.bucket.objects.items() if not key.startswith("check/")}


@pytest.mark.parametrize("weather", ["late", "down", "hanging", "losing answers"])
def test_hot_data_is_served_at_once_whatever_the_store_does(weather: str) -> None:
    """A restart had 40 s of checks before its first produce where each request took 2 s, and ended with rc 1 where answers were lost."""

    async def main(world: SimWorld) -> None:
        scene = await Scene.open(world, CLICKS, hours=24)
        await scene.life.end("kill")
        sky = world.bucket.weather
        match weather:
            case "late":
                sky.latency_seconds = 2.0
            case "down":
                sky.down = True
            case "hanging":
                sky.hang = 1.0
            case _:
                sky.lost = 0.5
        began = world.loop.time()
        scene.life = await world.boot()
        partition, ledger = scene.first
        end = partition.log.high_watermark
        await scene.traffic.produce(scene.life)
        assert partition.log.high_watermark > end
        assert world.loop.time() - began < 3.0, "a moment for the store to answer, and one for the manifests"
        sky.down, sky.hang = False, 0.0
        for _ in range(100):
            await scene.life.beat("broker")
            assert scene.life.node.health().refusing == ()
            if scene.life.node.metadata.state is State.ACTIVE:
                break
            await asyncio.sleep(5)
        assert scene.life.node.metadata.state is State.ACTIVE, "lost and late answers are asked for again, until they are there"
        await scene.hours(3)
        sky.lost = 0.0
        await scene.hours(1)
        await check_partition(partition, ledger)

    simulate(11, main, settings=SETTINGS)


def test_a_running_broker_is_not_fenced_by_answers_that_are_lost() -> None:
    async def main(world: SimWorld) -> None:
        scene = await Scene.open(world, CLICKS, hours=2)
        await scene.life.end("stop")
        world.bucket.weather.down = True
        scene.life = await world.boot()
        world.bucket.weather.down = False
        world.bucket.fail("put", "lost", pattern="check/*", times=2000)
        for _ in range(20):
            await scene.life.beat("broker")
            await asyncio.sleep(60)
            assert scene.life.node.metadata.state is State.OFFLINE
            assert scene.life.node.health().refusing == ()
        world.bucket.faults.clear()
        await asyncio.sleep(60)
        await scene.life.beat("broker")
        assert scene.life.node.metadata.state is State.ACTIVE

    simulate(12, main, settings=SETTINGS)


def lag(life: Life) -> tuple[float, float, float]:
    """What an operator sees of clicks: bytes, segments, age of the oldest (s)."""
    value = life.metrics.registry.get_sample_value
    names = (
        "kafka_server_brokertopicmetrics_remotecopylagbytes",
        "kafka_server_brokertopicmetrics_remotecopylagsegments",
        "hotlog_oldest_untiered_segment_age_seconds",
    )
    bytes_, segments, age = (value(name, {"topic": "clicks"}) or 0.0 for name in names)
    return bytes_, segments, age


@pytest.mark.parametrize("trouble", ["away since the start", "fenced"])
def test_copy_lag_is_told_when_copying_has_stopped(trouble: str) -> None:
    async def main(world: SimWorld) -> None:
        scene = await Scene.open(world, CLICKS, hours=30)
        assert lag(scene.life) == (0.0, 0.0, 0.0)
        await scene.life.end("stop")
        world.bucket.weather.down = True
        scene.life = await world.boot()
        if trouble == "fenced":
            world.bucket.weather.down = False
            for key in [key for key in world.bucket.objects if key == "cluster" or "/meta/" in key]:
                del world.bucket.objects[key]
            while scene.life.node.metadata.state is not State.FENCED:
                await asyncio.sleep(5)
                await scene.life.beat("broker")
        seen = [lag(scene.life)]
        for _ in range(3):
            await scene.hours(24)
            seen.append(lag(scene.life))
        partition, ledger = scene.first
        untiered = [one for one in partition.log.segments() if one.closed_ms >= 0]
        assert seen[-1][1] >= len(untiered) > 2
        assert all(before < after for before, after in pairwise(seen)), seen
        if trouble != "fenced":
            world.bucket.weather.down = False
            await asyncio.sleep(60)
            await scene.hours(2)
            await asyncio.sleep(60)  # copies are tried again up to half a minute after the store was examined
            await scene.life.beat()
            assert lag(scene.life)[1] == 0.0
            await check_partition(partition, ledger)

    simulate(13, main, settings=SETTINGS)


def test_an_operator_sees_that_the_store_is_away_and_what_that_means() -> None:
    async def main(world: SimWorld) -> None:
        scene = await Scene.open(world, CLICKS, hours=2)
        node = scene.life.node

        async def up() -> float | None:
            await node.refresh_metrics()
            return scene.life.metrics.registry.get_sample_value("hotlog_store_up")

        assert (node.health(), await up()) == (Health(), 1.0)
        await scene.life.beat("broker")
        world.bucket.weather.down = True
        for _ in range(3):
            await scene.life.beat("store")
            await asyncio.sleep(31)
        assert await up() == 0.0
        assert node.health().status == 200
        assert "last error: get cluster: 503 slow down" in node.health().text
        given: set[int] = set()
        while True:
            try:
                given.add(await scene.life.broker.allocate_producer_id())
            except Retry:
                break
        assert len(given) >= 1000, "a block of ids and the reserve"
        assert "new idempotent producers are refused: no producer ids are left here" in node.health().text
        world.bucket.weather.down = False
        await scene.life.beat("store", "broker")
        await scene.life.broker.allocate_producer_id()
        assert (node.health(), await up()) == (Health(), 1.0)
        await scene.life.end("stop")
        world.bucket.weather.down = True
        scene.life = await world.boot()
        assert scene.life.node.health().text.startswith("degraded\nmetadata cannot change and nothing is copied until")

    simulate(14, main, settings=SETTINGS)
