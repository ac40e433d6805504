"""The sending side of a connection: replies in order, file parts read piece by piece as the peer takes them.

A reply of buffers goes to the transport as it is.  A reply with a file part is pumped: a piece is read from the page cache and written to
the socket at once, so that the peer receives one piece while the next is read, and a slow peer holds no memory of an answer's size.  What
the socket does not take goes through the transport, which says when to go on.  (sendfile was measured: on this path it costs as much.)

Invariants: bytes leave in the order of `write`; nothing is read ahead of what the socket takes but one piece; the device is waited for in
a disk thread; one turn sends at most TURN_BYTES_MAX, so that other connections get theirs; a part that fails ends the connection, since
its size was promised; every part is closed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence

from hotlog.kernel.errors import HotlogError
from hotlog.kernel.limits import KiB, MiB
from hotlog.world.ports import Buffer, Streamed

LOG = logging.getLogger(__name__)

WRITE_BUFFER_BYTES_MAX = 1 * MiB
JOIN_BYTES_MAX = 16 * KiB  # replies up to this size go out as one buffer
PIECE_BYTES = 2 * MiB + 64 * KiB  # two parts of a client's default size; smaller pieces cost more wake-ups than they save
DEVICE_BYTES = 1 * MiB  # one read from the device
TURN_BYTES_MAX = 2 * MiB

_PLAIN = (bytes, bytearray, memoryview)
_PLAIN_TYPES = frozenset(_PLAIN)


class Outlet:
    """What one transport still has to send.  `on_empty` is called when a pumped reply has gone."""

    def __init__(
        self, transport: asyncio.Transport, *, own: Callable[[asyncio.Task[None]], None], on_empty: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._own = own
        self._on_empty = on_empty
        self._queue: deque[Buffer | Streamed] = deque()  # bounded: a connection serves nothing while this is not empty
        self._sent = 0  # bytes of the queue's first item that have gone
        self._descriptor = _descriptor_of(transport)
        self._is_paused = False
        self._is_reading = False
        self._is_turn_due = False
        self._is_closing = False
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits here; the transport may still hold bytes."""
        return not self._queue

    @property
    def is_closing(self) -> bool:
        return self._is_closing or self._transport.is_closing()

    def write(self, buffers: Sequence[Buffer | Streamed]) -> None:
        """Send after everything that was written before."""
        if self._is_closing or self._transport.is_closing():
            return
        first = buffers[0]
        if type(first) is bytes and len(buffers) == 1 and not self._queue:  # nearly always
            self._transport.write(first)
        elif self._queue or not _PLAIN_TYPES.issuperset(map(type, buffers)):
            self._queue.extend(buffers)
            self._pump()
        elif len(buffers) == 1:
            self._transport.write(first)  # type: ignore[arg-type]
        elif sum(map(len, buffers)) <= JOIN_BYTES_MAX:
            self._transport.write(b"".join(buffers))  # type: ignore[arg-type]
        else:
            # asyncio's writelines of Python 3.12 and 3.13.0 never says that its buffer is full; a write does.
            self._transport.writelines(buffers[:-1])  # type: ignore[arg-type]
            self._transport.write(buffers[-1])  # type: ignore[arg-type]

    def pause(self) -> None:
        """The transport holds bytes that the peer does not take."""
        self._is_paused = True

    def resume(self) -> None:
        """The peer took them."""
        self._is_paused = False
        self._pump()

    def close(self) -> None:
        """Close the transport once everything has gone."""
        self._is_closing = True
        if not self._queue:
            self._transport.close()

    def drop(self) -> None:
        """The connection is lost: forget what waits.  Parts close themselves when nobody reads from them any more."""
        self._is_closing = True
        self._queue.clear()

    # Pumping

    def _pump(self) -> None:
        if not self._queue:
            return
        room = TURN_BYTES_MAX
        while self._queue and room > 0 and not (self._is_paused or self._is_reading or self._transport.is_closing()):
            try:
                views = self._collect()
            except OSError as error:
                self._fail(error)
                return
            if views is None:
                self._read_device()
            else:
                room -= self._send(views)
        if not self._queue:
            self._emptied()
        elif room <= 0 and not self._is_turn_due:
            self._is_turn_due = True
            asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._is_turn_due = False
        self._pump()

    def _emptied(self) -> None:
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        if self._is_closing:
            self._transport.close()
        else:
            self._on_empty()

    def _collect(self) -> list[Buffer] | None:
        """The next bytes: what is in memory up to and around one piece of file parts; None if the first of it is on the device."""
        views: list[Buffer] = []
        at, room = self._sent, PIECE_BYTES
        for item in self._queue:
            if isinstance(item, _PLAIN):
                views.append(memoryview(item)[at:] if at else item)
            else:
                size = min(len(item) - at, PIECE_BYTES)
                if size > room:
                    break  # a part is not cut where it would fit the next piece as a whole
                piece = item.read_now(at, size)
                if piece is None:
                    return views or None
                views.append(piece)
                room -= size
                if at + size < len(item):
                    break
            at = 0
        return views

    def _send(self, views: list[Buffer]) -> int:
        """Write to the socket; leave to the transport what it does not take.  Returns the size of `views` in bytes."""
        size = sum(map(len, views))
        sent = 0
        if self._descriptor is not None and not self._transport.get_write_buffer_size():
            try:
                sent = os.writev(self._descriptor, views)
            except OSError:
                sent = 0  # full, or broken: the transport finds out which
        self._advance(size)
        if sent < size:
            self._transport.set_write_buffer_limits(high=0)  # be told when all of it has gone
            for view in views:
                if sent < len(view):
                    self._transport.write(memoryview(view)[sent:])
                sent = max(0, sent - len(view))
        return size

    def _advance(self, size: int) -> None:
        self._sent += size
        while self._queue and self._sent >= len(self._queue[0]):
            item = self._queue.popleft()
            self._sent -= len(item)
            if not isinstance(item, _PLAIN):
                item.close()

    def _read_device(self) -> None:
        item = self._queue[0]
        assert not isinstance(item, _PLAIN), "buffers are in memory"
        self._is_reading = True
        self._own(asyncio.get_running_loop().create_task(self._read(item, min(len(item) - self._sent, DEVICE_BYTES))))

    async def _read(self, item: Streamed, length: int) -> None:
        try:
            data = await item.read(self._sent, length)
        except HotlogError as error:
            self._fail(error)
            return
        finally:
            self._is_reading = False
        if self._queue:
            self._send([data])
            self._pump()

    def _fail(self, error: Exception) -> None:
        LOG.error("an answer broke off: %s", error)
        self._transport.abort()


def _descriptor_of(transport: asyncio.Transport) -> int | None:
    """The socket for direct writes; None where bytes must go through the transport (TLS, a simulated network)."""
    if transport.get_extra_info("sslcontext") is not None:
        return None
    socket = transport.get_extra_info("socket")
    return None if socket is None else int(socket.fileno())
