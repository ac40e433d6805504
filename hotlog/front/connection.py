"""One client connection: frames in, replies out in request order.

A request whose handler need not wait is answered inside the receive callback, without a task.  A handler that waits holds back the
requests behind it on the same connection (as Kafka does), unless it says `Later`: then only the replies keep their order, so that
pipelined produce requests share a group commit.  Requests that their API answers on its short way (hotlog.answers.api) are served where they
lie in the receive buffer.  What came in one receive is served in one go, and its replies leave in one write.

Invariants: replies leave in request order; a malformed request costs this connection and nothing else; nothing is read while replies
do not drain; bytes held here are counted in the node's budget until their request is done.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Awaitable
from typing import Any

from hotlog.answers.api import Answer, Later, Pending, Short, Spliced
from hotlog.front.connections import Connections
from hotlog.front.dispatch import Door, UnknownApi, count_together, is_slow_to_write
from hotlog.front.large_frames import mapping_of
from hotlog.front.sending import ANSWERS_BYTES_MAX, Sending
from hotlog.front.slots import Slot
from hotlog.kernel.errors import Invalid
from hotlog.kernel.limits import KiB
from hotlog.wire.apis import API_VERSIONS_KEY, encoded, parse_header
from hotlog.wire.frame import FRAME_BYTES_LEAP, SIZE_BYTES, FrameReader
from hotlog.world.ports import Buffer, Streamed

LOG = logging.getLogger(__name__)

WIDE_FRAME_BYTES = 64 * KiB  # a request above it is read beside the loop: thousands of elements take tens of ms
REQUESTS_WAITING_MAX = 64  # frames of one connection that wait for the request before them; reading pauses above
SHORT_BYTES_MIN = 10  # API key, version, correlation id, length of the client id
_HEAD = struct.Struct(">iI")  # size; API key and version


class Connection(Sending):
    """The asyncio side; made by a listener."""

    def __init__(self, connections: Connections, number: int, listener_name: str) -> None:
        super().__init__(connections, number, listener_name)
        self._reader = FrameReader(connections.scratch, connections.request_bytes_max)
        self._frames: deque[memoryview] = deque()  # bounded: reading pauses above REQUESTS_WAITING_MAX, one receive may overshoot
        self._waiting: dict[asyncio.Task[None], Slot] = {}
        self._is_busy = False  # a handler that keeps order is being waited for
        self._is_working = False
        self._is_read_paused = False
        self._is_told = LOG.isEnabledFor(logging.DEBUG)  # asked once: requests are many

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._all.opened(self)
        LOG.debug("connection %d of %s:%d is open", self.number, *self.peer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._frames.clear()
        self._all.unmap(self._reader.drop())
        self._give_up()
        for task, slot in list(self._waiting.items()):
            if slot.door.api.ends_with_connection:
                task.cancel()
        self._all.lost(self)
        LOG.debug("connection %d of %s:%d has ended%s", self.number, *self.peer, f": {exc}" if exc else "")

    def get_buffer(self, sizehint: int) -> memoryview:
        reader = self._reader
        return reader.scratch if reader.is_between else reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        served = self._serve_short(nbytes) if self._reader.is_between else 0
        if served < nbytes:
            self._receive(nbytes, served)
        elif self._all.held_bytes > self._all.held_bytes_max:  # is_over_budget without a call: this is every receive
            self._pause_reading()

    def _receive(self, nbytes: int, served: int) -> None:
        """Go the general way with what came, but for the first bytes, which were served."""
        reader = self._reader
        held = reader.held
        frames = reader.received(nbytes, served)
        self._hold(reader.held - held + sum(map(len, frames)) + SIZE_BYTES * len(frames))
        if frames:
            self.last_request = self._all.touch(self)
            self._frames.extend(frames)
            self._work()
        if reader.failure is not None:
            self.fail("size", reader.failure)
            return
        if len(self._frames) > REQUESTS_WAITING_MAX or self._all.is_over_budget:
            self._pause_reading()

    def eof_received(self) -> bool:
        return False

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

    @property
    def is_idle(self) -> bool:
        return not self._slots and not self._frames

    @property
    def is_in_a_frame(self) -> bool:
        """Whether a part of a request has come and holds memory."""
        return self._reader.held > SIZE_BYTES

    def close(self) -> None:
        self._frames.clear()
        super().close()

    # The short way

    def _serve_short(self, count: int) -> int:
        """Serve requests at the head of the scratch on their short ways; the position of the first one that has none, or is not whole."""
        if self._frames or self._is_busy or self._is_told or not self._can_send:
            return 0
        scratch, doors, caller, bytes_max = (
            self._all.scratch,
            self._all.dispatch.short_doors,
            self._caller,
            self._reader.bytes_max,
        )
        at, arrived = 0, 0.0
        ran: list[Door] = []
        self._is_working = True
        try:
            while at + SHORT_BYTES_MIN + SIZE_BYTES <= count and not self._is_busy:
                size, kind = _HEAD.unpack_from(scratch, at)
                start = at + SIZE_BYTES
                found = doors.get(kind)
                if found is None or size > bytes_max or size < SHORT_BYTES_MIN or start + size > count:
                    break
                door, short = found
                if not at:
                    self.last_request = arrived = self._all.touch(self)
                answer = short(caller, scratch, start, start + size)
                if answer is None:
                    break
                at = start + size
                if type(answer) is bytes and not self._slots:
                    ran.append(door)
                    self._ready.append(answer)
                    self._ready_bytes += len(answer)
                else:
                    self._queue(answer, door, arrived, size)
                if self._ready_bytes + self._behind_bytes > ANSWERS_BYTES_MAX and not self._has_room():
                    break
        except Exception as error:
            LOG.exception("a short way failed")
            self.fail("short", error)
            return count
        finally:
            self._is_working = False
        if ran:
            count_together(ran, self._all.clock.monotonic() - arrived)
        self.flush()  # what waited may have been answered meanwhile, too
        return at

    def _has_room(self) -> bool:
        """Whether more replies may be made, once those that are ready were written."""
        self.flush()
        return self._can_send

    def _queue(self, answer: Answer | Pending, door: Door, arrived: float, frame_bytes: int) -> None:
        """Put a reply behind those that are waited for, if there are any."""
        if not isinstance(answer, Pending):
            buffers: list[Buffer | Streamed] = answer if isinstance(answer, list) else [answer] if answer else []
            size = sum(map(len, buffers))
            if self._slots:
                known = Pending()
                known.buffers = buffers
                self._slots.append(known)
                self._behind_bytes += size
            else:
                self._ready += buffers
                self._ready_bytes += size
            count_together([door], self._all.clock.monotonic() - arrived)
            return
        answer.door, answer.arrived, answer.frame_bytes = door, arrived, frame_bytes
        self._slots.append(answer)
        self._all.working += 1
        self._hold(frame_bytes + SIZE_BYTES)
        if answer.buffers is None:
            answer.owner = self
            self._is_busy = answer.holds
        else:
            self.answered(answer)

    def answered(self, pending: Pending) -> None:
        """The reply to a request is known that went a short way."""
        pending.door.count(self._all.clock.monotonic() - pending.arrived, pending.has_failed)
        self._all.done_one()
        self._release(pending.frame_bytes + SIZE_BYTES)
        self._behind_bytes += sum(map(len, pending.buffers or ()))
        if pending.holds and pending.owner is not None:
            self._is_busy = False
        has_more = self._frames or self._is_read_paused  # they may have waited for this reply
        if self._slots and self._slots[0] is pending:
            self._line_up()
            if not (has_more or self._is_working):
                self._all.flush_soon(self)
        if has_more:
            self._work()

    def _serve_alone(self, frame: memoryview, door: Door, short: Short) -> bool:
        """Serve a frame of its own on a short way; whether that was done."""
        if not SHORT_BYTES_MIN <= len(frame) < FRAME_BYTES_LEAP or self._is_told:
            return False
        try:
            answer = short(self._caller, frame, 0, len(frame))
        except Exception as error:
            LOG.exception("a short way failed")
            self.fail("short", error)
            return True
        if answer is None:
            return False
        self._queue(answer, door, self.last_request, len(frame))
        self._release(len(frame) + SIZE_BYTES)
        self._line_up()
        return True

    # The general way

    def _work(self) -> None:
        """Serve frames until one must be waited for."""
        if self._is_working:
            return
        self._is_working = True
        try:
            while self._frames and not self._is_busy and self._can_send:
                frame = self._frames.popleft()
                found = self._all.dispatch.short_doors.get(int.from_bytes(frame[:4]))
                if found is None or not self._serve_alone(frame, *found):
                    self._serve(frame)
        finally:
            self._is_working = False
            self.flush()
        if self._is_read_paused:
            if self._all.is_over_budget:
                self._all.wait_for_budget(self)
            else:
                self.resume_reading()

    def _serve(self, frame: memoryview) -> None:
        size = len(frame)
        try:
            header, position = parse_header(frame)
            try:
                door = self._all.dispatch.door(header.api_key, header.version)
            except UnknownApi as error:
                self._answer_unknown(header.api_key, header.correlation_id, error)
                self._release(size + SIZE_BYTES)
                return
            is_wide = size > WIDE_FRAME_BYTES and not door.api.decodes_any_size
            request = None if is_wide else door.decode(frame, position)
        except Invalid as error:
            self.fail("request", error)
            return
        slot = Slot(door, header.correlation_id, header.client_id, self._caller, self.last_request, request, size)
        if size >= FRAME_BYTES_LEAP:
            slot.mapping = mapping_of(frame)
        self._slots.append(slot)
        self._all.working += 1
        if is_wide:
            self._is_busy = True
            self._wait(slot, self._in_order(self._decoded(slot, frame, position)))
            return
        try:
            response = door.handle(self._all.broker, slot, request)
        except Exception as error:
            self._refused(slot, error)
            return
        self._take(slot, response)

    async def _decoded(self, slot: Slot, frame: memoryview, position: int) -> Any:
        """What the handler of a wide request returns; the request is read beside the loop."""
        broker = self._all.broker
        try:
            slot.request = await broker.disk.run(slot.door.decode, frame, position)
        except Invalid as error:
            self.fail("request", error)
            return None
        response = slot.door.handle(broker, slot, slot.request)
        return await response if hasattr(response, "__await__") else response

    def _answer_unknown(self, key: int, correlation_id: int, error: UnknownApi) -> None:
        if key != API_VERSIONS_KEY:
            self.fail("api", error)
        elif self._slots:
            self.fail("order", error)  # ApiVersions is the first request of a connection; nobody pipelines before it
        else:
            answer = self._all.dispatch.unknown_version(correlation_id)
            self._ready.append(answer)
            self._ready_bytes += len(answer)

    def _take(self, slot: Slot, response: Any) -> None:
        """What a handler returned, or what it was waited for."""
        if type(response) is Spliced:
            self._reply(slot, response)
        elif type(response) is Later:
            self._wait(slot, response.reply)
        elif hasattr(response, "__await__"):
            self._is_busy = True
            self._wait(slot, self._in_order(response))
        elif is_slow_to_write(response):
            self._is_busy = True
            self._wait(slot, self._in_order(self._encoded(response)))
        else:
            self._reply(slot, response)

    async def _encoded(self, response: Any) -> Spliced:
        """A wide response, written beside the loop."""
        body = await self._all.broker.disk.run(encoded, response)
        return Spliced([body], len(body))

    async def _in_order(self, awaitable: Awaitable[Any]) -> Any:
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
        slot = self._waiting.pop(task, None)
        self._all.disown(task)
        if slot is not None and task.cancelled():  # here, since who is cancelled before it began runs nothing of its own
            self._all.done_one()
            self._done(slot)

    async def _finish(self, slot: Slot, awaitable: Awaitable[Any]) -> None:
        try:
            response = await awaitable
        except Exception as error:
            self._refused(slot, error)
        else:
            self._take(slot, response)
        self._work()

    def _refused(self, slot: Slot, error: Exception) -> None:
        response = self._all.dispatch.refuse(slot.door, slot, slot.request, error)
        if response is None:
            self._finished(slot, [])
            self.fail("refused", error)
        else:
            self._reply(slot, response)

    def _reply(self, slot: Slot, response: Any) -> None:
        try:
            buffers = [] if response is None else slot.door.encode(slot.correlation_id, response)
        except Exception as error:  # a handler's bug must not take the process with it
            LOG.exception("%s version %d cannot be encoded", slot.door.api.name, slot.version)
            self._finished(slot, [])
            self.fail("encode", error)
            return
        self._finished(slot, buffers)

    def _finished(self, slot: Slot, buffers: list[Buffer | Streamed]) -> None:
        slot.buffers = buffers
        slot.request = None
        seconds = self._all.clock.monotonic() - slot.arrived
        slot.door.count(seconds, slot.has_failed)
        if self._is_told:
            slot.tell(seconds)
        self._all.done_one()
        self._done(slot)
        self._behind_bytes += sum(map(len, buffers))
        self._line_up()

    def _done(self, slot: Slot) -> None:
        self._release(slot.frame_bytes + SIZE_BYTES)
        if slot.frame_bytes >= FRAME_BYTES_LEAP:
            self._all.unmap(slot.mapping)
