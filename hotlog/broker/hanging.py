"""Transactions that a start finds open in a partition and that no coordinator knows of: they are aborted.

Where acks do not wait for the device (page-cache), a power loss takes the end of each log by itself: from a partition the marker of a
transaction that __transaction_state has as complete, or from __transaction_state that a transaction had begun at all. Then nobody will
ever end it: in Kafka the last stable offset stands still until somebody aborts it by hand (KIP-664).

What had been decided does not matter. Records of it may be lost as well, and what is left must not be shown in part: with its end the
whole transaction is part of the suffix that this durability may lose. To have every marker wait for the device instead would cost an
fsync for each transaction where none was asked for, and would not help what __transaction_state loses.

Invariants: looked for once, with all of __transaction_state read; no end of a transaction is written before, since that of a later one
would end what hangs; what a coordinator may still have going on is left to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from controller.internal_topics import TRANSACTIONS_TOPIC
from hotlog.broker.markers import Home, mark_all, mark_each
from hotlog.coordinators.transaction import may_be_open
from hotlog.coordinators.transaction_types import V0, Place, Transaction, Version
from hotlog.coordinators.transactions import TransactionCoordinator
from hotlog.log.producers import EPOCH_MAX, Producer
from hotlog.partitions.partition import Partition
from hotlog.wire.markers import Marker

LOG = logging.getLogger(__name__)
YIELD_EVERY = 1000  # partitions looked at before the event loop gets a turn
ENDED_AT_ONCE = 64


class Broker(Home, Protocol):
    """What is asked of the broker (hotlog.broker.broker)."""

    transactions: TransactionCoordinator

    def hosted(self) -> Sequence[Partition]: ...


class _Open(NamedTuple):
    """A transaction that a partition has open."""

    place: Place
    producer_id: int
    producer: Producer


class HangingTransactions:
    """The worker of one start."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._is_over = False
        self._looked = asyncio.Event()

    async def mark_all(self, marker: Marker, version: Version, places: Collection[Place]) -> list[Place]:
        """hotlog.broker.markers.mark_all, once what hangs was looked for."""
        await self._looked.wait()
        return await mark_all(self._broker, marker, version, places)

    async def tick(self) -> bool:
        """Look for what hangs, if that was not done yet; whether anything was ended."""
        if self._is_over:
            return False
        try:
            return await self._look()
        finally:
            self._looked.set()

    async def _look(self) -> bool:
        broker = self._broker
        if broker.topic(TRANSACTIONS_TOPIC) is None:
            self._is_over = True
            return False
        if not broker.transactions.is_settled:
            return False
        found = await self._open()
        ended = left = 0
        for start in range(0, len(found), ENDED_AT_ONCE):
            going = broker.transactions.going_on()  # in the turn in which it is held against what is open
            hanging = [each for each in found[start : start + ENDED_AT_ONCE] if self._is_hanging(each, going)]
            left += sum(await asyncio.gather(*map(self._end, hanging)))
            ended += len(hanging)
        self._is_over = not left
        return ended > left

    async def _open(self) -> list[_Open]:
        found: list[_Open] = []
        for number, partition in enumerate(self._broker.hosted(), 1):
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
            place = partition.tp.topic, partition.tp.partition
            found += [_Open(place, *each) for each in partition.marks.producers.open_transactions()]
        return found

    def _is_hanging(self, each: _Open, going: Mapping[int, Transaction]) -> bool:
        partition = self._broker.partition(*each.place)
        now = partition.marks.producers.get(each.producer_id) if partition is not None else None
        is_same = now is not None and now.transaction_start == each.producer.transaction_start
        return is_same and not may_be_open(going.get(each.producer_id), each.producer.epoch, each.place)

    async def _end(self, each: _Open) -> bool:
        """Abort one; whether it is still to be done."""
        place, producer_id, producer = each
        LOG.warning(
            "%s-%d has a transaction of producer %d open since offset %d that no coordinator knows of: it is aborted",
            *place, producer_id, producer.transaction_start,
        )  # fmt: skip
        epoch = min(
            producer.epoch + 1, EPOCH_MAX
        )  # if its own was lost there as well, it is given out again: nothing may be taken for a duplicate
        marker = Marker(producer_id, epoch, max(producer.coordinator_epoch, 0), is_commit=False)
        error = (await mark_each(self._broker, marker, V0.level, [place]))[place]
        if error is not None:
            LOG.warning("the transaction of producer %d in %s-%d is still to be aborted: %s", producer_id, *place, error)
        return error is not None
