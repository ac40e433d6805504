"""Keys and values of __consumer_offsets, in Kafka's own formats (GroupMetadataKey/Value and OffsetCommitKey/Value schemas).

Written: offset key 1 with value 3, group key 2 with value 3.  Read: offset keys 0 and 1 with values 0 to 4, group key 2 with values
0 to 4.  Groups of the new protocol have records of their own (hotlog.coordinators.consumer.records).  Schemas: https://github.com/apache/kafka/tree/trunk/group-coordinator/src/main/resources/common/message

Invariants: pure; what is written here is read back equal; an unknown key version is None (as Kafka, skipped), cut-off bytes are
Corrupt.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hotlog.coordinators.consumer import records as consumer_records
from hotlog.coordinators.consumer.records import ConsumerKey, ConsumerValue
from hotlog.coordinators.flexible import Reader
from hotlog.coordinators.group_types import Group, Member, State, group_of
from hotlog.kernel.errors import Corrupt, Invalid

OFFSET_KEY_VERSION, OFFSET_VALUE_VERSION = 1, 3
GROUP_KEY_VERSION, GROUP_VALUE_VERSION = 2, 3
VALUE_VERSION_MAX = 4
FLEXIBLE_FROM = 4
STRING_BYTES_MAX = 32767


class OffsetKey(NamedTuple):
    """A group's place in a partition."""

    group_id: str
    topic: str
    partition: int


class GroupKey(NamedTuple):
    """A group itself."""

    group_id: str


class OffsetValue(NamedTuple):
    """A committed offset; `commit_ms` wall time; leader epoch -1 if the client did not say."""

    offset: int
    leader_epoch: int
    metadata: str
    commit_ms: int


class GroupValue(NamedTuple):
    """A group as stored, and when it came to this state (wall ms, -1 unknown)."""

    group: Group
    state_ms: int


Key = OffsetKey | GroupKey | ConsumerKey
Value = OffsetValue | GroupValue | ConsumerValue


class _Reader:
    def __init__(self, raw: bytes, what: str) -> None:
        self._raw = raw
        self._position = 0
        self._what = what

    def number(self, form: str) -> int:
        try:
            value: int = struct.unpack_from(">" + form, self._raw, self._position)[0]
        except struct.error:
            raise Corrupt(f"{self._what} of {len(self._raw)} bytes is cut off at {self._position}") from None
        self._position += struct.calcsize(">" + form)
        return value

    def take_bytes(self, size: int) -> bytes:
        piece = self._raw[self._position : self._position + size]
        if size < 0 or len(piece) != size:
            raise Corrupt(f"{self._what} of {len(self._raw)} bytes is cut off at {self._position}: {size} more are expected")
        self._position += size
        return piece

    def text(self) -> str:
        return self.take_bytes(self.number("h")).decode("utf-8", "replace")

    def text_or_none(self) -> str | None:
        size = self.number("h")
        return None if size < 0 else self.take_bytes(size).decode("utf-8", "replace")

    def bytes(self) -> bytes:
        return self.take_bytes(self.number("i"))


def _text(value: str | None) -> bytes:
    if value is None:
        return struct.pack(">h", -1)
    raw = value.encode("utf-8", "replace")
    if len(raw) > STRING_BYTES_MAX:
        raise Invalid(f"a string of {len(raw)} bytes does not fit in a group record; at most {STRING_BYTES_MAX} are allowed")
    return struct.pack(">h", len(raw)) + raw


def _bytes(value: bytes) -> bytes:
    return struct.pack(">i", len(value)) + value


def encode_key(key: OffsetKey | GroupKey) -> bytes:
    if isinstance(key, GroupKey):
        return struct.pack(">h", GROUP_KEY_VERSION) + _text(key.group_id)
    return struct.pack(">h", OFFSET_KEY_VERSION) + _text(key.group_id) + _text(key.topic) + struct.pack(">i", key.partition)


def decode_key(raw: bytes) -> OffsetKey | GroupKey | None:
    """The key, or None for a version that is not ours to read (newer kinds of groups)."""
    reader = _Reader(raw, "group record key")
    version = reader.number("h")
    if version in (0, OFFSET_KEY_VERSION):
        return OffsetKey(reader.text(), reader.text(), reader.number("i"))
    if version == GROUP_KEY_VERSION:
        return GroupKey(reader.text())
    return None


def encode_offset(value: OffsetValue) -> bytes:
    head = struct.pack(">hqi", OFFSET_VALUE_VERSION, value.offset, value.leader_epoch)
    return head + _text(value.metadata) + struct.pack(">q", value.commit_ms)


def decode_offset(raw: bytes) -> OffsetValue:
    reader = _Reader(raw, "offset value")
    version = reader.number("h")
    _check_version(version, "offset value")
    if version >= FLEXIBLE_FROM:
        flexible = Reader(raw, 2, "offset value")
        value = OffsetValue(flexible.number(">q"), flexible.number(">i"), flexible.text(), flexible.number(">q"))
        flexible.tagged()  # the topic's id
        return value
    offset = reader.number("q")
    epoch = reader.number("i") if version >= 3 else -1
    metadata = reader.text()
    return OffsetValue(offset, epoch, metadata, reader.number("q"))


def _check_version(version: int, what: str) -> None:
    if not 0 <= version <= VALUE_VERSION_MAX:
        raise Corrupt(f"{what} has version {version}; 0 to {VALUE_VERSION_MAX} are read")


def encode_group(group: Group, state_ms: int) -> Iterator[bytes]:
    """A group whose rebalance is complete (or that is empty), a member at a time; waiting requests are not part of it."""
    yield b"".join(
        (
            struct.pack(">h", GROUP_VALUE_VERSION),
            _text(group.protocol_type or ""),
            struct.pack(">i", group.generation),
            _text(group.protocol),
            _text(group.leader),
            struct.pack(">qi", state_ms, len(group.members)),
        )
    )
    for member in group.members.values():
        yield b"".join(
            (
                _text(member.member_id),
                _text(member.instance_id),
                _text(member.client_id),
                _text(member.client_host),
                struct.pack(">ii", member.rebalance_timeout_ms, member.session_timeout_ms),
                _bytes(member.metadata(group.protocol)),
                _bytes(group.assignment(member.member_id)),
            )
        )


def decode_group(group_id: str, raw: bytes) -> GroupValue:
    reader = _Reader(raw, "group value")
    version = reader.number("h")
    _check_version(version, "group value")
    if version >= FLEXIBLE_FROM:
        return _decode_flexible_group(group_id, Reader(raw, 2, "group value"))
    protocol_type = reader.text()
    generation = reader.number("i")
    protocol, leader = reader.text_or_none(), reader.text_or_none()
    state_ms = reader.number("q") if version >= 2 else -1
    members = [_member(reader, version, protocol) for _ in range(reader.number("i"))]
    return _group(group_id, members, generation, protocol_type, protocol, leader, state_ms)


def _decode_flexible_group(group_id: str, reader: Reader) -> GroupValue:
    protocol_type, generation = reader.text(), reader.number(">i")
    protocol, leader = reader.text_or_none(), reader.text_or_none()
    state_ms = reader.number(">q")

    def member() -> tuple[Member, bytes]:
        found = Member(
            member_id=reader.text(),
            instance_id=reader.text_or_none(),
            client_id=reader.text(),
            client_host=reader.text(),
            rebalance_timeout_ms=reader.number(">i"),
            session_timeout_ms=reader.number(">i"),
            protocols=((protocol or "", reader.data()),),
        )
        assignment = reader.data()
        reader.tagged()
        return found, assignment

    members: list[tuple[Member, bytes]] = reader.list(member)
    reader.tagged()
    return _group(group_id, members, generation, protocol_type, protocol, leader, state_ms)


def _group(
    group_id: str,
    members: Sequence[tuple[Member, bytes]],
    generation: int,
    protocol_type: str,
    protocol: str | None,
    leader: str | None,
    state_ms: int,
) -> GroupValue:
    group = group_of(
        group_id,
        [member for member, _ in members],
        {member.member_id: assignment for member, assignment in members},
        state=State.STABLE if members else State.EMPTY,
        generation=generation,
        protocol_type=protocol_type or None,
        protocol=protocol,
        leader=leader,
    )
    return GroupValue(group, state_ms)


def _member(reader: _Reader, version: int, protocol: str | None) -> tuple[Member, bytes]:
    """A member and its assignment."""
    member_id = reader.text()
    instance_id = reader.text_or_none() if version >= 3 else None
    client_id, client_host = reader.text(), reader.text()
    rebalance_ms = reader.number("i") if version >= 1 else -1
    session_ms = reader.number("i")
    metadata = reader.bytes()
    member = Member(
        member_id=member_id,
        instance_id=instance_id,
        client_id=client_id,
        client_host=client_host,
        session_timeout_ms=session_ms,
        rebalance_timeout_ms=rebalance_ms if version >= 1 else session_ms,
        protocols=((protocol or "", metadata),),
    )
    return member, reader.bytes()


def subscribed_topics(group: Group) -> frozenset[str] | None:
    """Topics that members of a consumer group subscribe to (ConsumerProtocolSubscription); None if that cannot be told."""
    if group.protocol_type != "consumer" or group.protocol is None:
        return None
    topics: set[str] = set()
    for member in group.members.values():
        try:
            reader = _Reader(member.metadata(group.protocol), "subscription")
            reader.number("h")
            topics.update(reader.text() for _ in range(reader.number("i")))
        except Corrupt:
            return None
    return frozenset(topics)


class GroupCodec:
    """The same for a keyed log."""

    def owner(self, key: Key) -> str:
        return key.group_id

    def encode_key(self, key: Key) -> bytes:
        return consumer_records.encode_key(key) if isinstance(key, ConsumerKey) else encode_key(key)

    def decode_key(self, raw: bytes) -> Key | None:
        return decode_key(raw) or consumer_records.decode_key(raw)

    def encode_value(self, value: Value) -> bytes | Iterator[bytes]:
        if isinstance(value, OffsetValue):
            return encode_offset(value)
        return (
            encode_group(value.group, value.state_ms) if isinstance(value, GroupValue) else consumer_records.encode_value(value)
        )

    def decode_value(self, key: Key, raw: bytes) -> Value:
        if isinstance(key, OffsetKey):
            return decode_offset(raw)
        return decode_group(key.group_id, raw) if isinstance(key, GroupKey) else consumer_records.decode_value(key, raw)
