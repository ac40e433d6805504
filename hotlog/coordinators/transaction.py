"""A transactional id as a state machine: an event goes in, the next state and a list of effects come out.

    EMPTY ----------------+                      +--> PREPARE_COMMIT --all partitions know--> COMPLETE_COMMIT --+
      ^                   +--add partitions--> ONGOING                                                          |
      |                   ^                      +--> PREPARE_ABORT ---all partitions know--> COMPLETE_ABORT ---+
      +-- InitProducerId  +-------------------------------------------------------------------------------------+

Every change is stored before it counts: until then it is `coming`, and whoever asks for another one is told to wait (CONCURRENT_TRANSACTIONS), as he is
while a transaction is ending.  A producer that comes anew while a transaction is ongoing, and a transaction that lasts too long, fence the old
producer: the epoch is raised and the transaction aborted.

Behaviour as Kafka 4.3's TransactionCoordinator.  One thing is simpler: a fence takes no new producer id where epochs are used up; InitProducerId does.

Invariants: pure; every token is answered by exactly one Reply; an epoch never goes back under a producer id; what was decided (PREPARE_COMMIT,
PREPARE_ABORT) is never undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from hotlog.coordinators.effects import Arm, Disarm, Do, Effect, Reply, Store, Token
from hotlog.coordinators.transaction_types import (
    EPOCH_EXHAUSTED,
    EPOCH_MAX,
    NO_EPOCH,
    NO_ID,
    NO_TIME,
    NOWHERE,
    AddPartitions,
    Answer,
    CompleteAgain,
    Due,
    End,
    Ended,
    Event,
    Initialized,
    InitId,
    Mark,
    MarkAgain,
    Marked,
    NeedsId,
    Now,
    Place,
    Status,
    Stored,
    Transaction,
    TxnCode,
    Waiting,
)

DUE, AGAIN = "due", "again"  # timers
AGAIN_MS = 100  # after some partition could not be told, or the end could not be stored

Stepped = tuple[Transaction, list[Effect]]


def step(txn: Transaction, event: Event, now: Now) -> Stepped:
    """The one entrance."""
    return _HANDLERS[type(event)](txn, event, now)


def revived(txn: Transaction, now: Now) -> Stepped:
    """As the log has it: what had begun goes on."""
    if txn.status.is_ending:
        return _tell(replace(txn, unmarked=txn.partitions), now)
    return txn, [_timer(txn, now)]


def verified(txn: Transaction, producer_id: int, epoch: int, partitions: Iterable[Place]) -> dict[Place, TxnCode]:
    """Whether partitions are part of the transaction: what a partition's leader asks before a record begins one there."""
    code = TxnCode.NONE
    if txn.producer_id != producer_id or not txn.is_known:
        code = TxnCode.INVALID_PRODUCER_ID_MAPPING
    elif txn.epoch != epoch:
        code = TxnCode.PRODUCER_FENCED
    elif txn.status.is_ending:
        code = TxnCode.CONCURRENT_TRANSACTIONS
    if code is not TxnCode.NONE:
        return dict.fromkeys(partitions, code)
    return {place: TxnCode.NONE if place in txn.partitions else TxnCode.TRANSACTION_ABORTABLE for place in partitions}


def may_be_open(txn: Transaction | None, epoch: int, place: Place) -> bool:
    """Whether a partition may still have records of a producer open: `txn` is what its coordinator has, `epoch` that of the records."""
    if txn is None or place not in txn.partitions:
        return False
    if txn.status is Status.PREPARE_ABORT:
        return True
    if txn.status is Status.PREPARE_COMMIT and txn.version.bumps_epoch:
        return epoch == txn.epoch - 1 or txn.epoch == EPOCH_MAX
    return epoch == txn.epoch


# InitProducerId


class Identity(NamedTuple):
    """A producer: its id, its epoch, and the epoch that it goes on from (NO_EPOCH: it is a new one)."""

    producer_id: int
    epoch: int
    last_epoch: int


def _init(txn: Transaction, event: InitId, now: Now) -> Stepped:
    token, expected = event.token, event.expected
    if txn.coming is not None or txn.status.is_ending:
        return _refused(txn, token, Initialized(TxnCode.CONCURRENT_TRANSACTIONS))
    if expected is not None and not _may_go_on(txn, *expected):
        return _refused(txn, token, Initialized(TxnCode.PRODUCER_FENCED))
    if txn.status is Status.ONGOING:
        return _fenced(txn, now, token)
    found = _identity(txn, event)
    if not isinstance(found, Identity):
        return _refused(txn, token, found)
    producer_id, epoch, last = found
    coming = _changed(
        txn, status=Status.EMPTY, producer_id=producer_id, epoch=epoch, last_epoch=last, timeout_ms=event.timeout_ms,
        partitions=NOWHERE, start_ms=NO_TIME, update_ms=now.now_ms,
    )  # fmt: skip
    if not txn.is_known:
        coming = replace(coming, previous_id=producer_id)
    refusal = Initialized(TxnCode.COORDINATOR_NOT_AVAILABLE)
    return _stored_first(txn, coming, Waiting(token, Initialized(TxnCode.NONE, producer_id, epoch), refusal))


def _identity(txn: Transaction, event: InitId) -> Identity | Initialized | NeedsId:
    """Who the producer is from now on, or the answer."""
    expected = event.expected
    is_used_up = txn.is_exhausted and (expected is None or expected[1] == txn.epoch)
    if event.fresh_id == NO_ID and (is_used_up or not txn.is_known):
        return NeedsId()
    before = txn.epoch if expected is not None else NO_EPOCH
    if is_used_up or not txn.is_known:
        return Identity(event.fresh_id, 0, before)
    if expected is not None and expected[1] != txn.epoch:
        is_again = expected[1] == txn.last_epoch  # the answer was lost
        return Identity(txn.producer_id, txn.epoch, txn.last_epoch) if is_again else Initialized(TxnCode.PRODUCER_FENCED)
    return Identity(txn.producer_id, txn.epoch + 1, before)


def _may_go_on(txn: Transaction, producer_id: int, epoch: int) -> bool:
    """Whether a producer that names id and epoch is, or was until its answer got lost, the one of this transactional id."""
    is_previous = producer_id == txn.previous_id and epoch >= EPOCH_EXHAUSTED
    return txn.epoch == NO_EPOCH or producer_id == txn.producer_id or is_previous


def _fenced(txn: Transaction, now: Now, token: Token | None) -> Stepped:
    """Raise the epoch and abort what is ongoing; who asked (if anybody did) asks again."""
    raised = txn.epoch if txn.has_failed_fence else min(txn.epoch + 1, EPOCH_MAX)
    last = txn.epoch if now.version.bumps_epoch else NO_EPOCH
    coming = _changed(txn, status=Status.PREPARE_ABORT, epoch=raised, last_epoch=last, update_ms=now.now_ms, version=now.version)
    waiting = None
    if token is not None:
        refusal = Initialized(TxnCode.COORDINATOR_NOT_AVAILABLE)
        waiting = Waiting(token, Initialized(TxnCode.CONCURRENT_TRANSACTIONS), refusal)
    return _stored_first(txn, coming, waiting)


# Partitions


def _add(txn: Transaction, event: AddPartitions, now: Now) -> Stepped:
    code = TxnCode.NONE
    if txn.coming is not None:
        code = TxnCode.CONCURRENT_TRANSACTIONS
    elif txn.producer_id != event.producer_id or not txn.is_known:
        code = TxnCode.INVALID_PRODUCER_ID_MAPPING
    elif txn.epoch != event.epoch:
        code = TxnCode.PRODUCER_FENCED
    elif txn.status.is_ending:
        code = TxnCode.CONCURRENT_TRANSACTIONS
    elif txn.status is not Status.ONGOING or not txn.partitions >= event.partitions:
        start_ms = txn.start_ms if txn.status is Status.ONGOING else now.now_ms
        coming = _changed(
            txn, status=Status.ONGOING, partitions=txn.partitions | event.partitions, start_ms=start_ms, update_ms=now.now_ms,
            version=event.version,
        )  # fmt: skip
        return _stored_first(txn, coming, Waiting(event.token, TxnCode.NONE, TxnCode.COORDINATOR_NOT_AVAILABLE))
    return _refused(txn, event.token, code)


# The end


def _end(txn: Transaction, event: End, now: Now) -> Stepped:
    token = event.token
    decided = (_end_v2 if event.version.bumps_epoch else _end_v1)(txn, event)
    if isinstance(decided, TxnCode):
        is_done = decided is TxnCode.NONE
        return _refused(txn, token, Ended(decided, txn.producer_id, txn.epoch) if is_done else Ended(decided))
    epoch, last, next_id = txn.epoch, txn.last_epoch, NO_ID
    if event.version.bumps_epoch:
        if txn.is_exhausted and event.fresh_id == NO_ID:
            return _refused(txn, token, NeedsId())
        next_id = event.fresh_id if txn.is_exhausted else NO_ID
        epoch, last = min(txn.epoch + 1, EPOCH_MAX), txn.epoch
    start_ms = txn.start_ms if txn.status is Status.ONGOING else now.now_ms
    coming = _changed(
        txn, status=decided, epoch=epoch, last_epoch=last, next_id=next_id, start_ms=start_ms, update_ms=now.now_ms,
        version=event.version,
    )  # fmt: skip
    done = _completed(coming, now.now_ms)
    answer = Ended(TxnCode.NONE, done.producer_id, done.epoch)
    return _stored_first(txn, coming, Waiting(token, answer, Ended(TxnCode.COORDINATOR_NOT_AVAILABLE)))


def _end_v1(txn: Transaction, event: End) -> Status | TxnCode:
    """What is to be done, or the answer."""
    if txn.producer_id != event.producer_id or not txn.is_known:
        return TxnCode.INVALID_PRODUCER_ID_MAPPING
    if txn.epoch != event.epoch:
        return TxnCode.PRODUCER_FENCED
    if txn.coming is not None:
        return TxnCode.CONCURRENT_TRANSACTIONS
    match txn.status, event.is_commit:
        case Status.ONGOING, True:
            return Status.PREPARE_COMMIT
        case Status.ONGOING, False:
            return Status.PREPARE_ABORT
        case (Status.COMPLETE_COMMIT, True) | (Status.COMPLETE_ABORT, False):
            return TxnCode.NONE
        case (Status.PREPARE_COMMIT, True) | (Status.PREPARE_ABORT, False):
            return TxnCode.CONCURRENT_TRANSACTIONS
    return TxnCode.INVALID_TXN_STATE


def _end_v2(txn: Transaction, event: End) -> Status | TxnCode:
    """The same where each transaction has an epoch: its own says that it is to end, one less that it was ended and the answer got lost."""
    is_own = txn.epoch == event.epoch
    has_rotated = txn.previous_id == event.producer_id and event.epoch == EPOCH_EXHAUSTED and txn.epoch == 0
    is_again = txn.epoch == event.epoch + 1 or has_rotated
    if txn.coming is not None or txn.status.is_ending:  # also under the id that comes behind it
        return TxnCode.CONCURRENT_TRANSACTIONS
    if (txn.producer_id != event.producer_id and not has_rotated) or not txn.is_known:
        return TxnCode.INVALID_PRODUCER_ID_MAPPING
    if not is_own and not (is_again and txn.status in (Status.COMPLETE_COMMIT, Status.COMPLETE_ABORT)):
        return TxnCode.PRODUCER_FENCED
    match txn.status:
        case Status.ONGOING:
            return Status.PREPARE_COMMIT if event.is_commit else Status.PREPARE_ABORT
        case Status.COMPLETE_COMMIT if is_again:
            return TxnCode.NONE if event.is_commit else TxnCode.INVALID_TXN_STATE
        case Status.COMPLETE_ABORT if is_again:
            return TxnCode.INVALID_TXN_STATE if event.is_commit else TxnCode.NONE
    # a transaction without a partition: there is nothing to commit, and to abort it is to raise the epoch
    return TxnCode.INVALID_TXN_STATE if event.is_commit else Status.PREPARE_ABORT


def _completed(txn: Transaction, now_ms: int) -> Transaction:
    """What comes behind a transaction whose end is decided."""
    status = Status.COMPLETE_COMMIT if txn.status is Status.PREPARE_COMMIT else Status.COMPLETE_ABORT
    producer_id, epoch = (txn.next_id, 0) if txn.next_id != NO_ID else (txn.producer_id, txn.epoch)
    return _changed(
        txn, status=status, producer_id=producer_id, epoch=epoch, next_id=NO_ID, partitions=NOWHERE, update_ms=now_ms,
        has_failed_fence=False, unmarked=NOWHERE,
    )  # fmt: skip


def _tell(txn: Transaction, now: Now) -> Stepped:
    """Have the partitions told that do not know; if all do, store that."""
    if txn.unmarked:
        mark = Mark(txn.producer_id, txn.epoch, txn.status is Status.PREPARE_COMMIT, txn.version, txn.unmarked)
        return txn, [Do(mark)]
    return _stored_first(txn, _completed(txn, now.now_ms), None)


def _marked(txn: Transaction, event: Marked, now: Now) -> Stepped:
    if not txn.status.is_ending or txn.coming is not None or (event.producer_id, event.epoch) != (txn.producer_id, txn.epoch):
        return txn, []
    txn = replace(txn, unmarked=event.left)
    return (txn, [Arm(AGAIN, AGAIN_MS, MarkAgain())]) if event.left else _tell(txn, now)


def _again(txn: Transaction, event: MarkAgain | CompleteAgain, now: Now) -> Stepped:
    return _tell(txn, now) if txn.status.is_ending and txn.coming is None else (txn, [])


# The log


def _stored(txn: Transaction, event: Stored, now: Now) -> Stepped:
    coming, waiting = txn.coming, txn.waiting
    if coming is None or event.state is not coming:
        return txn, []
    if not event.is_ok:
        return _not_stored(replace(txn, coming=None, waiting=None), coming, waiting)
    effects: list[Effect] = [] if waiting is None else [Reply(waiting.token, waiting.answer)]
    if coming.status is Status.DEAD:
        return Transaction(transactional_id=txn.transactional_id), [*effects, Disarm(DUE)]
    if coming.status.is_ending:
        told, more = _tell(replace(coming, unmarked=coming.partitions), now)
        return told, [*effects, Disarm(DUE), *more]
    return coming, [*effects, _timer(coming, now)]


def _not_stored(txn: Transaction, coming: Transaction, waiting: Waiting | None) -> Stepped:
    effects: list[Effect] = [] if waiting is None else [Reply(waiting.token, waiting.refusal)]
    if txn.status.is_ending:
        return txn, [*effects, Arm(AGAIN, AGAIN_MS, CompleteAgain())]
    if coming.status is Status.PREPARE_ABORT and coming.epoch > txn.epoch and coming.last_epoch == NO_EPOCH:
        txn = replace(txn, epoch=coming.epoch, last_epoch=NO_EPOCH, has_failed_fence=True)  # nobody was told of that epoch
    return txn, [*effects, Arm(DUE, AGAIN_MS, Due())] if txn.is_known else effects


def _due(txn: Transaction, event: Due, now: Now) -> Stepped:
    if txn.coming is not None or txn.status.is_ending or not txn.is_known:
        return txn, []
    left_ms = _left_ms(txn, now)
    if left_ms > 0:
        return txn, [Arm(DUE, left_ms, Due())]
    if txn.status is Status.ONGOING:
        return _fenced(txn, now, None)
    return _stored_first(txn, _changed(txn, status=Status.DEAD, partitions=NOWHERE), None)


def _timer(txn: Transaction, now: Now) -> Effect:
    return Arm(DUE, max(_left_ms(txn, now), 1), Due())


def _left_ms(txn: Transaction, now: Now) -> int:
    """Until its transaction is aborted, or the id forgotten."""
    if txn.status is Status.ONGOING:
        return txn.start_ms + txn.timeout_ms - now.now_ms
    return txn.update_ms + now.expiration_ms - now.now_ms


# Small moves


def _changed(txn: Transaction, **changes: Any) -> Transaction:
    return replace(txn, previous_id=txn.producer_id, coming=None, waiting=None, **changes)


def _refused(txn: Transaction, token: Token, answer: Answer) -> Stepped:
    return txn, [Reply(token, answer)]


def _stored_first(txn: Transaction, coming: Transaction, waiting: Waiting | None) -> Stepped:
    return replace(txn, coming=coming, waiting=waiting), [Store(coming, is_awaited=True)]


_HANDLERS: dict[type, Callable[[Transaction, Any, Now], Stepped]] = {
    InitId: _init,
    AddPartitions: _add,
    End: _end,
    Stored: _stored,
    Marked: _marked,
    MarkAgain: _again,
    CompleteAgain: _again,
    Due: _due,
}
