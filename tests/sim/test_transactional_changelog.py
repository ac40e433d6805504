"""Transactions, compaction and both tiers at once, through a death at any call to disk or store.

Two producers write transactions into a changelog, and a third one without transactions; some transactions stay open for long, some are
aborted. The topic is copied to the store as it is at first, then compacted here and there. Readers of committed records look at all of it
again and again: what was aborted is never shown, what was committed is there or something newer of its key, and nothing is older than
what was seen before.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest

from hotlog.kernel.errors import Retry, StorageFailed
from hotlog.partitions.partition import Partition
from hotlog.wire.batch import check_produced
from hotlog.wire.error_codes import Refused
from hotlog.wire.records import NewRecord
from tests.compaction.cleaning import keyed
from tests.sim.bucket import Violation
from tests.sim.clock import MINUTE_MS
from tests.sim.committed import Committed, read_committed
from tests.sim.sweep import Sweep
from tests.sim.transacting import Transactor, coordinated
from tests.sim.world import Life, SimWorld
from tests.support.topics import alter_configs

TOPIC, PLACE = "changes", ("changes", 0)
KEYS = [b"k%d" % n for n in range(8)]
WRITERS = ("w0", "w1")
ROUNDS, COMPACTED_FROM = 7, 2
STRIDE = 200
GRACE_MS = 10 * MINUTE_MS
SETTINGS = {
    "transaction.state.log.num.partitions": "1", "offsets.topic.num.partitions": "1", "hotlog.garbage.grace.ms": str(GRACE_MS),
    "hotlog.reconcile.interval.ms": str(5 * MINUTE_MS), "log.retention.check.interval.ms": str(MINUTE_MS),
    "log.cleaner.backoff.ms": "1000", "hotlog.compaction.prices": "minio-own-disks",
}  # fmt: skip
DELETED = {
    "cleanup.policy": "delete", "retention.ms": "-1", "remote.storage.enable": "true", "segment.bytes": "1024",
    "min.cleanable.dirty.ratio": "0.1", "local.retention.ms": str(15 * MINUTE_MS), "delete.retention.ms": str(30 * MINUTE_MS),
    "file.delete.delay.ms": "1000",
}  # fmt: skip
COMPACTED = DELETED | {"cleanup.policy": "compact"}


class Said(NamedTuple):
    """A record that was written, and the transaction that it is part of (None: of none)."""

    key: bytes
    value: bytes | None
    transaction: Asked | None


@dataclass(eq=False)
class Asked:
    """A transaction: when it began, its records' keys by offset, and what became of it."""

    round: int
    records: dict[int, bytes] = field(default_factory=dict)
    may_be_committed: bool = False  # it was asked for


class Changelog:
    """What was written, and what is known of it; it outlives the process."""

    def __init__(self, world: SimWorld) -> None:
        self.world = world
        self.random = world.random
        self.said: dict[int, Said] = {}
        self.known: dict[bytes, int] = {}  # the newest offset of a key that was acknowledged as committed, or seen
        self.rounds = 0

    async def tell(self, life: Life) -> None:
        await life.open()
        partition = await self.partition(life)
        await coordinated(life)
        writers = {name: Transactor(life, name, timeout_ms=15 * MINUTE_MS) for name in WRITERS}
        for writer in writers.values():
            await writer.begin()
        open_: dict[str, Asked] = {}
        await self.check(partition)
        while self.rounds < ROUNDS:
            for name in [name for name, each in open_.items() if each.round + 2 <= self.rounds]:
                await self.end(writers[name], open_.pop(name), is_commit=self.random.random() < 0.5)
            for _ in range(7):
                await self.move(partition, writers, open_)
            await asyncio.sleep(5 * 60)
            with contextlib.suppress(Retry, StorageFailed):
                partition.roll(self.world.clock.now_ms())
            if self.rounds == COMPACTED_FROM:
                await alter_configs(life.broker, TOPIC, dict(COMPACTED))
            await life.beat()
            await self.check(partition)
            self.rounds += 1
        await life.node.close()

    async def partition(self, life: Life) -> Partition:
        while life.broker.topic(TOPIC) is None or life.broker.partition(*PLACE) is None:
            try:
                if life.broker.topic(TOPIC) is None:
                    await life.broker.create_topic(TOPIC, 1, dict(DELETED))
            except (Retry, Refused):
                pass
            await asyncio.sleep(1)
            await life.beat("broker")
        found = life.broker.partition(*PLACE)
        assert found is not None
        return found

    # Writing

    async def move(self, partition: Partition, writers: dict[str, Transactor], open_: dict[str, Asked]) -> None:
        """One step of somebody."""
        name = self.random.choice(WRITERS)
        match self.random.choice(("put", "send", "send", "send", "commit", "commit", "abort")):
            case "put":
                await self.put(partition)
            case "send":
                await self.send(writers[name], open_.setdefault(name, Asked(self.rounds)))
            case word if name in open_:
                await self.end(writers[name], open_.pop(name), is_commit=word == "commit")

    def _records(self) -> list[tuple[bytes, bytes | None]]:
        def value() -> bytes | None:
            return b"%d" % self.random.getrandbits(40) + b"." * 60 if self.random.random() < 0.85 else None

        return [(self.random.choice(KEYS), value()) for _ in range(self.random.randint(1, 3))]

    def _say(self, base: int, pairs: list[tuple[bytes, bytes | None]], transaction: Asked | None) -> None:
        self.said = {offset: said for offset, said in self.said.items() if offset < base}
        self.said.update((base + n, Said(*pair, transaction)) for n, pair in enumerate(pairs))

    async def put(self, partition: Partition) -> None:
        pairs, now_ms = self._records(), self.world.clock.now_ms()
        data = memoryview(keyed(pairs, codec=self.random.choice([0, 0, 4]), timestamp=now_ms))
        base = partition.log_end_offset
        self._say(base, pairs, None)
        partition.append(data, check_produced(data, batch_bytes_max=1 << 20), now_ms=now_ms)
        await partition.committed(base + len(pairs))
        self._know({base + n: key for n, (key, _) in enumerate(pairs)})

    async def send(self, writer: Transactor, transaction: Asked) -> None:
        pairs = self._records()

        def before(base: int) -> None:
            self._say(base, pairs, transaction)
            transaction.records.update((base + n, key) for n, (key, _) in enumerate(pairs))

        records = [NewRecord(self.world.clock.now_ms(), key, value) for key, value in pairs]
        await writer.send(PLACE, records, codec=self.random.choice([0, 0, 3]), before=before)

    async def end(self, writer: Transactor, transaction: Asked, *, is_commit: bool) -> None:
        transaction.may_be_committed = is_commit
        await writer.end(is_commit=is_commit)
        if is_commit:
            self._know(transaction.records)

    def _know(self, records: dict[int, bytes]) -> None:
        for offset, key in records.items():
            self.known[key] = max(offset, self.known.get(key, -1))

    # Reading

    async def check(self, partition: Partition) -> list[Committed]:
        known, end = dict(self.known), partition.marks.last_stable_offset
        shown = await read_committed(partition)
        if [each.offset for each in shown] != sorted({each.offset for each in shown}):
            raise Violation(f"offsets do not ascend: {shown}")
        latest: dict[bytes, int] = {}
        for each in shown:
            said = self.said[each.offset]
            if (each.key, each.value) != (said.key, said.value):
                raise Violation(f"offset {each.offset} is {each}; written was {said}")
            if said.transaction is not None and not said.transaction.may_be_committed:
                raise Violation(f"{each} was never committed")
            latest[said.key] = each.offset
        for key, offset in known.items():
            if latest.get(key, -1) < offset < end:
                if key in latest:
                    raise Violation(f"{key!r}: offset {latest[key]} came back, {offset} was known")
                if self.said[offset].value is not None:
                    raise Violation(f"{key!r} at {offset} is lost")
        self._know({offset: key for key, offset in latest.items()})
        return shown

    async def settle(self) -> None:
        """Everything ends, and everything but the last segments is in the store, cleaned."""
        life = await self.world.boot()
        partition = await self.partition(life)
        await coordinated(life)
        for name in WRITERS:
            await Transactor(life, name).begin()
        await alter_configs(life.broker, TOPIC, dict(COMPACTED))
        for _ in range(8):
            await self.put(partition)
            partition.roll(self.world.clock.now_ms())
            await asyncio.sleep(12 * 60)
            await life.beat()
            await self.check(partition)
        if partition.marks.last_stable_offset != partition.log_end_offset:
            raise Violation("the last stable offset stands still")
        (root,) = self.world.manifests().values()
        assert root.cleaned_end > 0 and partition.local_log_start_offset > 0, "the store was cleaned"
        stored = [each for each in await self.check(partition) if each.offset < root.cleaned_end]
        if len({each.key for each in stored}) != len(stored):
            raise Violation(f"the store has an old value of a key: {stored}")
        await life.end("stop")


SWEEP = Sweep(Changelog, SETTINGS, stride=STRIDE, parts=2, few=2)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("seed", "part"), SWEEP.cases())
def test_a_death_at_any_call_shows_nothing_aborted_and_loses_nothing_committed(seed: int, part: int) -> None:
    SWEEP.die(seed, part)
