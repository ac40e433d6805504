"""Fetch (1) responses, versions 4 to 18, as a list of buffers and file parts: record bytes are spliced in untouched, never copied here.

Invariants: the buffers in order are byte for byte what kio's writer makes of the same answer (differential test); cost follows
partitions, never bytes or records.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from kio.schema.errors import ErrorCode

from hotlog.wire.bounds import uvarint
from hotlog.wire.fetch_request import FLEXIBLE_FROM, SESSIONS_FROM, TOPIC_ID_FROM, TopicKey
from hotlog.wire.fields import count_of, string_of
from hotlog.world.ports import Buffer, Streamed

_SESSION = struct.Struct(">hi")  # error code, session id
_INT = struct.Struct(">i")
_LONG = struct.Struct(">q")
_PARTITION = struct.Struct(">ihqq")  # partition, error code, high watermark, last stable offset
_ABORTED = struct.Struct(">qq")  # producer id, first offset
_PLAIN_11 = struct.Struct(">ihqqqii")  # all of a partition before the size of its records: none aborted, no preferred replica
_PLAIN_12 = struct.Struct(">ihqqqBi")
_STILL_11 = struct.Struct(">ihqqqiii")  # all of a partition without records: their size is 0
_STILL_12 = struct.Struct(">ihqqqBiBB")


class PartitionReply(NamedTuple):
    """One partition's answer.  `aborted` is None for read_uncommitted; offsets are -1 where unknown."""

    partition: int
    code: ErrorCode = ErrorCode.none
    high_watermark: int = -1
    last_stable_offset: int = -1
    log_start_offset: int = -1
    aborted: Sequence[tuple[int, int]] | None = None
    records: Buffer | Streamed = b""


def encode(
    version: int,
    topics: Sequence[tuple[TopicKey, Sequence[PartitionReply]]],
    *,
    code: ErrorCode = ErrorCode.none,
    session_id: int = 0,
    throttle_ms: int = 0,
) -> tuple[list[Buffer | Streamed], int]:
    """A response body as (buffers, their size in bytes)."""
    flexible = version >= FLEXIBLE_FROM
    tags = b"\0" if flexible else b""
    nothing = b"\1\0" if flexible else b"\0\0\0\0"  # no records, no tags
    pack = (_PLAIN_12 if flexible else _PLAIN_11).pack
    still, at_rest = (_STILL_12.pack, (-1, 1, 0)) if flexible else (_STILL_11.pack, (-1, 0))
    no_list = (1, 0) if flexible else (0, -1)  # the length of an empty one and of null
    buffers: list[Buffer | Streamed] = []
    head = bytearray(_INT.pack(throttle_ms))  # everything between two record buffers
    size = 0
    if version >= SESSIONS_FROM:
        head += _SESSION.pack(code, session_id)
    head += count_of(len(topics), flexible)
    for topic, partitions in topics:
        head += _topic(topic, version)
        head += count_of(len(partitions), flexible)
        for reply in partitions:
            number, error, high_watermark, last_stable, log_start, aborted, records = reply
            length = len(records)
            if version >= 11 and not aborted:  # nearly always
                if not length:
                    head += still(number, error, high_watermark, last_stable, log_start, no_list[aborted is None], *at_rest)
                    continue
                head += pack(number, error, high_watermark, last_stable, log_start, no_list[aborted is None], -1)
            else:
                _partition(head, reply, version, flexible)
            if not length:
                head += nothing
                continue
            head += uvarint(length + 1) if flexible else _INT.pack(length)
            size += len(head) + length
            buffers += (head, records)
            head = bytearray(tags)
        head += tags
    head += tags
    buffers.append(head)
    return buffers, size + len(head)


def _topic(topic: TopicKey, version: int) -> bytes:
    if version >= TOPIC_ID_FROM:
        assert isinstance(topic, UUID)
        return topic.bytes
    assert isinstance(topic, str)
    return string_of(topic, version >= FLEXIBLE_FROM)


def _partition(head: bytearray, reply: PartitionReply, version: int, flexible: bool) -> None:
    """Everything of a partition before the size of its records."""
    head += _PARTITION.pack(reply.partition, reply.code, reply.high_watermark, reply.last_stable_offset)
    if version >= 5:
        head += _LONG.pack(reply.log_start_offset)
    if reply.aborted is None:
        head += count_of(-1, flexible)
    else:
        head += count_of(len(reply.aborted), flexible)
        for producer_id, first_offset in reply.aborted:
            head += _ABORTED.pack(producer_id, first_offset)
            if flexible:
                head += b"\0"
    if version >= 11:
        head += b"\xff\xff\xff\xff"  # preferred read replica: none
