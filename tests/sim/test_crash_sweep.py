"""A short story told to its k-th call to disk or store, for every k: after each death a new life must find everything in order.

The story: found a cluster, make a topic, produce, roll, upload, commit, drop local segments, retain by size, delete records, reap after
the grace, reconcile, stop.  Which k are tried is in tests.sim.sweep: every call when as many seeds as its stride are told.
"""

from __future__ import annotations

import asyncio

import pytest

from hotlog.kernel.errors import Retry
from tests.sim.clock import MINUTE_MS
from tests.sim.sweep import Sweep
from tests.sim.traffic import TopicPlan, Traffic, check_settled
from tests.sim.world import Life, SimWorld

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


SWEEP = Sweep(Story, SETTINGS, stride=12, parts=4, few=6)


@pytest.mark.parametrize(("seed", "part"), SWEEP.cases())
def test_a_death_at_any_call_harms_nothing(seed: int, part: int) -> None:
    SWEEP.die(seed, part)
