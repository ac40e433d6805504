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

from hotlog.wire.fields import Reader, count_of, string_of, uuid_of

VERSIONS = range(3, 14)
FLEXIBLE_FROM = 9
TOPIC_ID_FROM = 13

_HEAD = struct.Struct(">hi")  # acks, timeout
_INT = struct.Struct(">i")
_PARTITION = struct.Struct(">ihqq")  # index, error code, base offset, append time
_QUIET = struct.Struct(">ihqqq3s")  # the same with the log's start, no faults, no message, no tags
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
    """What one partition is answered with; offsets and append time are -1 with an error, append time also with CreateTime.

    `record_errors`: (index in the batch, message), from version 8 on (KIP-467).
    """

    partition: int
    code: ErrorCode
    base_offset: int = -1
    append_time_ms: int = -1
    log_start_offset: int = -1
    message: str | None = None
    record_errors: tuple[tuple[int, str], ...] = ()


class TopicResult(NamedTuple):
    name: str | None
    topic_id: UUID | None
    partitions: list[PartitionResult]


def decode(version: int, frame: memoryview, position: int) -> ProduceRequest:
    """The body at `position`.

    Raises:
        Invalid: malformed.
    """
    read = Reader(frame, position, version >= FLEXIBLE_FROM)
    transactional_id = read.string()
    acks, timeout_ms = _HEAD.unpack(read.take_bytes(_HEAD.size))
    topics = []
    for _ in range(read.count(_TOPIC_BYTES_MIN)):
        name: str | None = None
        topic_id: UUID | None = None
        if version >= TOPIC_ID_FROM:
            topic_id = uuid_of(bytes(read.take_bytes(16)))
        else:
            name = read.string()
        partitions = []
        for _ in range(read.count(_PARTITION_BYTES_MIN)):
            number = _INT.unpack(read.take_bytes(4))[0]
            size = read.length()
            partitions.append(PartitionData(number, read.take_bytes(size) if size >= 0 else None))
            read.skip_tags()
        topics.append(TopicData(name, topic_id, partitions))
        read.skip_tags()
    read.skip_tags()
    return ProduceRequest(transactional_id, acks, timeout_ms, topics)


def encode(version: int, topics: Sequence[TopicResult], throttle_ms: int = 0) -> bytes:
    """A response body."""
    flexible = version >= FLEXIBLE_FROM
    parts = [count_of(len(topics), flexible)]
    for topic in topics:
        if version >= TOPIC_ID_FROM:
            parts.append(topic.topic_id.bytes if topic.topic_id is not None else bytes(16))
        else:
            parts.append(string_of(topic.name or "", flexible))
        parts.append(count_of(len(topic.partitions), flexible))
        for result in topic.partitions:
            parts += _encoded(version, flexible, result)
        if flexible:
            parts.append(b"\0")
    parts.append(_INT.pack(throttle_ms))
    if flexible:
        parts.append(b"\0")
    return b"".join(parts)


def _encoded(version: int, flexible: bool, result: PartitionResult) -> Sequence[bytes]:
    """What one partition is answered with."""
    number, code, base_offset, append_time_ms, log_start, message, faults = result
    if flexible and message is None and not faults:  # nearly always
        return (_QUIET.pack(number, code, base_offset, append_time_ms, log_start, b"\1\0\0"),)
    parts = [_PARTITION.pack(number, code, base_offset, append_time_ms)]
    if version >= 5:
        parts.append(_LONG.pack(log_start))
    if version >= 8:
        parts.append(count_of(len(faults), flexible))
        for index, text in faults:
            parts.append(_INT.pack(index) + string_of(text, flexible) + (b"\0" if flexible else b""))
        parts.append(string_of(message, flexible))
    if flexible:
        parts.append(b"\0")
    return parts
