"""Fetches of several partitions that are known by their bytes: consumers ask the same again and again while nothing is new.

What such a request says is read once.  And an answer that has nothing new for anybody stays true until something moves: it is kept as an ear of all
logs of which it speaks.

Invariants: an answer is given again only while no log of it has moved and nothing began or ended to be served; what is kept is bounded, and lets
go of the logs when it is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hotlog.wire.fetch_request import FetchRequest

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker
    from hotlog.partitions.partition import Partition

KNOWN_MAX = 64  # requests of up to 8 KiB: some 5 MB with what was read from them


class Still:
    """An answer without records, all of it behind the correlation id."""

    __slots__ = ("_hosting", "_partitions", "rest")

    def __init__(self, rest: bytes, partitions: list[Partition], hosting: int) -> None:
        self.rest = rest
        self._partitions = partitions
        self._hosting = hosting
        for partition in partitions:
            partition.add_ear(self)

    def is_true_at(self, hosting: int) -> bool:
        """Whether nothing has moved, as of this version of what is hosted."""
        return hosting == self._hosting and bool(self._partitions)

    def moved(self) -> None:
        """Something did; of the other logs there is nothing to hear any more."""
        partitions, self._partitions = self._partitions, []
        for partition in partitions:
            partition.remove_ear(self)


class Known:
    """A request, and its answer as long as that stays true."""

    __slots__ = ("request", "still")

    def __init__(self, request: FetchRequest) -> None:
        self.request = request
        self.still: Still | None = None

    def forget_answer(self) -> None:
        if self.still is not None:
            self.still.moved()
            self.still = None


class KnownFetches:
    """By version and bytes.  One for each broker (`broker.kept`)."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._known: dict[tuple[int, bytes], Known] = {}

    def find(self, key: tuple[int, bytes]) -> Known | None:
        return self._known.get(key)

    def keep(self, key: tuple[int, bytes], request: FetchRequest) -> None:
        """Know this request from now on."""
        if len(self._known) >= KNOWN_MAX:
            for known in self._known.values():
                known.forget_answer()
            self._known.clear()
        self._known[key] = Known(request)

    def keep_answer(self, known: Known, rest: bytes, partitions: list[Partition]) -> None:
        """The same request was answered so, with nothing new."""
        known.forget_answer()
        known.still = Still(rest, partitions, self._broker.hosted_places.version)
