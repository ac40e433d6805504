"""One client connection: frames in, replies out in request order.

A request whose handler need not wait is answered inside the receive callback, without a task.  A handler that waits holds back the
requests behind it on the same connection (as Kafka does), unless it says `Later`: then only the replies keep their order, so that
pipelined produce requests share a group commit.

Invariants: replies leave in request order; a malformed request costs this connection and nothing else; nothing is read while replies
do not drain; bytes held here are counted in the node's budget until their request is done.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Awaitable
from mmap import mmap
from typing import Any, cast

from hotlog.answers.api import Caller, Later, RequestContext, Spliced
from hotlog.front.connections import Connections
from hotlog.front.dispatch import Door, UnknownApi
from hotlog.front.large_frames import mapping_of
from hotlog.front.outlet import Outlet
from hotlog.kernel.errors import Invalid
from hotlog.kernel.limits import KiB
from hotlog.wire.apis import API_VERSIONS_KEY, encoded, parse_header
from hotlog.wire.frame import FRAME_BYTES_LEAP, SIZE_BYTES, FrameReader
from hotlog.world.ports import Buffer, Streamed

LOG = logging.getLogger(__name__)
_SIZE = struct.Struct(">i")

WIDE_FRAME_BYTES = 64 * KiB  # a request above it is read beside the loop: thousands of elements take tens of ms
REQUESTS_WAITING_MAX = 64  # frames of one connection that wait for the request before them; reading pauses above


class Slot:
    """A request that was begun: its place in the order of replies."""

    __slots__ = ("buffers", "context", "door", "frame_bytes", "mapping", "request")

    def __init__(self, context: RequestContext, door: Door, request: Any, frame_bytes: int) -> None:
        self.context = context
        self.door = door
        self.request = request
        self.frame_bytes = frame_bytes
        self.buffers: list[Buffer | Streamed] | None = None  # None until the reply is known; empty for "no reply"
        self.mapping: mmap | None  # of a frame of FRAME_BYTES_LEAP and more


class Connection(asyncio.BufferedProtocol):
    """The asyncio side; made by a listener."""

    def __init__(self, connections: Connections, number: int, listener_name: str) -> None:
        self.number = number
        self.peer: tuple[str, int] = ("", 0)
        self.last_request = 0.0  # monotonic seconds of the last whole request
        self.is_counted = False
        self.transport: asyncio.Transport | None = None
        self._outlet: Outlet | None = None  # as long as there is a transport
        self._all = connections
        self._caller = Caller(self.peer, number, listener_name)
        self._reader = FrameReader(connections.scratch, connections.request_bytes_max)
        self._frames: deque[memoryview] = deque()  # bounded: reading pauses above REQUESTS_WAITING_MAX, one receive may overshoot
        self._slots: deque[Slot] = deque()  # bounded by the frames and by write_paused
        self._waiting: dict[asyncio.Task[None], Slot] = {}
        self._held = 0  # bytes of memory for requests, as counted in the node's budget
        self._backlog = 0  # bytes of replies that the peer has not taken, as of the last pause
        self._is_busy = False  # a handler that keeps order is being waited for
        self._is_working = False
        self._is_read_paused = False
        self._is_write_paused = False
        self._write_paused_at = 0.0  # monotonic seconds
        self._is_told = LOG.isEnabledFor(logging.DEBUG)  # asked once: requests are many

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop transports are not subclasses
        self.transport = transport
        peer = transport.get_extra_info("peername") or ("", 0)
        self.peer = (str(peer[0]), int(peer[1]))
        self._caller = self._caller._replace(peer=self.peer)
        self._outlet = Outlet(transport, own=self._own, on_empty=self._work)
        self._all.opened(self)
        LOG.debug("connection %d of %s:%d is open", self.number, *self.peer)

    def _own(self, task: asyncio.Task[None]) -> None:
        self._all.own(task)
        task.add_done_callback(self._all.disown)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._outlet is not None:
            self._outlet.drop()
        self.transport = self._outlet = None
        self._frames.clear()
        self._all.unmap(self._reader.drop())
        in_work = sum(slot.frame_bytes + SIZE_BYTES for slot in self._slots if slot.buffers is None)  # given back when done
        self._release(self._held - in_work)
        self._clear_backlog()
        for task, slot in list(self._waiting.items()):
            if slot.door.api.ends_with_connection:
                task.cancel()
        self._all.lost(self)
        LOG.debug("connection %d of %s:%d has ended%s", self.number, *self.peer, f": {exc}" if exc else "")

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        held = self._reader.held
        frames = self._reader.received(nbytes)
        self._hold(self._reader.held - held + sum(map(len, frames)) + SIZE_BYTES * len(frames))
        if frames:
            self.last_request = self._all.touch(self)
            self._frames.extend(frames)
            self._work()
        if self._reader.failure is not None:
            self.fail("size", self._reader.failure)
            return
        if len(self._frames) > REQUESTS_WAITING_MAX or self._all.is_over_budget:
            self._pause_reading()

    def eof_received(self) -> bool:
        return False

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

    # Reading on and off

    def _pause_reading(self) -> None:
        if not self._is_read_paused and self.transport is not None and not self.transport.is_closing():
            self._is_read_paused = True
            self.transport.pause_reading()
            if self._all.is_over_budget:
                self._all.wait_for_budget(self)

    def resume_reading(self) -> None:
        """Read again, unless frames still wait here."""
        if self._is_read_paused and len(self._frames) <= REQUESTS_WAITING_MAX // 2:
            self._is_read_paused = False
            if self.transport is not None and not self.transport.is_closing():
                self.transport.resume_reading()

    # Requests

    @property
    def is_idle(self) -> bool:
        return not self._slots and not self._frames

    @property
    def is_in_a_frame(self) -> bool:
        """Whether a part of a request has come and holds memory."""
        return self._reader.held > SIZE_BYTES

    @property
    def is_closing(self) -> bool:
        """Whether it closes as soon as its last replies have gone."""
        return self._outlet is None or self._outlet.is_closing

    @property
    def _can_send(self) -> bool:
        return self._outlet is not None and self._outlet.is_empty and not self._is_write_paused

    def is_stuck_for(self, seconds: float) -> bool:
        """Whether the peer has taken so little of its replies for so long that nothing more could be written."""
        return self._is_write_paused and self._all.clock.monotonic() - self._write_paused_at > seconds

    def _work(self) -> None:
        """Serve frames until one must be waited for."""
        if self._is_working:
            return
        self._is_working = True
        try:
            while self._frames and not self._is_busy and self._can_send:
                self._serve(self._frames.popleft())
        finally:
            self._is_working = False
        if self._is_read_paused:
            if self._all.is_over_budget:
                self._all.wait_for_budget(self)
            else:
                self.resume_reading()

    def _serve(self, frame: memoryview) -> None:
        dispatch = self._all.dispatch
        try:
            header, position = parse_header(frame)
            try:
                door = dispatch.door(header.api_key, header.version)
            except UnknownApi as error:
                self._answer_unknown(header.api_key, header.correlation_id, error)
                self._release(len(frame) + SIZE_BYTES)
                return
            if door.quick is not None and not self._slots and not self._is_told:
                rest = dispatch.quick(door, self._all.broker, self._caller, header.version, frame, position)
                if rest is not None:
                    self._answer_quickly(door, frame, rest)
                    return
            is_wide = len(frame) > WIDE_FRAME_BYTES and not door.api.decodes_any_size
            request = None if is_wide else dispatch.decode(door, header.version, frame, position)
        except Invalid as error:
            self.fail("request", error)
            return
        context = RequestContext(
            header.api_key,
            header.version,
            header.correlation_id,
            header.client_id,
            self._caller,
            self.last_request,
        )
        slot = Slot(context, door, request, len(frame))
        if slot.frame_bytes >= FRAME_BYTES_LEAP:
            slot.mapping = mapping_of(frame)
        self._slots.append(slot)
        self._all.working += 1
        if is_wide:
            self._is_busy = True
            self._wait(slot, self._in_order(slot, self._decoded(slot, frame, position)))
            return
        try:
            response = door.handle(self._all.broker, context, request)
        except Exception as error:
            self._refused(slot, error)
            return
        self._take(slot, response)

    def _answer_quickly(self, door: Door, frame: memoryview, rest: bytes) -> None:
        """Send `rest` behind the frame's correlation id: nothing waits before it."""
        if self._outlet is not None:
            self._outlet.write([b"".join((_SIZE.pack(4 + len(rest)), frame[4:8], rest))])
        door.requests.inc()
        door.seconds.observe(self._all.clock.monotonic() - self.last_request)
        self._release(len(frame) + SIZE_BYTES)

    async def _decoded(self, slot: Slot, frame: memoryview, position: int) -> Any:
        """What the handler of a wide request returns; the request is read beside the loop."""
        broker, dispatch = self._all.broker, self._all.dispatch
        try:
            slot.request = await broker.disk.run(dispatch.decode, slot.door, slot.context.version, frame, position)
        except Invalid as error:
            self.fail("request", error)
            return None
        response = slot.door.handle(broker, slot.context, slot.request)
        return await response if hasattr(response, "__await__") else response

    def _answer_unknown(self, key: int, correlation_id: int, error: UnknownApi) -> None:
        if key != API_VERSIONS_KEY:
            self.fail("api", error)
        elif self._slots:
            self.fail("order", error)  # ApiVersions is the first request of a connection; nobody pipelines before it
        elif self._outlet is not None:
            self._outlet.write([self._all.dispatch.unknown_version(correlation_id)])

    def _take(self, slot: Slot, response: Any) -> None:
        """What a handler returned, or what it was waited for."""
        if type(response) is Later:
            self._wait(slot, response.reply)
        elif hasattr(response, "__await__"):
            self._is_busy = True
            self._wait(slot, self._in_order(slot, response))
        elif self._all.dispatch.is_wide(response):
            self._is_busy = True
            self._wait(slot, self._in_order(slot, self._encoded(response)))
        else:
            self._reply(slot, response)

    async def _encoded(self, response: Any) -> Spliced:
        """A wide response, written beside the loop."""
        body = await self._all.broker.disk.run(encoded, response)
        return Spliced([body], len(body))

    async def _in_order(self, slot: Slot, awaitable: Awaitable[Any]) -> Any:
        try:
            return await awaitable
        finally:
            self._is_busy = False

    def _wait(self, slot: Slot, awaitable: Awaitable[Any]) -> None:
        task = asyncio.get_running_loop().create_task(self._finish(slot, awaitable))
        self._waiting[task] = slot
        self._all.own(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._waiting.pop(task, None)
        self._all.disown(task)

    async def _finish(self, slot: Slot, awaitable: Awaitable[Any]) -> None:
        try:
            response = await awaitable
        except asyncio.CancelledError:
            self._all.working -= 1
            self._done(slot)
            raise
        except Exception as error:
            self._refused(slot, error)
        else:
            self._take(slot, response)
        self._work()

    def _refused(self, slot: Slot, error: Exception) -> None:
        response = self._all.dispatch.refuse(slot.door, slot.context, slot.request, error)
        if response is None:
            self._finished(slot, [])
            self.fail("refused", error)
        else:
            self._reply(slot, response)

    def _reply(self, slot: Slot, response: Any) -> None:
        try:
            buffers = [] if response is None else self._all.dispatch.encode(slot.context, response)
        except Exception as error:  # a handler's bug must not take the process with it
            LOG.exception("%s version %d cannot be encoded", slot.door.api.name, slot.context.version)
            self._finished(slot, [])
            self.fail("encode", error)
            return
        self._finished(slot, buffers)

    def _finished(self, slot: Slot, buffers: list[Buffer | Streamed]) -> None:
        slot.buffers = buffers
        slot.request = None
        door = slot.door
        door.requests.inc()
        if slot.context.has_failed:
            door.errors.inc()
        seconds = self._all.clock.monotonic() - slot.context.arrived
        door.seconds.observe(seconds)
        if self._is_told:
            self._tell(slot, seconds)
        self._all.working -= 1
        self._done(slot)
        slots = self._slots
        while slots and slots[0].buffers is not None:
            replies = slots.popleft().buffers
            if replies and self._outlet is not None:
                self._outlet.write(replies)

    def _tell(self, slot: Slot, seconds: float) -> None:
        context, size = slot.context, sum(map(len, slot.buffers or ()))
        outcome = "refused" if context.has_failed else "done"
        LOG.debug(
            "%s version %d of %s:%d (connection %d, client %r): %s in %.1f ms, %d bytes in, %d out",
            slot.door.api.name, context.version, *self.peer, self.number, context.client_id, outcome, seconds * 1000,
            slot.frame_bytes, size,
        )  # fmt: skip

    def _done(self, slot: Slot) -> None:
        self._release(slot.frame_bytes + SIZE_BYTES)
        if slot.frame_bytes >= FRAME_BYTES_LEAP:
            self._all.unmap(slot.mapping)

    def _hold(self, size: int) -> None:
        self._held += size
        self._all.hold(size)

    def _release(self, size: int) -> None:
        self._held -= size
        self._all.release(size)

    def fail(self, reason: str, error: BaseException) -> None:
        """Close this connection for what it sent."""
        self._all.metrics.connections_failed.labels(reason).inc()
        LOG.info("connection %d of %s:%d is closed (%s): %s", self.number, *self.peer, reason, error)
        self.close()

    def close(self) -> None:
        """Close after the replies that were written have gone out."""
        self._frames.clear()
        if self._outlet is not None:
            self._outlet.close()

    def abort(self) -> None:
        """Close at once, whatever waits here."""
        if self.transport is not None:
            self.transport.abort()
