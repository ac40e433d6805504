"""Who may GET next: a bounded set of slots with priority lanes; and a byte rate.

Field note 9 and design section 5: a replay of a year must not slow the consumer that waits for its next megabyte, so a waiting fetch
takes the next free slot before readahead, readahead before replay, replay before export, and the lower lanes together never hold all
slots.

Invariants: at most `slots` are held; a lower lane holds at most `slots - reserved`; waiting entries are bounded by `waiting_max`;
within a lane order is first come, first served.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum

from hotlog.kernel.configdef import LONG_MAX
from hotlog.kernel.errors import StoreUnavailable
from hotlog.world.ports import Clock, Purpose


class Lane(IntEnum):
    """Smaller goes first."""

    FETCH = 0
    READAHEAD = 1
    REPLAY = 2
    EXPORT = 3

    @property
    def purpose(self) -> Purpose:
        return _PURPOSES[self]


_PURPOSES: dict[Lane, Purpose] = {
    Lane.FETCH: "fetch",
    Lane.READAHEAD: "readahead",
    Lane.REPLAY: "replay",
    Lane.EXPORT: "export",
}


class Ticket:
    """One wait for a slot; its lane may be raised while it waits (a reader has caught up with its own readahead)."""

    __slots__ = ("granted", "lane")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.granted: asyncio.Future[None] | None = None


class LaneGate:
    """Slots for GETs."""

    def __init__(self, slots: int, waiting_max: int) -> None:
        assert slots >= 1
        self._free = slots
        self._lower_free = slots - 1 if slots > 1 else 1  # one slot is always for a waiting fetch
        self._waiting: dict[Lane, deque[Ticket]] = {lane: deque(maxlen=waiting_max + 1) for lane in Lane}
        self._waiting_max = waiting_max
        self._waiting_count = 0

    @property
    def waiting(self) -> int:
        return self._waiting_count

    @property
    def is_full(self) -> bool:
        """Whether another wait would be refused."""
        return self._waiting_count >= self._waiting_max

    def promote(self, ticket: Ticket, lane: Lane) -> None:
        """Let a waiting ticket stand in a better lane, behind those already there."""
        if lane >= ticket.lane or ticket.granted is None or ticket.granted.done():
            return
        self._waiting[ticket.lane].remove(ticket)
        ticket.lane = lane
        self._waiting[lane].append(ticket)
        self._grant()

    @asynccontextmanager
    async def slot(self, ticket: Ticket) -> AsyncIterator[None]:
        """Hold a slot.

        Raises:
            StoreUnavailable: too many wait already (remote.log.reader.max.pending.tasks).
        """
        if self.is_full:
            raise StoreUnavailable(
                f"{self._waiting_count} cold reads wait for the store; at most {self._waiting_max} are allowed"
                " (remote.log.reader.max.pending.tasks)"
            )
        held = await self._wait(ticket)
        try:
            yield
        finally:
            self._free += 1
            if held is not Lane.FETCH:
                self._lower_free += 1
            self._grant()

    async def _wait(self, ticket: Ticket) -> Lane:
        ticket.granted = asyncio.get_running_loop().create_future()
        self._waiting[ticket.lane].append(ticket)
        self._waiting_count += 1
        self._grant()
        try:
            await ticket.granted
        except asyncio.CancelledError:
            if ticket.granted.done() and not ticket.granted.cancelled():
                self._free += 1
                self._lower_free += ticket.lane is not Lane.FETCH
                self._grant()
            else:
                self._waiting[ticket.lane].remove(ticket)
                self._waiting_count -= 1
            raise
        return ticket.lane

    def _grant(self) -> None:
        for lane, queue in self._waiting.items():
            while queue and self._free and (lane is Lane.FETCH or self._lower_free):
                ticket = queue.popleft()
                self._waiting_count -= 1
                self._free -= 1
                self._lower_free -= lane is not Lane.FETCH
                assert ticket.granted is not None
                ticket.granted.set_result(None)


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

    async def take(self, count: int) -> None:
        """Wait until `count` bytes may be read."""
        if self._rate >= LONG_MAX:
            return
        self._refill()
        debt_s = max(0.0, -self._level / self._rate)
        self._level -= count
        if debt_s > 0:
            await asyncio.sleep(debt_s)
