"""Clocks for tests: one that stands still until it is moved, one that goes by the running loop.  The simulator's is tests.sim.clock."""

from __future__ import annotations

import asyncio

START_MS = 1_700_000_000_000  # November 2023


class HandClock:
    """Stands still until the test moves `ms`; its monotonic seconds follow, unless `seconds` is given: then they are moved by hand too."""

    def __init__(self, ms: int = START_MS, *, seconds: float | None = None) -> None:
        self.ms = ms
        self.seconds = seconds

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000 if self.seconds is None else self.seconds


class LoopClock:
    """The running loop's time, as both."""

    def now_ms(self) -> int:
        return int(self.monotonic() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()
