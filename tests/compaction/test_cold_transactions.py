"""Aborted data that was copied before its topic was compacted stays unseen: the local log tells of its end for as long as the store may have it."""

from __future__ import annotations

import asyncio

from hotlog.partitions.partition import Partition
from hotlog.wire.batch import header_at
from hotlog.wire.markers import Marker
from hotlog.wire.records import NewRecord, encode_batch
from tests.compaction.cleaning import Pair
from tests.compaction.test_cold_cleaner import CONFIGS, SETTINGS, TOPIC
from tests.sim.committed import read_committed
from tests.sim.world import Life, SimWorld, simulate
from tests.support.topics import alter_configs

PRODUCER = 7
DELETED = CONFIGS | {"cleanup.policy": "delete", "retention.ms": "-1", "local.retention.ms": "1000", "segment.bytes": "4096"}
COMPACTED = DELETED | {"cleanup.policy": "compact"}


class Writer:
    """Writes into one partition, as the clock of `life` says."""

    def __init__(self, life: Life, partition: Partition) -> None:
        self._clock = life.world.clock
        self._partition = partition
        self._sequence = 0

    async def put(self, *pairs: Pair, is_transactional: bool = False) -> None:
        records = [NewRecord(self._clock.now_ms(), key, value) for key, value in pairs]
        producer = (PRODUCER, 0, self._sequence) if is_transactional else (-1, -1, -1)
        batch = encode_batch(
            records,
            producer_id=producer[0],
            producer_epoch=producer[1],
            base_sequence=producer[2],
            is_transactional=is_transactional,
        )
        self._sequence += len(records) if is_transactional else 0
        appended = self._partition.append(memoryview(batch), [header_at(batch)], now_ms=self._clock.now_ms())
        await self._partition.committed(appended.end_offset)

    async def end(self, *, is_commit: bool) -> None:
        marker = Marker(PRODUCER, 0, 0, is_commit)
        await self._partition.committed(self._partition.append_marker(marker, now_ms=self._clock.now_ms(), version=0))

    async def close_segment(self) -> None:
        self._partition.roll(self._clock.now_ms())
        await self._partition.log.flush()


async def an_end_that_is_cleaned(world: SimWorld) -> None:
    life = world.begin()
    await life.open()
    await life.broker.create_topic(TOPIC, 1, dict(DELETED))
    partition = life.broker.partition(TOPIC, 0)
    assert partition is not None
    writer = Writer(life, partition)
    await writer.put((b"a", b"old"), (b"b", b"old"))
    await writer.put((b"a", b"aborted"), (b"c", b"aborted"), is_transactional=True)
    await writer.close_segment()
    await writer.end(is_commit=False)  # the segment behind what it ends
    border = partition.log_end_offset - 1
    await writer.put((b"d", b"new"), is_transactional=True)
    await writer.end(is_commit=True)
    await asyncio.sleep(60)
    await life.beat("copy", "retention")
    assert partition.local_log_start_offset == border, "the store alone has the aborted data, the local log alone its end"

    expected = {b"a": b"old", b"b": b"old", b"d": b"new"}

    async def check(when: str) -> None:
        shown = await read_committed(partition)
        assert {record.key: record.value for record in shown} == expected, when

    await check("as it was made")
    await alter_configs(life.broker, TOPIC, dict(COMPACTED))
    for number in range(3):
        expected[b"e"] = b"%d" % number
        await writer.put((b"e", expected[b"e"]))
        await writer.close_segment()
        await asyncio.sleep(60)
        await life.beat("cleaner")
        assert partition.log.clean.cleaned_end == partition.log_end_offset, "the end was cleaned"
        await check(f"after cleaning {number + 1}")
    await asyncio.sleep(60)
    await life.beat("copy", "retention")
    assert partition.local_log_start_offset == partition.log_end_offset
    await check("from the store alone")
    for number in range(3):
        expected[b"e"] = b"again %d" % number
        await writer.put((b"e", expected[b"e"]))
        await writer.close_segment()
        await asyncio.sleep(3600)
        await life.beat("cleaner", "copy", "cold-cleaner", "retention")
        await check(f"cleaned in the store {number + 1} times")
    (root,) = world.manifests().values()
    assert root.cleaned_end == root.end_offset
    assert (root.totals.aborted, root.totals.records) == (0, 5), (
        "nothing is left of it: four keys, and the marker of what was committed"
    )
    await life.end("stop")


def test_what_was_aborted_before_a_topic_was_compacted_is_never_shown() -> None:
    simulate(0, an_end_that_is_cleaned, settings=SETTINGS)
