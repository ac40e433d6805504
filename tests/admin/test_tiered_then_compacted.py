"""A topic that was tiered and is compacted later, or whose broker changes its defaults: what only the store has stays readable."""

from __future__ import annotations

from pathlib import Path

import pytest
from kio.schema.errors import ErrorCode

from compaction.trusted_clock import TrustedClock
from compaction.worker import RetentionWorker
from controller.config_rules import APPEND, DELETE, SET
from hotlog.broker.broker import Broker
from tests.admin.node import heard_of, running
from tests.admin.test_configs import BROKER, TOPIC, alter, entry, step
from tests.admin.test_life import TP, fetch_code, produce, tier, values_cold

COLD = [b"%d" % number for number in range(20)]


async def with_history(broker: Broker) -> None:
    """Offsets 0 to 19 are only in the store, 20 to 24 only local."""
    await broker.create_topic("clicks", 1)
    await produce(broker, 0, 20)
    await tier(broker, 20)
    assert await broker.logs.get(TP).drop_local_before(20) > 0
    await produce(broker, 20, 5)


async def copied_end(broker: Broker) -> int:
    """Where the cold tier ends after the active segment was closed and copying had its turn."""
    log = broker.logs.get(TP)
    log.roll(broker.clock.now_ms())
    await log.flush()
    await broker.tier.tick_copy()
    for task in broker.tier.flights.tasks:
        await task
    return broker.partition("clicks", 0).cold.end_offset


async def reads_history(broker: Broker) -> bool:
    partition = broker.partition("clicks", 0)
    assert partition.log_start_offset == 0
    assert fetch_code(broker, 3) is ErrorCode.none
    return (await values_cold(broker, 0, 20))[:20] == COLD


async def by_set(broker: Broker, validate_only: bool = False):
    return await step(broker, TOPIC, "clicks", ("cleanup.policy", SET, "compact"), validate_only=validate_only)


async def by_append(broker: Broker, validate_only: bool = False):
    return await step(broker, TOPIC, "clicks", ("cleanup.policy", APPEND, "compact"), validate_only=validate_only)


async def by_alter(broker: Broker, validate_only: bool = False):
    return await alter(broker, TOPIC, "clicks", {"cleanup.policy": "compact"}, validate_only=validate_only)


@pytest.mark.parametrize("change", [by_set, by_append, by_alter])
async def test_a_tiered_topic_becomes_compacted_and_keeps_its_history(tmp_path: Path, change) -> None:
    async with running(tmp_path) as broker:
        await with_history(broker)
        dry = await change(broker, validate_only=True)
        assert (dry.error_code, dry.error_message) == (ErrorCode.none, None)
        assert broker.topic("clicks").configs == {}
        for _ in range(2):  # asked twice is the same
            real = await change(broker)
            assert (real.error_code, real.error_message) == (ErrorCode.none, None)
            assert (await entry(broker, TOPIC, "clicks", "remote.storage.enable")).value == "true"
        assert await reads_history(broker)
        assert await copied_end(broker) == 20, "what is new is copied once it was cleaned"
        assert broker.metrics.remote_copy_lag_segments.labels("clicks")._value.get() == 0, "and nothing waits for it"
    async with running(tmp_path) as broker:
        assert await reads_history(broker)
        assert await copied_end(broker) == 20
        assert (await step(broker, TOPIC, "clicks", ("cleanup.policy", DELETE, None))).error_code is ErrorCode.none
        await tier(broker, 25)
        assert await values_cold(broker, 0, 25) == [b"%d" % number for number in range(25)], "copying goes on where it ended"


async def test_deletion_by_time_and_size_does_not_run_on_a_topic_that_is_only_compacted(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await with_history(broker)
        worker = RetentionWorker(
            broker.hosted, clock=broker.clock, settings=lambda: broker.settings, metrics=broker.metrics,
            trusted=TrustedClock(broker.clock),
        )  # fmt: skip
        short = (("retention.ms", SET, "0"), ("retention.bytes", SET, "0"), ("hotlog.untiered.overflow", SET, "drop"))
        assert (await step(broker, TOPIC, "clicks", ("cleanup.policy", SET, "compact"), *short)).error_code is ErrorCode.none
        broker.logs.get(TP).roll(broker.clock.now_ms())
        plan = await worker.plan(broker.partition("clicks", 0))
        assert (plan.log_start_offset, plan.local_drop_offset, plan.cold_entries) == (0, 20, 0)
        assert not plan.blocks_appends
        assert (await step(broker, TOPIC, "clicks", ("cleanup.policy", APPEND, "delete"))).error_code is ErrorCode.none
        assert (await worker.plan(broker.partition("clicks", 0))).log_start_offset == 25, "with `delete` beside it it does"


async def test_turning_tiering_off_beside_it_is_still_said_aloud(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await with_history(broker)
        off = (("cleanup.policy", SET, "compact"), ("remote.storage.enable", SET, "false"))
        refused = await step(broker, TOPIC, "clicks", *off)
        assert refused.error_code is ErrorCode.invalid_config
        assert "remote.log.delete.on.disable" in refused.error_message
        ready = ("remote.log.delete.on.disable", SET, "true")
        assert (await step(broker, TOPIC, "clicks", ("cleanup.policy", SET, "compact"), ready)).error_code is ErrorCode.none
        assert await reads_history(broker), "being allowed to delete is not being told to"
        assert (await step(broker, TOPIC, "clicks", ("remote.storage.enable", SET, "false"))).error_code is ErrorCode.none
        assert broker.partition("clicks", 0).log_start_offset == 20
    async with running(tmp_path) as broker:
        assert broker.partition("clicks", 0).log_start_offset == 20


DEFAULTS = [("log.cleanup.policy", "compact"), ("hotlog.remote.storage.enable", "false")]


@pytest.mark.parametrize(("key", "value"), DEFAULTS)
async def test_a_default_that_changes_while_the_broker_runs_gives_up_nothing(tmp_path: Path, key: str, value: str) -> None:
    async with running(tmp_path) as broker:
        await with_history(broker)
        assert (await step(broker, BROKER, "", (key, SET, value))).error_code is ErrorCode.none
        assert await reads_history(broker)
        assert await copied_end(broker) == 20
    async with running(tmp_path) as broker:
        await heard_of(broker.tier)
        assert await reads_history(broker)
        assert (await step(broker, BROKER, "", (key, DELETE, None))).error_code is ErrorCode.none
        await tier(broker, 25)
        assert await reads_history(broker)


@pytest.mark.parametrize(("key", "value"), [*DEFAULTS, ("remote.log.storage.system.enable", "false")])
async def test_a_default_that_changes_in_the_file_gives_up_nothing(tmp_path: Path, key: str, value: str) -> None:
    async with running(tmp_path) as broker:
        await with_history(broker)
    async with running(tmp_path, {key: value}, tiered=key != "remote.log.storage.system.enable") as broker:
        assert broker.partition("clicks", 0).log_start_offset == 0
        if broker.tier is not None:
            await heard_of(broker.tier)
            assert await reads_history(broker)
        changed = await step(broker, TOPIC, "clicks", ("segment.ms", SET, "1000000"))
        assert (changed.error_code, changed.error_message) == (ErrorCode.none, None)
    async with running(tmp_path) as broker:
        assert await reads_history(broker)
