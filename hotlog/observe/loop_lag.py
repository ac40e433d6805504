"""How late the event loop is: a timer that notes by how much it was missed.

Everything a broker answers goes through one loop; what holds it up (a long callback, or a processor that others have) is felt by every
client.  This is the number to look at first when tail readers are slow while histories are replayed, and the one by which reads of
history give way (tiering.store.brake).

Invariants: one callback every INTERVAL_S, nothing else; a delay is counted from when the callback was due (resolution about 1 ms).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hotlog.kernel.metrics import Metrics
from hotlog.world.ports import Clock

INTERVAL_S = 0.02
LOOKS = 25  # in what is told at a time


class LoopLag:
    """Observes the running loop from `start` to `close`; `tell` hears of every LOOKS looks how late the loop was (s), but for the worst."""

    def __init__(self, clock: Clock, metrics: Metrics, tell: Callable[[float], None] = lambda late_s: None) -> None:
        self._clock = clock
        self._seconds = metrics.loop_lag_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._tell = tell
        self._seen: list[float] = []

    def start(self) -> None:
        self._again(self._clock.monotonic())

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self, now: float) -> None:
        self._due = now + INTERVAL_S
        self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._late)

    def _late(self) -> None:
        now = self._clock.monotonic()
        late_s = max(now - self._due, 0.0)
        self._seconds.observe(late_s)
        self._seen.append(late_s)
        if len(self._seen) == LOOKS:
            self._tell(sorted(self._seen)[-2])
            self._seen.clear()
        self._again(now)
