"""The simulated network: hosts, and streams between them that are delayed, cut and broken, in virtual time.

A stream is two ends; each direction has a window, so that a slow reader holds its writer up.  What is under way when a link is cut stays
there (TCP sends it again) and goes on when the link is mended.  A peer that was killed is answered for by its machine (a reset); one
whose machine lost power says nothing.

Invariants: bytes of a direction arrive whole and in order, or the stream ends; nothing of a life that ended leaves its host.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, TypeVar, cast

from hotlog.world.ports import LISTEN_BACKLOG
from tests.sim.fuse import Fuse
from tests.sim.loop import SimLoop

P = TypeVar("P", bound=asyncio.BaseProtocol)
WINDOW_BYTES = 128 * 1024  # of a direction, under way or not read
HIGH_WATER_BYTES = 64 * 1024  # of a transport's buffer, as asyncio's
CONNECT_SECONDS = 127.0  # until a connect that nobody answers fails, as Linux's
PORT_FIRST = 32_768
Address = tuple[str, int]
_END, _RESET = b"end", b"reset"  # what comes last in a direction; never compared with data, which is bytearray


class SimNet:
    """All hosts.  `delay_s` is (least, most) for one way."""

    def __init__(self, loop: SimLoop, random: Random, delay_s: tuple[float, float] = (0.0001, 0.002)) -> None:
        self.loop = loop
        self.delay_s = delay_s
        self.listening: dict[Address, SimListening] = {}
        self.ends: list[SimTransport] = []
        self._random = random
        self._cuts: set[tuple[str, str]] = set()
        self._ports = PORT_FIRST
        self._mended = asyncio.Event()

    def host(self, name: str, fuse: Fuse | None = None) -> SimNetwork:
        """The network as a new process on `name` sees it; the machine answers for the processes before it."""
        network = SimNetwork(self, name, fuse or Fuse())
        for end in list(self.ends):
            if end.network.name == name:
                end.network.has_power = True
                end.peer.go_on()
        return network

    def cut(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Let nothing pass from `a` to `b`, nor back."""
        self._cuts |= {(a, b)} if one_way else {(a, b), (b, a)}

    def mend(self) -> None:
        """All links work again; what was under way goes on."""
        self._cuts.clear()
        self._mended.set()
        self._mended = asyncio.Event()
        for end in list(self.ends):
            end.go_on()

    def is_cut(self, a: str, b: str) -> bool:
        return (a, b) in self._cuts

    def delay(self) -> float:
        return self._random.uniform(*self.delay_s)

    def port(self) -> int:
        self._ports += 1
        return self._ports

    async def passes(self, a: str, b: str) -> None:
        """One packet's way from `a` to `b`, sent again while the link is cut."""
        await asyncio.sleep(self.delay())
        while self.is_cut(a, b):
            await self._mended.wait()


class SimListening:
    """Listening of one process."""

    def __init__(self, network: SimNetwork, address: Address, make: Callable[[], asyncio.BaseProtocol]) -> None:
        self.network = network
        self.make = make
        self._address = address

    @property
    def address(self) -> Address:
        return self._address

    def close(self) -> None:
        if self.network.net.listening.get(self._address) is self:
            del self.network.net.listening[self._address]

    async def wait_closed(self) -> None:
        """Nothing is left to wait for."""


class SimNetwork:
    """The Network port of one process on one host."""

    def __init__(self, net: SimNet, host: str, fuse: Fuse) -> None:
        self.net = net
        self.name = host
        self.has_power = True
        self._fuse = fuse

    @property
    def is_dead(self) -> bool:
        """Whether the process died: nothing of it runs any more."""
        return self._fuse.blown

    async def listen(
        self, make: Callable[[], asyncio.BaseProtocol], host: str, port: int, *, backlog: int = LISTEN_BACKLOG
    ) -> SimListening:
        address = (self.name, port or self.net.port())
        if address in self.net.listening:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(address))
        listening = self.net.listening[address] = SimListening(self, address, make)
        return listening

    async def connect(self, make: Callable[[], P], host: str, port: int) -> P:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self.net.passes(self.name, host)
                listening = self.net.listening.get((host, port))
                accepted = None
                if listening is not None:
                    here, there = SimTransport(self, (self.name, self.net.port())), SimTransport(listening.network, (host, port))
                    here.peer, there.peer = there, here
                    accepted = there
                    there.opened(listening.make())
                await self.net.passes(host, self.name)
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), str((host, port))) from None
        if accepted is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED), str((host, port)))
        protocol = make()
        here.opened(protocol)
        return protocol

    def end(self, *, has_power: bool = True) -> None:
        """The process is gone: its peers are told by its machine, unless that lost power too."""
        self._fuse.blown, self.has_power = True, has_power
        for listening in list(self.net.listening.values()):
            if listening.network is self:
                listening.close()
        for end in list(self.net.ends):
            if end.network is self:
                end.died(is_told=has_power)


class SimTransport(asyncio.Transport):
    """One end of a stream."""

    peer: SimTransport

    def __init__(self, network: SimNetwork, address: Address) -> None:
        super().__init__()
        self.network = network
        self.address = address
        self._net = network.net
        self._protocol: asyncio.BaseProtocol | None = None
        self._buffer = bytearray()  # written, and not sent yet
        self._under_way: deque[bytes | bytearray] = deque()  # sent, in order of arrival
        self._room = WINDOW_BYTES
        self._unread: deque[bytes | bytearray] = deque()  # arrived while reading is paused
        self._arrives_at = 0.0
        self._high, self._low = HIGH_WATER_BYTES, HIGH_WATER_BYTES // 4
        self._is_closing = self._is_over = self._is_read_paused = self._is_write_paused = False

    # What the network does

    def opened(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        self._net.ends.append(self)
        protocol.connection_made(self)
        self._read()  # what came before

    def died(self, *, is_told: bool) -> None:
        """The process is gone; nothing of it runs any more."""
        self._is_over = self._is_closing = True
        self._buffer.clear()
        if is_told:
            self._send(_RESET)
        else:
            self._under_way.clear()

    def go_on(self) -> None:
        """The link may work again."""
        for _ in self._under_way:
            self._net.loop.call_later(self._net.delay(), self._arrived)

    def _forget(self) -> None:
        if self in self._net.ends and not self._under_way:
            self._net.ends.remove(self)

    def _push(self) -> None:
        while self._buffer and self._room > 0:
            piece = self._buffer[: self._room]
            del self._buffer[: len(piece)]
            self._room -= len(piece)
            self._send(piece)
        if self._is_write_paused and len(self._buffer) <= self._low:
            self._is_write_paused = False
            cast(asyncio.Protocol, self._protocol).resume_writing()
        if self._is_closing and not self._buffer and not self._is_over:
            self._send(_END)
            self._lost(None)

    def _send(self, piece: bytes | bytearray) -> None:
        self._under_way.append(piece)
        self._arrives_at = max(self._arrives_at, self._net.loop.time() + self._net.delay())
        self._net.loop.call_at(self._arrives_at, self._arrived)

    def _arrived(self) -> None:
        """The next piece is at the peer's host; pieces keep their order whatever timer rang."""
        peer = self.peer
        if self._net.is_cut(self.network.name, peer.network.name) or not (self._under_way and peer.network.has_power):
            return  # sent again once the link is mended, or the machine is up
        piece = self._under_way.popleft()
        if self._is_over:
            self._forget()
        if peer._is_over:
            if piece is not _RESET and not self._is_over:
                self._net.loop.call_later(self._net.delay(), self._lost, ConnectionResetError(errno.ECONNRESET, "reset"))
            return
        if piece is _RESET:
            peer._lost(ConnectionResetError(errno.ECONNRESET, "reset"))
            return
        peer._unread.append(piece)
        peer._read()

    def _read(self) -> None:
        while (
            self._unread and self._protocol is not None and not (self._is_read_paused or self._is_closing or self.network.is_dead)
        ):
            piece = self._unread.popleft()
            if piece is _END:
                if not cast(asyncio.Protocol, self._protocol).eof_received():
                    self.close()
                return
            self._feed(piece)
            self.peer._room += len(piece)
            if not self.peer._is_over:
                self.peer._push()

    def _feed(self, piece: bytes | bytearray) -> None:
        protocol = self._protocol
        if not isinstance(protocol, asyncio.BufferedProtocol):
            cast(asyncio.Protocol, protocol).data_received(bytes(piece))
            return
        at = 0
        while at < len(piece) and not self._is_closing:
            into = memoryview(cast(Any, protocol.get_buffer(-1)))
            count = min(len(into), len(piece) - at)
            into[:count] = piece[at : at + count]
            at += count
            protocol.buffer_updated(count)

    def _lost(self, why: Exception | None) -> None:
        if self._is_over:
            return
        self._is_over = self._is_closing = True
        self._buffer.clear()
        self._forget()
        self._net.loop.call_soon(self._tell_lost, why)

    def _tell_lost(self, why: Exception | None) -> None:
        if not self.network.is_dead and self._protocol is not None:
            self._protocol.connection_lost(why)

    # What its protocol does

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_closing or self.network.is_dead:
            return
        self._buffer += data
        self._push()
        if len(self._buffer) > self._high and not self._is_write_paused:
            self._is_write_paused = True
            cast(asyncio.Protocol, self._protocol).pause_writing()

    def close(self) -> None:
        if not self._is_closing and not self.network.is_dead:
            self._is_closing = True
            self._push()

    def abort(self) -> None:
        if not self._is_over and not self.network.is_dead:
            self._buffer.clear()
            self._send(_RESET)
            self._lost(None)

    def is_closing(self) -> bool:
        return self._is_closing

    def is_reading(self) -> bool:
        return not self._is_read_paused and not self._is_closing

    def pause_reading(self) -> None:
        self._is_read_paused = True

    def resume_reading(self) -> None:
        self._is_read_paused = False
        self._net.loop.call_soon(self._read)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH_WATER_BYTES if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": self.peer.address, "sockname": self.address}.get(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol
