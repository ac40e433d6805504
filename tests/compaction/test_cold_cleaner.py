"""Log compaction of what the store has: in the simulator, with readers over both tiers, and with deaths at every call to disk and store.

What was acknowledged or read of a key is remembered over all lives: later reads have that record or a newer one, or, after a tombstone, none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import ClassVar

import pytest

from hotlog.kernel.errors import NotFound, NotReady, OutcomeUnknown, Retry, StorageFailed, StoreUnavailable
from hotlog.partitions.partition import Partition
from hotlog.wire.batch import check_produced, walk
from hotlog.wire.error_codes import Refused
from hotlog.wire.records import decode_batch
from tests.compaction.cleaning import Seen, keyed
from tests.sim.clock import HOUR_MS, MINUTE_MS
from tests.sim.sweep import Sweep
from tests.sim.traffic import check_settled
from tests.sim.world import Life, SimWorld, simulate

TOPIC = "changes"
KEYS = [b"k%d" % n for n in range(8)]
GRACE_MS = 10 * MINUTE_MS
SETTINGS = {
    "hotlog.garbage.grace.ms": str(GRACE_MS), "hotlog.reconcile.interval.ms": str(5 * MINUTE_MS),
    "log.retention.check.interval.ms": str(MINUTE_MS), "log.cleaner.backoff.ms": "1000", "hotlog.compaction.prices": "minio-own-disks",
}  # fmt: skip
CONFIGS = {
    "cleanup.policy": "compact", "remote.storage.enable": "true", "segment.bytes": "1024", "min.cleanable.dirty.ratio": "0.1",
    "local.retention.ms": str(20 * MINUTE_MS), "delete.retention.ms": str(30 * MINUTE_MS), "file.delete.delay.ms": "1000",
}  # fmt: skip


class Changes:
    """A changelog, and what its readers know of it."""

    keys: ClassVar[Sequence[bytes]] = KEYS
    configs = CONFIGS
    puts, records_max, read_bytes = 4, 4, 700  # a round, in a batch, of an answer

    def __init__(self, world: SimWorld) -> None:
        self.world = world
        self.random = world.random
        self.tried: dict[int, tuple[bytes, bytes | None]] = {}
        self.known: dict[bytes, int] = {}
        self.rounds = 0

    async def partition(self, life: Life) -> Partition:
        while life.broker.topic(TOPIC) is None:
            try:
                await life.broker.create_topic(TOPIC, 1, dict(self.configs))
            except (Retry, Refused):
                await asyncio.sleep(30)
                await life.beat("broker")
        found = life.broker.partition(TOPIC, 0)
        assert found is not None
        return found

    async def put(self, partition: Partition) -> None:
        pairs = []
        for _ in range(self.random.randint(1, self.records_max)):
            value = b"%d" % self.random.getrandbits(40) + b"." * 60 if self.random.random() < 0.85 else None
            pairs.append((self.random.choice(self.keys), value))
        data = memoryview(keyed(pairs, codec=self.random.choice([0, 0, 4]), timestamp=self.world.clock.now_ms()))
        base = partition.log_end_offset
        self.tried = {offset: pair for offset, pair in self.tried.items() if offset < base}
        self.tried.update((base + n, pair) for n, pair in enumerate(pairs))
        try:
            partition.append(data, check_produced(data, batch_bytes_max=1 << 20), now_ms=self.world.clock.now_ms())
            await partition.committed(base + len(pairs))
        except (Retry, StorageFailed):
            return
        self.known.update((key, base + n) for n, (key, _) in enumerate(pairs))

    async def read(self, partition: Partition) -> list[Seen]:
        """All of it, from the earliest offset, once the store answers."""
        for _ in range(40):
            try:
                return await self._read(partition)
            except (Retry, NotFound, StoreUnavailable, NotReady, OutcomeUnknown):
                await asyncio.sleep(60)
        raise AssertionError(f"{partition.tp} cannot be read though the store is well again")

    async def _read(self, partition: Partition) -> list[Seen]:
        offset, found = partition.log_start_offset, []
        end = partition.committed_end
        while offset < end:
            piece = await partition.read(offset, self.read_bytes)
            whole = list(walk(memoryview(piece.data)))
            assert whole, f"nothing at offset {offset}, below {end}"
            for at, header in whole:
                for record in decode_batch(memoryview(piece.data)[at : at + header.size]):
                    if record.offset >= offset:
                        found.append(Seen(record.offset, record.key, record.value, record.timestamp))
            assert whole[-1][1].next_offset > offset
            offset = whole[-1][1].next_offset
        self.check(found, end)
        return found

    def check(self, found: list[Seen], end: int) -> None:
        assert [record.offset for record in found] == sorted({record.offset for record in found})
        for record in found:
            assert self.tried[record.offset] == (record.key, record.value)
        latest = {record.key: record.offset for record in found}
        for key, offset in self.known.items():
            if latest.get(key, -1) < offset < end:
                assert key not in latest, f"{key!r}: offset {latest[key]} came back, {offset} was known"
                assert self.tried[offset][1] is None, f"{key!r} at {offset} is lost"
        for key, offset in latest.items():
            assert key is not None
            self.known[key] = max(offset, self.known.get(key, -1))

    async def tell(self, life: Life) -> None:
        await life.open()
        partition = await self.partition(life)
        await self.read(partition)
        while self.rounds < 7:
            for _ in range(self.puts):
                await self.put(partition)
            await asyncio.sleep(12 * 60)
            partition = await self.partition(life)
            with contextlib.suppress(Retry, StorageFailed):
                partition.roll(self.world.clock.now_ms())
            await life.beat()
            await self.read(await self.partition(life))
            self.rounds += 1
        await life.node.close()

    async def settle(self) -> None:
        life = await self.rest()
        await life.end("stop")

    async def rest(self) -> Life:
        """A life until nothing is left to do: everything is in the store, cleaned, and tidied up."""
        life = await self.world.boot()
        for _ in range(14):
            partition = await self.partition(life)
            await self.put(partition)
            partition.roll(self.world.clock.now_ms())
            await asyncio.sleep(12 * 60)
            await life.beat()
            await self.read(await self.partition(life))
        return life


def rewritten(world: SimWorld) -> list[int]:
    """How far the store was cleaned, by root."""
    return [root.cleaned_end for root in world.manifests().values()]


async def a_life(world: SimWorld, kind: type[Changes] = Changes) -> None:
    story = kind(world)
    life = world.begin()
    assert await life.run(story.tell)
    await life.end("kill")
    assert any(rewritten(world)), "the store is cleaned before it all settles"
    life = await story.rest()
    partition = await story.partition(life)
    found = await story.read(partition)
    (root,) = world.manifests().values()
    assert root.cleaned_end > 0 and partition.local_log_start_offset > 0
    stored = [record for record in found if record.offset < root.cleaned_end]
    assert len({record.key for record in stored}) == len(stored), "one record a key"
    assert root.totals.records == len([record for record in found if record.offset < root.end_offset])
    assert root.totals.records < root.end_offset / 3, "bytes in the bucket shrink"
    dead = [key for key, offset in story.known.items() if story.tried[offset][1] is None and offset < root.cleaned_end - 30]
    old = world.clock.now_ms() - HOUR_MS
    assert not [record for record in stored if record.value is None and record.timestamp < old], (dead, "tombstones go")
    await life.beat()
    check_settled(world, grace_ms=3 * GRACE_MS)
    await life.end("stop")


def test_a_changelog_in_both_tiers_ends_with_one_value_a_key() -> None:
    for seed in range(3):
        simulate(seed, a_life, settings=SETTINGS)


class Many(Changes):
    """Twenty thousand updates over a thousand keys; `make changelog` has a million."""

    keys = tuple(b"key-%03d" % number for number in range(1000))
    configs = CONFIGS | {"segment.bytes": "65536"}
    puts, records_max, read_bytes = 20, 290, 1 << 16


def test_many_updates_of_a_thousand_keys_end_with_one_value_of_each() -> None:
    simulate(0, lambda world: a_life(world, Many), settings=SETTINGS)


SWEEP = Sweep(Changes, SETTINGS, stride=16, parts=4, few=2)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("seed", "part"), SWEEP.cases())
def test_a_death_at_any_call_brings_nothing_back(seed: int, part: int) -> None:
    SWEEP.die(seed, part)
