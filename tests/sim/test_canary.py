"""Canaries: the node is broken on purpose, and the simulation must cry out.  A checker that lets these pass has no teeth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import compaction.worker
from compaction.retention import Plan
from hotlog.log.flusher import Flusher
from hotlog.log.producers import Producers
from hotlog.log.waiters import OffsetWaiters, Told
from tests.sim.bucket import Violation
from tests.sim.checker import check_partition
from tests.sim.clock import HOUR_MS
from tests.sim.test_ninety_days import SETTINGS
from tests.sim.traffic import TopicPlan, Traffic, check_settled
from tests.sim.world import Life, SimWorld, simulate
from tiering.manifest.root import Manifest

PLAN = TopicPlan(
    "canary", 1, {"segment.bytes": "2048", "retention.ms": str(24 * HOUR_MS), "local.retention.ms": str(4 * HOUR_MS)}
)
QUICK = {**SETTINGS, "hotlog.garbage.grace.ms": str(HOUR_MS), "hotlog.reconcile.interval.ms": str(HOUR_MS)}


async def two_days(world: SimWorld) -> None:
    """A quiet two days with a few power losses, then everything is checked."""
    traffic = Traffic(world, [PLAN])
    life = await world.boot()
    await traffic.ensure_topics(life)
    for hour in range(48):
        await asyncio.sleep(3600)
        await traffic.produce(life)
        await life.beat()
        if hour % 6 == 5:
            await traffic.check(life)
            await life.end("power")
            life = await world.boot()
    await traffic.check(life)
    for _, partition, ledger in traffic.partitions(life):
        await check_partition(partition, ledger)
    check_settled(world, grace_ms=2 * HOUR_MS)


def cries(match: str, *, main: Callable[[SimWorld], Coroutine[Any, Any, None]] = two_days, seeds: int = 3) -> None:
    """One of a few seeds must find it."""
    for seed in range(seeds):
        try:
            simulate(seed, main, settings=QUICK)
        except Violation as violation:
            assert match in str(violation), violation
            return
    pytest.fail(f"nobody noticed; expected {match!r}")


def test_the_quiet_days_are_quiet() -> None:
    simulate(0, two_days, settings=QUICK)


def test_an_ack_before_the_fsync_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(self: OffsetWaiters, offset: int, told: Told, timeout_s: float | None = None) -> None:
        told(None)

    monkeypatch.setattr(OffsetWaiters, "add", at_once)
    monkeypatch.setattr(Flusher, "kick", lambda self: None)

    async def main(world: SimWorld) -> None:
        traffic = Traffic(world, [PLAN])
        life = await world.boot()
        await traffic.ensure_topics(life)
        for _ in range(10):
            await traffic.produce(life)
        await life.end("power")
        await traffic.check(await world.boot())

    cries("cannot be read", main=main)


def test_early_retention_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = compaction.worker.plan_retention

    def early(*args: Any, **options: Any) -> Plan:
        return plan(*args, **{**options, "now_ms": options["now_ms"] + 6 * HOUR_MS})

    monkeypatch.setattr(compaction.worker, "plan_retention", early)
    cries("is gone at an age of")


def test_a_delete_of_a_live_object_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from compaction import reaper

    def anything(manifest: Manifest, now_ms: int) -> tuple[Any, ...]:
        return (*manifest.garbage, *(row for row in manifest.entries if not row.is_hole))

    monkeypatch.setattr(reaper, "doomed_before", anything)
    monkeypatch.setattr(reaper, "names_of", lambda manifest, items, pages: tuple(item.name for item in items))
    cries("refers to it")


def test_a_local_drop_before_the_commit_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from hotlog.log.partition_log import PartitionLog

    real = PartitionLog.drop_local_before

    async def greedy(self: PartitionLog, offset: int, *, expired: bool = False) -> int:
        return await real(self, self.active.base_offset, expired=True)

    monkeypatch.setattr(PartitionLog, "drop_local_before", greedy)

    async def main(world: SimWorld) -> None:
        traffic = Traffic(world, [PLAN])
        life = await world.boot()
        await traffic.ensure_topics(life)
        for hour in range(30):
            world.bucket.weather.down = hour > 6
            await asyncio.sleep(3600)
            for _ in range(4):
                await traffic.produce(life)
            await life.beat()
        world.bucket.weather.down = False
        await asyncio.sleep(600)
        await life.beat()
        await traffic.check(life)

    def noticed() -> None:
        try:
            simulate(0, main, settings=QUICK)
        except Exception as failure:
            assert "canary" in str(failure)
            return
        pytest.fail("nobody noticed that the only copy was dropped")

    noticed()


def test_a_forgotten_producer_state_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch in doubt is sent again after the crash: without sequence numbers it would be there twice."""
    monkeypatch.setattr(Producers, "check", lambda self, headers: None)

    async def main(world: SimWorld) -> None:
        traffic = Traffic(world, [PLAN])
        for calls in range(1, 16):
            life = world.begin()

            async def body(life: Life, calls: int = calls) -> None:
                await life.open()
                await traffic.ensure_topics(life)
                life.fuse.at = life.fuse.calls + calls
                for _ in range(20):
                    await traffic.produce(life)

            assert not await life.run(body)
            await life.end("kill")
            life = await world.boot()
            await traffic.produce(life)
            await traffic.check(life)
            await life.end("kill")

    cries("comes after batch", main=main, seeds=2)


def test_an_orphan_that_nobody_looks_for_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from compaction.reconcile import Reconciler

    async def blind(self: Reconciler) -> bool:
        return False

    monkeypatch.setattr(Reconciler, "tick", blind)

    async def main(world: SimWorld) -> None:
        traffic = Traffic(world, [PLAN])
        life = await world.boot()
        await traffic.ensure_topics(life)
        await traffic.produce(life)
        partition = life.broker.partition(PLAN.name, 0)
        assert partition is not None
        assert partition.cold is not None
        await two_hours(traffic, life)
        world.bucket.put(partition.cold.keys.object("0" * 20 + "-0-" + "ab" * 16 + ".seg"), b"orphan", None, False)
        for _ in range(30):
            await two_hours(traffic, life)
        check_settled(world, grace_ms=2 * HOUR_MS)

    cries("orphan", main=main, seeds=1)


async def two_hours(traffic: Traffic, life: Life) -> None:
    for _ in range(2):
        await asyncio.sleep(3600)
        for _ in range(3):
            await traffic.produce(life)
        await life.beat()
