"""Fetch (1) requests, versions 4 to 18, read by hand: a consumer sends one for every answer it gets.

Invariants: a malformed body raises Invalid; a differential test holds the result to kio's.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from uuid import UUID

from hotlog.wire.fields import Reader, uuid_of

VERSIONS = range(4, 19)
SESSIONS_FROM = 7
FLEXIBLE_FROM = 12
TOPIC_ID_FROM = 13

_HEAD = struct.Struct(">iiib")  # max wait, min bytes, max bytes, isolation level
_SESSION = struct.Struct(">ii")
_INT = struct.Struct(">i")
_PARTITION_4 = struct.Struct(">iqi")  # partition, offset, max bytes
_PARTITION_5 = struct.Struct(">iqqi")  # partition, offset, log start, max bytes
_PARTITION_9 = struct.Struct(">iiqqi")  # partition, leader epoch, offset, log start, max bytes
_PARTITION_12 = struct.Struct(">iiqiqi")  # partition, leader epoch, offset, last fetched epoch, log start, max bytes
_PARTITION_12_UNTAGGED = struct.Struct(">iiqiqib")  # the same and a section of tags, which nearly always is one byte, 0

TopicKey = str | UUID  # a name, or from version 13 on an id
Key = tuple[TopicKey, int]  # topic and partition

_new = tuple.__new__  # a named tuple's own constructor is a Python call


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
    session_id, session_epoch = _SESSION.unpack(read.take_bytes(_SESSION.size)) if version >= SESSIONS_FROM else (0, -1)
    partitions: dict[Key, Wanted] = {}
    for _ in range(read.count(3)):
        _partitions(read, version, _topic(read, version), partitions)
        read.skip_tags()
    forgotten: list[Key] = []
    if version >= SESSIONS_FROM:
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


def _partitions(read: Reader, version: int, topic: TopicKey, found: dict[Key, Wanted]) -> None:
    """The partitions of one topic, in one go where none has tags."""
    shape = _shape(version)
    start, count = read.at, max(read.count(shape.size), 0)
    rows = shape.iter_unpack(read.take_bytes(count * shape.size))
    if version < 9:
        found.update(((topic, row[0]), Wanted(row[1], row[-1])) for row in rows)
        return
    if version < FLEXIBLE_FROM:
        found.update(((topic, number), _new(Wanted, (offset, size, epoch))) for number, epoch, offset, _, size in rows)
        return
    some, tags = [], 0
    for number, epoch, offset, _, _, size, tag in rows:
        some.append(((topic, number), _new(Wanted, (offset, size, epoch))))
        tags |= tag  # before the first that is not 0 everything was read right
    if tags:
        read.at = start
        _tagged_partitions(read, topic, found)
    else:
        found.update(some)


def _tagged_partitions(read: Reader, topic: TopicKey, found: dict[Key, Wanted]) -> None:
    for _ in range(read.count(_PARTITION_12.size)):
        number, epoch, offset, _, _, size = _PARTITION_12.unpack(read.take_bytes(_PARTITION_12.size))
        found[topic, number] = Wanted(offset, size, epoch)
        read.skip_tags()


def _shape(version: int) -> struct.Struct:
    if version >= FLEXIBLE_FROM:
        return _PARTITION_12_UNTAGGED
    if version >= 9:
        return _PARTITION_9
    return _PARTITION_5 if version >= 5 else _PARTITION_4
