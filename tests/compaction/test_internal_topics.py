"""The cluster's own compacted topics are cleaned as they are made, with the settings that nobody changed."""

from __future__ import annotations

import asyncio

from hotlog.partitions.partition import Partition
from hotlog.wire.error_codes import Refused
from tests.compaction.cleaning import seen_by_reader
from tests.coordinators.scene import commit
from tests.sim.world import Life, SimWorld, simulate

COMMITS, TRANSACTIONS = 60, 12
GROUP, NAME = "g", "payments"


async def made(life: Life) -> None:
    while True:
        try:
            await life.broker.groups.ensure()
            await life.broker.transactions.ensure()
            return
        except Refused:
            await asyncio.sleep(1)


def written(life: Life, topic: str) -> list[Partition]:
    """The partitions of a topic that have records."""
    image = life.broker.topic(topic)
    assert image is not None
    found = [life.broker.partition(topic, index) for index in range(len(image.partitions))]
    return [partition for partition in found if partition is not None and partition.log_end_offset > 0]


async def cleaned(life: Life, topic: str) -> None:
    (partition,) = written(life, topic)
    config = partition.config
    assert (config.is_compacted, config.is_deleted, config.segment_bytes, config.cleanable_ratio_min) == (
        True,
        False,
        104_857_600,
        0.5,
    )
    assert not config.remote_enabled
    before = len((await seen_by_reader(partition.log))[1])
    partition.roll(life.world.clock.now_ms())
    await partition.log.flush()
    await asyncio.sleep(15)  # log.cleaner.backoff.ms
    await life.beat("cleaner")
    after = (await seen_by_reader(partition.log))[1]
    assert partition.log.clean.cleaned_end == partition.log_end_offset
    assert len({record.key for record in after}) == len(after) < before / 4


async def story(world: SimWorld) -> None:
    life = world.begin()
    await life.open()
    await made(life)
    await life.broker.create_topic("clicks", 1)
    for offset in range(COMMITS):
        await commit(life.broker.groups, GROUP, 0, offset=offset)
    for _ in range(TRANSACTIONS):
        given = await life.broker.transactions.init_id(NAME, timeout_ms=60_000, expected=None)
    for topic in ("__consumer_offsets", "__transaction_state"):
        await cleaned(life, topic)
    await life.end("kill")
    life = world.begin()
    await life.open()
    await made(life)
    value = life.broker.groups.offsets(GROUP)["clicks", 0]
    assert value.offset == COMMITS - 1
    known = life.broker.transactions.describe(NAME)
    assert known is not None and (known.producer_id, known.epoch) == (given.producer_id, given.epoch)
    await life.end("stop")


def test_offsets_and_transactions_are_cleaned_by_default() -> None:
    simulate(0, story)
