"""Virtual clocks: monotonic time is the loop's, wall time is the loop's plus whatever somebody did to the clock.

Invariants: monotonic time never steps; `now_ms` is start + elapsed + the sum of all steps.
"""

from __future__ import annotations

from tests.sim.loop import SimLoop

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
YEAR_MS = 365 * DAY_MS
START_MS = 1_700_000_000_000  # November 2023


class SimClock:
    """Clock port on a SimLoop."""

    def __init__(self, loop: SimLoop, start_ms: int = START_MS) -> None:
        self._loop = loop
        self._start_ms = start_ms
        self._stepped_ms = 0

    def now_ms(self) -> int:
        return self._start_ms + self._stepped_ms + int(self._loop.time() * 1000)

    def monotonic(self) -> float:
        return self._loop.time()

    def step(self, delta_ms: int) -> None:
        """Somebody sets the wall clock: `delta_ms` forward, or back if negative."""
        self._stepped_ms += delta_ms
