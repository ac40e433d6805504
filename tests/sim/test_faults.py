"""One kind of trouble at a time, on the real node: clocks that jump, disks that fill or fail, a store that lies, goes away, loses objects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from hotlog.kernel.errors import Corrupt, HotlogError
from hotlog.log.flusher import Flusher
from hotlog.partitions.partition import Partition
from tests.sim.checker import Ledger, batches_of, check_partition, read_cold, send
from tests.sim.clock import HOUR_MS, MINUTE_MS, YEAR_MS
from tests.sim.test_ninety_days import CLICKS, SETTINGS
from tests.sim.traffic import TopicPlan, Traffic, check_settled
from tests.sim.world import Life, SimWorld, simulate

Main = Callable[[SimWorld], Coroutine[Any, Any, None]]


class Scene:
    """A node with topics that has had some hours of traffic."""

    def __init__(self, world: SimWorld, life: Life, traffic: Traffic) -> None:
        self.world = world
        self.life = life
        self.traffic = traffic

    @classmethod
    async def open(cls, world: SimWorld, *plans: TopicPlan, hours: int = 0) -> Scene:
        life = await world.boot()
        scene = cls(world, life, Traffic(world, list(plans)))
        await scene.traffic.ensure_topics(life)
        await scene.hours(hours)
        return scene

    async def hours(self, count: int, *, produce: bool = True) -> None:
        for _ in range(count):
            await asyncio.sleep(3600)
            if produce:
                await self.traffic.produce(self.life)
            await self.life.beat()

    async def restart(self, how: str) -> None:
        await self.life.end(how)
        self.life = await self.world.boot()

    @property
    def first(self) -> tuple[Partition, Ledger]:
        _, partition, ledger = self.traffic.partitions(self.life)[0]
        return partition, ledger


def test_a_clock_a_year_ahead_deletes_nothing_that_is_inside_retention() -> None:
    """Faults 20: in a running broker, over a restart, and back again."""

    async def main(world: SimWorld) -> None:
        scene = await Scene.open(world, CLICKS, hours=20 * 24)
        world.clock.step(YEAR_MS)
        for how in (None, "kill", "stop"):
            if how:
                await scene.restart(how)
            await scene.hours(24)
            partition, ledger = scene.first
            assert partition.log_start_offset == 0
            await check_partition(partition, ledger)
        world.clock.step(-YEAR_MS)
        await scene.hours(24)
        for _, partition, ledger in scene.traffic.partitions(scene.life):
            assert partition.log_start_offset == 0
            await check_partition(partition, ledger)

    simulate(3, main, settings=SETTINGS)


@pytest.mark.parametrize("is_confirmed", [True, False])
def test_after_weeks_of_downtime_retention_goes_on_at_once_where_the_store_confirms_the_time(is_confirmed: bool) -> None:
    plan = TopicPlan("short", 1, {"segment.bytes": "2048", "retention.ms": str(24 * HOUR_MS)})

    async def main(world: SimWorld) -> None:
        world.has_store_clock = is_confirmed
        scene = await Scene.open(world, plan, hours=10)
        await scene.life.end("stop")
        await asyncio.sleep(30 * 24 * 3600)
        scene.life = await world.boot()
        await scene.hours(3, produce=False)
        partition, ledger = scene.first
        assert (partition.log_start_offset > 0) is is_confirmed
        await check_partition(partition, ledger)

    simulate(4, main, settings=SETTINGS)


@pytest.mark.parametrize("step_ms", [10 * MINUTE_MS, -10 * MINUTE_MS])
def test_small_steps_of_the_clock_shift_retention_by_no_more_than_the_step(step_ms: int) -> None:
    plan = TopicPlan("short", 1, {"segment.bytes": "2048", "retention.ms": str(6 * HOUR_MS)})

    async def main(world: SimWorld) -> None:
        scene = await Scene.open(world, plan, hours=10)
        world.clock.step(step_ms)
        for _ in range(10):
            await scene.hours(1)
            partition, ledger = scene.first
            now_ms = world.clock.now_ms() + abs(step_ms)
            ledger.check_not_early(partition.log_start_offset, now_ms=now_ms, retention_ms=6 * HOUR_MS - abs(step_ms))
            await check_partition(partition, ledger)
        assert partition.log_start_offset > 0

    simulate(4, main, settings=SETTINGS)


@pytest.mark.parametrize("fate", ["short", "wrong-range", "other-object", "flipped"])
def test_a_store_that_lies_is_found_out_and_poisons_no_cache(fate: str) -> None:
    """Faults 13 and 29: never wrong bytes; the truth again as soon as the store tells it."""

    async def main(world: SimWorld) -> None:
        scene = await Scene.open(world, CLICKS, hours=5 * 24)
        await scene.restart("stop")  # nothing in memory
        scene.life.disk.remove_tree("/data/cache")
        await scene.restart("kill")
        partition, ledger = scene.first
        border = partition.log.local_log_start_offset
        world.bucket.fail("get", fate, pattern="*.seg", times=10_000)
        assert partition.cold is not None
        found_out = 0
        for offset in range(0, border, 40):
            try:
                got = batches_of((await partition.cold.read(offset, 4096)).data, offset)
            except HotlogError:
                found_out += 1
                continue
            for batch in got:
                assert batch.body in ledger._by_body, f"wrong bytes were served at offset {offset}"
        assert found_out > 0
        world.bucket.faults.clear()
        ledger.check(await read_cold(partition, 0, border), 0, from_offset=0) if border >= partition.log.high_watermark else None
        await check_partition(partition, ledger)

    simulate(5, main, settings=SETTINGS)


def test_a_missing_object_is_reported_and_hurts_only_its_own_range() -> None:
    """Faults 39: somebody's lifecycle rule took an object."""

    async def main(world: SimWorld) -> None:
        scene = await Scene.open(world, CLICKS, hours=6 * 24)
        partition, ledger = scene.first
        assert partition.cold is not None
        view = partition.cold.view
        assert view is not None
        lost = view.entries[2]
        del world.bucket.objects[partition.cold.keys.object(lost.name)]
        await scene.restart("stop")
        scene.life.disk.remove_tree("/data/cache")
        await scene.restart("kill")
        await scene.hours(12)
        partition, ledger = scene.first
        assert partition.cold is not None
        assert scene.life.metrics.corruption.labels("missing-object")._value.get() >= 1
        with pytest.raises(Corrupt):
            await partition.cold.read(lost.base_offset, 4096)
        before = await read_cold(partition, 0, lost.base_offset)
        after = await read_cold(partition, lost.end_offset, partition.log.local_log_start_offset)
        assert before
        assert after
        assert all(batch.body in ledger._by_body for batch in before + after)
        view = partition.cold.view
        assert view is not None
        assert lost in view.entries, "a row is not forgotten because its object is gone"

    simulate(6, main, settings=SETTINGS)


def test_a_full_disk_refuses_and_recovers_and_loses_nothing() -> None:
    """Faults 11."""
    plan = TopicPlan("fill", 1, {"segment.bytes": "65536", "retention.ms": "-1"}, value_bytes=4000)

    async def main(world: SimWorld) -> None:
        world.machine.capacity_bytes = 2_000_000
        world.bucket.weather.down = False
        scene = await Scene.open(world, plan)
        for _ in range(200):
            await scene.traffic.produce(scene.life)
        assert scene.traffic.refused > 0
        partition, ledger = scene.first
        await check_partition(partition, ledger)
        acked = len(list(ledger.acked))
        await scene.restart("power")
        partition, ledger = scene.first
        await check_partition(partition, ledger)
        world.machine.capacity_bytes = 4_000_000
        scene.traffic.refused = 0
        await scene.hours(5)
        assert scene.traffic.refused == 0
        assert len(list(ledger.acked)) > acked
        await check_partition(partition, ledger)

    simulate(7, main, settings={**SETTINGS, "hotlog.disk.reserve.bytes": "200000"})


def test_after_a_failed_fsync_nothing_is_acknowledged_until_recovery() -> None:
    """Faults 9 (fsyncgate)."""

    async def main(world: SimWorld) -> None:
        scene = await Scene.open(world, CLICKS, hours=10)
        partition, ledger = scene.first
        world.machine.fail("sync", pattern="*/clicks-0/*.log")
        acked = len(list(ledger.acked))
        await scene.traffic.produce(scene.life)
        assert len(list(ledger.acked)) == acked, "a batch was acknowledged though its fsync failed"
        await scene.traffic.produce(scene.life)
        assert len(list(ledger.acked)) == acked, "a failed log goes on"
        await scene.restart("power")
        await scene.hours(3)
        partition, ledger = scene.first
        assert len(list(ledger.acked)) > acked
        await check_partition(partition, ledger)

    for seed in range(4):
        simulate(seed, main, settings=SETTINGS)


@pytest.mark.parametrize("policy", ["block", "drop"])
def test_a_store_that_stays_away_does_not_fill_the_disk(policy: str) -> None:
    """docs/faults.md, row 23: total retention holds for what was never copied; the topic says whether to refuse or to drop."""
    plan = TopicPlan(
        "outage",
        1,
        {"segment.bytes": "4096", "retention.ms": "-1", "retention.bytes": "40000", "hotlog.untiered.overflow": policy},
        records=8,
    )

    async def main(world: SimWorld) -> None:
        scene = await Scene.open(world, plan, hours=10)
        world.bucket.weather.down = True
        for _ in range(10):
            for _ in range(10):
                await scene.traffic.produce(scene.life)
            await scene.hours(1)
        partition, ledger = scene.first
        assert partition.log.size <= 40_000 + 10 * 1100 + 2 * 4096
        assert (scene.traffic.refused > 0) == (policy == "block")
        start = partition.log_start_offset
        world.bucket.weather.down = False
        scene.traffic.refused = 0
        await scene.hours(3, produce=False)
        await scene.hours(60)
        assert scene.traffic.refused == 0
        assert partition.log_start_offset >= start
        await check_partition(partition, ledger)
        check_settled(world, grace_ms=12 * HOUR_MS)

    simulate(8, main, settings=SETTINGS)


def test_local_data_outlives_local_retention_while_the_store_is_away() -> None:
    """Faults 23: backpressure, never the loss of the only copy."""
    plan = TopicPlan("away", 1, {"segment.bytes": "4096", "local.retention.ms": str(6 * HOUR_MS), "segment.ms": str(2 * HOUR_MS)})

    async def main(world: SimWorld) -> None:
        scene = await Scene.open(world, plan, hours=12)
        world.bucket.weather.down = True
        await scene.hours(24)
        partition, ledger = scene.first
        assert partition.cold is not None
        assert partition.log.local_log_start_offset <= partition.cold.end_offset
        assert world.clock.now_ms() - partition.log.segments()[0].max_timestamp > 20 * HOUR_MS
        world.bucket.weather.down = False
        await scene.hours(8)
        assert world.clock.now_ms() - partition.log.segments()[0].max_timestamp <= 10 * HOUR_MS
        await check_partition(partition, ledger)

    simulate(9, main, settings=SETTINGS)


def test_with_page_cache_durability_a_kill_loses_nothing_and_a_power_loss_only_a_suffix() -> None:
    """Faults 7: and never what the store already has, for offsets would be given out twice."""
    plan = TopicPlan("cached", 1, {"segment.bytes": "2048", "hotlog.durability": "page-cache", "retention.ms": "-1"})

    async def main(world: SimWorld) -> None:
        traffic, ledger = Traffic(world, [plan]), Ledger("cached-0", world.seed, -1)
        traffic.ledgers["cached", 0] = ledger
        for number in range(16):
            life = world.begin()

            async def body(life: Life) -> None:
                await life.open()
                await traffic.ensure_topics(life)
                life.fuse.at = life.fuse.calls + world.random.randint(10, 120)
                world.machine.delay_seconds_max = (
                    3.0  # a disk so slow that a segment could be uploaded before it is on the device
                )
                _, partition, _ = traffic.partitions(life)[0]
                for _ in range(60):
                    for _ in range(3):
                        await send(partition, ledger.make(world.clock.now_ms()), now_ms=world.clock.now_ms())
                    await life.beat("copy")

            await life.run(body)
            how = "kill" if number % 3 == 0 else "power"
            await life.end(how)
            world.machine.delay_seconds_max = 0.003
            life = await world.boot()
            _, partition, _ = traffic.partitions(life)[0]
            end = partition.log.log_end_offset
            assert partition.cold is not None
            assert partition.cold.problem == ""
            assert partition.cold.end_offset <= end, "the store has offsets that will be given out again"
            lost = [one for one in ledger.acked if one.next_offset > end]
            assert how == "power" or not lost, "kill -9 lost acknowledged data"
            for one in lost:
                one.base_offset = -1
            await traffic.check(life)
            await life.end("stop")

    for seed in range(2):
        simulate(seed, main, settings=SETTINGS)


def test_nothing_is_uploaded_that_is_not_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the store would have offsets that a power loss takes back here, and that are then given out a second time."""
    plan = TopicPlan("cached", 1, {"segment.bytes": "2048", "hotlog.durability": "page-cache", "retention.ms": "-1"})

    async def main(world: SimWorld) -> None:
        scene = await Scene.open(world, plan)
        partition, _ = scene.first
        with monkeypatch.context() as patch:
            patch.setattr(Flusher, "kick", lambda self: None)  # an fsync that takes for ever
            for _ in range(30):
                await scene.traffic.produce(scene.life)
            await scene.life.beat("copy")
            assert partition.cold is not None
            assert partition.cold.view is None
        await scene.hours(2)
        view = partition.cold.view
        assert view is not None
        assert view.end_offset > 100

    simulate(0, main, settings=SETTINGS)
