"""A round of retention does all that is due, several partitions at a time, however slowly the store answers."""

from __future__ import annotations

import asyncio

import pytest

import compaction.worker
from tests.log.support import append, batch
from tests.sim.clock import HOUR_MS
from tests.sim.world import Life, SimWorld, simulate

MANY = 300
CONFIGS = {"retention.ms": str(HOUR_MS), "hotlog.durability": "page-cache"}


async def expired(world: SimWorld) -> Life:
    """A node with many partitions, each with a segment in the store whose time is over."""
    life = await world.boot()
    await life.broker.create_topic("clicks", MANY, CONFIGS)
    for partition in life.broker.hosted():
        append(partition.log, batch(b"x" * 1000, timestamp=world.clock.now_ms()))
        partition.roll(world.clock.now_ms())
        await partition.log.flush()
    await asyncio.sleep(2 * 3600)
    await life.beat("copy")
    assert sum(partition.stored_range() is not None for partition in life.broker.hosted()) == MANY
    return life


async def ticks_of_a_round(life: Life) -> int:
    (tick,) = (beat.tick for beat in life.node.beats if beat.name == "retention")
    ticks = 1
    while await tick():
        ticks += 1
    return ticks


def test_all_that_is_due_goes_in_one_round_a_handful_of_ticks() -> None:
    """One partition a tick, and a second of rest after 64: 10,000 took hours where a beat was the measure."""

    async def main(world: SimWorld) -> None:
        life = await expired(world)
        began = world.loop.time()
        world.bucket.weather.latency_seconds = 0.08
        assert await ticks_of_a_round(life) <= 10
        assert all(partition.log_start_offset == 1 for partition in life.broker.hosted())
        assert all(len(partition.log.segments()) == 1 for partition in life.broker.hosted())
        assert world.loop.time() - began < MANY * 0.05, "not one after another"

    simulate(1, main)


def test_local_files_go_no_faster_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction.worker, "DROPPED_BYTES_PER_SECOND", 10_000)

    async def main(world: SimWorld) -> None:
        life = await expired(world)
        bytes_before = sum(partition.local_bytes for partition in life.broker.hosted())
        began = world.loop.time()
        await ticks_of_a_round(life)
        assert sum(partition.local_bytes for partition in life.broker.hosted()) == 0
        assert world.loop.time() - began > (bytes_before - 2 * 10_000) / 10_000

    simulate(2, main)
