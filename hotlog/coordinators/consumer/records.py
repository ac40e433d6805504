"""Keys and values that __consumer_offsets keeps of a consumer group of the new protocol, in Kafka 4.3's formats.

A key is its kind (int16), the group's id and, of what there are several, a member's id or a regular expression.  Every value is of version 0
and flexible.  Schemas: ConsumerGroup*Key/Value in
https://github.com/apache/kafka/tree/trunk/group-coordinator/src/main/resources/common/message

Invariants: pure; what is written here is read back equal; unknown tagged fields are skipped; cut-off bytes are Corrupt.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple
from uuid import UUID

from hotlog.coordinators.consumer.values import Classic, Current, MemberState, Owned, Resolved, Said, Target
from hotlog.coordinators.flexible import Reader, list_of, numbers, plain, tagged, text
from hotlog.kernel.errors import Corrupt
from hotlog.wire.bounds import uvarint


class Kind(IntEnum):
    """What a record says, by the number that its key begins with (CoordinatorRecordType)."""

    GROUP = 3
    PARTITIONS = 4  # of Kafka 4.0; the hash in GROUP took its place (KIP-1101)
    MEMBER = 5
    TARGET_EPOCH = 6
    TARGET = 7
    CURRENT = 8
    REGEX = 16


NAMED = frozenset({Kind.MEMBER, Kind.TARGET, Kind.CURRENT, Kind.REGEX})
# A group is forgotten in this order, as Kafka forgets it: who reads along never has a member without a group.
FORGOTTEN_IN = (Kind.CURRENT, Kind.TARGET, Kind.TARGET_EPOCH, Kind.MEMBER, Kind.REGEX, Kind.PARTITIONS, Kind.GROUP)


class ConsumerKey(NamedTuple):
    """`name`: of a member, or an expression; "" where there is one record of the kind."""

    group_id: str
    kind: Kind
    name: str = ""


class GroupEpoch(NamedTuple):
    """A group, and a hash of the topics that it was made with."""

    epoch: int
    hash: int


class TargetEpoch(NamedTuple):
    """When (wall ms) and at which epoch the targets were computed."""

    epoch: int
    at_ms: int


class Topics(NamedTuple):
    """The value of PARTITIONS, which nobody needs any more, as it is."""

    raw: bytes


ConsumerValue = GroupEpoch | TargetEpoch | Said | Target | Current | Resolved | Topics


def encode_key(key: ConsumerKey) -> bytes:
    raw = struct.pack(">h", key.kind) + plain(key.group_id)
    return raw + plain(key.name) if key.kind in NAMED else raw


def decode_key(raw: bytes) -> ConsumerKey | None:
    """The key; None for a kind that is not one of these."""
    try:
        kind = Kind(struct.unpack_from(">h", raw)[0])
    except (struct.error, ValueError):
        return None
    reader = Reader(raw, 2, "consumer group key")
    return ConsumerKey(reader.plain(), kind, reader.plain() if kind in NAMED else "")


def encode_value(value: ConsumerValue) -> bytes:
    return b"\0\0" + _ENCODERS[type(value)](value)


def decode_value(key: ConsumerKey, raw: bytes) -> ConsumerValue:
    if key.kind is Kind.PARTITIONS:
        return Topics(raw[2:])
    reader = Reader(raw, 0, f"consumer group value of kind {key.kind}")
    version = reader.number(">h")
    if version != 0:
        raise Corrupt(f"{reader.what} has version {version}; 0 is read")
    return _DECODERS[key.kind](reader)


# Values


def _encode_group(value: GroupEpoch) -> bytes:
    return struct.pack(">i", value.epoch) + tagged({0: struct.pack(">q", value.hash)} if value.hash else {})


def _decode_group(reader: Reader) -> GroupEpoch:
    epoch = reader.number(">i")
    found = reader.tagged().get(0)
    return GroupEpoch(epoch, struct.unpack(">q", found)[0] if found is not None and len(found) == 8 else 0)


def _encode_target_epoch(value: TargetEpoch) -> bytes:
    return struct.pack(">i", value.epoch) + tagged({0: struct.pack(">q", value.at_ms)} if value.at_ms else {})


def _decode_target_epoch(reader: Reader) -> TargetEpoch:
    return TargetEpoch(*_decode_group(reader))


def _encode_said(value: Said) -> bytes:
    tags: dict[int, bytes] = {}
    if value.classic is not None:
        protocols = list_of(text(name) + uvarint(len(data) + 1) + data + b"\0" for name, data in value.classic.protocols)
        # A struct that may be null says in its first byte that it is there.
        tags[0] = b"\1" + struct.pack(">i", value.classic.session_ms) + protocols + b"\0"
    return b"".join(
        (
            text(value.instance_id),
            text(value.rack_id),
            text(value.client_id),
            text(value.client_host),
            list_of(map(text, value.topics)),
            text(value.regex or None),
            struct.pack(">i", value.rebalance_ms),
            text(value.assignor),
            tagged(tags),
        )
    )


def _decode_said(reader: Reader) -> Said:
    instance_id, rack_id = reader.text_or_none(), reader.text_or_none()
    client_id, client_host = reader.text(), reader.text()
    topics = tuple(sorted(set(reader.list(reader.text))))
    regex, rebalance_ms, assignor = reader.text(), reader.number(">i"), reader.text_or_none()
    found = reader.tagged().get(0)
    return Said(
        instance_id=instance_id,
        rack_id=rack_id,
        client_id=client_id,
        client_host=client_host,
        topics=topics,
        regex=regex,
        rebalance_ms=rebalance_ms,
        assignor=assignor,
        classic=_decode_classic(Reader(found, 0, reader.what)) if found is not None else None,
    )


def _decode_classic(reader: Reader) -> Classic | None:
    if reader.number(">b") < 0:
        return None
    session_ms = reader.number(">i")

    def protocol() -> tuple[str, bytes]:
        name, data = reader.text(), reader.data()
        reader.tagged()
        return name, data

    return Classic(session_ms, tuple(reader.list(protocol)))


def _encode_target(value: Target) -> bytes:
    topics = (topic_id.bytes + numbers(sorted(indexes)) + b"\0" for topic_id, indexes in value.parts.items())
    return list_of(topics) + b"\0"


def _decode_target(reader: Reader) -> Target:
    def topic() -> tuple[UUID, frozenset[int]]:
        topic_id, indexes = UUID(bytes=reader.take(16)), frozenset(reader.numbers())
        reader.tagged()
        return topic_id, indexes

    target = Target(dict(reader.list(topic)))
    reader.tagged()
    return target


def _encode_owned(owned: Owned) -> bytes:
    return list_of(
        topic_id.bytes + numbers(sorted(since)) + tagged({0: numbers(since[index] for index in sorted(since))})
        for topic_id, since in owned.items()
    )


def _encode_current(value: Current) -> bytes:
    head = struct.pack(">iib", value.epoch, value.previous_epoch, value.state)
    return head + _encode_owned(value.assigned) + _encode_owned(value.revoking) + b"\0"


def _decode_current(reader: Reader) -> Current:
    epoch, previous_epoch, number = reader.number(">i"), reader.number(">i"), reader.number(">b")

    def topic() -> tuple[UUID, dict[int, int]]:
        topic_id, indexes = UUID(bytes=reader.take(16)), reader.numbers()
        found = reader.tagged().get(0)
        epochs = Reader(found, 0, reader.what).numbers() if found is not None else ()
        if len(epochs) != len(indexes):  # written before Kafka 4.3
            epochs = (epoch,) * len(indexes)
        return topic_id, dict(zip(indexes, epochs, strict=True))

    assigned, revoking = dict(reader.list(topic)), dict(reader.list(topic))
    reader.tagged()
    state = MemberState(number) if number in list(MemberState) else MemberState.UNKNOWN
    return Current(epoch=epoch, previous_epoch=previous_epoch, state=state, assigned=assigned, revoking=revoking)


def _encode_resolved(value: Resolved) -> bytes:
    return list_of(map(text, value.topics)) + struct.pack(">qq", value.version, value.at_ms) + b"\0"


def _decode_resolved(reader: Reader) -> Resolved:
    topics = tuple(sorted(reader.list(reader.text)))
    resolved = Resolved(topics, reader.number(">q"), reader.number(">q"))
    reader.tagged()
    return resolved


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    GroupEpoch: _encode_group,
    TargetEpoch: _encode_target_epoch,
    Said: _encode_said,
    Target: _encode_target,
    Current: _encode_current,
    Resolved: _encode_resolved,
    Topics: lambda value: value.raw,
}
_DECODERS: dict[Kind, Callable[[Reader], ConsumerValue]] = {
    Kind.GROUP: _decode_group,
    Kind.TARGET_EPOCH: _decode_target_epoch,
    Kind.MEMBER: _decode_said,
    Kind.TARGET: _decode_target,
    Kind.CURRENT: _decode_current,
    Kind.REGEX: _decode_resolved,
}
