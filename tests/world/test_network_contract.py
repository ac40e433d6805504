"""What every Network must do, real or simulated.

To hold another form to it, call these tests with a bench of its own (tests/sim/test_contracts.py does).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from hotlog.world.network import TcpNetwork
from hotlog.world.ports import Listening, Network
from tests.tools.patience import PATIENCE_S

MANY_BYTES = 8 * 1024 * 1024  # more than kernels and windows hold


@dataclass
class Bench:
    """Two hosts: `server` listens on `address`, `client` connects to it."""

    server: Network
    client: Network
    address: str


@pytest.fixture
def network_bench() -> Bench:
    network = TcpNetwork()
    return Bench(network, network, "127.0.0.1")


class Ear:
    """What happened to one connection; shared by both kinds of protocol."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.came = bytearray()
        self.paused = self.resumed = 0
        self.has_end = False
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._news = asyncio.Event()

    @property
    def wire(self) -> asyncio.Transport:
        assert self.transport is not None
        return self.transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self.transport is None, "once"
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)
        self._news.set()

    def pause_writing(self) -> None:
        self.paused += 1

    def resume_writing(self) -> None:
        self.resumed += 1
        self._news.set()

    def eof_received(self) -> bool:
        self.has_end = True
        return False

    def take(self, data: bytes | memoryview) -> None:
        assert not self.lost.done()
        self.came += data
        self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self._news.clear()
                await self._news.wait()


class Plain(Ear, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self.take(data)


class Buffered(Ear, asyncio.BufferedProtocol):
    def __init__(self) -> None:
        super().__init__()
        self._space = bytearray(1000)

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._space)

    def buffer_updated(self, nbytes: int) -> None:
        self.take(memoryview(self._space)[:nbytes])


class Scene:
    """A listener that remembers who came, and connections to it."""

    def __init__(self, bench: Bench, listening: Listening, came: list[Ear], make: type[Ear]) -> None:
        self.bench = bench
        self.listening = listening
        self.came = came
        self._make = make

    async def connect(self) -> tuple[Ear, Ear]:
        """(the client's end, the server's end)."""
        count = len(self.came)
        client = await self.bench.client.connect(self._make, *self.listening.address)  # type: ignore[type-var]
        async with asyncio.timeout(PATIENCE_S):
            while len(self.came) == count or self.came[-1].transport is None:
                await asyncio.sleep(0.001)
        return client, self.came[-1]


async def opened(bench: Bench, make: type[Ear] = Buffered) -> Scene:
    came: list[Ear] = []

    def accept() -> asyncio.BaseProtocol:
        came.append(make())
        return came[-1]  # type: ignore[return-value]

    return Scene(bench, await bench.server.listen(accept, bench.address, 0), came, make)


@pytest.mark.parametrize("make", [Plain, Buffered])
async def test_bytes_arrive_whole_and_in_order_both_ways(network_bench: Bench, make: type[Ear]) -> None:
    scene = await opened(network_bench, make)
    client, server = await scene.connect()
    sent = bytes(range(256)) * 40
    for at in range(0, len(sent), 1000):
        client.wire.write(sent[at : at + 1000])
        server.wire.write(memoryview(sent)[at : at + 1000])
    await server.until(lambda: len(server.came) >= len(sent))
    await client.until(lambda: len(client.came) >= len(sent))
    assert (bytes(server.came), bytes(client.came)) == (sent, sent)
    client.wire.close()
    scene.listening.close()
    await server.lost


async def test_where_nobody_listens_a_connection_is_refused(network_bench: Bench) -> None:
    scene = await opened(network_bench)
    address = scene.listening.address
    scene.listening.close()
    await scene.listening.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await network_bench.client.connect(Plain, *address)


async def test_port_0_chooses_a_port_and_a_port_is_given_once(network_bench: Bench) -> None:
    one, other = await opened(network_bench), await opened(network_bench)
    (host, port), (_, other_port) = one.listening.address, other.listening.address
    assert host == network_bench.address and 0 < port != other_port > 0
    with pytest.raises(OSError, match="ddress"):
        await network_bench.server.listen(Plain, host, port)
    one.listening.close()
    await one.listening.wait_closed()
    again = await network_bench.server.listen(Plain, host, port)
    assert again.address == (host, port)
    again.close()
    other.listening.close()


async def test_both_ends_know_both_addresses(network_bench: Bench) -> None:
    scene = await opened(network_bench)
    client, server = await scene.connect()
    own = client.wire.get_extra_info("sockname")
    assert server.wire.get_extra_info("peername")[:2] == own[:2]
    assert client.wire.get_extra_info("peername")[:2] == scene.listening.address
    assert client.wire.get_extra_info("nobody knows") is None
    client.wire.close()
    scene.listening.close()
    await server.lost


async def test_what_was_accepted_goes_on_when_nobody_listens_any_more(network_bench: Bench) -> None:
    scene = await opened(network_bench)
    client, server = await scene.connect()
    scene.listening.close()
    client.wire.write(b"still there")
    await server.until(lambda: bytes(server.came) == b"still there")
    client.wire.close()
    await server.lost


async def test_a_reader_that_pauses_holds_its_writer_up(network_bench: Bench) -> None:
    scene = await opened(network_bench)
    client, server = await scene.connect()
    server.wire.pause_reading()
    client.wire.set_write_buffer_limits(high=100_000)
    for _ in range(MANY_BYTES // 65_536):
        client.wire.write(bytes(65_536))
    assert client.paused == 1 and client.wire.get_write_buffer_size() > 100_000
    await asyncio.sleep(0.05)
    assert len(server.came) == 0 and client.resumed == 0
    server.wire.resume_reading()
    await server.until(lambda: len(server.came) == MANY_BYTES)
    await client.until(lambda: client.resumed == 1)
    assert client.wire.get_write_buffer_size() == 0
    client.wire.close()
    scene.listening.close()
    await server.lost


async def test_close_sends_what_was_written_and_then_the_end(network_bench: Bench) -> None:
    scene = await opened(network_bench)
    client, server = await scene.connect()
    client.wire.write(bytes(MANY_BYTES))
    client.wire.close()
    assert client.wire.is_closing() and not client.lost.done()
    async with asyncio.timeout(PATIENCE_S):
        assert await server.lost is None
        assert await client.lost is None
    assert len(server.came) == MANY_BYTES and server.has_end
    scene.listening.close()


async def test_nothing_is_received_after_close(network_bench: Bench) -> None:
    scene = await opened(network_bench)
    client, server = await scene.connect()
    server.wire.close()
    client.wire.write(b"into the void")
    async with asyncio.timeout(PATIENCE_S):
        await server.lost
        await client.lost
    assert not server.came
    scene.listening.close()


async def test_an_abort_ends_both_ends(network_bench: Bench) -> None:
    scene = await opened(network_bench)
    client, server = await scene.connect()
    client.wire.write(bytes(MANY_BYTES))
    client.wire.abort()
    assert client.wire.is_closing()
    async with asyncio.timeout(PATIENCE_S):
        assert await client.lost is None
        await server.lost
    assert len(server.came) < MANY_BYTES
    scene.listening.close()


async def test_connections_do_not_mix(network_bench: Bench) -> None:
    scene = await opened(network_bench)
    pairs = [await scene.connect() for _ in range(20)]
    for number, (client, _) in enumerate(pairs):
        client.wire.write(b"%d" % number * 100)
    for number, (_, server) in enumerate(pairs):
        await server.until(lambda server=server, number=number: bytes(server.came) == b"%d" % number * 100)  # type: ignore[misc]
    for client, server in pairs:
        client.wire.close()
        await server.lost
    scene.listening.close()
