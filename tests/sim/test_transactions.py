"""Transactions through a death at any call to disk or store: whole or not at all, in all partitions, in both tiers, and with the group's offset.

One producer writes transaction after transaction into two partitions and commits an offset with each; every third one it aborts.  Whoever died comes
again under the same transactional id.  Which calls are tried is in tests.sim.sweep.
"""

from __future__ import annotations

import asyncio

import pytest
from kio.schema.errors import ErrorCode

from hotlog.broker.admission import Asks, Wanted, admitted
from hotlog.coordinators.group_types import Code
from hotlog.coordinators.keyed_log import Producer
from hotlog.coordinators.service import Commit
from hotlog.coordinators.transaction_types import V2, TxnCode
from hotlog.kernel.errors import Retry
from hotlog.log.producers import Guard
from hotlog.partitions.answers import Place
from hotlog.partitions.partition import Partition
from hotlog.wire.batch import header_at, walk
from hotlog.wire.error_codes import Refused
from hotlog.wire.records import NewRecord, decode_batch, encode_batch
from tests.sim.bucket import Violation
from tests.sim.clock import MINUTE_MS
from tests.sim.sweep import Sweep
from tests.sim.world import Life, SimWorld

TOPIC, PARTITIONS, GROUP, NAME = "story", (0, 1), "readers", "writer"
TRANSACTIONS, STEP = 14, 3
SETTINGS = {
    "transaction.state.log.num.partitions": "1",
    "offsets.topic.num.partitions": "1",
    "log.retention.check.interval.ms": str(MINUTE_MS),
}
CONFIGS = {
    "segment.bytes": "1024", "retention.ms": "-1", "local.retention.bytes": "1500", "file.delete.delay.ms": "1000",
    "remote.storage.enable": "true",
}  # fmt: skip


class Story:
    """What the producer asked for, and what it was told."""

    def __init__(self, world: SimWorld) -> None:
        self.world = world
        self.next = 0
        self.asked: set[int] = set()  # to be committed
        self.acked: set[int] = set()  # were
        self.producer_id = self.epoch = -1

    async def tell(self, life: Life) -> None:
        await life.open()
        await self.prepare(life)
        await self.check(life)
        while self.next < TRANSACTIONS:
            await self.write(life)
            if self.next % STEP == 0:
                await asyncio.sleep(60)
                await life.beat()
                await self.check(life)
        await life.node.close()

    async def prepare(self, life: Life) -> None:
        """Topics and coordinators are there, and the producer has begun: what its predecessor left is aborted."""
        async with asyncio.timeout(3600):
            await self.begin(life)

    async def begin(self, life: Life) -> None:
        broker = life.broker
        while True:
            try:
                if broker.topic(TOPIC) is None:
                    await broker.create_topic(TOPIC, len(PARTITIONS), dict(CONFIGS))
                await broker.groups.ensure()
                await broker.transactions.ensure()
                answer = await broker.transactions.init_id(NAME, timeout_ms=60_000, expected=None)
            except (Retry, Refused):
                await asyncio.sleep(30)
                await life.beat("broker")
                continue
            if answer.code is TxnCode.NONE:
                self.producer_id, self.epoch = answer.producer_id, answer.epoch
                return
            assert answer.code is TxnCode.CONCURRENT_TRANSACTIONS
            await asyncio.sleep(0.1)

    async def write(self, life: Life) -> None:
        number, self.next = self.next, self.next + 1
        broker = life.broker
        for index in PARTITIONS:
            for part in range(2):
                await self.send(life, index, number, part)
        place = broker.groups.place_of(GROUP)
        await self.commit_offset(life, place, number)
        is_commit = number % 3 != 1
        if is_commit:
            self.asked.add(number)
        while True:
            ended = await broker.transactions.end(NAME, self.producer_id, self.epoch, is_commit=is_commit, version=V2)
            if ended.code is not TxnCode.CONCURRENT_TRANSACTIONS:
                break
            await asyncio.sleep(0.02)
        assert ended.code is TxnCode.NONE
        self.producer_id, self.epoch = ended.producer_id, ended.epoch
        if is_commit:
            self.acked.add(number)

    async def admit(self, life: Life, place: tuple[str, int], partition: Partition, sequence: int) -> Guard | None:
        while True:
            wanted = {place: Wanted(partition.marks.producers, sequence)}
            answers = await admitted(
                life.broker, NAME, self.producer_id, self.epoch, wanted, Asks.ADD, unavailable=ErrorCode.not_enough_replicas
            )
            answer = answers[place]
            if isinstance(answer, Refused) and answer.code is ErrorCode.concurrent_transactions:
                continue
            if isinstance(answer, Exception):
                raise answer
            return answer

    async def send(self, life: Life, index: int, number: int, part: int) -> None:
        partition = life.broker.partition(TOPIC, index)
        assert partition is not None
        guard = await self.admit(life, (TOPIC, index), partition, part)
        record = NewRecord(self.world.clock.now_ms(), None, b"%d" % number + b"." * 60)
        batch = encode_batch(
            [record], producer_id=self.producer_id, producer_epoch=self.epoch, base_sequence=part, is_transactional=True
        )
        if guard is not None:
            partition.marks.producers.require(guard, part)
        appended = partition.append(memoryview(batch), [header_at(batch)], now_ms=self.world.clock.now_ms())
        await partition.committed(appended.end_offset)

    async def commit_offset(self, life: Life, place: tuple[str, int], number: int) -> None:
        partition = life.broker.partition(*place)
        assert partition is not None
        guard = await self.admit(life, place, partition, 0)
        codes = await life.broker.groups.commit_in_transaction(
            GROUP, [Commit(TOPIC, 0, number + 1, -1, None)],
            Producer(self.producer_id, self.epoch, lambda: guard and partition.marks.producers.require(guard, 0)),
            member_id="", instance_id=None, generation=-1,
        )  # fmt: skip
        assert set(codes.values()) == {Code.NONE}

    # What readers see

    async def check(self, life: Life) -> None:
        async with asyncio.timeout(3600):
            while (txn := life.broker.transactions.describe(NAME)) is None or txn.status.is_ending or txn.coming is not None:
                await asyncio.sleep(0.05)
        seen = [await self.seen(life, index) for index in PARTITIONS]
        for index, numbers in enumerate(seen):
            if any(numbers.count(number) != 2 for number in numbers):
                raise Violation(f"partition {index} shows a part of a transaction: {numbers}")
        whole = [sorted(set(numbers)) for numbers in seen]
        if whole[0] != whole[1]:
            raise Violation(f"the partitions do not show the same transactions: {whole}")
        visible = set(whole[0])
        if not self.acked <= visible <= self.asked:
            raise Violation(f"visible are {visible}; committed were {self.acked}, asked for {self.asked}")
        value = life.broker.groups.offsets(GROUP).get((TOPIC, 0))
        offset = value.offset if value is not None else 0
        if offset != max(visible, default=-1) + 1 or life.broker.groups.is_pending(GROUP, TOPIC, 0):
            raise Violation(f"the group's offset is {offset}; visible are {visible}")

    async def seen(self, life: Life, index: int) -> list[int]:
        """Transactions of the records that a reader of committed ones gets, over both tiers."""
        partition = life.broker.partition(TOPIC, index)
        assert partition is not None
        found: list[int] = []
        offset, ignored = partition.log_start_offset, set[int]()
        for _ in range(1000):
            place = partition.place_of(offset, is_committed_only=True)
            if place is Place.AT_END:
                return found
            try:
                if place is Place.COLD:
                    cold = await partition.read_cold(offset, 700, True, wait_ms=60_000)
                    data, aborted = cold.data.data, cold.aborted
                else:
                    hot = await partition.read_disk(offset, 700, min_one=True, committed_only=True)
                    data, aborted = hot.data, hot.aborted
            except Retry:
                await asyncio.sleep(30)
                continue
            waiting = sorted(aborted or (), key=lambda each: each[1])
            ignored.clear()
            for at, header in walk(memoryview(data)):
                while waiting and waiting[0][1] <= header.last_offset:
                    ignored.add(waiting.pop(0)[0])
                if header.is_control:
                    ignored.discard(header.producer_id)
                elif header.producer_id not in ignored:
                    records = decode_batch(memoryview(data)[at : at + header.size])
                    found += [int((record.value or b"").rstrip(b".")) for record in records]
                offset = header.next_offset
        raise Violation(f"{partition.tp} has no end")

    async def settle(self) -> None:
        life = await self.world.boot()
        await self.prepare(life)
        for _ in range(4):
            await asyncio.sleep(120)
            await life.beat()
        await self.check(life)
        partition = life.broker.partition(TOPIC, 0)
        assert partition is not None
        assert partition.local_log_start_offset > 0, "part of it is only in the store"
        assert partition.marks.last_stable_offset == partition.log_end_offset, "nothing hangs"
        await life.end("stop")


SWEEP = Sweep(Story, SETTINGS, stride=24, parts=3, few=6)


@pytest.mark.parametrize(("seed", "part"), SWEEP.cases())
def test_a_death_at_any_call_leaves_whole_transactions(seed: int, part: int) -> None:
    SWEEP.die(seed, part)
