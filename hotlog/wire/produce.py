"""Produce (0) bodies, versions 3 to 13: requests read so that records stay views of the frame, responses packed by hand.

kio copies byte fields and its writer costs more than an append; this is the hot path.  A differential test holds both sides to kio.

Invariants: `records` is a writable view of the frame it came in; a malformed body raises Invalid before anything is appended; cost
follows partitions, never records.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from kio.schema.errors import ErrorCode

from hotlog.kernel.errors import Invalid
from hotlog.wire.bounds import varint

VERSIONS = range(3, 14)
FLEXIBLE_FROM = 9
TOPIC_ID_FROM = 13

_HEAD = struct.Struct(">hi")  # acks, timeout
_INT = struct.Struct(">i")
_SHORT = struct.Struct(">h")
_PARTITION = struct.Struct(">ihqq")  # index, error code, base offset, append time
_LONG = struct.Struct(">q")
_TOPIC_BYTES_MIN = 1 + 1  # the shortest name or id and an empty array
_PARTITION_BYTES_MIN = 4 + 1


class PartitionData(NamedTuple):
    partition: int
    records: memoryview | None


class TopicData(NamedTuple):
    """`name` is None from version 13 on, `topic_id` before it."""

    name: str | None
    topic_id: UUID | None
    partitions: list[PartitionData]


class ProduceRequest(NamedTuple):
    transactional_id: str | None
    acks: int
    timeout_ms: int
    topics: list[TopicData]


class PartitionResult(NamedTuple):
    """What one partition is answered with; offsets and append time are -1 with an error, append time also with CreateTime."""

    partition: int
    code: ErrorCode
    base_offset: int = -1
    append_time_ms: int = -1
    log_start_offset: int = -1
    message: str | None = None


class TopicResult(NamedTuple):
    name: str | None
    topic_id: UUID | None
    partitions: list[PartitionResult]


class _Reader:
    """A position in a frame; every read is bounds-checked."""

    __slots__ = ("at", "data", "end", "flexible")

    def __init__(self, data: memoryview, position: int, flexible: bool) -> None:
        self.data = data
        self.at = position
        self.end = len(data)
        self.flexible = flexible

    def take(self, size: int) -> memoryview:
        start, self.at = self.at, self.at + size
        if size < 0 or self.at > self.end:
            raise Invalid(f"produce request is malformed: {size} bytes expected at byte {start}, {self.end - start} are left")
        return self.data[start : self.at]

    def size(self, legacy: struct.Struct) -> int:
        """A length; -1 is null."""
        if self.flexible:
            value, self.at = varint(self.data, self.at, self.end)
            return value - 1
        try:
            found: int = legacy.unpack_from(self.data, self.at)[0]
        except struct.error:
            raise Invalid(f"produce request is malformed: cut off at byte {self.at}") from None
        self.at += legacy.size
        if found < -1:
            raise Invalid(f"produce request is malformed: length {found} at byte {self.at}")
        return found

    def string(self) -> str | None:
        size = self.size(_SHORT)
        if size < 0:
            return None
        try:
            return str(self.take(size), "utf-8")
        except UnicodeDecodeError:
            raise Invalid(f"produce request is malformed: string before byte {self.at} is not UTF-8") from None

    def count(self, size_min: int) -> int:
        count = self.size(_INT)
        if count * size_min > self.end - self.at:
            raise Invalid(f"produce request is malformed: array of {count} elements in {self.end - self.at} bytes")
        return count

    def tags(self) -> None:
        if not self.flexible:
            return
        if self.at < self.end and self.data[self.at] == 0:  # nearly always
            self.at += 1
            return
        count, self.at = varint(self.data, self.at, self.end)
        for _ in range(count):
            _, self.at = varint(self.data, self.at, self.end)
            size, self.at = varint(self.data, self.at, self.end)
            self.take(size)


def decode(version: int, frame: memoryview, position: int) -> ProduceRequest:
    """The body at `position`.

    Raises:
        Invalid: malformed.
    """
    read = _Reader(frame, position, version >= FLEXIBLE_FROM)
    transactional_id = read.string()
    acks, timeout_ms = _HEAD.unpack(read.take(_HEAD.size))
    topics = []
    for _ in range(read.count(_TOPIC_BYTES_MIN)):
        name: str | None = None
        topic_id: UUID | None = None
        if version >= TOPIC_ID_FROM:
            topic_id = UUID(bytes=bytes(read.take(16)))
        else:
            name = read.string()
        partitions = []
        for _ in range(read.count(_PARTITION_BYTES_MIN)):
            number = _INT.unpack(read.take(4))[0]
            size = read.size(_INT)
            partitions.append(PartitionData(number, read.take(size) if size >= 0 else None))
            read.tags()
        topics.append(TopicData(name, topic_id, partitions))
        read.tags()
    read.tags()
    return ProduceRequest(transactional_id, acks, timeout_ms, topics)


def encode(version: int, topics: Sequence[TopicResult], throttle_ms: int = 0) -> bytes:
    """A response body."""
    flexible = version >= FLEXIBLE_FROM
    parts = [_count(len(topics), flexible)]
    for topic in topics:
        if version >= TOPIC_ID_FROM:
            parts.append(topic.topic_id.bytes if topic.topic_id is not None else bytes(16))
        else:
            parts.append(_string(topic.name or "", flexible))
        parts.append(_count(len(topic.partitions), flexible))
        for result in topic.partitions:
            parts.append(_PARTITION.pack(result.partition, result.code, result.base_offset, result.append_time_ms))
            if version >= 5:
                parts.append(_LONG.pack(result.log_start_offset))
            if version >= 8:
                parts.append(_count(0, flexible))  # record errors: a batch is refused whole
                parts.append(_string(result.message, flexible))
            if flexible:
                parts.append(b"\0")
        if flexible:
            parts.append(b"\0")
    parts.append(_INT.pack(throttle_ms))
    if flexible:
        parts.append(b"\0")
    return b"".join(parts)


def _count(number: int, flexible: bool) -> bytes:
    return uvarint(number + 1) if flexible else _INT.pack(number)


def _string(text: str | None, flexible: bool) -> bytes:
    if text is None:
        return b"\0" if flexible else b"\xff\xff"
    data = text.encode()
    return uvarint(len(data) + 1) + data if flexible else _SHORT.pack(len(data)) + data


def uvarint(value: int) -> bytes:
    """An unsigned varint."""
    if value < 0x80:
        return value.to_bytes(1, "big")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
