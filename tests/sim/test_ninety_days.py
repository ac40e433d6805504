"""A topic with thirty days of retention lives through ninety virtual days: crashes, power losses, bad weather in the store."""

from __future__ import annotations

import asyncio
import os

import pytest

from hotlog.kernel.errors import StoreUnavailable
from tests.sim.clock import DAY_MS, HOUR_MS, MINUTE_MS
from tests.sim.consumer import Consumer
from tests.sim.fuse import Crashed
from tests.sim.traffic import TopicPlan, Traffic, check_settled
from tests.sim.world import Life, SimWorld, simulate

SEEDS = int(os.environ.get("HOTLOG_SIM_SEEDS", "1"))
GRACE_MS = 12 * HOUR_MS
STEP_MS = 10 * MINUTE_MS
SETTINGS = {
    "hotlog.garbage.grace.ms": str(GRACE_MS),
    "hotlog.reconcile.interval.ms": str(6 * HOUR_MS),
    "log.retention.check.interval.ms": str(HOUR_MS),
}
CLICKS = TopicPlan(
    "clicks",
    2,
    {
        "segment.bytes": "65536",
        "segment.ms": str(12 * HOUR_MS),
        "retention.ms": str(30 * DAY_MS),
        "local.retention.ms": str(2 * DAY_MS),
        "index.interval.bytes": "512",
    },
)
SIZED = TopicPlan(
    "sized",
    1,
    {"segment.bytes": "4096", "retention.ms": "-1", "retention.bytes": "60000", "local.retention.bytes": "12000"},
)


async def ninety_days(world: SimWorld, *, days: int = 90, storms: bool = True) -> None:
    traffic = Traffic(world, [CLICKS, SIZED])
    random, hours = world.random, 0
    tail = Consumer("clicks", 0, traffic.ledger(CLICKS, 0))  # follows the end
    slow = Consumer("clicks", 1, traffic.ledger(CLICKS, 1), poll_bytes=700)  # weeks behind, in the cold tier

    async def live(life: Life) -> None:
        nonlocal hours
        try:
            await life.open()
        except StoreUnavailable:  # as an operator sees it at the very first start: try again
            await asyncio.sleep(60)
            return
        await traffic.ensure_topics(life)
        if world.lives % 4 == 1 and not world.bucket.weather.down:
            await traffic.check(life, slack_ms=2 * STEP_MS)
        while hours < days * 24:
            world.bucket.weather.down = storms and 40 * 24 <= hours < 42 * 24
            await asyncio.sleep(3600 - world.loop.time() % 3600)
            await traffic.produce(life)
            await life.beat()
            hours += 1
            await tail.poll(life)
            if hours > 18 * 24:
                await slow.poll(life)
            if storms and hours % 24 == 0:
                set_clock(world, random.choice((-STEP_MS, 0, STEP_MS)))
            if hours % 240 == 0 and not world.bucket.weather.down:
                await traffic.check(life, slack_ms=2 * STEP_MS)

    if storms:
        weather = world.bucket.weather
        weather.unavailable, weather.lost, weather.conflict, weather.kept = 0.02, 0.01, 0.01, 0.02
        weather.slow, weather.hang = 0.005, 0.003
    while True:
        life = world.begin(at=random.choice((random.randint(1, 300), random.randint(200, 4000), random.randint(1000, 20_000))))
        finished = await life.run(live) and hours >= days * 24
        try:
            await life.end("stop" if finished else random.choice(("kill", "power")))
        except Crashed:  # its last call came while it stopped
            await life.end("kill")
        if finished:
            break
    await settle(world, traffic)
    if days >= 60:
        assert tail.read > days * 20
        assert slow.read > (days - 18) * 20


def set_clock(world: SimWorld, off_ms: int) -> None:
    """Somebody sets the broker's clock: it is `off_ms` from the true time now."""
    true_ms = world.store_clock.now_ms()
    world.clock.step(true_ms + off_ms - world.clock.now_ms())


async def settle(world: SimWorld, traffic: Traffic) -> None:
    """Fair weather for five graces: then nothing may be out of place."""
    for name in ("unavailable", "lost", "conflict", "kept", "slow", "hang"):
        setattr(world.bucket.weather, name, 0.0)
    set_clock(world, 0)
    life = await world.boot()
    for _ in range(5 * GRACE_MS // HOUR_MS):
        await asyncio.sleep(3600)
        await traffic.produce(life)
        await life.beat()
    await traffic.check(life, slack_ms=2 * STEP_MS)
    check_settled(world, grace_ms=GRACE_MS)
    for plan, partition, ledger in traffic.partitions(life):
        late_ms = plan.retention_ms + 12 * HOUR_MS + 2 * HOUR_MS
        oldest = next(one for one in ledger.acked if one.next_offset > partition.log_start_offset)
        if plan is CLICKS:
            assert world.clock.now_ms() - oldest.timestamp <= late_ms, "retention is late"
            assert partition.log.local_log_start_offset > partition.log_start_offset, "nothing is in the cold tier alone"
        else:
            size = partition.cold.size_bytes + partition.log.segments()[-1].size if partition.cold else 0
            assert 60_000 <= size <= 60_000 + 3 * 4096, f"{size} bytes are kept; 60,000 and the rest of a segment are wanted"
    await life.end("stop")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_ninety_days_of_crashes_and_storms(seed: int) -> None:
    simulate(seed, ninety_days, settings=SETTINGS)
