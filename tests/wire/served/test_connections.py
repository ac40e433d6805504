"""Connections: how many there may be, when an idle one goes, and what is answered at a stop."""

from __future__ import annotations

import asyncio
import resource
import struct
import sys
import time
from pathlib import Path

import pytest
from kio.schema.errors import ErrorCode

from hotlog.front import connections as accounts
from tests.support.clocks import HandClock
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import (
    POLL_MS,
    Serving,
    api_versions,
    batch_of,
    fetch,
    gone,
    produce,
    serving,
)

REFUSED = "hotlog_connections_refused_total"


async def test_bytes_that_never_become_a_request_end_with_the_idle_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "TICK_SECONDS", 0.05)
    clock = HandClock(seconds=time.monotonic())
    async with serving(tmp_path, {"connections.max.idle.ms": "20000"}, clock=clock) as served:
        await served.broker.create_topic("t", 1)
        half, silent, lively = await served.connect(), await served.connect(), await served.connect()
        half.writer.write(struct.pack(">ihh", 100, 18, 0))
        poll = fetch("t", {0: 0}, wait_ms=POLL_MS)
        correlation = lively.send(poll)  # a long poll is not idleness
        await served.working()
        async with asyncio.timeout(PATIENCE_S):
            while served.connection_count < 3:
                await asyncio.sleep(0.01)
        clock.seconds += 20.1
        assert await half.is_closed()
        assert await silent.is_closed()
        assert served.counted(REFUSED, reason="idle") == 2
        writer = await served.connect()
        await writer.call(produce("t", {0: batch_of(b"news")}))
        assert (await lively.answer(poll, correlation)).error_code is ErrorCode.none


async def test_a_client_that_never_reads_its_replies_ends_with_the_idle_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that wait behind an unread reply are no sign of life: the bytes held for it must come free."""
    monkeypatch.setattr(accounts, "TICK_SECONDS", 0.05)
    clock = HandClock(seconds=time.monotonic())
    async with serving(tmp_path, {"connections.max.idle.ms": "20000"}, clock=clock) as served:
        await served.broker.create_topic("t", 1)
        writer = await served.connect()
        for _ in range(10):
            await writer.call(produce("t", {0: batch_of(b"x" * 900_000)}))
        lazy = await served.connect_lazy()
        for _ in range(20):
            lazy.send(fetch("t", {0: 0}, partition_bytes_max=20_000_000))
        async with asyncio.timeout(PATIENCE_S):
            while not served.broker.reply_backlog_bytes:
                await asyncio.sleep(0.01)
            while served.connection_count:
                clock.seconds += 20.1
                await asyncio.sleep(0.1)
        assert served.broker.reply_backlog_bytes == 0
        assert served.counted(REFUSED, reason="idle") == 2


async def test_connections_have_bounds(tmp_path: Path) -> None:
    async with serving(tmp_path, {"max.connections": "3"}) as served:
        clients = [await served.connect() for _ in range(3)]
        for client in clients:
            await client.call(api_versions(0))
        await refuses_the_next(served)
        assert served.counted(REFUSED, reason="max.connections") == 1
        await clients[0].close()
        await gone(served, 2)
        assert (await (await served.connect()).call(api_versions(0))).error_code is ErrorCode.none


async def test_connections_of_one_address_have_bounds(tmp_path: Path) -> None:
    async with serving(tmp_path, {"max.connections.per.ip": "1"}) as served:
        await (await served.connect()).call(api_versions(0))
        await refuses_the_next(served)
        assert served.counted(REFUSED, reason="max.connections.per.ip") == 1


async def test_the_place_of_an_address_is_given_back(tmp_path: Path) -> None:
    async with serving(tmp_path, {"max.connections.per.ip": "2"}) as served:
        for _ in range(3):
            first, second = await served.connect(), await served.connect()
            await first.call(api_versions(0))
            await second.call(api_versions(0))
            await refuses_the_next(served)
            await first.close()
            second.writer.transport.abort()  # type: ignore[attr-defined]
            await gone(served, 0)


async def refuses_the_next(served: Serving) -> None:
    """One connection more is closed without an answer, though it asks at once."""
    extra = await served.connect()
    extra.send(api_versions(0))
    assert await extra.is_closed()


OPENER = """
import resource, socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = [socket.create_connection((host, port)) for _ in range(count)]
for each in held[::2]:
    each.sendall(b"\\0\\0\\0\\x20half")
print("open", flush=True)
sys.stdin.read()
"""


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_10_000_connections_opened_and_left_cost_next_to_nothing(served: Serving) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(10_000, hard - 1_000)  # both ends need descriptors, hence the other process
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        OPENER,
        *map(str, served.address),
        str(count),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    before = resident_bytes()
    try:
        assert await process.stdout.readline() == b"open\n"
        client = await served.connect()
        assert (await client.call(api_versions(3))).error_code is ErrorCode.none
        async with asyncio.timeout(PATIENCE_S):  # the kernel lets clients believe that they are connected before it hands them on
            while served.counted("hotlog_connections") < count + 1:
                await asyncio.sleep(0.01)
        assert (resident_bytes() - before) / count < 16 * 1024, "bytes of one idle connection"
    finally:
        process.stdin.close()
        await process.wait()
    await gone(served, 1)
    assert served.counted("hotlog_connections") == 1


async def test_stopping_answers_what_is_in_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "DRAIN_SECONDS_MAX", PATIENCE_S)
    async with serving(tmp_path) as served:
        await served.broker.create_topic("t", 1)
        client = await served.connect()
        poll = fetch("t", {0: 0}, wait_ms=POLL_MS)
        correlation = client.send(poll)
        await served.working()
        closing = asyncio.create_task(served.listeners.close())
        assert (await client.answer(poll, correlation)).error_code is ErrorCode.none
        await closing
        assert await client.is_closed()


async def test_a_stop_does_not_wait_for_a_client_that_never_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last replies cannot go out, so the connection is cut; a server of asyncio waits for all of its connections (Python 3.12)."""
    monkeypatch.setattr(accounts, "DRAIN_SECONDS_MAX", 0.05)
    async with serving(tmp_path) as served:
        await served.broker.create_topic("t", 1)
        client = await served.connect()
        for _ in range(10):
            await client.call(produce("t", {0: batch_of(b"x" * 900_000)}))
        lazy = await served.connect_lazy()
        lazy.send(fetch("t", {0: 0}, partition_bytes_max=50_000_000))
        async with asyncio.timeout(PATIENCE_S):
            while not served.broker.reply_backlog_bytes:
                await asyncio.sleep(0.01)
        async with asyncio.timeout(PATIENCE_S):
            await served.listeners.close()
        assert served.connection_count == 0
