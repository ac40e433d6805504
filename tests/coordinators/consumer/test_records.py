"""Records of consumer groups as bytes: written and read back, and those of Kafka's own schemas."""

from __future__ import annotations

import contextlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlog.coordinators.consumer.records import (
    NAMED,
    ConsumerKey,
    ConsumerValue,
    GroupEpoch,
    Kind,
    TargetEpoch,
    decode_key,
    decode_value,
    encode_key,
    encode_value,
)
from hotlog.coordinators.consumer.values import Classic, Current, MemberState, Resolved, Said, Target
from hotlog.kernel.errors import Corrupt

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
INTS = st.integers(-(2**31), 2**31 - 1)
LONGS = st.integers(-(2**63), 2**63 - 1)
PARTS = st.dictionaries(st.uuids(), st.frozensets(st.integers(0, 1000), max_size=5), max_size=3)
OWNED = st.dictionaries(st.uuids(), st.dictionaries(st.integers(0, 1000), INTS, max_size=5), max_size=3)
CLASSIC = st.builds(Classic, INTS, st.lists(st.tuples(TEXTS, st.binary(max_size=10)), max_size=3).map(tuple))
SAID = st.builds(
    Said, instance_id=st.none() | TEXTS, rack_id=st.none() | TEXTS, client_id=TEXTS, client_host=TEXTS,
    topics=st.sets(TEXTS, max_size=4).map(lambda names: tuple(sorted(names))), regex=TEXTS, rebalance_ms=INTS, assignor=st.none() | TEXTS,
    classic=st.none() | CLASSIC,
)  # fmt: skip
VALUES: dict[Kind, st.SearchStrategy[ConsumerValue]] = {
    Kind.GROUP: st.builds(GroupEpoch, INTS, LONGS),
    Kind.MEMBER: SAID,
    Kind.TARGET_EPOCH: st.builds(TargetEpoch, INTS, LONGS),
    Kind.TARGET: st.builds(Target, PARTS),
    Kind.CURRENT: st.builds(
        Current, epoch=INTS, previous_epoch=INTS, state=st.sampled_from(MemberState), assigned=OWNED, revoking=OWNED
    ),
    Kind.REGEX: st.builds(Resolved, st.sets(TEXTS, max_size=4).map(lambda names: tuple(sorted(names))), LONGS, LONGS),
}
A = UUID(int=0xA)


@pytest.mark.parametrize("kind", list(VALUES))
@given(st.data())
def test_a_record_is_read_as_it_was_written(kind: Kind, data: st.DataObject) -> None:
    key = ConsumerKey(data.draw(TEXTS), kind, data.draw(TEXTS) if kind in NAMED else "")
    assert decode_key(encode_key(key)) == key
    value = data.draw(VALUES[kind])
    raw = encode_value(value)
    assert decode_value(key, raw) == value
    for size in range(len(raw)):
        with pytest.raises(Corrupt):
            decode_value(key, raw[:size])


@given(st.sampled_from(sorted(VALUES)), st.binary(max_size=60))
def test_junk_is_corrupt_or_a_value(kind: Kind, junk: bytes) -> None:
    for raw in (junk, b"\0\0" + junk):
        with contextlib.suppress(Corrupt):
            decode_value(ConsumerKey("g", kind, "m"), raw)


GOLDEN: list[tuple[ConsumerKey, str, ConsumerValue, str]] = [
    (ConsumerKey("g", Kind.GROUP), "0003 000167", GroupEpoch(5, 0), "0000 00000005 00"),
    (ConsumerKey("g", Kind.GROUP), "0003 000167", GroupEpoch(5, 7), "0000 00000005 01 00 08 0000000000000007"),
    (ConsumerKey("g", Kind.TARGET_EPOCH), "0006 000167", TargetEpoch(5, 9), "0000 00000005 01 00 08 0000000000000009"),
    (
        ConsumerKey("g", Kind.TARGET, "m"), "0007 000167 00016d", Target({A: frozenset({0, 2})}),
        "0000 02 0000000000000000000000000000000a 03 00000000 00000002 00 00",
    ),
    (
        ConsumerKey("g", Kind.CURRENT, "m"), "0008 000167 00016d",
        Current(epoch=5, previous_epoch=4, state=MemberState.UNREVOKED, assigned={A: {1: 3}}),
        "0000 00000005 00000004 02 02 0000000000000000000000000000000a 02 00000001 01 00 05 02 00000003 01 00",
    ),
    (
        ConsumerKey("g", Kind.MEMBER, "m"), "0005 000167 00016d",
        Said(client_id="c", client_host="/h", topics=("t",), rebalance_ms=10, assignor="range"),
        "0000 00 00 0263 032f68 02 0274 00 0000000a 0672616e6765 00",
    ),
    (
        ConsumerKey("g", Kind.REGEX, "a.*"), "0010 000167 0003612e2a", Resolved(("a",), 3, 4),
        "0000 02 0261 0000000000000003 0000000000000004 00",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("key", "raw_key", "value", "raw_value"), GOLDEN)
def test_bytes_are_those_of_kafkas_schemas(key: ConsumerKey, raw_key: str, value: ConsumerValue, raw_value: str) -> None:
    assert encode_key(key) == bytes.fromhex(raw_key)
    assert encode_value(value) == bytes.fromhex(raw_value)
    assert decode_value(key, bytes.fromhex(raw_value)) == value


def test_partitions_of_before_kafka_4_3_were_assigned_at_the_members_epoch() -> None:
    raw = bytes.fromhex("0000 00000005 00000004 01 02 0000000000000000000000000000000a 02 00000001 00 01 00")
    assert decode_value(ConsumerKey("g", Kind.CURRENT, "m"), raw) == Current(epoch=5, previous_epoch=4, assigned={A: {1: 5}})


def test_a_key_of_another_kind_is_nobodys() -> None:
    assert decode_key(b"\0\x0b\0\1g") is None
    assert decode_key(b"\0") is None
