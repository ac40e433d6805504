"""Bytes that requests and replies hold: what is counted, what waits, and who waits for whom."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from hotlog.front.outlet import PIECE_BYTES
from hotlog.log.segment_reader import PART_BYTES_MIN
from hotlog.wire.frame import SCRATCH_BYTES
from hotlog.world.posix import PosixFile
from tests.tools.narrow import TAKEN_BYTES_MAX
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import (
    Client,
    Serving,
    api_versions,
    batch_of,
    fetch,
    gone,
    produce,
    produced,
    serving,
)

REFUSED = "hotlog_connections_refused_total"


@pytest.mark.parametrize("came", [2, 12, 200_000, 3_000_000])
async def test_bytes_of_a_request_that_breaks_off_are_given_back(served: Serving, came: int) -> None:
    for number in range(3):
        client = await served.connect()
        await client.call(api_versions(0))
        client.writer.write((struct.pack(">i", 10_000_000) + b"x" * came)[: came + 4 if came > 2 else came])
        async with asyncio.timeout(PATIENCE_S):
            while served.connections.held_bytes < came:
                await asyncio.sleep(0.01)
        if number % 2:
            client.writer.transport.abort()  # type: ignore[attr-defined]
        else:
            await client.close()
        await gone(served, 0)
        assert served.connections.held_bytes == 0


async def test_bytes_of_requests_in_work_are_held_until_they_are_done(served: Serving) -> None:
    """Also when their client is gone meanwhile; a request that waits behind another one goes with its client."""
    await served.broker.create_topic("t", 1)
    client = await served.connect()
    request = produce("t", {0: batch_of(b"x" * 500_000)})
    disk, gate = served.broker.disk, asyncio.Event()
    run = disk.run

    async def held(*args: Any, **kwargs: Any) -> Any:
        await gate.wait()
        return await run(*args, **kwargs)

    disk.run = held  # type: ignore[method-assign]
    try:
        client.send(request)
        await served.working()
        size = served.connections.held_bytes
        assert size > 500_000
        client.writer.transport.abort()  # type: ignore[attr-defined]
        await gone(served, 0)
        assert served.connections.held_bytes == size
    finally:
        gate.set()
        del disk.run
    async with asyncio.timeout(PATIENCE_S):
        while served.connections.working:
            await asyncio.sleep(0.01)
    assert served.connections.held_bytes == 0


async def test_half_requests_cannot_hold_more_than_the_budget_and_one_request(tmp_path: Path) -> None:
    """Who is longest in the middle of a request makes room; who sends whole ones is served."""
    limits = {"queued.max.request.bytes": "1000000", "socket.request.max.bytes": "2000000"}
    async with serving(tmp_path, limits) as served:
        client = await served.connect()
        for _ in range(10):
            lazy = await served.connect()
            lazy.writer.write(struct.pack(">i", 1_900_000) + b"x" * 1_000_000)
            async with asyncio.timeout(PATIENCE_S):
                while lazy.writer.transport.get_write_buffer_size() and not lazy.writer.transport.is_closing():
                    await asyncio.sleep(0.01)
            assert (await client.call(api_versions(0))).error_code is ErrorCode.none
            assert served.connections.held_bytes <= 3_000_000 + 8 * SCRATCH_BYTES
        assert served.counted(REFUSED, reason="queued.max.request.bytes") >= 5


async def test_requests_above_the_byte_budget_wait_and_are_all_served(tmp_path: Path) -> None:
    """Every client's request alone is above the budget: they pass one after another, none is lost, none hangs."""
    async with serving(tmp_path, {"queued.max.request.bytes": "100000"}) as served:
        await served.broker.create_topic("t", 4)
        clients = [await served.connect() for _ in range(4)]

        async def work(number: int, client: Client) -> None:
            for _ in range(5):
                response = await client.call(produce("t", {number: batch_of(b"x" * 600_000)}))
                assert produced(response)[0][1] is ErrorCode.none

        await asyncio.gather(*(work(number, client) for number, client in enumerate(clients)))
        assert [served.broker.partition("t", n).log.log_end_offset for n in range(4)] == [5, 5, 5, 5]  # type: ignore[union-attr]


async def test_half_requests_that_fill_the_budget_do_not_stop_others(tmp_path: Path) -> None:
    async with serving(tmp_path, {"queued.max.request.bytes": "100000"}) as served:
        for _ in range(5):
            lazy = await served.connect()
            lazy.writer.write(struct.pack(">i", 10_000_000) + b"x" * 900_000)
            await lazy.writer.drain()
        client = await served.connect()
        for _ in range(5):
            assert (await client.call(api_versions(0))).error_code is ErrorCode.none


async def test_a_client_that_does_not_read_holds_back_only_itself(served: Serving) -> None:
    await served.broker.create_topic("t", 1)
    writer = await served.connect()
    for _ in range(20):
        await writer.call(produce("t", {0: batch_of(b"x" * 900_000)}))
    lazy = await served.connect()
    for _ in range(40):
        lazy.send(fetch("t", {0: 0}, partition_bytes_max=20_000_000))
    assert (await writer.call(api_versions(0))).error_code is ErrorCode.none
    for _ in range(40):  # and when it reads, everything is there
        frame = await lazy.frame()
        assert len(frame) > 17_000_000


async def test_fetches_shrink_while_slow_clients_hold_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces are read at once, so a client that does not take them holds memory."""
    monkeypatch.setattr(PosixFile, "read_at_nowait", PosixFile.read_at)  # whatever the machine's page cache has let go
    count, size = 40, 100_000
    async with serving(tmp_path, {"hotlog.queued.max.response.bytes": "8000000"}) as served:
        await served.broker.create_topic("t", count)
        client = await served.connect()
        await client.call(produce("t", {number: batch_of(b"x" * size) for number in range(count)}))
        whole = fetch("t", dict.fromkeys(range(count), 0), partition_bytes_max=PART_BYTES_MIN)
        assert answer_bytes(await client.call(whole)) > 1_800_000
        lazy = [await served.connect_lazy() for _ in range(16)]
        for each in lazy:
            for _ in range(8):
                each.send(whole)
        async with asyncio.timeout(PATIENCE_S):
            while answer_bytes(await client.call(whole)) > 1_000_000:
                pass
        for each in lazy:
            each.writer.transport.abort()  # type: ignore[attr-defined]
        async with asyncio.timeout(PATIENCE_S):
            while served.broker.reply_backlog_bytes:
                await asyncio.sleep(0.01)
        assert answer_bytes(await client.call(whole)) > 1_800_000


async def test_slow_clients_of_large_answers_hold_a_piece_each(tmp_path: Path) -> None:
    """What is read while it is sent takes no memory of an answer's size, and the others' answers stay whole."""
    count = 16
    limit = 40_000_000 + count * PIECE_BYTES  # an answer gets a quarter of what is left of it
    async with serving(tmp_path, {"hotlog.queued.max.response.bytes": str(limit)}) as served:
        await served.broker.create_topic("t", 1)
        client = await served.connect()
        for _ in range(10):
            await client.call(produce("t", {0: batch_of(b"x" * 900_000)}))
        whole = fetch("t", {0: 0}, partition_bytes_max=50_000_000)
        lazy = [await served.connect_lazy() for _ in range(count)]
        for each in lazy:
            each.send(whole)
        async with asyncio.timeout(PATIENCE_S):
            while served.counted("kafka_network_requests_total", api="Fetch") < len(lazy):
                await asyncio.sleep(0.01)
        assert count * (PIECE_BYTES - TAKEN_BYTES_MAX) <= served.broker.reply_backlog_bytes <= count * PIECE_BYTES
        assert answer_bytes(await client.call(whole)) > 8_900_000


def answer_bytes(response: Any) -> int:
    """Bytes of records in a fetch's answer."""
    return sum(len(part.records or b"") for topic in response.responses for part in topic.partitions)
