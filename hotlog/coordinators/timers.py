"""Timers by key that are put off far more often than they run out: a heartbeat only writes a later time down.

Invariants: a key has one timer; it is never due early; a timer that was put off asks the loop again when its older time has come; of the loop's
own timers only `cancel` is used: uvloop rounds their times, and one that is due at once has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any


class _Timer:
    __slots__ = ("asked_for", "event", "handle", "when")

    def __init__(self, event: Any, when: float, handle: asyncio.TimerHandle) -> None:
        self.event = event
        self.when = when  # not before; of the loop's clock, seconds
        self.asked_for = when  # of the loop
        self.handle = handle


class Timers:
    """`due` is called with the event of a timer that ran out."""

    def __init__(self, due: Callable[[Any], None]) -> None:
        self._due = due
        self._timers: dict[Hashable, _Timer] = {}

    def __len__(self) -> int:
        return len(self._timers)

    def arm(self, key: Hashable, delay_ms: int, event: Any) -> None:
        """(Re)start the timer `key`."""
        loop = asyncio.get_running_loop()
        when = loop.time() + delay_ms / 1000
        timer = self._timers.get(key)
        if timer is not None:
            if timer.asked_for <= when:
                timer.when, timer.event = when, event
                return
            timer.handle.cancel()
        self._timers[key] = _Timer(event, when, loop.call_at(when, self._run_out, key))

    def disarm(self, key: Hashable) -> None:
        """Stop the timer `key`, if it runs."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.handle.cancel()

    def clear(self) -> None:
        """Stop them all."""
        for timer in self._timers.values():
            timer.handle.cancel()
        self._timers.clear()

    def _run_out(self, key: Hashable) -> None:
        timer = self._timers[key]
        if timer.when > timer.asked_for:
            timer.asked_for = timer.when
            timer.handle = asyncio.get_running_loop().call_at(timer.when, self._run_out, key)
            return
        del self._timers[key]
        self._due(timer.event)
