"""A short story told to its k-th call to disk or store, for every k: after each death a new life must find everything in order.

The story: found a cluster, make a topic, produce, roll, upload, commit, drop local segments, retain by size, delete records, reap after
the grace, reconcile, stop.  By default every STRIDE-th k is tried, another set for each seed; HOTLOG_SIM_SEEDS=N tries N sets, and all
calls when N reaches STRIDE.
"""

from __future__ import annotations

import asyncio
import os

import pytest

from hotlog.kernel.errors import Retry
from tests.sim.clock import MINUTE_MS
from tests.sim.traffic import TopicPlan, Traffic, check_settled
from tests.sim.world import Life, SimWorld, simulate

SEEDS = int(os.environ.get("HOTLOG_SIM_SEEDS", "1"))
STRIDE = 12
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


async def die_at(world: SimWorld, at: int) -> None:
    story = Story(world)
    life = world.begin(at=at)
    while not await life.run(story.tell):
        await life.end(world.random.choice(("kill", "power")))
        # a second death soon after the first: recovery is a story of its own
        life = world.begin(at=world.random.randint(1, 250) if world.lives == 1 else None)
    await life.end("kill")
    await story.settle()


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_death_at_any_call_harms_nothing(seed: int, part: int) -> None:
    total = simulate(0, calls_of_the_story, settings=SETTINGS)
    assert total > 300, "the story has become too short to tell anything"
    chosen = [at for at in range(1, total + 1) if at % STRIDE == seed % STRIDE]
    for at in chosen[part::4]:
        try:
            simulate(seed * 100_000 + at, lambda world, at=at: die_at(world, at), settings=SETTINGS)  # type: ignore[misc]
        except BaseException as failure:
            failure.add_note(f"the process died at call {at} of {total}, seed {seed}")
            raise
