"""Produce of large requests: what threads do of them, so that nobody else waits for one."""

from __future__ import annotations

import asyncio
import mmap
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from kio.schema.errors import ErrorCode

from hotlog.apis.produce import readiness
from hotlog.kernel.limits import ZSTD_WINDOW_BYTES_MAX
from hotlog.wire import frame as frames
from hotlog.wire.inspect import Room
from hotlog.world.posix import PosixFile
from tests.fixtures.raw_batch import RawRecord, raw_batch, zstd
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import Client, Serving, batch_of, frame_of, produce, produced, serving

NONE = ErrorCode.none


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path) as each:
        yield each


@pytest_asyncio.fixture
async def client(served: Serving) -> Client:
    return await served.connect()


async def test_a_large_request_is_looked_into_and_written_by_threads(
    served: Serving, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 MB on the event loop held up everybody for a quarter of a second."""
    await served.broker.create_topic("wide", 2, {"max.message.bytes": str(100 * 1024 * 1024)})
    looks, writes = [], []
    look, write = readiness.inspect, PosixFile.append

    def looked(*args: Any) -> Any:
        found = look(*args)
        looks.append((len(args[0]), threading.current_thread() is threading.main_thread(), found is not None))
        return found

    def written(self: Any, buffers: Any) -> int:
        writes.append((sum(map(len, buffers)), threading.current_thread() is threading.main_thread()))
        return write(self, buffers)

    monkeypatch.setattr(readiness, "inspect", looked)
    monkeypatch.setattr(PosixFile, "append", written)
    large, small = batch_of(b"x" * 5 * 1024 * 1024), batch_of(b"y")
    requests = [produce("wide", {0: large, 1: small}), produce("wide", {0: small})]
    correlations = [client.send(request) for request in requests]
    answers = [await client.answer(r, c) for r, c in zip(requests, correlations, strict=True)]
    assert [produced(answer) for answer in answers] == [[(0, NONE, 0), (1, NONE, 0)], [(0, NONE, 1)]]
    assert [on_loop for size, on_loop, was_done in looks if size > 4096 and was_done] == [False]
    assert [on_loop for size, on_loop in writes if size > 4096] == [False]


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "broken off"])
async def test_the_memory_of_a_large_request_is_given_back_by_a_thread(
    served: Serving, monkeypatch: pytest.MonkeyPatch, is_whole: bool
) -> None:
    """Unmapping 50 MB on the event loop held up everybody for ten milliseconds, on a busy machine for many times that."""
    closed: list[bool] = []  # on the loop's thread?

    class Watched(mmap.mmap):
        def close(self) -> None:
            super().close()
            closed.append(threading.current_thread() is threading.main_thread())

    monkeypatch.setattr(frames, "mmap", SimpleNamespace(mmap=Watched))
    await served.broker.create_topic("wide", 1, {"max.message.bytes": str(100 * 1024 * 1024)})
    client = await served.connect()
    request = frame_of(produce("wide", {0: batch_of(b"x" * 8 * 1024 * 1024)}), 1)
    client.writer.write(request if is_whole else request[:-1])
    if is_whole:
        await client.frame()
    else:
        async with asyncio.timeout(PATIENCE_S):
            while served.connections.held_bytes < len(request) - 64:
                await asyncio.sleep(0.01)
        await client.close()
    async with asyncio.timeout(PATIENCE_S):
        while not closed:
            await asyncio.sleep(0.01)
    assert closed == [False]


async def test_what_needs_much_memory_is_opened_one_at_a_time(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Java's levels 20 to 22 ask for a window of 128 MiB each."""
    await served.broker.create_topic("many", 4)
    clients = [await served.connect() for _ in range(4)]
    look, seen = readiness.inspect, threading.Semaphore(1)
    rooms: list[bool] = []

    def looked(batch: Any, header: Any, rules: Any, now_ms: int, room: Room) -> Any:
        if room.window_bytes < ZSTD_WINDOW_BYTES_MAX:
            return look(batch, header, rules, now_ms, room)
        rooms.append(seen.acquire(blocking=False))
        try:
            time.sleep(0.01)  # another one would begin meanwhile
            return look(batch, header, rules, now_ms, room)
        finally:
            seen.release()

    monkeypatch.setattr(readiness, "inspect", looked)
    batch = raw_batch([RawRecord(value=b"x" * 1000)], "zstd", compress=lambda data: zstd(data, 27))
    answers = await asyncio.gather(*(client.call(produce("many", {at: batch})) for at, client in enumerate(clients)))
    assert [produced(answer)[0][1] for answer in answers] == [NONE] * 4
    assert rooms == [True] * 4


async def test_a_request_waits_for_its_turn_behind_a_large_one(served: Serving, client: Client) -> None:
    await served.broker.create_topic("wide", 1, {"max.message.bytes": str(100 * 1024 * 1024)})
    others = [await served.connect() for _ in range(4)]
    large, small = batch_of(b"x" * 5 * 1024 * 1024), batch_of(b"y")
    answers = await asyncio.gather(
        client.call(produce("wide", {0: large})),
        *(other.call(produce("wide", {0: large if i % 2 else small})) for i, other in enumerate(others)),
    )
    assert sorted(produced(answer)[0][1:] for answer in answers) == [(NONE, offset) for offset in range(5)]
