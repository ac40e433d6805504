"""Fault 12 for days: bits rot in local segments and indexes that the store has, over kills and power losses; with a scrub nobody reads them."""

from __future__ import annotations

import asyncio

import pytest

from tests.sim.clock import HOUR_MS
from tests.sim.seeds import SEEDS, is_whole
from tests.sim.test_faults import Scene
from tests.sim.test_ninety_days import calendar_of
from tests.sim.traffic import TopicPlan, check_settled
from tests.sim.world import SimWorld, simulate

ROUNDS, SMALL_ROUNDS = 60, 10  # of a seed that is whole, and of the others
PLAN = TopicPlan(
    "rot",
    2,
    {"segment.bytes": "4096", "retention.ms": "-1", "local.retention.ms": str(72 * HOUR_MS), "index.interval.bytes": "600"},
)


def flip_some(scene: Scene) -> int:
    """Flip a bit in a file of a segment that the store has, of each partition; how many."""
    random, flipped = scene.world.random, 0
    for _, partition, _ in scene.traffic.partitions(scene.life):
        end = min(partition.log.tiered_end_offset, partition.log.recovery_point)
        infos = [info for info in partition.log.segments()[:-1] if info.end_offset <= end]
        if not infos:
            continue
        info = random.choice(infos)
        path = random.choice(
            (info.log_path, info.log_path, *(info.log_path.removesuffix(".log") + suffix for suffix in (".index", ".timeindex")))
        )
        size = scene.life.disk.size(path)
        if size:
            scene.world.machine.flip(path, random.randrange(size), random.randrange(8))
            flipped += 1
    return flipped


@pytest.mark.parametrize("seed", SEEDS)
def test_bits_that_rot_under_a_scrub_are_never_read(seed: int) -> None:
    calendar, rounds = calendar_of(seed), ROUNDS if is_whole(seed) else SMALL_ROUNDS

    async def main(world: SimWorld) -> None:
        scene, flipped, told = await Scene.open(world, PLAN, hours=12), 0, 0.0

        def found() -> float:
            corruption = scene.life.metrics.corruption
            return float(sum(corruption.labels(where)._value.get() for where in ("scrub", "log", "index")))

        for _ in range(rounds):
            flipped += flip_some(scene)
            how = world.random.choice((None, None, "kill", "power", "stop"))
            if how:
                told += found()
                await scene.restart(how)
            await asyncio.sleep(3600)
            await scene.life.beat("scrub")  # at once after a start, else every hour
            await scene.life.beat()
            await scene.traffic.produce(scene.life)
            await scene.hours(2)
            await scene.traffic.check(scene.life)
        assert flipped > rounds * 5 // 6
        assert told + found() >= min(flipped * 0.9, flipped - 2), "two flips may meet in one batch"
        for _, partition, _ in scene.traffic.partitions(scene.life):
            assert partition.log.failed is None
            assert partition.log.scrub.damaged_segments() == []
        await scene.hours(calendar.hours(48))
        check_settled(world, grace_ms=calendar.grace_ms)

    simulate(seed, main, settings={**calendar.settings, "hotlog.scrub.interval.ms": str(HOUR_MS // 2)})
