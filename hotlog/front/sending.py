"""The sending half of a connection: replies line up in the order of their requests and leave together; accounts of what is held.

Invariants: replies leave in request order; what was not written yet is at most ANSWERS_BYTES_MAX and one reply; bytes held for requests are
counted in the node's budget until they are given back; nothing more is served while replies do not drain, or while more than that many bytes of them
wait behind one that is not known yet (`_can_send`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import cast

from hotlog.answers.api import Caller, Pending
from hotlog.front.connections import Connections
from hotlog.front.outlet import Outlet
from hotlog.front.slots import Slot
from hotlog.kernel.limits import KiB
from hotlog.wire.frame import SIZE_BYTES
from hotlog.world.ports import Buffer, Streamed

LOG = logging.getLogger(__name__)

ANSWERS_BYTES_MAX = 64 * KiB  # replies that wait for the end of a turn; they are written before there are more


class Sending(asyncio.BufferedProtocol):
    """What a connection holds, and what it still has to say."""

    def __init__(self, connections: Connections, number: int, listener_name: str) -> None:
        self.number = number
        self.peer: tuple[str, int] = ("", 0)
        self.last_request = 0.0  # monotonic seconds of the last whole request
        self.is_counted = False
        self.transport: asyncio.Transport | None = None
        self._outlet: Outlet | None = None  # as long as there is a transport
        self._all = connections
        self._caller = Caller(self.peer, number, listener_name)
        self._slots: deque[Slot | Pending] = deque()  # bounded by the budget of request bytes and by `_can_send`
        self._behind_bytes = 0  # of replies in slots: known, and not ready before those in front of them
        self._ready: list[Buffer | Streamed] = []  # replies that leave with the next flush
        self._ready_bytes = 0
        self._held = 0  # bytes of memory for requests, as counted in the node's budget
        self._backlog = 0  # bytes of replies that the peer has not taken, as of the last pause
        self._is_write_paused = False
        self._write_paused_at = 0.0  # monotonic seconds

    def _work(self) -> None:
        """Go on with what waited for replies to leave."""
        raise NotImplementedError

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop transports are not subclasses
        self.transport = transport
        peer = transport.get_extra_info("peername") or ("", 0)
        self.peer = (str(peer[0]), int(peer[1]))
        self._caller = self._caller._replace(peer=self.peer)
        self._outlet = Outlet(transport, own=self._own, on_empty=self._work)

    def _own(self, task: asyncio.Task[None]) -> None:
        self._all.own(task)
        task.add_done_callback(self._all.disown)

    def pause_writing(self) -> None:
        self._is_write_paused = True
        self._write_paused_at = self._all.clock.monotonic()
        if self.transport is not None and self._outlet is not None:
            self._outlet.pause()
            self._backlog = self.transport.get_write_buffer_size()
            self._all.broker.reply_backlog_bytes += self._backlog

    def resume_writing(self) -> None:
        self._is_write_paused = False
        self._clear_backlog()
        if self._outlet is not None:
            self._outlet.resume()
        self._work()

    def _clear_backlog(self) -> None:
        self._all.broker.reply_backlog_bytes -= self._backlog
        self._backlog = 0

    # How it is

    @property
    def is_closing(self) -> bool:
        """Whether it closes as soon as its last replies have gone."""
        return self._outlet is None or self._outlet.is_closing

    @property
    def _can_send(self) -> bool:
        is_draining = not self._is_write_paused and self._outlet is not None and self._outlet.is_empty
        return is_draining and self._behind_bytes <= ANSWERS_BYTES_MAX

    def is_stuck_for(self, seconds: float) -> bool:
        """Whether the peer has taken so little of its replies for so long that nothing more could be written."""
        return self._is_write_paused and self._all.clock.monotonic() - self._write_paused_at > seconds

    # Replies

    def _line_up(self) -> None:
        """Have those replies leave next that all before them have; they leave now if they are many bytes."""
        slots, ready = self._slots, self._ready
        while slots and (buffers := slots[0].buffers) is not None:
            slots.popleft()
            if buffers:
                size = sum(map(len, buffers))
                ready += buffers
                self._ready_bytes += size
                self._behind_bytes -= size
        if self._ready_bytes > ANSWERS_BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        """Write what is ready, in one go."""
        if self._ready_bytes:
            ready, self._ready, self._ready_bytes = self._ready, [], 0
            if self._outlet is not None:
                self._outlet.write(ready)
        elif self._ready:  # of no bytes: produce requests with acks=0 have no replies
            self._ready.clear()

    # Accounts

    def _hold(self, size: int) -> None:
        self._held += size
        self._all.hold(size)

    def _release(self, size: int) -> None:
        self._held -= size
        self._all.release(size)

    # The end

    def fail(self, reason: str, error: BaseException) -> None:
        """Close this connection for what it sent."""
        self._all.metrics.connections_failed.labels(reason).inc()
        LOG.info("connection %d of %s:%d is closed (%s): %s", self.number, *self.peer, reason, error)
        self.close()

    def close(self) -> None:
        """Close after the replies that are known have gone out."""
        self.flush()
        if self._outlet is not None:
            self._outlet.close()

    def abort(self) -> None:
        """Close at once, whatever waits here."""
        if self.transport is not None:
            self.transport.abort()

    def _give_up(self) -> None:
        """The connection is lost: nothing is sent any more, and what it held is given back, but for requests in work."""
        if self._outlet is not None:
            self._outlet.drop()
        self.transport = self._outlet = None
        self._ready = []
        self._ready_bytes = 0
        for slot in self._slots:
            if isinstance(slot, Pending) and slot.buffers is None and slot.gone():
                slot.buffers = []
                self._all.done_one()
        in_work = sum(slot.frame_bytes + SIZE_BYTES for slot in self._slots if slot.buffers is None)  # given back when done
        self._release(self._held - in_work)
        self._clear_backlog()
