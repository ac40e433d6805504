"""How many bytes a second a kind of work may move: a token bucket on the world's clock.

Invariants: over any stretch of time no more than the rate and one bucket are taken, but for one take that may be larger than the bucket;
the wait is a timer of the event loop.
"""

from __future__ import annotations

import asyncio

from hotlog.kernel.configdef import LONG_MAX
from hotlog.world.ports import Clock


class ByteRate:
    """A bucket of one second's worth that may go into debt once (KIP-956 quotas: copies and cold reads).

    With `burst_bytes` the bucket holds no more than that, for work that is to be spread evenly.  The wait is a timer of the event loop,
    so a simulated loop passes it at once.
    """

    def __init__(self, clock: Clock, bytes_per_second: int, *, burst_bytes: int = LONG_MAX) -> None:
        self._clock = clock
        self._rate = bytes_per_second
        self._burst = burst_bytes
        self._level = float(min(bytes_per_second, burst_bytes))
        self._filled = clock.monotonic()

    def change(self, bytes_per_second: int) -> None:
        """A new rate from the next take on (the key is dynamic)."""
        self._refill()
        self._rate = bytes_per_second
        self._level = min(self._level, float(bytes_per_second))

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._level = min(float(self._rate), float(self._burst), self._level + (now - self._filled) * self._rate)
        self._filled = now

    def try_take(self, count: int) -> bool:
        """Take `count` bytes if they are there now; for work that may as well be left out."""
        self._refill()
        if self._level < count:
            return False
        self._level -= count
        return True

    async def pace(self, count: int) -> None:
        """Wait until `count` bytes may be read."""
        if self._rate >= LONG_MAX:
            return
        self._refill()
        debt_s = max(0.0, -self._level / self._rate)
        self._level -= count
        if debt_s > 0:
            await asyncio.sleep(debt_s)
