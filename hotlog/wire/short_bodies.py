"""Request bodies of the shapes that nearly all clients send most, read by hand from their bytes.

Each function returns the fields, or raises one of NOT_SHORT for any other shape: long strings, tags of newer clients, a body that is cut off.
Then kio reads the request, and says what is wrong if something is.

Invariants: what is read here is what kio reads (a property test holds them together); a body is read to its last byte or not at all.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_SHORT = struct.Struct(">h")
_INT = struct.Struct(">i")
_PLACE = struct.Struct(">iq")  # partition, offset
_PLACE_AND_EPOCH = struct.Struct(">iqi")
_PLACE_OF_EPOCH = struct.Struct(">iiq")  # partition, the client's leader epoch, position
_PLACE_OF_EPOCH_TAGGED = struct.Struct(">iiqB")
_ONE = b"\0\0\0\1"  # the length of an array
_LONG_FORM = 0x80  # a varint of more than one byte begins with this much, or more


class OtherShape(Exception):
    """Not the shape that is read here."""


NOT_SHORT = (OtherShape, struct.error, IndexError, UnicodeDecodeError)


def _text(body: bytes, at: int) -> tuple[str, int]:
    """A string and the position behind it."""
    size = _SHORT.unpack_from(body, at)[0]
    if size < 0:
        raise OtherShape
    at += 2
    return str(body[at : at + size], "utf-8"), at + size


def _text_or_none(body: bytes, at: int) -> tuple[str | None, int]:
    return (None, at + 2) if body[at : at + 2] == b"\xff\xff" else _text(body, at)


def _compact_text(body: bytes, at: int) -> tuple[str, int]:
    """The same in a flexible version: the length and 1, as a varint."""
    size = body[at]
    if not 0 < size < _LONG_FORM:
        raise OtherShape
    return str(body[at + 1 : at + size], "utf-8"), at + size


def _compact_text_or_none(body: bytes, at: int) -> tuple[str | None, int]:
    return _compact_text(body, at) if body[at] else (None, at + 1)


def heartbeat(version: int, body: bytes) -> tuple[str, int, str, str | None]:
    """(group id, generation, member id, instance id)."""
    instance_id = None
    if version >= 4:
        group_id, at = _compact_text(body, 0)
        (generation,) = _INT.unpack_from(body, at)
        member_id, at = _compact_text(body, at + 4)
        instance_id, at = _compact_text_or_none(body, at)
        _no_tags(body, at)
        return group_id, generation, member_id, instance_id
    group_id, at = _text(body, 0)
    (generation,) = _INT.unpack_from(body, at)
    member_id, at = _text(body, at + 4)
    if version >= 3:
        instance_id, at = _text_or_none(body, at)
    _end(body, at)
    return group_id, generation, member_id, instance_id


class OneCommit(NamedTuple):
    """An OffsetCommit of one partition.  `topic` is the topic's name, or its id from version 10 on; `echo` the bytes that name it, for the answer."""

    group_id: str
    generation: int
    member_id: str
    instance_id: str | None
    topic: str | bytes
    partition: int
    offset: int
    leader_epoch: int
    metadata: str | None
    echo: bytes


def offset_commit(version: int, body: bytes) -> OneCommit:
    """An OffsetCommit of one partition."""
    instance_id: str | None = None
    name: str | bytes
    if version >= 8:
        group_id, at = _compact_text(body, 0)
        (generation,) = _INT.unpack_from(body, at)
        member_id, at = _compact_text(body, at + 4)
        instance_id, at = _compact_text_or_none(body, at)
        _one(body[at] == 2)
        start = at + 1
        if version >= 10:
            at = start + 16
            name = body[start:at]
        else:
            name, at = _compact_text(body, start)
        echo = body[start:at]
        _one(body[at] == 2)
        partition, offset, leader_epoch = _PLACE_AND_EPOCH.unpack_from(body, at + 1)
        metadata, at = _compact_text_or_none(body, at + 1 + _PLACE_AND_EPOCH.size)
        _one(body[at : at + 3] == b"\0\0\0" and at + 3 == len(body))
        return OneCommit(group_id, generation, member_id, instance_id, name, partition, offset, leader_epoch, metadata, echo)
    group_id, at = _text(body, 0)
    (generation,) = _INT.unpack_from(body, at)
    member_id, at = _text(body, at + 4)
    if version >= 7:
        instance_id, at = _text_or_none(body, at)
    elif version <= 4:
        at += 8  # retention time
    _one(body[at : at + 4] == _ONE)
    start = at + 4
    name, at = _text(body, start)
    echo = body[start:at]
    _one(body[at : at + 4] == _ONE)
    if version >= 6:
        partition, offset, leader_epoch = _PLACE_AND_EPOCH.unpack_from(body, at + 4)
        at += 4 + _PLACE_AND_EPOCH.size
    else:
        (partition, offset), leader_epoch = _PLACE.unpack_from(body, at + 4), -1
        at += 4 + _PLACE.size
    metadata, at = _text_or_none(body, at)
    _end(body, at)
    return OneCommit(group_id, generation, member_id, instance_id, name, partition, offset, leader_epoch, metadata, echo)


class OffsetsAsked(NamedTuple):
    """A ListOffsets of partitions of one topic: (partition, the client's leader epoch or -1, position or time) of each.  `echo` as in OneCommit."""

    isolation_level: int
    topic: str
    partitions: list[tuple[int, int, int]]
    echo: bytes


def list_offsets(version: int, body: bytes) -> OffsetsAsked:
    """A ListOffsets of one topic."""
    at = 5 if version >= 2 else 4  # behind the replica id and the isolation level
    isolation_level = body[4] if version >= 2 else 0
    if version >= 6:
        _one(body[at] == 2)
        start = at + 1
        topic, at = _compact_text(body, start)
        echo, count = body[start:at], body[at] - 1
        _one(0 <= count < _LONG_FORM - 1)
        end = at + 1 + count * _PLACE_OF_EPOCH_TAGGED.size
        asked = list(_PLACE_OF_EPOCH_TAGGED.iter_unpack(body[at + 1 : end]))
        _one(not any(tags for *_, tags in asked) and body[end] == 0)
        end += 1 + (4 if version >= 10 else 0)  # a timeout
        _no_tags(body, end)
        return OffsetsAsked(isolation_level, topic, [(index, epoch, position) for index, epoch, position, _ in asked], echo)
    _one(body[at : at + 4] == _ONE)
    start = at + 4
    topic, at = _text(body, start)
    echo, count = body[start:at], _INT.unpack_from(body, at)[0]
    if version >= 4:
        asked = list(_PLACE_OF_EPOCH.iter_unpack(body[at + 4 :]))
    else:
        asked = [(index, -1, position) for index, position in _PLACE.iter_unpack(body[at + 4 :])]
    _one(count == len(asked))
    return OffsetsAsked(isolation_level, topic, asked, echo)


def _one(is_one: bool) -> None:
    """One element, and the shape that is read here."""
    if not is_one:
        raise OtherShape


def _no_tags(body: bytes, at: int) -> None:
    """The body ends with an empty section of tags at `at`."""
    if body[at] or at + 1 != len(body):
        raise OtherShape


def _end(body: bytes, at: int) -> None:
    if at != len(body):
        raise OtherShape
