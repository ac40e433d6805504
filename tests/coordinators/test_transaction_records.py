"""Kafka's formats in __transaction_state: its own serializer's bytes, round trips, damage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlog.coordinators.transaction_records import decode_key, decode_value, encode_key, encode_value
from hotlog.coordinators.transaction_types import V0, V2, Status, Transaction, Version
from hotlog.kernel.errors import Corrupt

ONGOING = Transaction(
    transactional_id="t", producer_id=5, previous_id=5, epoch=2, timeout_ms=60_000, status=Status.ONGOING,
    partitions=frozenset({("a", 1), ("a", 0), ("b", 2)}), start_ms=10, update_ms=20, version=V2,
)  # fmt: skip
EMPTY = Transaction(transactional_id="t", producer_id=5, previous_id=4, epoch=0, timeout_ms=60_000, update_ms=20)
PREPARED = Transaction(
    transactional_id="t", producer_id=5, previous_id=5, next_id=9, epoch=32767, timeout_ms=1, status=Status.PREPARE_COMMIT,
    partitions=frozenset({("a", 0)}), start_ms=10, update_ms=20, version=V2,
)  # fmt: skip


def whole(txn: Transaction) -> bytes:
    raw = encode_value(txn)
    return raw if isinstance(raw, bytes) else b"".join(raw)


def test_a_key_is_kafkas() -> None:
    assert encode_key("pay-1") == bytes.fromhex("0000 0005 7061792d31")
    assert decode_key(encode_key("pay-1")) == "pay-1"
    assert decode_key(b"\0\7rest") is None


# MessageUtil.toVersionPrefixedBytes(1, new TransactionLogValue()...) of Kafka 4.3
def test_values_are_kafkas() -> None:
    assert whole(ONGOING) == bytes.fromhex(
        "0001" "0000000000000005" "0002" "0000ea60" "01" "03" "0261" "03" "00000000" "00000001" "00" "0262" "02" "00000002" "00"
        "0000000000000014" "000000000000000a" "02" "0008" "0000000000000005" "0202" "0002"
    )  # fmt: skip
    assert whole(EMPTY) == bytes.fromhex(
        "0001" "0000000000000005" "0000" "0000ea60" "00" "00" "0000000000000014" "ffffffffffffffff" "01" "0008" "0000000000000004"
    )  # fmt: skip
    assert whole(PREPARED) == bytes.fromhex(
        "0001" "0000000000000005" "7fff" "00000001" "02" "02" "0261" "02" "00000000" "00" "0000000000000014" "000000000000000a"
        "03" "0008" "0000000000000005" "0108" "0000000000000009" "0202" "0002"
    )  # fmt: skip


def test_the_older_value_is_read() -> None:
    raw = bytes.fromhex(
        "0000" "0000000000000005" "0002" "0000ea60" "01" "00000001" "0001 61" "00000002" "00000000" "00000001"
        "0000000000000014" "000000000000000a"
    )  # fmt: skip
    found = decode_value("t", raw)
    assert (found.partitions, found.previous_id, found.version) == ({("a", 0), ("a", 1)}, -1, V0)
    empty = decode_value("t", bytes.fromhex("0000 0000000000000005 0002 0000ea60 00 ffffffff 0000000000000014 ffffffffffffffff"))
    assert (empty.partitions, empty.status, empty.start_ms) == (frozenset(), Status.EMPTY, -1)


TRANSACTIONS = st.builds(
    Transaction,
    transactional_id=st.just("t"),
    producer_id=st.integers(0, 2**63 - 1),
    previous_id=st.integers(-1, 2**63 - 1),
    next_id=st.integers(-1, 2**63 - 1),
    epoch=st.integers(0, 2**15 - 1),
    timeout_ms=st.integers(0, 2**31 - 1),
    status=st.sampled_from([status for status in Status if status not in (Status.EMPTY, Status.PREPARE_EPOCH_FENCE)]),
    partitions=st.frozensets(st.tuples(st.text(min_size=1, max_size=9).filter(str.isascii), st.integers(0, 2**31 - 1))),
    start_ms=st.integers(-1, 2**48),
    update_ms=st.integers(-1, 2**48),
    version=st.sampled_from([V0, Version(1), V2]),
)


@given(TRANSACTIONS)
def test_what_is_written_is_read(txn: Transaction) -> None:
    assert decode_value("t", whole(txn)) == txn


def test_thousands_of_partitions_are_written_in_pieces() -> None:
    partitions = frozenset((f"topic-{number % 50}", number) for number in range(5000))
    txn = Transaction(transactional_id="t", producer_id=1, epoch=0, status=Status.ONGOING, partitions=partitions)
    assert not isinstance(encode_value(txn), bytes)
    assert decode_value("t", whole(txn)).partitions == partitions


@given(TRANSACTIONS, st.data())
def test_what_is_cut_off_is_corrupt(txn: Transaction, data: st.DataObject) -> None:
    raw = whole(txn)
    with pytest.raises(Corrupt):
        decode_value("t", raw[: data.draw(st.integers(0, len(raw) - 1))])


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_corrupt(raw: bytes) -> None:
    for read in (lambda: decode_key(raw), lambda: decode_value("t", raw)):
        try:
            read()
        except Corrupt:
            continue
