"""Parts of records in Kafka's flexible form (KIP-482): lengths are varints, and every structure ends with tagged fields.  And the few in the
older form that keys still have.

Invariants: pure; reading never goes beyond the record and never allocates by a length that was only claimed; what is cut off is Corrupt.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hotlog.kernel.errors import Corrupt, Invalid
from hotlog.wire.bounds import uvarint, varint

STRING_BYTES_MAX = 32767


def utf8(text: str) -> bytes:
    """Text as bytes.  Raises Invalid: too long."""
    raw = text.encode("utf-8", "replace")
    if len(raw) > STRING_BYTES_MAX:
        raise Invalid(f"a string of {len(raw)} bytes does not fit in a group record; at most {STRING_BYTES_MAX} are allowed")
    return raw


def plain(text: str) -> bytes:
    """A string of the older form."""
    raw = utf8(text)
    return struct.pack(">h", len(raw)) + raw


def text(text: str | None) -> bytes:
    """A string that may be null."""
    if text is None:
        return b"\0"
    raw = utf8(text)
    return uvarint(len(raw) + 1) + raw


def list_of(items: Iterable[bytes]) -> bytes:
    """An array of what is encoded already."""
    made = list(items)
    return uvarint(len(made) + 1) + b"".join(made)


def numbers(numbers: Iterable[int]) -> bytes:
    """An array of int32."""
    made = list(numbers)
    return uvarint(len(made) + 1) + struct.pack(f">{len(made)}i", *made)


def tagged(fields: Mapping[int, bytes]) -> bytes:
    """Tagged fields, by their numbers."""
    return uvarint(len(fields)) + b"".join(uvarint(tag) + uvarint(len(data)) + data for tag, data in sorted(fields.items()))


class Reader:
    """A position in a record; `what` it is, for messages."""

    def __init__(self, raw: bytes, position: int, what: str) -> None:
        self.raw = raw
        self.position = position
        self.what = what

    def take(self, size: int) -> bytes:
        piece = self.raw[self.position : self.position + size]
        if size < 0 or len(piece) != size:
            raise Corrupt(f"{self.what} of {len(self.raw)} bytes is cut off at {self.position}: {size} more are expected")
        self.position += size
        return piece

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def varint(self) -> int:
        try:
            value, self.position = varint(self.raw, self.position, len(self.raw))
        except Invalid:
            raise Corrupt(f"{self.what} of {len(self.raw)} bytes has no number at {self.position}") from None
        return value

    def plain(self) -> str:
        return self.take(self.number(">h")).decode("utf-8", "replace")

    def text_or_none(self) -> str | None:
        size = self.varint() - 1
        return None if size < 0 else self.take(size).decode("utf-8", "replace")

    def text(self) -> str:
        return self.text_or_none() or ""

    def data(self) -> bytes:
        return self.take(self.varint() - 1)

    def list(self, one: Callable[[], Any]) -> list[Any]:
        count = self.varint() - 1
        if count > len(self.raw):
            raise Corrupt(f"{self.what} of {len(self.raw)} bytes says that it has {count} elements")
        return [one() for _ in range(count)]

    def numbers(self) -> tuple[int, ...]:
        count = self.varint() - 1
        return struct.unpack(f">{count}i", self.take(4 * count)) if count > 0 else ()

    def tagged(self) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for _ in range(self.varint()):
            tag = self.varint()
            found[tag] = self.take(self.varint())
        return found
