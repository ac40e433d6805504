"""Who may GET next: a bounded set of slots with priority lanes.

A replay of a year must not slow the consumer that waits for its next megabyte, so a waiting fetch
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

from hotlog.kernel.errors import StoreUnavailable
from hotlog.world.ports import Purpose


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
