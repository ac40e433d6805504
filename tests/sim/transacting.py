"""A producer of transactions beside a simulated node: asks the coordinator and the partitions what Kafka's own client of version 2 asks.

Invariants: batches of a partition follow each other by their sequence; a transaction that was begun is ended, or found ended, before the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from kio.schema.errors import ErrorCode

from hotlog.broker.admission import Asks, Wanted, admitted
from hotlog.coordinators.transaction_types import V2, TxnCode
from hotlog.kernel.errors import Retry
from hotlog.log.producers import Guard
from hotlog.partitions.partition import Partition
from hotlog.wire.batch import header_at
from hotlog.wire.error_codes import Refused
from hotlog.wire.records import NewRecord, encode_batch
from tests.sim.world import Life

Place = tuple[str, int]
AGAIN_S = 0.02


async def coordinated(life: Life) -> None:
    """Both kinds of coordinators are there."""
    while True:
        try:
            await life.broker.groups.ensure()
            await life.broker.transactions.ensure()
            return
        except (Retry, Refused):
            await asyncio.sleep(30)
            await life.beat("broker")


class Transactor:
    """One transactional id in one life."""

    def __init__(self, life: Life, name: str, *, timeout_ms: int = 60_000) -> None:
        self.life = life
        self.name = name
        self.timeout_ms = timeout_ms
        self.producer_id = self.epoch = -1
        self._sequences: dict[Place, int] = {}

    async def begin(self) -> None:
        """InitProducerId: what a predecessor left is aborted."""
        while True:
            try:
                answer = await self.life.broker.transactions.init_id(self.name, timeout_ms=self.timeout_ms, expected=None)
            except (Retry, Refused):
                await asyncio.sleep(30)
                await self.life.beat("broker")
                continue
            if answer.code is TxnCode.NONE:
                self.producer_id, self.epoch = answer.producer_id, answer.epoch
                self._sequences.clear()
                return
            assert answer.code is TxnCode.CONCURRENT_TRANSACTIONS, answer
            await asyncio.sleep(0.1)

    async def admit(self, place: Place, sequence: int) -> Guard | None:
        """The partition is part of the transaction."""
        partition = self.partition(place)
        while True:
            wanted = {place: Wanted(partition.marks.producers, sequence)}
            answers = await admitted(
                self.life.broker,
                self.name,
                self.producer_id,
                self.epoch,
                wanted,
                Asks.ADD,
                unavailable=ErrorCode.not_enough_replicas,
            )
            answer = answers[place]
            if isinstance(answer, Refused) and answer.code is ErrorCode.concurrent_transactions:
                continue
            if isinstance(answer, Exception):
                raise answer
            return answer

    async def send(
        self, place: Place, records: Sequence[NewRecord], *, codec: int = 0, before: Callable[[int], None] = lambda base: None
    ) -> None:
        """One batch of the transaction, acknowledged; `before` is told of its first offset just before it is appended."""
        sequence = self._sequences.get(place, 0)
        guard = await self.admit(place, sequence)
        batch = encode_batch(
            records, codec, producer_id=self.producer_id, producer_epoch=self.epoch, base_sequence=sequence, is_transactional=True
        )
        partition = self.partition(place)
        if guard is not None:
            partition.marks.producers.require(guard, sequence)
        before(partition.log_end_offset)
        appended = partition.append(memoryview(batch), [header_at(batch)], now_ms=self.life.world.clock.now_ms())
        self._sequences[place] = sequence + len(records)
        await partition.committed(appended.end_offset)

    async def end(self, *, is_commit: bool) -> None:
        """EndTxn, until it is decided."""
        transactions = self.life.broker.transactions
        while True:
            ended = await transactions.end(self.name, self.producer_id, self.epoch, is_commit=is_commit, version=V2)
            if ended.code is not TxnCode.CONCURRENT_TRANSACTIONS:
                break
            await asyncio.sleep(AGAIN_S)
        assert ended.code is TxnCode.NONE, ended
        self.producer_id, self.epoch = ended.producer_id, ended.epoch
        self._sequences.clear()

    async def settled(self) -> None:
        """Every partition knows of the last end."""
        async with asyncio.timeout(3600):
            while (
                (txn := self.life.broker.transactions.describe(self.name)) is None
                or txn.status.is_ending
                or txn.coming is not None
            ):
                await asyncio.sleep(0.05)

    def partition(self, place: Place) -> Partition:
        found = self.life.broker.partition(*place)
        assert found is not None
        return found
