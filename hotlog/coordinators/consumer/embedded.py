"""What consumers of the classic protocol tell each other through the broker: ConsumerProtocolSubscription and ConsumerProtocolAssignment.  Pure.

Schemas: https://github.com/apache/kafka/tree/trunk/clients/src/main/resources/common/message.  Versions 0 to 3; a newer one begins as 3 does.

Invariants: what clients say is not believed: what cannot be read is Invalid.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hotlog.kernel.errors import Invalid

VERSION_MAX = 3


class Subscription(NamedTuple):
    """What a member wants, and the partitions that it has (by topic)."""

    version: int
    topics: tuple[str, ...]
    owned: Mapping[str, tuple[int, ...]]
    rack_id: str | None


class Assignment(NamedTuple):
    """What a leader gave to a member; `user_data` is its assignor's own."""

    parts: Mapping[str, tuple[int, ...]]
    user_data: bytes


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._position = 0

    def _take(self, size: int) -> bytes:
        piece = self._raw[self._position : self._position + size]
        if size < 0 or len(piece) != size:
            raise Invalid(f"what a consumer says of itself is cut off at {self._position} of {len(self._raw)} bytes")
        self._position += size
        return piece

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def text(self) -> str:
        return self._take(self.number(">h")).decode("utf-8", "replace")

    def text_or_none(self) -> str | None:
        size = self.number(">h")
        return None if size < 0 else self._take(size).decode("utf-8", "replace")

    def data(self) -> bytes:
        size = self.number(">i")
        return b"" if size < 0 else self._take(size)

    def parts(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for _ in range(self.number(">i")):
            topic, count = self.text(), self.number(">i")
            found[topic] = struct.unpack(f">{count}i", self._take(4 * count)) if count > 0 else ()
        return found


def subscription(raw: bytes) -> Subscription:
    """Raises Invalid."""
    reader = _Reader(raw)
    version = _version(reader)
    topics = tuple(reader.text() for _ in range(reader.number(">i")))
    reader.data()
    owned = reader.parts() if version >= 1 else {}
    if version >= 2:
        reader.number(">i")  # the generation
    return Subscription(version, topics, owned, reader.text_or_none() if version >= 3 else None)


def assignment(raw: bytes) -> Assignment:
    """Nothing at all is no partitions.  Raises Invalid."""
    if not raw:
        return Assignment({}, b"")
    reader = _Reader(raw)
    _version(reader)
    return Assignment(reader.parts(), reader.data())


def encode_assignment(version: int, parts: Mapping[str, Iterable[int]]) -> bytes:
    """As an assignor of `version` says it; no data of its own."""
    raw = [struct.pack(">hi", version, len(parts))]
    for topic, indexes in parts.items():
        name, numbers = topic.encode(), sorted(indexes)
        raw.append(struct.pack(f">h{len(name)}si{len(numbers)}i", len(name), name, len(numbers), *numbers))
    raw.append(struct.pack(">i", -1))
    return b"".join(raw)


def _version(reader: _Reader) -> int:
    version = reader.number(">h")
    if version < 0:
        raise Invalid(f"what a consumer says of itself has version {version}")
    return min(version, VERSION_MAX)
