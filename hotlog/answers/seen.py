"""What requests of the same bytes found before.

Invariants: nothing is found again once metadata or what is hosted here has changed, and nothing of before is kept alive then; what is kept is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

SEEN_MAX, SEEN_BYTES_MAX = 8192, 256  # findings that are kept, and the bytes that name one: 6 MB at most

V = TypeVar("V")


class Seen(Generic[V]):
    """By version and those bytes of a request that say what it is about.  One of each kind for each broker (`broker.kept`)."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._image: object = None
        self._hosting = -1
        self._found: dict[tuple[int, bytes], V] = {}

    def find(self, key: tuple[int, bytes]) -> V | None:
        """What was kept; None if it is not here, or everything has to be looked at anew."""
        broker = self._broker
        image, hosting = broker.metadata.image, broker.hosted_places.version
        if image is not self._image or hosting != self._hosting:
            self._image, self._hosting = image, hosting
            self._found.clear()
        return self._found.get(key)

    def keep(self, key: tuple[int, bytes], value: V) -> None:
        """Right after `find`.  What is of no use any more goes with all others, when they are many."""
        if len(self._found) >= SEEN_MAX:
            self._found.clear()
        if len(key[1]) <= SEEN_BYTES_MAX:
            self._found[key] = value
