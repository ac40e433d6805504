"""How fast the cold tier may be read: the limit that is set, and less while a replay makes the tail late.

Loop, sockets and processors are shared by those who read a year of history and those who wait for the next record.  As LEDBAT (RFC 6817)
lets a bulk transfer give way before a queue hurts anybody, reads from the store give way to producers and tail readers by what is felt
here: how late the event loop is.  Nobody has to guess a limit; where nothing is late, or nobody produces, nothing is slowed.

Invariants: never slower than FLOOR_BYTES_PER_SECOND unless the set limit is; never faster than the set limit; lateness at which
next to nothing was read is not the reads' doing: it slows nothing, and reads may add as much again.
"""

from __future__ import annotations

from hotlog.kernel.configdef import LONG_MAX
from hotlog.kernel.limits import MiB
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.world.pacing import ByteRate
from hotlog.world.ports import Clock

FLOOR_BYTES_PER_SECOND = 64 * MiB
_SLOWER = 0.75
_FASTER = 1.05
_FASTER_BYTES = 4 * MiB  # and this much, each time
_FREE_BYTES_PER_SECOND = 1 << 34  # a limit that has grown beyond this limits nobody
_NEXT_TO_NOTHING = 1.25 * FLOOR_BYTES_PER_SECOND  # paced reads come in lumps
_LEARNT = 0.2  # of what is seen, each time
_CALM_SECONDS = 5.0  # without a produce request: nobody waits for the tail


class Brake:
    """The rate that reads are held to, told every half second or so what was felt.  Pure."""

    def __init__(self) -> None:
        self.rate = LONG_MAX  # bytes a second
        self._calm_seconds = _CALM_SECONDS
        self._own_s = 0.0  # how late the loop is of late without the reads

    def step(self, *, late_s: float, late_s_max: float, has_produced: bool, read_bytes: int, seconds: float) -> int:
        """The new rate, bytes a second.

        Args:
            late_s: how late the loop was in the last `seconds`, but for its worst moment.
            late_s_max: what is good (negative: do not brake); twice what is usual without reads is too.
            has_produced: whether somebody produced meanwhile.
            read_bytes: what was read from the store meanwhile.
        """
        self._calm_seconds = 0.0 if has_produced else self._calm_seconds + seconds
        is_guilty = read_bytes > _NEXT_TO_NOTHING * seconds
        if not is_guilty:
            self._own_s += (late_s - self._own_s) * _LEARNT
        if late_s_max < 0 or self._calm_seconds >= _CALM_SECONDS:
            self.rate = LONG_MAX
            return self.rate
        if late_s <= max(late_s_max, 2 * self._own_s):
            grown = int(self.rate * _FASTER) + _FASTER_BYTES
            self.rate = grown if grown < _FREE_BYTES_PER_SECOND else LONG_MAX
        elif is_guilty:
            self.rate = max(FLOOR_BYTES_PER_SECOND, int(min(self.rate, read_bytes / seconds) * _SLOWER))
        return self.rate


class ReadRate:
    """Paces reads from the store by remote.log.manager.fetch.max.bytes.per.second (KIP-956) and the brake."""

    def __init__(self, clock: Clock, settings: Settings, metrics: Metrics) -> None:
        self._clock = clock
        self._gauge = metrics.cold_read_rate_limit
        self._brake = Brake()
        self._bytes = 0
        self._felt = clock.monotonic()
        self._limit, self._late_s_max = _limits(settings)
        self._rate = ByteRate(clock, self._limit)

    @property
    def bytes_per_second(self) -> int:
        """What reads are held to now; LONG_MAX: nothing."""
        return min(self._limit, self._brake.rate)

    def reconfigure(self, settings: Settings) -> None:
        """Take over the settings (both keys are dynamic)."""
        self._limit, self._late_s_max = _limits(settings)
        self._apply()

    async def pace(self, count: int) -> None:
        """Wait until `count` bytes may be read."""
        self._bytes += count
        await self._rate.pace(count)

    def feel(self, late_s: float, *, has_produced: bool) -> None:
        """Give way or not, after a stretch of time in which the loop was `late_s` late."""
        now, read_bytes = self._clock.monotonic(), self._bytes
        seconds, self._felt, self._bytes = now - self._felt, now, 0
        self._brake.step(
            late_s=late_s, late_s_max=self._late_s_max, has_produced=has_produced, read_bytes=read_bytes, seconds=seconds
        )
        self._apply()

    def _apply(self) -> None:
        self._rate.change(self.bytes_per_second)
        self._gauge.set(0 if self.bytes_per_second == LONG_MAX else self.bytes_per_second)


def _limits(settings: Settings) -> tuple[int, float]:
    """(bytes a second, seconds late at most) as configured."""
    late_ms = settings.number("hotlog.replay.yield.lag.ms")
    return settings.number("remote.log.manager.fetch.max.bytes.per.second"), late_ms / 1000
