"""The state machine of a transactional id: what each request is answered in each state, as Kafka's TransactionCoordinator; and any story at all."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hotlog.coordinators.effects import Arm, Do, Reply, Store
from hotlog.coordinators.transaction import revived, step, verified
from hotlog.coordinators.transaction_types import (
    EPOCH_EXHAUSTED,
    EPOCH_MAX,
    NO_ID,
    V0,
    V2,
    AddPartitions,
    CompleteAgain,
    End,
    Ended,
    Initialized,
    InitId,
    MarkAgain,
    Marked,
    NeedsId,
    Now,
    Status,
    Stored,
    Transaction,
    TxnCode,
    Version,
)

T0 = 1_700_000_000_000
A, B = ("a", 0), ("b", 1)
TIMEOUT_MS, EXPIRATION_MS = 60_000, 604_800_000


class Life:
    """A transactional id with a log that takes everything at once, unless it is told to refuse, and partitions that are told at once, unless held."""

    def __init__(self, version: Version = V2) -> None:
        self.txn = Transaction(transactional_id="t")
        self.version = version
        self.now_ms = T0
        self.takes = True
        self.tells = True
        self.log: list[Transaction] = []
        self.marks: list[Any] = []
        self.due: dict[Any, tuple[int, Any]] = {}
        self.ids = itertools.count(1000)
        self.tokens = itertools.count()

    def now(self) -> Now:
        return Now(self.now_ms, EXPIRATION_MS, self.version)

    def send(self, event: Any) -> Any:
        self.txn, effects = step(self.txn, event, self.now())
        return self.carry_out(effects)

    def carry_out(self, effects: list[Any]) -> Any:
        answer = None
        for effect in effects:
            match effect:
                case Reply(_, result):
                    assert answer is None, "one answer for each request"
                    answer = result
                case Store(value, is_awaited):
                    assert is_awaited
                    if self.takes:
                        self.log.append(value)
                    later = self.send(Stored(value, self.takes))
                    answer = answer if later is None else later
                case Do(mark):
                    self.marks.append(mark)
                    if self.tells:
                        self.send(Marked(mark.producer_id, mark.epoch, frozenset()))
                case Arm(key, delay_ms, event):
                    self.due[key] = self.now_ms + delay_ms, event
        return answer

    def init(self, expected: tuple[int, int] | None = None) -> Initialized:
        answer = self.send(InitId(next(self.tokens), TIMEOUT_MS, expected, NO_ID))
        if isinstance(answer, NeedsId):
            answer = self.send(InitId(next(self.tokens), TIMEOUT_MS, expected, next(self.ids)))
        assert isinstance(answer, Initialized)
        return answer

    def add(self, producer_id: int, epoch: int, *partitions: tuple[str, int], version: Version | None = None) -> TxnCode:
        answer = self.send(AddPartitions(next(self.tokens), producer_id, epoch, frozenset(partitions), version or self.version))
        assert isinstance(answer, TxnCode)
        return answer

    def end(self, producer_id: int, epoch: int, *, is_commit: bool = True, version: Version | None = None) -> Ended:
        version = version or self.version
        answer = self.send(End(next(self.tokens), producer_id, epoch, is_commit, version, NO_ID))
        if isinstance(answer, NeedsId):
            answer = self.send(End(next(self.tokens), producer_id, epoch, is_commit, version, next(self.ids)))
        assert isinstance(answer, Ended)
        return answer

    def pass_time(self, ms: int) -> None:
        self.now_ms += ms
        for key, (when, event) in sorted(self.due.items(), key=str):
            if when <= self.now_ms and self.due.get(key) == (when, event):
                del self.due[key]
                self.send(event)


def begun(version: Version = V2) -> tuple[Life, int, int]:
    life = Life(version)
    code, producer_id, epoch = life.init()
    assert (code, epoch) == (TxnCode.NONE, 0)
    return life, producer_id, epoch


# InitProducerId


def test_a_producer_that_comes_again_has_the_next_epoch() -> None:
    life, producer_id, _ = begun()
    assert life.init() == (TxnCode.NONE, producer_id, 1)
    assert life.txn.status is Status.EMPTY


def test_one_that_goes_on_keeps_its_place_and_its_answer_is_given_again() -> None:
    life, producer_id, _ = begun()
    assert life.init((producer_id, 0)) == (TxnCode.NONE, producer_id, 1)
    assert life.init((producer_id, 0)) == (TxnCode.NONE, producer_id, 1), "asked again: the answer got lost"
    assert life.init((producer_id, 1)) == (TxnCode.NONE, producer_id, 2)
    assert life.init().epoch == 3
    assert life.init((producer_id, 2)).code is TxnCode.PRODUCER_FENCED, "a new one came between"
    assert life.init((producer_id + 1, 3)).code is TxnCode.PRODUCER_FENCED


def test_one_that_comes_while_a_transaction_is_ongoing_aborts_it_first() -> None:
    life, producer_id, epoch = begun()
    assert life.add(producer_id, epoch, A) is TxnCode.NONE
    life.tells = False
    assert life.init().code is TxnCode.CONCURRENT_TRANSACTIONS
    assert life.txn.status is Status.PREPARE_ABORT
    (mark,) = life.marks
    assert (mark.epoch, mark.is_commit, mark.partitions) == (1, False, {A})
    assert life.init().code is TxnCode.CONCURRENT_TRANSACTIONS, "still ending"
    assert life.add(producer_id, epoch, A) is TxnCode.PRODUCER_FENCED
    life.send(Marked(producer_id, 1, frozenset()))
    assert life.txn.status is Status.COMPLETE_ABORT
    assert life.init() == (TxnCode.NONE, producer_id, 2)
    assert life.end(producer_id, epoch).code is TxnCode.PRODUCER_FENCED


@pytest.mark.parametrize("goes_on", [False, True])
def test_an_id_that_is_used_up_is_replaced(goes_on: bool) -> None:
    life, producer_id, _ = begun()
    life.txn = replace(life.txn, epoch=EPOCH_EXHAUSTED)
    code, fresh, epoch = life.init((producer_id, EPOCH_EXHAUSTED) if goes_on else None)
    assert (code, epoch) == (TxnCode.NONE, 0)
    assert fresh != producer_id
    again = life.init((producer_id, EPOCH_EXHAUSTED))
    assert again == ((TxnCode.NONE, fresh, 0) if goes_on else (TxnCode.PRODUCER_FENCED, -1, -1))


def test_a_fence_at_the_last_epoch_leaves_room_for_a_new_id() -> None:
    life, producer_id, _ = begun()
    life.txn = replace(life.txn, epoch=EPOCH_EXHAUSTED)
    life.add(producer_id, EPOCH_EXHAUSTED, A)
    assert life.init().code is TxnCode.CONCURRENT_TRANSACTIONS
    assert life.marks[-1].epoch == EPOCH_MAX
    assert life.init().epoch == 0


# Partitions


def test_partitions_are_added_once_and_only_by_who_has_the_id() -> None:
    life, producer_id, epoch = begun()
    assert life.add(producer_id, epoch, A) is TxnCode.NONE
    stored = len(life.log)
    assert life.add(producer_id, epoch, A) is TxnCode.NONE
    assert len(life.log) == stored, "nothing new"
    assert life.add(producer_id, epoch, B) is TxnCode.NONE
    assert life.txn.partitions == {A, B}
    assert life.txn.start_ms == T0
    assert life.add(producer_id + 1, epoch, A) is TxnCode.INVALID_PRODUCER_ID_MAPPING
    assert life.add(producer_id, epoch + 1, A) is TxnCode.PRODUCER_FENCED
    assert Life().add(-1, -1, A) is TxnCode.INVALID_PRODUCER_ID_MAPPING


def test_what_a_partitions_leader_is_told() -> None:
    life, producer_id, epoch = begun()
    life.add(producer_id, epoch, A)
    assert verified(life.txn, producer_id, epoch, [A, B]) == {A: TxnCode.NONE, B: TxnCode.TRANSACTION_ABORTABLE}
    assert verified(life.txn, producer_id, epoch + 1, [A]) == {A: TxnCode.PRODUCER_FENCED}
    assert verified(life.txn, 1, epoch, [A]) == {A: TxnCode.INVALID_PRODUCER_ID_MAPPING}
    life.tells = False
    life.end(producer_id, epoch)
    assert verified(life.txn, producer_id, epoch + 1, [A]) == {A: TxnCode.CONCURRENT_TRANSACTIONS}


# The end, version 2


def test_each_transaction_has_an_epoch() -> None:
    life, producer_id, _ = begun()
    for epoch in range(3):
        life.add(producer_id, epoch, A)
        assert life.end(producer_id, epoch) == (TxnCode.NONE, producer_id, epoch + 1)
        assert life.marks[-1].epoch == epoch + 1
        assert life.end(producer_id, epoch) == (TxnCode.NONE, producer_id, epoch + 1), "asked again"
        assert life.end(producer_id, epoch, is_commit=False).code is TxnCode.INVALID_TXN_STATE
        assert life.end(producer_id, epoch - 1).code is TxnCode.PRODUCER_FENCED
    assert life.txn.status is Status.COMPLETE_COMMIT


@pytest.mark.parametrize("is_commit", [True, False])
def test_a_transaction_without_a_partition_can_only_be_aborted(is_commit: bool) -> None:
    life, producer_id, epoch = begun()
    answer = life.end(producer_id, epoch, is_commit=is_commit)
    if is_commit:
        assert answer.code is TxnCode.INVALID_TXN_STATE
    else:
        assert answer == (TxnCode.NONE, producer_id, 1)
        assert not life.marks
        assert life.txn.status is Status.COMPLETE_ABORT


def test_the_epoch_after_the_last_is_of_a_new_id() -> None:
    life, producer_id, _ = begun()
    life.txn = replace(life.txn, epoch=EPOCH_EXHAUSTED)
    life.add(producer_id, EPOCH_EXHAUSTED, A)
    code, fresh, epoch = life.end(producer_id, EPOCH_EXHAUSTED)
    assert (code, epoch) == (TxnCode.NONE, 0)
    assert fresh != producer_id
    assert life.marks[-1] == (producer_id, EPOCH_MAX, True, V2, {A})
    assert (life.txn.producer_id, life.txn.epoch) == (fresh, 0)
    assert life.end(producer_id, EPOCH_EXHAUSTED) == (TxnCode.NONE, fresh, 0), "asked again"
    assert life.add(fresh, 0, A) is TxnCode.NONE


# The end, version 1


def test_older_clients_keep_their_epoch() -> None:
    life, producer_id, epoch = begun()
    for is_commit in (True, False):
        life.add(producer_id, epoch, A, version=V0)
        assert life.end(producer_id, epoch, is_commit=is_commit, version=V0) == (TxnCode.NONE, producer_id, epoch)
        assert life.marks[-1].epoch == epoch
        assert life.end(producer_id, epoch, is_commit=is_commit, version=V0).code is TxnCode.NONE
        assert life.end(producer_id, epoch, is_commit=not is_commit, version=V0).code is TxnCode.INVALID_TXN_STATE
    assert life.end(producer_id, epoch + 1, version=V0).code is TxnCode.PRODUCER_FENCED
    assert begun()[0].end(producer_id, 0, version=V0).code is TxnCode.INVALID_TXN_STATE


def test_while_it_ends_the_same_is_answered_later_and_the_opposite_refused() -> None:
    life, producer_id, epoch = begun()
    life.add(producer_id, epoch, A, version=V0)
    life.tells = False
    assert life.end(producer_id, epoch, version=V0).code is TxnCode.NONE
    assert life.end(producer_id, epoch, version=V0).code is TxnCode.CONCURRENT_TRANSACTIONS
    assert life.end(producer_id, epoch, is_commit=False, version=V0).code is TxnCode.INVALID_TXN_STATE
    assert life.add(producer_id, epoch, B, version=V0) is TxnCode.CONCURRENT_TRANSACTIONS


# Time


def test_a_transaction_that_lasts_too_long_is_aborted_and_its_producer_fenced() -> None:
    life, producer_id, epoch = begun()
    life.add(producer_id, epoch, A)
    life.pass_time(TIMEOUT_MS - 1)
    assert life.txn.status is Status.ONGOING
    life.pass_time(1)
    assert life.txn.status is Status.COMPLETE_ABORT
    assert life.marks[-1].epoch == epoch + 1
    assert life.add(producer_id, epoch, B) is TxnCode.PRODUCER_FENCED
    assert life.end(producer_id, epoch).code is TxnCode.INVALID_TXN_STATE
    assert life.init((producer_id, epoch)).code is TxnCode.NONE, "who was late goes on (KIP-360)"


def test_an_id_that_nobody_uses_is_forgotten() -> None:
    life, producer_id, epoch = begun()
    life.pass_time(EXPIRATION_MS // 2)
    life.add(producer_id, epoch, A)
    life.end(producer_id, epoch)
    life.pass_time(EXPIRATION_MS // 2 + 1)
    assert life.txn.is_known
    life.pass_time(EXPIRATION_MS)
    assert life.log[-1].status is Status.DEAD
    assert not life.txn.is_known
    assert life.init().epoch == 0
    assert life.txn.producer_id != producer_id


# The log and the partitions


@pytest.mark.parametrize("version", [V0, V2])
def test_what_the_log_does_not_take_did_not_happen(version: Version) -> None:
    life = Life(version)
    life.takes = False
    assert life.init().code is TxnCode.COORDINATOR_NOT_AVAILABLE
    assert not life.txn.is_known
    life.takes = True
    _, producer_id, epoch = life.init()
    life.takes = False
    assert life.add(producer_id, epoch, A) is TxnCode.COORDINATOR_NOT_AVAILABLE
    assert life.txn.status is Status.EMPTY
    life.takes = True
    life.add(producer_id, epoch, A)
    life.takes = False
    assert life.end(producer_id, epoch).code is TxnCode.COORDINATOR_NOT_AVAILABLE
    assert life.init().code is TxnCode.COORDINATOR_NOT_AVAILABLE
    assert life.init().code is TxnCode.COORDINATOR_NOT_AVAILABLE
    assert life.txn.epoch <= epoch + 1, "raised once, however often that could not be stored"
    life.takes = True
    assert life.init().code is TxnCode.CONCURRENT_TRANSACTIONS
    assert life.marks[-1].epoch == epoch + 1


def test_partitions_are_told_until_all_know() -> None:
    life, producer_id, epoch = begun()
    life.add(producer_id, epoch, A, B)
    life.tells = False
    life.end(producer_id, epoch)
    life.send(Marked(producer_id, epoch + 1, frozenset({B})))
    life.send(MarkAgain())
    assert life.marks[-1].partitions == {B}
    assert life.txn.status is Status.PREPARE_COMMIT
    life.takes = False
    life.send(Marked(producer_id, epoch + 1, frozenset()))
    assert life.txn.status is Status.PREPARE_COMMIT
    life.takes = True
    life.send(CompleteAgain())
    assert life.txn.status is Status.COMPLETE_COMMIT
    life.send(Marked(producer_id, epoch + 1, frozenset({A})))
    assert life.txn.status is Status.COMPLETE_COMMIT, "late news says nothing"


@pytest.mark.parametrize("is_commit", [True, False])
def test_a_coordinator_that_starts_goes_on_where_the_log_ends(is_commit: bool) -> None:
    life, producer_id, epoch = begun()
    life.add(producer_id, epoch, A, B)
    life.tells = False
    life.end(producer_id, epoch, is_commit=is_commit)
    next_life = Life()
    next_life.txn, effects = revived(life.log[-1], next_life.now())
    next_life.carry_out(effects)
    assert next_life.marks[-1] == (producer_id, epoch + 1, is_commit, V2, {A, B})
    assert next_life.txn.status is (Status.COMPLETE_COMMIT if is_commit else Status.COMPLETE_ABORT)


class AnyStory(RuleBasedStateMachine):
    """Two clients, of which the second fences the first, and a log and partitions that may be away."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Life()
        self.clients: dict[int, tuple[int, int]] = {}
        self.decided: dict[tuple[int, int], bool] = {}  # (producer id, epoch of the marker) -> commit
        self.newest: dict[int, int] = {}

    @rule(client=st.integers(0, 1), goes_on=st.booleans())
    def init(self, client: int, goes_on: bool) -> None:
        known = self.clients.get(client)
        code, producer_id, epoch = self.life.init(known if goes_on else None)
        if code is TxnCode.NONE:
            self.clients[client] = producer_id, epoch

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), partition=st.sampled_from([A, B]), version=st.sampled_from([V0, V2]))
    def add(self, data: st.DataObject, partition: tuple[str, int], version: Version) -> None:
        self.life.add(*self.clients[data.draw(st.sampled_from(sorted(self.clients)))], partition, version=version)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), is_commit=st.booleans(), version=st.sampled_from([V0, V2]), is_lost=st.booleans())
    def end(self, data: st.DataObject, is_commit: bool, version: Version, is_lost: bool) -> None:
        client = data.draw(st.sampled_from(sorted(self.clients)))
        before = self.life.txn
        code, producer_id, epoch = self.life.end(*self.clients[client], is_commit=is_commit, version=version)
        if code is TxnCode.NONE:
            assert (producer_id, epoch) >= self.clients[client] or producer_id != before.producer_id
            if not is_lost:
                self.clients[client] = producer_id, epoch

    @rule(takes=st.booleans(), tells=st.booleans())
    def weather(self, takes: bool, tells: bool) -> None:
        self.life.takes, self.life.tells = takes, tells

    @rule(ms=st.sampled_from([100, 30_000, TIMEOUT_MS, EXPIRATION_MS]))
    def pass_time(self, ms: int) -> None:
        self.life.pass_time(ms)

    @rule(used=st.integers(EPOCH_EXHAUSTED - 2, EPOCH_EXHAUSTED))
    def use_epochs_up(self, used: int) -> None:
        txn = self.life.txn
        if txn.status is Status.EMPTY and txn.coming is None and txn.is_known and txn.epoch < used:
            self.life.txn = replace(txn, epoch=used)

    @rule()
    def partitions_are_told(self) -> None:
        txn = self.life.txn
        if txn.status.is_ending and txn.coming is None:
            self.life.send(Marked(txn.producer_id, txn.epoch, frozenset()))

    @rule()
    def restart(self) -> None:
        life = self.life
        stored = life.log[-1] if life.log and life.log[-1].status is not Status.DEAD else None
        life.due.clear()
        if stored is None:
            life.txn = Transaction(transactional_id="t")
            return
        life.txn, effects = revived(stored, life.now())
        life.carry_out(effects)

    @invariant()
    def what_was_decided_stays(self) -> None:
        for mark in self.life.marks:
            key = mark.producer_id, mark.epoch
            if mark.version.bumps_epoch:
                assert self.decided.setdefault(key, mark.is_commit) == mark.is_commit

    @invariant()
    def epochs_only_rise(self) -> None:
        for stored in self.life.log:
            assert 0 <= stored.epoch <= EPOCH_MAX or stored.status is Status.DEAD
            if self.life.log[-1] is stored:
                newest = self.newest.get(stored.producer_id, 0)
                assert stored.epoch >= newest or stored.producer_id == NO_ID
                self.newest[stored.producer_id] = max(newest, stored.epoch)

    @invariant()
    def at_rest_nothing_is_owed(self) -> None:
        txn = self.life.txn
        assert (txn.coming is None) == (txn.waiting is None) or txn.coming is not None
        if txn.status in (Status.EMPTY, Status.COMPLETE_COMMIT, Status.COMPLETE_ABORT):
            assert not txn.partitions
        assert txn.is_known or not self.life.log or txn.coming is None


AnyStory.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestAnyStory = AnyStory.TestCase
