"""Kafka's formats in __consumer_offsets: bytes taken apart by hand, round trips, old versions, damage; and the coordinator's partition."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlog.coordinators.group_types import Group, Member, State, group_of
from hotlog.coordinators.offset_records import (
    GroupKey,
    OffsetKey,
    OffsetValue,
    decode_group,
    decode_key,
    decode_offset,
    encode_group,
    encode_key,
    encode_offset,
    subscribed_topics,
)
from hotlog.coordinators.shards import partition_for
from hotlog.kernel.errors import Corrupt, Invalid

MEMBER = Member(
    member_id="m-1", instance_id="i1", client_id="c", client_host="/127.0.0.1", session_timeout_ms=10_000, rebalance_timeout_ms=60_000,
    protocols=(("range", b"\0\1"),),
)  # fmt: skip
GROUP = group_of(
    "g",
    [MEMBER],
    {"m-1": b"\2\3"},
    state=State.STABLE,
    generation=4,
    protocol_type="consumer",
    protocol="range",
    leader="m-1",
)


def whole(group: Group, state_ms: int) -> bytes:
    return b"".join(encode_group(group, state_ms))


def test_offset_key_and_value_are_kafkas() -> None:
    assert encode_key(OffsetKey("g", "clicks", 3)) == bytes.fromhex("00010001 670006 636c69636b7300000003")
    assert encode_offset(OffsetValue(7, 2, "m", 1_700_000_000_000)) == bytes.fromhex(
        "00030000000000000007000000020001 6d0000018bcfe56800"
    )


def test_group_key_and_value_are_kafkas() -> None:
    assert encode_key(GroupKey("g")) == bytes.fromhex("00020001 67")
    assert whole(GROUP, 1_700_000_000_000) == bytes.fromhex(
        "0003" "0008 636f6e73756d6572" "00000004" "0005 72616e6765" "0003 6d2d31" "0000018bcfe56800" "00000001"
        "0003 6d2d31" "0002 6931" "0001 63" "000a 2f3132372e302e302e31" "0000ea60" "00002710" "00000002 0001" "00000002 0203"
    )  # fmt: skip


def test_empty_group_has_null_protocol_and_leader() -> None:
    raw = whole(Group(group_id="g", generation=5, protocol_type="consumer"), -1)
    assert raw == bytes.fromhex("00030008 636f6e73756d657200000005ffffffffffffffffffffffff00000000")
    assert decode_group("g", raw).group == Group(group_id="g", generation=5, protocol_type="consumer")


def test_older_values_are_read() -> None:
    assert decode_offset(struct.pack(">hq", 1, 7) + b"\0\1m" + struct.pack(">qq", 5, 6)) == OffsetValue(7, -1, "m", 5)
    assert decode_offset(struct.pack(">hq", 2, 7) + b"\0\1m" + struct.pack(">q", 5)) == OffsetValue(7, -1, "m", 5)
    first = struct.pack(">h", 0) + b"\0\10consumer" + struct.pack(">i", 4) + b"\0\5range\0\3m-1" + struct.pack(">i", 1)
    first += b"\0\3m-1\0\1c\0\2/h" + struct.pack(">i", 10_000) + b"\0\0\0\1\7\0\0\0\1\10"
    group = decode_group("g", first).group
    assert group.members["m-1"].rebalance_timeout_ms == 10_000
    assert group.assignment("m-1") == b"\x08"


FLEXIBLE_OFFSET = bytes.fromhex("0004 0000000000000007 00000002 026d 0000000000000005 01 00 10") + bytes(16)
FLEXIBLE_GROUP = bytes.fromhex(
    "0004 09 636f6e73756d6572 00000004 06 72616e6765 04 6d2d31 0000000000000005"
    "02 04 6d2d31 00 02 63 03 2f68 0000000a 0000000b 02 07 02 08 00 00"
)


def test_the_flexible_values_of_kafka_are_read() -> None:
    assert decode_offset(FLEXIBLE_OFFSET) == OffsetValue(7, 2, "m", 5)
    found = decode_group("g", FLEXIBLE_GROUP)
    assert found.state_ms == 5
    assert (found.group.generation, found.group.protocol, found.group.leader) == (4, "range", "m-1")
    assert found.group.members["m-1"].rebalance_timeout_ms == 10
    assert found.group.assignment("m-1") == b"\x08"
    for raw, decode in ((FLEXIBLE_OFFSET, decode_offset), (FLEXIBLE_GROUP, lambda raw: decode_group("g", raw))):
        for size in range(len(raw)):
            with pytest.raises(Corrupt):
                decode(raw[:size])


def test_unknown_keys_are_not_ours_and_unknown_values_are_refused() -> None:
    assert decode_key(struct.pack(">h", 5) + b"\0\1g") is None
    with pytest.raises(Corrupt, match="version 5"):
        decode_offset(struct.pack(">hq", 5, 7))
    with pytest.raises(Corrupt, match="version 9"):
        decode_group("g", struct.pack(">h", 9))


@pytest.mark.parametrize(
    "raw", [whole(GROUP, 5), encode_offset(OffsetValue(1, 1, "meta", 5)), encode_key(OffsetKey("g", "t", 1))]
)
def test_every_cut_is_corrupt(raw: bytes) -> None:
    def decode(data: bytes) -> object:
        if raw == whole(GROUP, 5):
            return decode_group("g", data)
        return decode_offset(data) if len(raw) > 20 else decode_key(data)

    for length in range(len(raw)):
        with pytest.raises(Corrupt):
            decode(raw[:length])


def test_a_string_that_does_not_fit_is_refused() -> None:
    with pytest.raises(Invalid, match="40000"):
        encode_key(GroupKey("x" * 40_000))


texts = st.text(max_size=20)
members = st.builds(
    Member, member_id=texts, instance_id=st.none() | texts, client_id=texts, client_host=texts,
    session_timeout_ms=st.integers(0, 2**31 - 1), rebalance_timeout_ms=st.integers(0, 2**31 - 1),
    protocols=st.binary(max_size=20).map(lambda data: (("range", data),)),
)  # fmt: skip


@given(
    st.lists(st.tuples(members, st.binary(max_size=20)), min_size=1, max_size=4, unique_by=lambda found: found[0].member_id),
    st.integers(0, 2**31 - 1),
    st.integers(-1, 2**48),
)
def test_a_group_survives_its_bytes(found: list[tuple[Member, bytes]], generation: int, state_ms: int) -> None:
    group = group_of(
        "g", [member for member, _ in found], {member.member_id: assignment for member, assignment in found}, state=State.STABLE,
        generation=generation, protocol_type="consumer", protocol="range", leader=found[0][0].member_id,
    )  # fmt: skip
    assert decode_group("g", whole(group, state_ms)) == (group, state_ms)


@given(texts, texts, st.integers(0, 2**31 - 1), st.integers(-1, 2**62), st.integers(-1, 2**31 - 1), texts)
def test_an_offset_survives_its_bytes(group: str, topic: str, partition: int, offset: int, epoch: int, metadata: str) -> None:
    key, value = OffsetKey(group, topic, partition), OffsetValue(offset, epoch, metadata, 5)
    assert decode_key(encode_key(key)) == key
    assert decode_offset(encode_offset(value)) == value


@pytest.mark.parametrize(
    ("group", "code"),
    [("", 0), ("g", 103), ("hello", 99162322), ("Aa", 2112), ("polygenelubricants", -(2**31)), ("😀", 1772899)],
)
def test_the_partition_is_that_of_javas_string_hash(group: str, code: int) -> None:
    """polygenelubricants is the well-known string whose hash is Integer.MIN_VALUE; Kafka's Utils.abs makes that 0."""
    expected = 0 if code == -(2**31) else abs(code) % 50
    assert java_hash(group) == code
    assert partition_for(group, 50) == expected


def java_hash(text: str) -> int:
    """String.hashCode as its documentation has it: s[0]*31^(n-1) + ... + s[n-1] over UTF-16 units, in 32-bit arithmetic."""
    raw = text.encode("utf-16-be")
    units = [int.from_bytes(raw[at : at + 2], "big") for at in range(0, len(raw), 2)]
    total = sum(unit * 31 ** (len(units) - 1 - place) for place, unit in enumerate(units))
    return (total + 2**31) % 2**32 - 2**31


def test_subscriptions_are_read() -> None:
    data = struct.pack(">hi", 1, 2) + b"\0\1a\0\1b" + struct.pack(">i", -1)
    member = replace(MEMBER, protocols=(("range", data),))
    group = replace(GROUP, members={"m-1": member})
    assert subscribed_topics(group) == {"a", "b"}
    assert subscribed_topics(GROUP) is None, "what cannot be read protects everything"
    assert subscribed_topics(Group(group_id="g", protocol_type="connect", protocol="x")) is None
