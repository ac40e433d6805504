"""Request bodies of the shapes that nearly all clients send most, read by hand from their bytes.

Each function returns the fields, or raises one of NOT_SHORT for any other shape: long strings, tags of newer clients, a body that is cut off.
Then kio reads the request, and says what is wrong if something is.

Invariants: what is read here is what kio reads (a property test holds them together); a body is read to its last byte or not at all.
"""

from __future__ import annotations

import struct

_SHORT = struct.Struct(">h")
_INT = struct.Struct(">i")
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


def _no_tags(body: bytes, at: int) -> None:
    """The body ends with an empty section of tags at `at`."""
    if body[at] or at + 1 != len(body):
        raise OtherShape


def _end(body: bytes, at: int) -> None:
    if at != len(body):
        raise OtherShape
