"""Whether records may begin a transaction in a partition: its coordinator is asked before (KIP-890).

A client of transaction version 2 never says which partitions its transaction has: the first record in one adds it.  An older client has said it, and
the coordinator only confirms.  Otherwise a record that comes after its transaction has ended would begin one that nobody ends.

Invariants: nobody is asked where the producer's transaction is open already; what was asked, or found open, before a marker came begins no transaction
after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from kio.schema.errors import ErrorCode

from hotlog.coordinators.tenure import NotServed
from hotlog.coordinators.transaction_types import V2, Place, TxnCode
from hotlog.log.producers import Guard, Producers
from hotlog.wire.error_codes import Refused, is_expected

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

__all__ = ["Admitted", "Asks", "Guard", "Wanted", "admitted"]
AGAIN_S, PATIENCE_S = 0.02, 0.1  # Kafka's add.partitions.to.txn.retry.backoff.ms and .max.ms


class Asks(Enum):
    """What a client of the API's version expects; oldest first."""

    CONFIRM_OLD = "confirm, and say INVALID_TXN_STATE"
    CONFIRM = "confirm, and say TRANSACTION_ABORTABLE (KIP-1050)"
    ADD = "add"


class Wanted(NamedTuple):
    """Records that want to go into a partition's log: its producers, and the records' first sequence."""

    producers: Producers
    sequence: int


Admitted = Guard | None | Exception
"""What to hold against the log just before the append; None: nothing, as nobody wants it checked.  Or why there must be none."""


async def admitted(
    broker: Broker,
    transactional_id: str,
    producer_id: int,
    epoch: int,
    places: Mapping[Place, Wanted],
    asks: Asks,
    unavailable: ErrorCode,
) -> dict[Place, Admitted]:
    """What the coordinator says to records of the producer in each of `places`; `unavailable` is said where it cannot be asked now."""
    outcome: dict[Place, Admitted] = dict.fromkeys(places)
    if asks is not Asks.ADD and not broker.settings.flag("transaction.partition.verification.enable"):
        return outcome
    deadline = broker.clock.monotonic() + PATIENCE_S
    while guards := _guards(places, producer_id, epoch, broker.clock.now_ms()):
        try:
            codes = await _asked(broker, transactional_id, producer_id, epoch, tuple(guards), asks)
        except Exception as problem:
            if not is_expected(problem):
                raise
            why = f"the coordinator of the transaction cannot be asked now: {problem}"
            refused = unavailable if isinstance(problem, NotServed) else ErrorCode.coordinator_not_available
            return {**outcome, **dict.fromkeys(guards, Refused(refused, why))}
        if TxnCode.CONCURRENT_TRANSACTIONS in codes.values() and broker.clock.monotonic() < deadline:
            await asyncio.sleep(
                AGAIN_S
            )  # the transaction before is ending; its marker takes the guards away: new ones are needed
            continue
        for place, guard in guards.items():
            code = codes[place]
            outcome[place] = guard if code is TxnCode.NONE else _refusal(code, asks, unavailable)
            if code not in (TxnCode.NONE, TxnCode.CONCURRENT_TRANSACTIONS, TxnCode.COORDINATOR_NOT_AVAILABLE):
                places[place].producers.drop(guard)
        break
    for place, answer in outcome.items():
        if answer is None:  # it is open; should it end before the append, that must not begin another one
            outcome[place] = Guard(producer_id, epoch, places[place].sequence, broker.clock.now_ms())
    return outcome


def _guards(places: Mapping[Place, Wanted], producer_id: int, epoch: int, now_ms: int) -> dict[Place, Guard]:
    """For those in which no transaction of the producer's is open."""
    return {
        place: wanted.producers.guard(producer_id, epoch, wanted.sequence, now_ms)
        for place, wanted in places.items()
        if not wanted.producers.is_open(producer_id, epoch)
    }


async def _asked(
    broker: Broker, transactional_id: str, producer_id: int, epoch: int, places: tuple[Place, ...], asks: Asks
) -> dict[Place, TxnCode]:
    """The coordinator's answer."""
    if asks is not Asks.ADD:
        return broker.transactions.verify(transactional_id, producer_id, epoch, places)
    return dict.fromkeys(places, await broker.transactions.add(transactional_id, producer_id, epoch, places, V2))


def _refusal(code: TxnCode, asks: Asks, unavailable: ErrorCode) -> Refused:
    """The coordinator's code as the client of that version knows it."""
    if code is TxnCode.PRODUCER_FENCED:
        return Refused(ErrorCode.invalid_producer_epoch, "a newer producer has the transactional id")
    if code is TxnCode.TRANSACTION_ABORTABLE and asks is Asks.CONFIRM_OLD:
        return Refused(ErrorCode.invalid_txn_state, "the partition was not added to the transaction")
    if code is TxnCode.CONCURRENT_TRANSACTIONS and asks is Asks.ADD:
        return Refused(ErrorCode.concurrent_transactions, "the transaction before is still ending")
    if code in (TxnCode.CONCURRENT_TRANSACTIONS, TxnCode.COORDINATOR_NOT_AVAILABLE):
        return Refused(unavailable, f"the partition cannot be added to the transaction now: {code}")
    return Refused(ErrorCode[code.value], f"the coordinator of the transaction answers {code}")
