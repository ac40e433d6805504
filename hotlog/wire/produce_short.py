"""The shape that nearly all Produce requests have: one topic, one partition, one batch, no tags, no transaction.

A request is one run of bytes from its client id to the partition's number, then the records.  A client says the same run again and again,
so whoever has read it once knows it by its bytes (`split` says where it ends); the answer is ready-made but for four numbers.

Invariants: whatever is split here is read by hotlog.wire.produce to the same fields; an answer is the bytes that hotlog.wire.produce encodes
(property tests hold both together); nothing outside of data[start:end] is trusted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from kio.schema.errors import ErrorCode

from hotlog.kernel.errors import Invalid
from hotlog.wire.apis import parse_header, response_head, skip_tags
from hotlog.wire.bounds import varint
from hotlog.wire.fields import Reader, uuid_of
from hotlog.wire.produce import FLEXIBLE_FROM, TOPIC_ID_FROM, PartitionResult, TopicResult, encode
from hotlog.wire.short_bodies import NOT_SHORT as NOT_SHORT_BODY
from hotlog.wire.short_bodies import OtherShape

KEY = 0
CLIENT_OFFSET = 8  # in a request: API key, version and correlation id stand before the length of the client id
_LOG_START_FROM, _MESSAGE_FROM = 5, 8
_SHORT = struct.Struct(">h")
_INT = struct.Struct(">i")
_HEAD = struct.Struct(">hi")  # acks, timeout
_ANSWER_HEAD = struct.Struct(">ii")  # size, correlation id


Split = Callable[[memoryview, int, int], tuple[int, int, int]]
"""(data, start, end) -> the position behind the partition's number, and where the records begin and end.

Raises OtherShape, IndexError, struct.error, Invalid: not this shape, as far as can be seen.
"""


def _split_legacy(data: memoryview, start: int, end: int) -> tuple[int, int, int]:
    client_bytes = _SHORT.unpack_from(data, start + CLIENT_OFFSET)[0]
    at = start + (22 if client_bytes < 0 else 22 + client_bytes)  # no transaction, acks, timeout, one topic
    behind = at + 10 + _SHORT.unpack_from(data, at)[0]  # its name, one partition, its number
    if behind + 4 + _INT.unpack_from(data, behind)[0] != end:
        raise OtherShape
    return behind, behind + 4, end


def _split_compact(data: memoryview, start: int, end: int) -> tuple[int, int, int]:
    client_bytes = _SHORT.unpack_from(data, start + CLIENT_OFFSET)[0]
    at = start + (19 if client_bytes < 0 else 19 + client_bytes)  # no tags, no transaction, acks, timeout, one topic
    return _records_of(data, at + 5 + data[at], end)  # the length of its name and 1, its name, one partition, its number


def _split_by_id(data: memoryview, start: int, end: int) -> tuple[int, int, int]:
    client_bytes = _SHORT.unpack_from(data, start + CLIENT_OFFSET)[0]
    return _records_of(data, start + (40 if client_bytes < 0 else 40 + client_bytes), end)  # the same with an id of 16 bytes


def _records_of(data: memoryview, behind: int, end: int) -> tuple[int, int, int]:
    size, at = data[behind], behind + 1  # of the records, and 1
    if size >= 0x80:
        more = data[at]
        if more < 0x80:
            size, at = size & 0x7F | more << 7, at + 1
        else:
            size, at = varint(data, behind, end)
    if at + size + 2 != end or data[end - 1] or data[end - 2] or data[end - 3]:  # tags of partition, topic and request
        raise OtherShape
    return behind, at, end - 3


def split_of(version: int) -> Split:
    """How requests of a version are split."""
    if version >= TOPIC_ID_FROM:
        return _split_by_id
    return _split_compact if version >= FLEXIBLE_FROM else _split_legacy


class Named(NamedTuple):
    """What such a request says but for its records.  Either `name` or `topic_id`, as its version has it."""

    acks: int
    timeout_ms: int
    name: str | None
    topic_id: UUID | None
    partition: int


def named(version: int, data: memoryview, start: int, behind: int) -> Named:
    """What the run of bytes says that ends at `behind`.

    Raises:
        OtherShape, Invalid: it does not say just that.
    """
    flexible = version >= FLEXIBLE_FROM
    frame = data[start:behind]
    _, position = parse_header(frame)
    read = Reader(frame, skip_tags(frame, position) if flexible else position, flexible)
    transactional_id = read.string()
    acks, timeout_ms = _HEAD.unpack(read.take_bytes(_HEAD.size))
    topics = read.count(0)
    by_id = version >= TOPIC_ID_FROM
    topic_id = uuid_of(bytes(read.take_bytes(16))) if by_id else None
    name = None if by_id else read.string()
    partitions = read.count(0)
    (number,) = _INT.unpack(read.take_bytes(4))
    if transactional_id is not None or (topics, partitions) != (1, 1) or read.at != len(frame):
        raise OtherShape
    return Named(acks, timeout_ms, name, topic_id, number)


class Answers:
    """Answers to requests for one partition, as whole frames."""

    __slots__ = ("_after", "_before", "_has_start", "_named", "_pack", "_size", "_version")

    def __init__(self, version: int, what: Named) -> None:
        self._version = version
        self._named = what
        flexible = version >= FLEXIBLE_FROM
        body = self._body(PartitionResult(what.partition, ErrorCode.none))
        behind = response_head(KEY, version, 0, len(body))[_ANSWER_HEAD.size :] + body
        self._has_start = version >= _LOG_START_FROM
        numbers = 24 if self._has_start else 16  # bytes of base offset, append time, log start
        rest = (
            9 if flexible else (10 if version >= _MESSAGE_FROM else 4)
        )  # bytes behind them: no faults, no message, tags, no throttling
        self._before, self._after = behind[: len(behind) - rest - numbers], behind[len(behind) - rest :]
        self._size = 4 + len(behind)
        self._pack = struct.Struct(f">ii{len(self._before)}sqq{'q' if self._has_start else ''}{rest}s").pack

    def _body(self, result: PartitionResult) -> bytes:
        return encode(self._version, [TopicResult(self._named.name, self._named.topic_id, [result])])

    def done(self, correlation_id: int, base_offset: int, log_start: int) -> bytes:
        """Its batch is appended from that offset on, with the times its producer gave."""
        if self._has_start:
            return self._pack(self._size, correlation_id, self._before, base_offset, -1, log_start, self._after)
        return self._pack(self._size, correlation_id, self._before, base_offset, -1, self._after)

    def refused(self, correlation_id: int, code: ErrorCode, message: str) -> bytes:
        """It is not, or nobody can say."""
        body = self._body(PartitionResult(self._named.partition, code, message=message))
        return response_head(KEY, self._version, correlation_id, len(body)) + body


NOT_SHORT = (*NOT_SHORT_BODY, Invalid)
