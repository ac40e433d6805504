"""Kafka's primitive fields by hand, for the bodies that are too hot for kio (produce, fetch).

Layout: https://kafka.apache.org/protocol#protocol_types; flexible versions (KIP-482) have compact lengths and tags.

Invariants: reading never leaves the frame and never allocates by a length that was only claimed.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from uuid import UUID

from hotlog.kernel.errors import Invalid
from hotlog.wire.bounds import uvarint, varint

_INT = struct.Struct(">i")
_SHORT = struct.Struct(">h")


class Reader:
    """A position in a frame; every read is bounds-checked and raises Invalid."""

    __slots__ = ("at", "data", "end", "flexible")

    def __init__(self, data: memoryview, position: int, flexible: bool) -> None:
        self.data = data
        self.at = position
        self.end = len(data)
        self.flexible = flexible

    def take_bytes(self, size: int) -> memoryview:
        """The next `size` bytes as a view."""
        start, self.at = self.at, self.at + size
        if size < 0 or self.at > self.end:
            raise Invalid(f"request is malformed: {size} bytes expected at byte {start}, {self.end - start} are left")
        return self.data[start : self.at]

    def length(self, legacy: struct.Struct = _INT) -> int:
        """A length of bytes or an array; -1 is null."""
        if self.flexible:
            value, self.at = varint(self.data, self.at, self.end)
            return value - 1
        try:
            found: int = legacy.unpack_from(self.data, self.at)[0]
        except struct.error:
            raise Invalid(f"request is malformed: cut off at byte {self.at}") from None
        self.at += legacy.size
        if found < -1:
            raise Invalid(f"request is malformed: length {found} at byte {self.at}")
        return found

    def string(self) -> str | None:
        """A nullable string."""
        size = self.length(_SHORT)
        if size < 0:
            return None
        try:
            return str(self.take_bytes(size), "utf-8")
        except UnicodeDecodeError:
            raise Invalid(f"request is malformed: string before byte {self.at} is not UTF-8") from None

    def count(self, size_min: int) -> int:
        """Elements of an array, each at least `size_min` bytes; -1 is null."""
        count = self.length()
        if count * size_min > self.end - self.at:
            raise Invalid(f"request is malformed: array of {count} elements in {self.end - self.at} bytes")
        return count

    def skip_tags(self) -> None:
        """Skip a section of tagged fields, if this version has them."""
        if not self.flexible:
            return
        if self.at < self.end and self.data[self.at] == 0:  # nearly always
            self.at += 1
            return
        count, self.at = varint(self.data, self.at, self.end)
        for _ in range(count):
            _, self.at = varint(self.data, self.at, self.end)
            size, self.at = varint(self.data, self.at, self.end)
            self.take_bytes(size)


def count_of(number: int, flexible: bool) -> bytes:
    """The length of an array; -1 is null."""
    return uvarint(number + 1) if flexible else _INT.pack(number)


def string_of(text: str | None, flexible: bool) -> bytes:
    """A nullable string."""
    if text is None:
        return b"\0" if flexible else b"\xff\xff"
    data = text.encode()
    return uvarint(len(data) + 1) + data if flexible else _SHORT.pack(len(data)) + data


@lru_cache(maxsize=4096)
def uuid_of(data: bytes) -> UUID:
    """A UUID from its 16 bytes; clients name the same few topics in every request, and making one costs more than finding it."""
    return UUID(bytes=data)
