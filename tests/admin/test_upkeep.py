"""Upkeep of many partitions is pieces: the most that runs at once does not grow with them."""

from __future__ import annotations

from pathlib import Path

import pytest

import compaction.reaper
import compaction.worker
from compaction.reaper import Reaper
from compaction.trusted_clock import TrustedClock
from compaction.worker import RetentionWorker
from hotlog.broker import image_effects
from hotlog.broker.broker import Broker
from hotlog.log import manager
from hotlog.partitions import hosting
from tests.admin.node import heard_of, running
from tests.tools.steps import Steps, count_steps


async def settled(broker: Broker) -> None:
    """What is to be done once is done: a block of producer ids put by, what the metadata log retired deleted; one thing a tick."""
    while await broker.logs.tick() or await broker.tick():
        pass


async def retention_round(broker: Broker) -> int:
    """The most steps at once in a round."""
    worker = RetentionWorker(
        broker.hosted, clock=broker.clock, settings=lambda: broker.settings, metrics=broker.metrics,
        trusted=TrustedClock(broker.clock),
    )  # fmt: skip
    most, is_more = 0, True

    async def tick() -> None:
        nonlocal is_more
        is_more = await worker.tick()

    while is_more:
        most = max(most, (await count_steps(tick())).most)
    return most


async def test_the_most_that_runs_at_once_does_not_grow_with_the_partitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction.worker, "LOOKED_AT_ONCE", 8)
    monkeypatch.setattr(hosting, "LOOKED_AT_ONCE", 8)
    monkeypatch.setattr(image_effects, "LOOKED_AT_ONCE", 8)
    async with running(tmp_path, tiered=False) as broker:
        await broker.create_topic("few", 4)
        await settled(broker)
        await retention_round(broker)
        upkeep: list[Steps] = [await count_steps(broker.tick())]
        rounds = [await retention_round(broker)]
        for number in range(40):
            await broker.create_topic(f"many-{number}", 4)
        await settled(broker)
        upkeep.append(await count_steps(broker.tick()))
        rounds.append(await retention_round(broker))
        assert rounds[1] < 3 * rounds[0]
        assert upkeep[1].total < 1.5 * upkeep[0].total, "nothing happened in any of them"


async def test_sizes_of_many_logs_are_summed_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "TICKED_AT_ONCE", 8)
    async with running(tmp_path, tiered=False) as broker:
        found: list[Steps] = []
        for count in (8, 160):
            await broker.create_topic(f"of-{count}", count)
            await broker.logs.by_topic()  # what is done once, is done
            found.append(await count_steps(broker.logs.by_topic()))
        assert found[1].total > 5 * found[0].total
        assert found[1].most < 3 * found[0].most


async def test_copying_costs_nothing_where_nothing_happened_and_reaping_is_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction.reaper, "PARTITIONS_MAX", 4)
    async with running(tmp_path) as broker:
        assert broker.tier is not None
        found: list[tuple[Steps, Steps]] = []
        for count in (4, 80):
            await broker.create_topic(f"of-{count}", count)
            await heard_of(broker.tier)
            await broker.tier.tick_copy()  # what is done once, is done
            await Reaper(
                broker.tier,
                broker.tier._store,
                metrics=broker.metrics,
                trusted=TrustedClock(broker.clock),
                grace_ms=lambda: 1_000,
            ).tick()
            reaper = Reaper(
                broker.tier,
                broker.tier._store,
                metrics=broker.metrics,
                trusted=TrustedClock(broker.clock),
                grace_ms=lambda: 1_000,
            )
            found.append((await count_steps(broker.tier.tick_copy()), await count_steps(reaper.tick())))
        (copy_few, reap_few), (copy_many, reap_many) = found
        assert copy_many.total < 1.5 * copy_few.total
        assert reap_many.most < 6 * reap_few.most
