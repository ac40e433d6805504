"""Accepts connections, bounds them, and drains them on stop.

Invariants: at most max.connections in all and max.connections.per.ip of one address; a connection without a whole request for
connections.max.idle.ms is closed, half a frame and unread replies included; while more than queued.max.request.bytes of requests are held,
nobody is read from except as far as it is needed to go on, which takes at most one largest request (socket.request.max.bytes) more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

from hotlog.front.connection import Connection
from hotlog.front.dispatch import Dispatch
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.wire.frame import SCRATCH_BYTES
from hotlog.world.ports import Clock

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

LOG = logging.getLogger(__name__)

ACCEPT_BACKLOG = 4096
TICK_SECONDS = 1.0
DRAIN_SECONDS_MAX = 5.0
CLOSE_SECONDS_MAX = 30.0  # a closed connection whose peer does not read its last replies is cut off after this


class Listener:
    """A TCP listener that serves `broker` through `dispatch`."""

    def __init__(
        self, broker: Broker, dispatch: Dispatch, settings: Settings, metrics: Metrics, clock: Clock, name: str = "PLAINTEXT"
    ) -> None:
        self.broker = broker
        self.dispatch = dispatch
        self.metrics = metrics
        self.clock = clock
        self.name = name
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        self.working = 0  # requests begun and not finished
        budget = settings.number("queued.max.request.bytes")
        self._held_bytes_max = budget if budget >= 0 else 2**63
        self._held_bytes = 0
        self._numbers = 0
        self._server: asyncio.Server | None = None
        self._connections: OrderedDict[Connection, None] = (
            OrderedDict()
        )  # least recently active first; bounded by max.connections
        self._per_address: Counter[str] = Counter()
        self._starved: OrderedDict[Connection, None] = OrderedDict()  # paused by the budget, first come first served
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._ticker: asyncio.TimerHandle | None = None

    # Life

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; port 0 chooses one.  Returns the address in use.

        Raises:
            OSError: the address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, host, port, backlog=ACCEPT_BACKLOG, reuse_address=True)
        self._ticker = loop.call_later(TICK_SECONDS, self._tick)
        address = self._server.sockets[0].getsockname()
        return str(address[0]), int(address[1])

    async def close(self) -> None:
        """Stop accepting, give requests in work a moment to be answered, then close every connection."""
        if self._server is not None:
            self._server.close()
        if self._ticker is not None:
            self._ticker.cancel()
        for connection in list(self._connections):
            if connection.is_idle:
                connection.close()
        self.broker.fetches.hurry()
        waiting = [task for task in self._tasks if not task.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=DRAIN_SECONDS_MAX)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        for connection in list(self._connections):
            connection.close()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def _connect(self) -> Connection:
        self._numbers += 1
        return Connection(self, self._numbers)

    @property
    def request_bytes_max(self) -> int:
        """Largest request in bytes (socket.request.max.bytes)."""
        return self.broker.settings.number("socket.request.max.bytes")

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    def opened(self, connection: Connection) -> None:
        """A connection was accepted: count it, or close it at once."""
        address = connection.peer[0]
        reason = ""
        if len(self._connections) >= self.broker.settings.number("max.connections"):
            reason = "max.connections"
        elif self._per_address[address] >= self.broker.settings.number("max.connections.per.ip"):
            reason = "max.connections.per.ip"
        if reason:
            self.metrics.connections_refused.labels(reason).inc()
            assert connection.transport is not None
            connection.transport.abort()
            return
        connection.is_counted = True
        connection.last_request = self.clock.monotonic()
        self._connections[connection] = None
        self._per_address[address] += 1
        self.metrics.connections.inc()

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""
        self._starved.pop(connection, None)
        if not connection.is_counted:
            return
        connection.is_counted = False
        self._connections.pop(connection, None)
        address = connection.peer[0]
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]
        self.metrics.connections.dec()

    def touch(self, connection: Connection) -> float:
        """A whole request came: the connection is the most recently active; returns now (monotonic seconds)."""
        if connection.is_counted:
            self._connections.move_to_end(connection)
        return self.clock.monotonic()

    # Tasks that wait for a reply

    def own(self, task: asyncio.Task[None]) -> None:
        self._tasks[task] = None

    def disown(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)

    # The budget of request bytes

    @property
    def is_over_budget(self) -> bool:
        return self._held_bytes > self._held_bytes_max

    @property
    def held_bytes(self) -> int:
        """Memory that requests hold: those in work, those that wait, and buffers of unfinished ones."""
        return self._held_bytes

    def hold(self, size: int) -> None:
        """Count `size` bytes (negative: fewer); far above the budget, the connection that is longest without a request and in the
        middle of one makes room."""
        self._held_bytes += size
        if size > 0 and self.is_over_budget and self._held_bytes > self._held_bytes_max + self.request_bytes_max:
            for connection in self._connections:
                if connection.is_in_a_frame:
                    self.metrics.connections_refused.labels("queued.max.request.bytes").inc()
                    connection.abort()
                    return

    def release(self, size: int) -> None:
        self._held_bytes -= size
        while self._starved and not self.is_over_budget:
            self._resume_one()

    def wait_for_budget(self, connection: Connection) -> None:
        """Resume `connection` when bytes are free; when nothing is in work, one after another may go on all the same."""
        self._starved[connection] = None
        if self.working == 0:
            asyncio.get_running_loop().call_soon(self._resume_one)

    def _resume_one(self) -> None:
        if self._starved:
            connection, _ = self._starved.popitem(last=False)
            connection.resume_reading()

    def _tick(self) -> None:
        """Close what is idle, oldest first."""
        now = self.clock.monotonic()
        idle_seconds = self.broker.settings.number("connections.max.idle.ms") / 1000
        for connection in list(self._connections):
            transport = connection.transport
            age = now - connection.last_request
            if age <= min(idle_seconds, CLOSE_SECONDS_MAX):
                break
            if transport is None or (connection.is_closing and age > CLOSE_SECONDS_MAX):
                if transport is not None:
                    transport.abort()
            elif connection.is_closing:
                continue
            elif age > idle_seconds and (connection.is_idle or connection.is_stuck_for(idle_seconds)):
                self.metrics.connections_refused.labels("idle").inc()
                connection.close()
        if self.working == 0 and self.is_over_budget:
            self._resume_one()
        self._ticker = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
