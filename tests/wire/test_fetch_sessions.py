"""Fetch sessions (KIP-227) as a state machine, without a broker."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from kio.schema.errors import ErrorCode

from hotlog.apis.fetch.sessions import EVICT_IDLE_MS, FetchSessions, Plan
from hotlog.kernel.limits import FETCH_SESSION_PARTITIONS_MAX
from hotlog.wire.fetch_reply import PartitionReply
from hotlog.wire.fetch_request import FetchRequest, Key, Wanted

A, B, C = ("t", 0), ("t", 1), ("u", 0)


def fetch(
    session_id: int = 0, epoch: int = 0, partitions: dict[Key, Wanted] | None = None, forgotten: list[Key] | None = None
) -> FetchRequest:
    return FetchRequest(500, 1, 1000, 0, session_id, epoch, partitions or {}, forgotten or [], "")


def wanting(*keys: Key, offset: int = 0) -> dict[Key, Wanted]:
    return {key: Wanted(offset, 100) for key in keys}


def sessions(slots: int = 10) -> FetchSessions:
    ids = itertools.count(1)
    return FetchSessions(lambda: slots, lambda: next(ids))


def begin(book: FetchSessions, request: FetchRequest, *, ids: bool = False, now_ms: int = 0) -> Plan:
    return book.begin(request, has_topic_ids=ids, now_ms=now_ms)


def keys_of(plan: Plan) -> list[Key]:
    return [key for key, _ in plan.partitions]


def reply(
    key: Key, high_watermark: int = 10, records: bytes = b"", code: ErrorCode = ErrorCode.none
) -> tuple[Key, PartitionReply]:
    return key, PartitionReply(key[1], code, high_watermark, high_watermark, 0, None, records)


def named(plan: Plan, *replies: tuple[Key, PartitionReply]) -> list[Key]:
    return [key for key, _ in plan.answer(replies)]


def test_a_full_fetch_opens_a_session_and_names_everything() -> None:
    book = sessions()
    plan = begin(book, fetch(partitions=wanting(A, B)))
    assert (plan.session_id, keys_of(plan)) == (1, [A, B])
    assert named(plan, reply(A), reply(B)) == [A, B]


def test_an_incremental_answer_names_only_what_changed() -> None:
    book = sessions()
    named(begin(book, fetch(partitions=wanting(A, B))), reply(A), reply(B))
    plan = begin(book, fetch(1, 1))
    assert keys_of(plan) == [A, B]
    assert named(plan, reply(A), reply(B, high_watermark=11)) == [B]
    assert named(begin(book, fetch(1, 2)), reply(A, records=b"r"), reply(B, high_watermark=11)) == [A]


def test_after_an_error_a_partition_is_named_again() -> None:
    book = sessions()
    named(begin(book, fetch(partitions=wanting(A))), reply(A))
    assert named(begin(book, fetch(1, 1)), reply(A, code=ErrorCode.kafka_storage_error)) == [A]
    assert named(begin(book, fetch(1, 2)), reply(A)) == [A]
    assert named(begin(book, fetch(1, 3)), reply(A)) == []


def test_partitions_with_records_go_to_the_end_of_the_order() -> None:
    book = sessions()
    named(begin(book, fetch(partitions=wanting(A, B, C))), reply(A, records=b"r"), reply(B), reply(C))
    plan = begin(book, fetch(1, 1))
    assert keys_of(plan) == [B, C, A]


def test_wishes_are_added_changed_and_forgotten() -> None:
    book = sessions()
    begin(book, fetch(partitions=wanting(A, B)))
    plan = begin(book, fetch(1, 1, {**wanting(C), **wanting(A, offset=7)}, [B]))
    assert keys_of(plan) == [A, C]
    assert plan.partitions[0][1].offset == 7
    assert begin(book, fetch(1, 2)).partitions == plan.partitions


def test_a_session_that_forgets_everything_ends() -> None:
    book = sessions()
    begin(book, fetch(partitions=wanting(A)))
    plan = begin(book, fetch(1, 1, forgotten=[A]))
    assert (plan.session_id, len(book)) == (0, 0)


@pytest.mark.parametrize(
    ("session_id", "epoch", "ids", "code"),
    [
        (9, 1, False, ErrorCode.fetch_session_id_not_found),
        (1, 2, False, ErrorCode.invalid_fetch_session_epoch),
        (1, 1, True, ErrorCode.fetch_session_topic_id_error),
    ],
)
def test_a_request_that_does_not_fit_its_session_is_refused(session_id: int, epoch: int, ids: bool, code: ErrorCode) -> None:
    book = sessions()
    begin(book, fetch(partitions=wanting(A)))
    assert begin(book, fetch(session_id, epoch), ids=ids).code is code
    assert begin(book, fetch(1, 1)).code is ErrorCode.none  # the session itself is unharmed


def test_a_request_that_was_served_is_not_served_again() -> None:
    book = sessions()
    begin(book, fetch(partitions=wanting(A)))
    for epoch in (1, 2, 3):
        assert begin(book, fetch(1, epoch)).code is ErrorCode.none
        for older in range(1, epoch + 1):
            assert begin(book, fetch(1, older)).code is ErrorCode.invalid_fetch_session_epoch


def test_epoch_minus_one_ends_the_session_and_fetches_without() -> None:
    book = sessions()
    begin(book, fetch(partitions=wanting(A)))
    plan = begin(book, fetch(1, -1, wanting(B)))
    assert (plan.session_id, keys_of(plan), len(book)) == (0, [B], 0)


def test_a_new_session_replaces_the_client_s_old_one() -> None:
    book = sessions()
    begin(book, fetch(partitions=wanting(A)))
    assert begin(book, fetch(1, 0, wanting(B))).session_id == 2
    assert len(book) == 1


def test_a_full_house_serves_without_sessions_until_one_has_idled() -> None:
    book = sessions(slots=1)
    begin(book, fetch(partitions=wanting(A)), now_ms=0)
    plan = begin(book, fetch(partitions=wanting(B)), now_ms=EVICT_IDLE_MS)
    assert (plan.session_id, keys_of(plan)) == (0, [B])
    assert begin(book, fetch(partitions=wanting(B)), now_ms=EVICT_IDLE_MS + 1).session_id == 2
    assert (len(book), book.evicted) == (1, 1)


def test_no_slots_means_no_sessions() -> None:
    assert begin(sessions(slots=0), fetch(partitions=wanting(A))).session_id == 0


def test_epochs_wrap_to_one() -> None:
    book = sessions()
    plan = begin(book, fetch(partitions=wanting(A)))
    assert plan.session is not None
    plan.session.epoch = 2**31 - 1
    assert begin(book, fetch(1, 2**31 - 1)).code is ErrorCode.none
    assert begin(book, fetch(1, 1)).code is ErrorCode.none


def test_partitions_of_all_sessions_have_a_bound() -> None:
    """Who would be beyond it is served without a session; what idled, ended or was forgotten makes room."""
    book = sessions()
    half = FETCH_SESSION_PARTITIONS_MAX // 2
    first = begin(book, fetch(partitions=wanting(*(("t", n) for n in range(half)))))
    assert begin(book, fetch(partitions=wanting(*(("t", n) for n in range(half + 1))))).session_id == 0
    assert begin(book, fetch(partitions=wanting(*(("t", n) for n in range(half))))).session_id == 2
    assert (len(book), book.partitions) == (2, 2 * half)
    assert begin(book, fetch(partitions=wanting(A))).session_id == 0
    begin(book, fetch(first.session_id, 1, forgotten=[("t", n) for n in range(10)]))
    assert begin(book, fetch(partitions=wanting(A))).session_id == 3
    begin(book, fetch(first.session_id, -1))
    assert book.partitions == half + 1
    assert begin(book, fetch(partitions=wanting(*(("t", n) for n in range(half)))), now_ms=EVICT_IDLE_MS + 1).session_id == 4


def test_a_session_that_grows_beyond_the_bound_ends() -> None:
    book = sessions()
    plan = begin(book, fetch(partitions=wanting(A)))
    more = wanting(*(("u", n) for n in range(FETCH_SESSION_PARTITIONS_MAX)))
    assert begin(book, fetch(plan.session_id, 1, more)).code is ErrorCode.fetch_session_id_not_found
    assert (len(book), book.partitions) == (0, 0)


def test_names_that_no_topic_can_have_are_not_kept() -> None:
    book = sessions()
    strange = wanting(("x" * 250, 0))
    assert begin(book, fetch(partitions=strange)).session_id == 0
    plan = begin(book, fetch(partitions=wanting(A)))
    assert begin(book, fetch(plan.session_id, 1, strange)).code is ErrorCode.fetch_session_id_not_found
    assert (len(book), book.partitions) == (0, 0)


class ClientAndBroker(RuleBasedStateMachine):
    """A client that keeps its own copy of what it was told must always know the broker's truth after an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.book = sessions()
        self.truth = {A: 0, B: 0, C: 0}
        self.known: dict[Key, int] = {}
        self.wanted: set[Key] = set()
        self.session_id = 0
        self.epoch = 0
        self.is_fresh = False

    def exchange(self, request: FetchRequest) -> None:
        plan = begin(self.book, request)
        assert plan.code is ErrorCode.none
        self.session_id = plan.session_id
        for key, each in plan.answer([reply(key, self.truth[key]) for key in keys_of(plan)]):
            self.known[key] = each.high_watermark
        self.is_fresh = True

    @rule(keys=st.sets(st.sampled_from([A, B, C]), min_size=1))
    def open(self, keys: set[Key]) -> None:
        self.known, self.wanted, self.epoch = {}, set(keys), 1
        self.exchange(fetch(self.session_id, 0, wanting(*keys)))

    @precondition(lambda self: self.session_id)
    @rule(more=st.sets(st.sampled_from([A, B, C])), fewer=st.sets(st.sampled_from([A, B, C])))
    def go_on(self, more: set[Key], fewer: set[Key]) -> None:
        fewer -= more
        if not (self.wanted | more) - fewer:
            return
        self.wanted = (self.wanted | more) - fewer
        for key in fewer:
            self.known.pop(key, None)
        self.exchange(fetch(self.session_id, self.epoch, wanting(*more), list(fewer)))
        self.epoch += 1

    @rule(key=st.sampled_from([A, B, C]))
    def append(self, key: Key) -> None:
        self.truth[key] += 1
        self.is_fresh = False

    @invariant()
    def partitions_are_counted(self) -> None:
        assert self.book.partitions == len(self.wanted)

    @invariant()
    def the_client_knows_what_it_wants(self) -> None:
        if self.is_fresh:
            assert self.known == {key: self.truth[key] for key in self.wanted}


TestClientAndBroker = ClientAndBroker.TestCase
TestClientAndBroker.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
