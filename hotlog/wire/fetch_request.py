"""Fetch (1) requests, versions 4 to 18, read by hand: a consumer sends one for every answer it gets.

Invariants: a malformed body raises Invalid; a differential test holds the result to kio's.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from uuid import UUID

from hotlog.wire.fields import Reader, uuid_of

VERSIONS = range(4, 19)
FLEXIBLE_FROM = 12
TOPIC_ID_FROM = 13

_HEAD = struct.Struct(">iiib")  # max wait, min bytes, max bytes, isolation level
_SESSION = struct.Struct(">ii")
_INT = struct.Struct(">i")
_PARTITION_4 = struct.Struct(">iqi")  # partition, offset, max bytes
_PARTITION_5 = struct.Struct(">iqqi")  # partition, offset, log start, max bytes
_PARTITION_9 = struct.Struct(">iiqqi")  # partition, leader epoch, offset, log start, max bytes
_PARTITION_12 = struct.Struct(">iiqiqi")  # partition, leader epoch, offset, last fetched epoch, log start, max bytes

TopicKey = str | UUID  # a name, or from version 13 on an id
Key = tuple[TopicKey, int]  # topic and partition


class Wanted(NamedTuple):
    """What a client asks of one partition; bytes and offsets; `leader_epoch` -1 if the client does not say."""

    offset: int
    bytes_max: int
    leader_epoch: int = -1


class FetchRequest(NamedTuple):
    """`partitions` keeps the order of the request, and the last word on a partition named twice."""

    wait_ms_max: int
    bytes_min: int
    bytes_max: int
    isolation_level: int
    session_id: int
    session_epoch: int
    partitions: dict[Key, Wanted]
    forgotten: list[Key]
    rack: str


def decode(version: int, frame: memoryview, position: int) -> FetchRequest:
    """The body at `position`.

    Raises:
        Invalid: malformed.
    """
    read = Reader(frame, position, version >= FLEXIBLE_FROM)
    if version < 15:
        read.take_bytes(4)  # replica id; later a tagged field
    wait_ms_max, bytes_min, bytes_max, isolation_level = _HEAD.unpack(read.take_bytes(_HEAD.size))
    session_id, session_epoch = _SESSION.unpack(read.take_bytes(_SESSION.size)) if version >= 7 else (0, -1)
    partitions: dict[Key, Wanted] = {}
    shape = _shape(version)
    for _ in range(read.count(3)):
        topic = _topic(read, version)
        for _ in range(read.count(shape.size)):
            fields = shape.unpack(read.take_bytes(shape.size))
            leader_epoch = fields[1] if version >= 9 else -1
            partitions[topic, fields[0]] = Wanted(fields[2 if version >= 9 else 1], fields[-1], leader_epoch)
            read.skip_tags()
        read.skip_tags()
    forgotten: list[Key] = []
    if version >= 7:
        for _ in range(read.count(3)):
            topic = _topic(read, version)
            forgotten += [(topic, _INT.unpack(read.take_bytes(4))[0]) for _ in range(read.count(4))]
            read.skip_tags()
    rack = (read.string() or "") if version >= 11 else ""
    read.skip_tags()
    return FetchRequest(
        wait_ms_max, bytes_min, bytes_max, isolation_level, session_id, session_epoch, partitions, forgotten, rack
    )


def _topic(read: Reader, version: int) -> TopicKey:
    if version >= TOPIC_ID_FROM:
        return uuid_of(bytes(read.take_bytes(16)))
    return read.string() or ""


def _shape(version: int) -> struct.Struct:
    if version >= 12:
        return _PARTITION_12
    if version >= 9:
        return _PARTITION_9
    return _PARTITION_5 if version >= 5 else _PARTITION_4
