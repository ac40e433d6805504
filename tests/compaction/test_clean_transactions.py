"""Which batches and markers of transactions a cleaning lets go."""

from __future__ import annotations

from compaction.clean_transactions import ABORT, COMMIT, OTHER, CleanedTransactions
from hotlog.log.index import AbortedTransaction

ABORTED = AbortedTransaction(7, 10, 19, 20)


def data(pass_: CleanedTransactions, producer: int, offset: int) -> bool:
    return pass_.on_batch(producer, offset, is_transactional=True)


def test_data_of_an_aborted_transaction_goes_and_its_marker_stays_until_the_next_pass() -> None:
    first = CleanedTransactions()
    first.expect([ABORTED])
    assert not data(first, 7, 9), "one before it"
    assert not first.on_marker(7, 9, COMMIT)
    assert data(first, 7, 12) and data(first, 7, 15)
    assert not data(first, 8, 16), "another's"
    assert not first.on_marker(7, 19, ABORT)
    assert first.kept == [ABORTED]
    assert not data(first, 7, 21), "the one behind it"
    second = CleanedTransactions()
    second.expect([ABORTED])
    assert second.on_marker(7, 19, ABORT)
    assert second.kept == []


def test_a_marker_of_which_no_batch_is_left_is_not_needed() -> None:
    one = CleanedTransactions()
    assert not data(one, 7, 3)
    assert not one.on_marker(7, 5, COMMIT)
    assert one.on_marker(7, 9, COMMIT), "of another transaction, of which nothing is left"
    assert one.on_marker(9, 11, ABORT)


def test_data_outside_of_transactions_is_never_aborted() -> None:
    one = CleanedTransactions()
    one.expect([ABORTED])
    assert not one.on_batch(7, 12, is_transactional=False)
    assert one.on_marker(7, 19, ABORT), "it saw none of its batches"


def test_what_was_emptied_and_what_is_no_marker() -> None:
    one = CleanedTransactions()
    assert one.on_marker(7, 5, None)
    assert not one.on_marker(7, 6, OTHER), "a kind that is not known stays"


def test_a_transaction_over_two_parts_is_told_twice() -> None:
    one = CleanedTransactions()
    one.expect([ABORTED])
    assert data(one, 7, 12)
    one.expect([ABORTED])
    assert data(one, 7, 15)
    assert not one.on_marker(7, 19, ABORT)
    assert not data(one, 7, 25)
    assert one.kept == [ABORTED]


def test_a_transaction_is_over_at_its_last_offset_though_its_marker_is_gone() -> None:
    """The store may have dropped a marker that the local index still has an entry for: what the producer committed later is not aborted."""
    one = CleanedTransactions()
    one.expect([ABORTED, AbortedTransaction(7, 30, 39, 40)])
    assert data(one, 7, 12)
    assert not data(one, 7, 25), "committed, behind a marker that is gone"
    assert not one.on_marker(7, 26, COMMIT)
    assert data(one, 7, 33), "the next one that was aborted"
    assert not one.on_marker(7, 39, ABORT)
    assert one.kept == [AbortedTransaction(7, 30, 39, 40)]


def test_an_emptied_marker_ends_its_transaction() -> None:
    one = CleanedTransactions()
    one.expect([ABORTED, AbortedTransaction(7, 21, 29, 30)])
    assert one.on_marker(7, 19, None)
    assert data(one, 7, 22) and not one.on_marker(7, 29, ABORT)
    assert one.kept == [AbortedTransaction(7, 21, 29, 30)]


def test_where_its_data_may_lie_elsewhere_the_end_of_an_aborted_transaction_stays() -> None:
    for number in range(2):
        one = CleanedTransactions(has_more=True)
        one.expect([ABORTED])
        assert not one.on_marker(7, 19, ABORT), number
        assert one.kept == [ABORTED]
        assert one.on_marker(7, 29, ABORT), "one that nobody is told of"
        assert one.on_marker(7, 39, COMMIT)
