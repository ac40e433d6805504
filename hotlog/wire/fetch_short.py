"""Fetch requests for one partition without a session, and the answers to them: the shape that most clients send, but for those that have sessions.

Such a request differs from the one before in its correlation id and its offset only.  So whoever has read it once knows it by its other bytes behind the
client id (`split` says where the offset is), and the answer is ready-made but for some numbers and the records.

Invariants: a request that is known by its bytes is read by hotlog.wire.fetch_request to the same fields, whatever its offset; an answer is the
bytes that hotlog.wire.fetch_reply encodes (property tests hold both together); nothing outside of data[start:end] is trusted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from kio.schema.errors import ErrorCode

from hotlog.kernel.errors import Invalid
from hotlog.wire.apis import parse_header, skip_tags
from hotlog.wire.bounds import uvarint
from hotlog.wire.fetch_reply import PartitionReply, encode
from hotlog.wire.fetch_request import FLEXIBLE_FROM, SESSIONS_FROM, TOPIC_ID_FROM, FetchRequest, TopicKey, decode
from hotlog.wire.short_bodies import NOT_SHORT as NOT_SHORT_BODY
from hotlog.wire.short_bodies import OtherShape

KEY = 1
OFFSET_BYTES = 8
_CLIENT_OFFSET = 10  # in a request: its head and the length of the client id stand before
_NO_REPLICA_FROM = 15  # it is a tagged field from there on
_EPOCH_FROM, _LOG_START_FROM, _PREFERRED_FROM = 9, 5, 11
_NO_SESSION = struct.pack(">ii", 0, -1)  # id and epoch
_COMPACT_MAX = 0x7F  # the largest length of one byte
_SHORT = struct.Struct(">h")
_INT = struct.Struct(">i")
_OFFSET = struct.Struct(">q")

Split = Callable[[memoryview, int, int], tuple[int, int]]
"""(data, start, end) -> the positions behind the client id and of the fetch offset.

Raises one of NOT_SHORT: not this shape, as far as can be seen.
"""


def split_of(version: int) -> Split:
    """How requests of a version are split."""
    replica = 4 if version < _NO_REPLICA_FROM else 0
    numbers = replica + 13  # max wait, min bytes, max bytes, isolation level
    row = 8 if version >= _EPOCH_FROM else 4  # the partition's number, and the leader epoch
    if version >= FLEXIBLE_FROM:
        return _split_compact(1 + numbers, row, is_by_id=version >= TOPIC_ID_FROM)
    return _split_legacy(numbers, row, has_session=version >= SESSIONS_FROM)


def _split_legacy(session_at: int, row: int, *, has_session: bool) -> Split:
    topics_at = session_at + (len(_NO_SESSION) if has_session else 0)

    def split(data: memoryview, start: int, end: int) -> tuple[int, int]:
        at = behind_client_id(data, start)
        topics = at + topics_at
        size = _SHORT.unpack_from(data, topics + 4)[0]
        partitions = topics + 6 + size
        offset = partitions + 4 + row
        if (
            size < 0
            or offset + OFFSET_BYTES > end
            or (has_session and data[at + session_at : topics] != _NO_SESSION)
            or _INT.unpack_from(data, topics)[0] != 1
            or _INT.unpack_from(data, partitions)[0] != 1
        ):
            raise OtherShape
        return at, offset

    return split


def _split_compact(session_at: int, row: int, *, is_by_id: bool) -> Split:
    topics_at = session_at + len(_NO_SESSION)

    def split(data: memoryview, start: int, end: int) -> tuple[int, int]:
        at = behind_client_id(data, start)
        topics = at + topics_at
        size = 16 if is_by_id else data[topics + 1]  # of a name: with the byte that says so
        partitions = topics + 1 + size
        offset = partitions + 1 + row
        if (
            not 0 < size <= _COMPACT_MAX
            or offset + OFFSET_BYTES > end
            or data[at + session_at : topics] != _NO_SESSION
            or data[topics] != 2
            or data[partitions] != 2
        ):
            raise OtherShape
        return at, offset

    return split


def behind_client_id(data: memoryview, start: int) -> int:
    """The position there, if the client id is plain text.  Raises one of NOT_SHORT."""
    at = start + _CLIENT_OFFSET
    size = _SHORT.unpack_from(data, at - _SHORT.size)[0]
    if size <= 0:
        if size < -1:
            raise OtherShape
        return at
    if not bytes(data[at : at + size]).isascii():  # text for certain
        raise OtherShape
    return at + int(size)


def offset_at(data: memoryview, position: int) -> int:
    """The fetch offset there."""
    offset: int = _OFFSET.unpack_from(data, position)[0]
    return offset


def asked(version: int, data: memoryview, start: int, end: int, position: int) -> FetchRequest:
    """The request that is data[start:end], in whose every field but the fetch offset at `position` all have part that have its other bytes.

    Raises:
        OtherShape, Invalid: it does not ask for just one partition, or the offset is elsewhere.
    """
    frame = bytearray(data[start:end])
    request = _decoded(version, frame)
    other = offset_at(data, position) ^ 1
    _OFFSET.pack_into(frame, position - start, other)
    changed = _decoded(version, frame)
    expected = {key: wanted._replace(offset=other) for key, wanted in request.partitions.items()}
    if len(expected) != 1 or request.forgotten or changed != request._replace(partitions=expected):
        raise OtherShape
    return request


def _decoded(version: int, frame: bytearray) -> FetchRequest:
    view = memoryview(frame)
    _, position = parse_header(view)
    return decode(version, view, skip_tags(view, position) if version >= FLEXIBLE_FROM else position)


class Answers:
    """Answers to requests for one partition, as whole frames but for size and correlation id."""

    __slots__ = ("_before", "_behind", "_has_start", "_is_flexible", "_pack", "end")

    def __init__(self, version: int, topic: TopicKey, partition: int, *, is_committed_only: bool) -> None:
        self._is_flexible = flexible = version >= FLEXIBLE_FROM
        self._has_start = version >= _LOG_START_FROM
        reply = PartitionReply(partition, ErrorCode.none, 0, 0, 0, () if is_committed_only else None)
        buffers, _ = encode(version, [(topic, [reply])])
        body = (b"\0" if flexible else b"") + b"".join(map(bytes, buffers))  # type: ignore[arg-type, operator]
        self.end = b"\0\0\0" if flexible else b""  # tags of partition, topic and answer
        numbers = 24 if self._has_start else 16  # bytes of high watermark, last stable offset, log start
        rest = (1 if flexible else 4) + (4 if version >= _PREFERRED_FROM else 0)  # aborted transactions, preferred replica
        body = body[: len(body) - len(self.end) - (1 if flexible else 4)]
        self._before, self._behind = body[: len(body) - rest - numbers], body[len(body) - rest :]
        self._pack = struct.Struct(f">{len(self._before)}sqq{'q' if self._has_start else ''}{rest}s").pack

    def head(self, high_watermark: int, last_stable: int, log_start: int, length: int) -> bytes:
        """What stands between the correlation id and `length` bytes of records; `end` follows them."""
        if self._has_start:
            numbers = self._pack(self._before, high_watermark, last_stable, log_start, self._behind)
        else:
            numbers = self._pack(self._before, high_watermark, last_stable, self._behind)
        return numbers + (uvarint(length + 1) if self._is_flexible else _INT.pack(length))


NOT_SHORT = (*NOT_SHORT_BODY, Invalid)
