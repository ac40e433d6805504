"""A short story told to its k-th call to disk or store, for every k: after each death a new life must find everything in order.

The story: found a cluster, make a topic, produce, roll, upload, commit, drop local segments, retain by size, delete records, reap after
the grace, reconcile, stop.  By default every STRIDE-th k is tried, another set for each seed; HOTLOG_SIM_SEEDS=N tries N sets, and all
calls when N reaches STRIDE.  A seed that is not whole (tests.sim.seeds) draws some k, and up to three deaths that follow.
"""

from __future__ import annotations

import asyncio
import functools

import pytest

from hotlog.kernel.errors import Retry
from tests.sim.clock import MINUTE_MS
from tests.sim.entropy import stream
from tests.sim.seeds import SEEDS, is_whole
from tests.sim.traffic import TopicPlan, Traffic, check_settled
from tests.sim.world import Life, SimWorld, simulate

STRIDE = 12
PARTS = 4  # of a whole seed, a test each
SMALL_DEATHS = 6
GRACE_MS = 10 * MINUTE_MS
SETTINGS = {
    "hotlog.garbage.grace.ms": str(GRACE_MS),
    "hotlog.reconcile.interval.ms": str(5 * MINUTE_MS),
    "log.retention.check.interval.ms": str(MINUTE_MS),
}
TOPIC = TopicPlan(
    "story",
    1,
    {
        "segment.bytes": "2048",
        "retention.ms": "-1",
        "retention.bytes": "9000",
        "local.retention.bytes": "3000",
        "file.delete.delay.ms": "1000",
    },
)


class Story:
    """The workload; it goes on where the last life stopped."""

    def __init__(self, world: SimWorld) -> None:
        self.world = world
        self.traffic = Traffic(world, [TOPIC])
        self.rounds = 0
        self.has_deleted = False

    async def tell(self, life: Life) -> None:
        await life.open()
        await self.traffic.ensure_topics(life)
        await self.traffic.check(life)
        while self.rounds < 8:
            for _ in range(3):
                await self.traffic.produce(life)
            await asyncio.sleep(4 * 60)
            await life.beat()
            self.rounds += 1
            if self.rounds >= 4 and not self.has_deleted:
                await self.delete_some(life)
        await life.node.close()

    async def delete_some(self, life: Life) -> None:
        partition = life.broker.partition(TOPIC.name, 0)
        assert partition is not None
        try:
            await partition.delete_records(min(partition.log_start_offset + 10, partition.log.high_watermark))
            self.has_deleted = True
        except Retry:
            return

    async def settle(self) -> None:
        life = await self.world.boot()
        for _ in range(16):
            await asyncio.sleep(4 * 60)
            await self.traffic.produce(life)
            await life.beat()
        await self.traffic.check(life)
        check_settled(self.world, grace_ms=2 * GRACE_MS)
        await life.end("stop")


async def calls_of_the_story(world: SimWorld) -> int:
    life = world.begin()
    story = Story(world)
    assert await life.run(story.tell)
    await life.end("kill")
    await story.settle()
    return life.fuse.calls


@functools.cache
def calls_in_all() -> int:
    total = simulate(0, calls_of_the_story, settings=SETTINGS)
    assert total > 300, "the story has become too short to tell anything"
    return total


async def die_at(world: SimWorld, at: int, more: int) -> None:
    """Die at call `at`, then soon after each of the next `more` starts: recovery is a story of its own."""
    story = Story(world)
    life = world.begin(at=at)
    while not await life.run(story.tell):
        await life.end(world.random.choice(("kill", "power")))
        life = world.begin(at=world.random.randint(1, 250) if world.lives <= more else None)
    await life.end("kill")
    await story.settle()


@pytest.mark.parametrize(("seed", "part"), [(seed, part) for seed in SEEDS for part in range(PARTS if is_whole(seed) else 1)])
def test_a_death_at_any_call_harms_nothing(seed: int, part: int) -> None:
    total = calls_in_all()
    if is_whole(seed):
        deaths = [(at, 1) for at in range(1, total + 1) if at % STRIDE == seed % STRIDE][part::PARTS]
    else:
        random = stream(seed, "deaths")
        deaths = [(at, random.randint(1, 3)) for at in sorted(random.sample(range(1, total + 1), SMALL_DEATHS))]
    for at, more in deaths:
        try:
            simulate(seed * 100_000 + at, lambda world, at=at, more=more: die_at(world, at, more), settings=SETTINGS)  # type: ignore[misc]
        except BaseException as failure:
            failure.add_note(f"the process died at call {at} of {total}, seed {seed}")
            raise
