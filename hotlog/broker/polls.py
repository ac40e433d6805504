"""Requests that wait for something to happen, and how a broker that stops has them answer.

Invariants: once the broker is stopping, whoever waits is woken and whoever would begin to wait can see it.
"""

from __future__ import annotations

from collections.abc import Callable


class Polls:
    """What wakes each request that waits."""

    def __init__(self) -> None:
        self.is_stopping = False
        self._wakes: dict[Callable[[], None], None] = {}  # bounded by the connections

    def add(self, wake: Callable[[], None]) -> None:
        self._wakes[wake] = None

    def remove(self, wake: Callable[[], None]) -> None:
        del self._wakes[wake]

    def hurry(self) -> None:
        """Let every request that waits answer with what it has."""
        self.is_stopping = True
        for wake in list(self._wakes):
            wake()
