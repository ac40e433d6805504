"""The sending side of a connection, on real sockets of both event loops."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import uvloop

from hotlog.front.outlet import DEVICE_BYTES, PIECE_BYTES, TURN_BYTES_MAX, Outlet
from hotlog.kernel.errors import StorageFailed
from hotlog.world.ports import Buffer
from tests.tools.narrow import narrow, open_narrow
from tests.tools.patience import PATIENCE_S


@pytest.fixture(params=["asyncio", "uvloop"], scope="module")
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return uvloop.EventLoopPolicy() if request.param == "uvloop" else asyncio.DefaultEventLoopPolicy()


class Part:
    """A file part over `data`; `is_cached(start, length)` says whether the page cache has it."""

    def __init__(self, data: bytes, is_cached: Callable[[int, int], bool] = lambda start, length: True) -> None:
        self.data = data
        self.is_cached = is_cached
        self.device_reads = 0
        self.reads_ahead_max = 0
        self.is_closed = False
        self.device_error: Exception | None = None

    def __len__(self) -> int:
        return len(self.data)

    def read_now(self, start: int, length: int) -> Buffer | None:
        assert not self.is_closed
        return self.data[start : start + length] if self.is_cached(start, length) else None

    async def read(self, start: int, length: int) -> Buffer:
        self.device_reads += 1
        await asyncio.sleep(0)
        if self.device_error is not None:
            raise self.device_error
        return self.data[start : start + length]

    def close(self) -> None:
        self.is_closed = True


class Sender(asyncio.Protocol):
    """The server's protocol: an outlet and nothing else."""

    outlet: Outlet
    transport: asyncio.Transport

    def __init__(self) -> None:
        self.empties = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.lost = asyncio.get_running_loop().create_future()
        self.made = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.outlet = Outlet(self.transport, own=self.tasks.add, on_empty=self.emptied)
        self.made.set_result(None)

    def emptied(self) -> None:
        self.empties += 1

    def pause_writing(self) -> None:
        self.outlet.pause()

    def resume_writing(self) -> None:
        self.outlet.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self.outlet.drop()
        self.lost.set_result(None)


@asynccontextmanager
async def pair(*, is_narrow: bool = False) -> AsyncIterator[tuple[Sender, asyncio.StreamReader, asyncio.StreamWriter]]:
    loop = asyncio.get_running_loop()
    senders: list[Sender] = []

    def make() -> Sender:
        senders.append(Sender())
        return senders[-1]

    server = await loop.create_server(make, "127.0.0.1", 0)
    if is_narrow:
        narrow(server.sockets)
    reader, writer = await (open_narrow if is_narrow else asyncio.open_connection)(*server.sockets[0].getsockname())
    while not senders:
        await asyncio.sleep(0)
    await senders[0].made
    try:
        yield senders[0], reader, writer
    finally:
        if not senders[0].lost.done():
            senders[0].transport.abort()
        writer.close()
        server.close()
        async with asyncio.timeout(PATIENCE_S):
            await senders[0].lost


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


async def test_parts_and_buffers_arrive_in_order_and_whole() -> None:
    chance = random.Random(1)
    async with pair() as (sender, reader, _):
        sent, parts = b"", []
        for number in range(60):
            data = noise(chance.choice([0, 1, 700, 40_000, PIECE_BYTES, PIECE_BYTES + 1, 3 * TURN_BYTES_MAX]), number)
            item: Any = data
            if chance.random() < 0.5:
                item = Part(data, lambda start, length: chance.random() < 0.7)
                parts.append(item)
            sender.outlet.write([b"head", item, memoryview(b"tail")])
            sent += b"head" + data + b"tail"
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.readexactly(len(sent)) == sent
            while not sender.outlet.is_empty:
                await asyncio.sleep(0)
        assert all(part.is_closed for part in parts)
        assert any(part.device_reads for part in parts)
        assert sender.empties >= 1


async def test_a_peer_that_does_not_read_is_not_read_ahead_for() -> None:
    async with pair(is_narrow=True) as (sender, reader, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        reached = []

        def is_cached(start: int, length: int) -> bool:
            reached.append(start + length)
            return True

        data = noise(3 * PIECE_BYTES)
        sender.outlet.write([Part(data, is_cached)])
        async with asyncio.timeout(PATIENCE_S):
            while not sender.outlet._is_paused:
                await asyncio.sleep(0)
        assert sender.transport.get_write_buffer_size() <= PIECE_BYTES
        assert max(reached) <= 2 * PIECE_BYTES
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.readexactly(len(data)) == data


async def test_others_get_their_turn_while_a_large_answer_goes_out() -> None:
    async with pair() as (sender, reader, _):
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            if not sender.outlet.is_empty:
                asyncio.get_running_loop().call_soon(turn)

        data = noise(20 * TURN_BYTES_MAX)
        sender.outlet.write([Part(data)])
        turn()
        async with asyncio.timeout(PATIENCE_S):
            await reader.readexactly(len(data))
        assert turns >= 10


async def test_what_is_on_the_device_is_read_in_large_steps() -> None:
    async with pair() as (sender, reader, _):
        part = Part(noise(4 * DEVICE_BYTES), lambda start, length: False)
        sender.outlet.write([b"x", part, b"y"])
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.readexactly(len(part) + 2) == b"x" + part.data + b"y"
        assert part.device_reads == 4


@pytest.mark.parametrize("is_cached", [True, False], ids=["page cache", "device"])
async def test_a_part_that_fails_ends_the_connection(is_cached: bool) -> None:
    async with pair() as (sender, reader, _):

        def look(start: int, length: int) -> bool:
            if start >= 2 * PIECE_BYTES and is_cached:
                raise OSError(5, "Input/output error")
            return start < 2 * PIECE_BYTES

        part = Part(noise(8 * PIECE_BYTES), look)
        part.device_error = StorageFailed("the disk is gone")
        sender.outlet.write([part, b"more"])
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await reader.readexactly(len(part) + 4)
            await sender.lost
        assert sender.outlet.is_empty


async def test_closing_waits_for_what_was_written() -> None:
    async with pair() as (sender, reader, _):
        data = noise(5 * TURN_BYTES_MAX)
        sender.outlet.write([Part(data)])
        sender.outlet.close()
        assert sender.outlet.is_closing
        sender.outlet.write([b"too late"])
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read(-1) == data
