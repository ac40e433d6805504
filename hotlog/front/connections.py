"""All connections of a node, over all its listeners: counted, bounded, with one budget of request bytes; drained on stop.

Invariants: at most max.connections in all and max.connections.per.ip of one address; a connection without a whole request for
connections.max.idle.ms is closed, half a frame and unread replies included; while more than queued.max.request.bytes of requests are held,
nobody is read from except as far as it is needed to go on, which takes at most one largest request (socket.request.max.bytes) more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from mmap import mmap
from typing import Protocol

from hotlog.broker.broker import Broker
from hotlog.front.dispatch import Dispatch
from hotlog.front.large_frames import unmap
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.wire.frame import SCRATCH_BYTES
from hotlog.world.ports import Clock

TICK_SECONDS = 1.0
DRAIN_SECONDS_MAX = 5.0
CLOSE_SECONDS_MAX = 30.0  # a closed connection whose peer does not read its last replies is cut off after this


class Member(Protocol):
    """A connection as it is counted here."""

    peer: tuple[str, int]
    last_request: float  # monotonic seconds of the last whole request
    is_counted: bool

    @property
    def is_idle(self) -> bool: ...
    @property
    def is_closing(self) -> bool: ...
    @property
    def is_in_a_frame(self) -> bool: ...
    def is_stuck_for(self, seconds: float) -> bool: ...
    def resume_reading(self) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class Connections:
    """What the connections of one node share: the broker, the table of doors, and their accounts."""

    def __init__(self, broker: Broker, dispatch: Dispatch, settings: Settings, metrics: Metrics, clock: Clock) -> None:
        self.broker = broker
        self.dispatch = dispatch
        self.metrics = metrics
        self.clock = clock
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        self.working = 0  # requests begun and not finished
        budget = settings.number("queued.max.request.bytes")
        self.held_bytes_max = budget if budget >= 0 else 2**63
        self.held_bytes = (
            0  # memory that requests hold: those in work, those that wait, and buffers of unfinished ones; changed here only
        )
        self._numbers = 0
        self._members: OrderedDict[Member, None] = OrderedDict()  # least recently active first; bounded by max.connections
        self._per_address: Counter[str] = Counter()
        self._lost_one = asyncio.Event()
        self._starved: OrderedDict[Member, None] = OrderedDict()  # paused by the budget, first come first served
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._ticker: asyncio.TimerHandle | None = None
        self._unwritten: dict[Member, None] = {}  # have replies that leave before the next receive
        self._is_draining = False
        self._done_one = asyncio.Event()
        broker.served = dispatch.served
        dispatch.open_short_ways(broker)

    # Life

    def start_ticking(self) -> None:
        """Look after idle connections from now on."""
        self._ticker = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    async def close(self) -> None:
        """Give requests in work a moment to be answered, then close every connection; who listens stopped before.

        Replies have another moment to go out: then a connection whose peer does not read is cut.
        """
        if self._ticker is not None:
            self._ticker.cancel()
        for member in list(self._members):
            if member.is_idle:
                member.close()
        self.broker.polls.hurry()
        waiting = [task for task in self._tasks if not task.done()]
        self._is_draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS_MAX):
                if waiting:
                    await asyncio.wait(waiting)
                await self._wait_done()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        for member in list(self._members):
            member.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS_MAX):
                await self._wait_empty()
        for member in list(self._members):
            member.abort()
        await self._wait_empty()

    async def _wait_done(self) -> None:
        while self.working:
            self._done_one.clear()
            await self._done_one.wait()

    async def _wait_empty(self) -> None:
        while self._members:
            self._lost_one.clear()
            await self._lost_one.wait()

    def next_number(self) -> int:
        """A number for a new connection."""
        self._numbers += 1
        return self._numbers

    @property
    def request_bytes_max(self) -> int:
        """Largest request in bytes (socket.request.max.bytes)."""
        return self.broker.settings.number("socket.request.max.bytes")

    def opened(self, member: Member) -> None:
        """A connection was accepted: count it, or close it at once."""
        address = member.peer[0]
        reason = ""
        if len(self._members) >= self.broker.settings.number("max.connections"):
            reason = "max.connections"
        elif self._per_address[address] >= self.broker.settings.number("max.connections.per.ip"):
            reason = "max.connections.per.ip"
        if reason:
            self.metrics.connections_refused.labels(reason).inc()
            member.abort()
            return
        member.is_counted = True
        member.last_request = self.clock.monotonic()
        self._members[member] = None
        self._per_address[address] += 1
        self.metrics.connections.inc()

    def lost(self, member: Member) -> None:
        """A connection is gone."""
        self._starved.pop(member, None)
        if not member.is_counted:
            return
        member.is_counted = False
        self._members.pop(member, None)
        self._lost_one.set()
        address = member.peer[0]
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]
        self.metrics.connections.dec()

    def touch(self, member: Member) -> float:
        """A whole request came: the connection is the most recently active; returns now (monotonic seconds)."""
        if member.is_counted:
            self._members.move_to_end(member)
        return self.clock.monotonic()

    # Requests that wait for a reply

    def done_one(self) -> None:
        """A request is finished."""
        self.working -= 1
        if self._is_draining:
            self._done_one.set()

    def flush_soon(self, member: Member) -> None:
        """Write the replies of `member` at the end of this turn of the loop: one fsync answers many requests."""
        if not self._unwritten:
            asyncio.get_running_loop().call_soon(self._flush_all)
        self._unwritten[member] = None

    def _flush_all(self) -> None:
        unwritten, self._unwritten = self._unwritten, {}
        for member in unwritten:
            member.flush()

    def own(self, task: asyncio.Task[None]) -> None:
        self._tasks[task] = None

    def disown(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)

    def unmap(self, mapping: mmap | None) -> None:
        """Give a large request's memory back beside the loop; it is done, or will not come."""
        if mapping is not None:
            task = asyncio.get_running_loop().create_task(unmap(self.broker.disk, mapping), name="unmap")
            self.own(task)
            task.add_done_callback(self.disown)

    # The budget of request bytes

    @property
    def is_over_budget(self) -> bool:
        return self.held_bytes > self.held_bytes_max

    def hold(self, size: int) -> None:
        """Count `size` bytes (negative: fewer); far above the budget, the connection that is longest without a request and in the
        middle of one makes room."""
        self.held_bytes += size
        if size > 0 and self.is_over_budget and self.held_bytes > self.held_bytes_max + self.request_bytes_max:
            for member in self._members:
                if member.is_in_a_frame:
                    self.metrics.connections_refused.labels("queued.max.request.bytes").inc()
                    member.abort()
                    return

    def release(self, size: int) -> None:
        self.held_bytes -= size
        while self._starved and not self.is_over_budget:
            self._resume_one()

    def wait_for_budget(self, member: Member) -> None:
        """Resume `member` when bytes are free; when nothing is in work, one after another may go on all the same."""
        self._starved[member] = None
        if self.working == 0:
            asyncio.get_running_loop().call_soon(self._resume_one)

    def _resume_one(self) -> None:
        if self._starved:
            member, _ = self._starved.popitem(last=False)
            member.resume_reading()

    def _tick(self) -> None:
        """Close what is idle, oldest first."""
        now = self.clock.monotonic()
        idle_seconds = self.broker.settings.number("connections.max.idle.ms") / 1000
        for member in list(self._members):
            age = now - member.last_request
            if age <= min(idle_seconds, CLOSE_SECONDS_MAX):
                break
            if member.is_closing:
                if age > CLOSE_SECONDS_MAX:
                    member.abort()
            elif age > idle_seconds and (member.is_idle or member.is_stuck_for(idle_seconds)):
                self.metrics.connections_refused.labels("idle").inc()
                member.close()
        if self.working == 0 and self.is_over_budget:
            self._resume_one()
        self._ticker = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
