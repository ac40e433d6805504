"""A topic with thirty days of retention lives through ninety virtual days: crashes, power losses, bad weather in the store."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property

import pytest

from hotlog.kernel.errors import StoreUnavailable
from tests.sim.clock import DAY_MS, HOUR_MS, MINUTE_MS
from tests.sim.consumer import Consumer
from tests.sim.fuse import Crashed
from tests.sim.seeds import SEEDS, is_whole
from tests.sim.traffic import TopicPlan, Traffic, check_settled
from tests.sim.world import Life, SimWorld, simulate

STEP_MS = 10 * MINUTE_MS
SIZED = TopicPlan(
    "sized",
    1,
    {"segment.bytes": "4096", "retention.ms": "-1", "retention.bytes": "60000", "local.retention.bytes": "12000"},
)


@dataclass(frozen=True)
class Calendar:
    """How long things take in the story.

    Every span of time is `shorter` times shorter than in the whole one: the days themselves, retention, rolls, graces, the outage and the time
    between two looks, but not an hour: that is how often a batch is sent and the workers are due.
    """

    shorter: int
    lives: tuple[tuple[int, int], ...]  # a life ends by one of these numbers of calls: (least, most)

    def hours(self, whole: int) -> int:
        return whole // self.shorter

    def ms(self, whole: int) -> int:
        return whole // self.shorter

    @cached_property
    def grace_ms(self) -> int:
        return self.ms(12 * HOUR_MS)

    @cached_property
    def settings(self) -> dict[str, str]:
        return {
            "hotlog.garbage.grace.ms": str(self.grace_ms),
            "hotlog.reconcile.interval.ms": str(self.ms(6 * HOUR_MS)),
            "log.retention.check.interval.ms": str(self.ms(HOUR_MS)),
        }

    @cached_property
    def clicks(self) -> TopicPlan:
        return TopicPlan(
            "clicks",
            2,
            {
                "segment.bytes": "65536",
                "segment.ms": str(self.ms(12 * HOUR_MS)),
                "retention.ms": str(self.ms(30 * DAY_MS)),
                "local.retention.ms": str(self.ms(2 * DAY_MS)),
                "index.interval.bytes": "512",
            },
        )


WHOLE = Calendar(1, ((1, 300), (200, 4000), (1000, 20_000)))
SMALL = Calendar(6, ((1, 300), (100, 2000), (500, 6000)))
GRACE_MS, SETTINGS, CLICKS = WHOLE.grace_ms, WHOLE.settings, WHOLE.clicks


def calendar_of(seed: int) -> Calendar:
    return WHOLE if is_whole(seed) else SMALL


async def ninety_days(
    world: SimWorld, *, days: int = 90, storms: bool = True, calendar: Calendar = WHOLE, settles: bool = True
) -> None:
    clicks, end = calendar.clicks, calendar.hours(days * 24)
    outage = range(calendar.hours(40 * 24), calendar.hours(42 * 24))
    slow_start, day, check_every = (calendar.hours(count * 24) for count in (18, 1, 10))
    traffic = Traffic(world, [clicks, SIZED])
    random, hours = world.random, 0
    tail = Consumer("clicks", 0, traffic.ledger(clicks, 0))  # follows the end
    slow = Consumer("clicks", 1, traffic.ledger(clicks, 1), poll_bytes=700)  # weeks behind, in the cold tier

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
        while hours < end:
            world.bucket.weather.down = storms and hours in outage
            await asyncio.sleep(3600 - world.loop.time() % 3600)
            await traffic.produce(life)
            await life.beat()
            hours += 1
            await tail.poll(life)
            if hours > slow_start:
                await slow.poll(life)
            if storms and hours % day == 0:
                set_clock(world, random.choice((-STEP_MS, 0, STEP_MS)))
            if hours % check_every == 0 and not world.bucket.weather.down:
                await traffic.check(life, slack_ms=2 * STEP_MS)

    if storms:
        weather = world.bucket.weather
        weather.unavailable, weather.lost, weather.conflict, weather.kept = 0.02, 0.01, 0.01, 0.02
        weather.slow, weather.hang = 0.005, 0.003
    while True:
        life = world.begin(at=random.choice([random.randint(*calls) for calls in calendar.lives]))
        finished = await life.run(live) and hours >= end
        try:
            await life.end("stop" if finished else random.choice(("kill", "power")))
        except Crashed:  # its last call came while it stopped
            await life.end("kill")
        if finished:
            break
    if settles:
        await settle(world, traffic, calendar)
    if days >= 60:
        assert tail.read > end * 20 // 24
        assert slow.read > (end - slow_start) * 20 // 24


def set_clock(world: SimWorld, off_ms: int) -> None:
    """Somebody sets the broker's clock: it is `off_ms` from the true time now."""
    true_ms = world.store_clock.now_ms()
    world.clock.step(true_ms + off_ms - world.clock.now_ms())


async def settle(world: SimWorld, traffic: Traffic, calendar: Calendar) -> None:
    """Fair weather for five graces: then nothing may be out of place."""
    for name in ("unavailable", "lost", "conflict", "kept", "slow", "hang"):
        setattr(world.bucket.weather, name, 0.0)
    set_clock(world, 0)
    life = await world.boot()
    for _ in range(5 * calendar.grace_ms // HOUR_MS):
        await asyncio.sleep(3600)
        await traffic.produce(life)
        await life.beat()
    await traffic.check(life, slack_ms=2 * STEP_MS)
    check_settled(world, grace_ms=calendar.grace_ms)
    for plan, partition, ledger in traffic.partitions(life):
        late_ms = plan.retention_ms + calendar.ms(12 * HOUR_MS) + 2 * HOUR_MS
        oldest = next(one for one in ledger.acked if one.next_offset > partition.log_start_offset)
        if plan is calendar.clicks:
            assert world.clock.now_ms() - oldest.timestamp <= late_ms, "retention is late"
            assert partition.log.local_log_start_offset > partition.log_start_offset, "nothing is in the cold tier alone"
        else:
            size = partition.cold.size_bytes + partition.log.segments()[-1].size if partition.cold else 0
            assert 60_000 <= size <= 60_000 + 3 * 4096, f"{size} bytes are kept; 60,000 and the rest of a segment are wanted"
    await life.end("stop")


@pytest.mark.parametrize("seed", SEEDS)
def test_ninety_days_of_crashes_and_storms(seed: int) -> None:
    calendar = calendar_of(seed)
    simulate(seed, lambda world: ninety_days(world, calendar=calendar), settings=calendar.settings)
