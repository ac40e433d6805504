"""What a fetch costs, counted as in test_calls.py: by what moved and what is read, not by what lies still."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from hotlog.wire.batch import header_at
from tests.wire.polling import until_waiting
from tests.wire.serving import POLL_MS, Client, Serving, batch_of, fetch, frame_of, serving
from tests.wire.test_calls import calls_of, counting

WIDE = 100
SESSIONS = (2, 400)  # partitions


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path, {"hotlog.durability": "page-cache"}) as each:
        await each.broker.create_topic("t", SESSIONS[-1])
        yield each


def append(served: Serving, index: int) -> None:
    partition = served.broker.partition("t", index)
    assert partition is not None
    data = batch_of(b"x" * 1000)
    partition.append(memoryview(data), [header_at(data)], now_ms=0)


async def test_a_partition_that_is_read_costs_few_calls(served: Serving) -> None:
    for index in range(WIDE):
        for _ in range(3):
            append(served, index)
    client = await served.connect()
    calls = await calls_of(client, fetch("t", dict.fromkeys(range(WIDE), 0), partition_bytes_max=4096))
    one = await calls_of(client, fetch("t", {0: 0}, partition_bytes_max=4096))
    assert (calls - one) / (WIDE - 1) <= 7.6


async def test_a_partition_that_lies_still_costs_hardly_a_call(served: Serving) -> None:
    client = await served.connect()
    calls = await calls_of(client, fetch("t", dict.fromkeys(range(WIDE), 0)))
    one = await calls_of(client, fetch("t", {0: 0}))
    assert (calls - one) / (WIDE - 1) <= 0.7


@pytest.mark.parametrize(("session", "wait_calls", "delivery_calls"), [(False, 31, 21), (True, 60, 47)])
async def test_a_delivery_to_who_waits_costs_few_calls(
    served: Serving, session: bool, wait_calls: int, delivery_calls: int
) -> None:
    clients = [await served.connect() for _ in range(20)]
    frames = []
    for client in clients:
        number = (await client.call(fetch("t", {0: 0}, session=(0, 0)))).session_id if session else 0
        asked = {} if session else {0: 0}
        frames.append(frame_of(fetch("t", asked, wait_ms=POLL_MS, session=(number, 1 if session else -1)), 1))
    with counting() as waited:
        for client, frame in zip(clients, frames, strict=True):
            client.writer.write(frame)
        await until_waiting(served, len(clients))
    append(served, 0)
    with counting() as delivered:
        for client in clients:
            await client.frame()
    print(waited, delivered)
    assert sum(waited.values()) / len(clients) <= wait_calls
    assert sum(delivered.values()) / len(clients) <= delivery_calls


@pytest.mark.parametrize("isolation", [0, 1])
async def test_a_session_costs_what_moved(served: Serving, isolation: int) -> None:
    costs = [await session_costs(served, count, isolation) for count in SESSIONS]
    for few, many in zip(*costs, strict=True):
        assert abs(few - many) < 10  # beside it the broker has a tick now and then
    assert costs[0][0] <= 62 and costs[0][1] <= 90


async def session_costs(served: Serving, count: int, isolation: int) -> tuple[int, int]:
    """Calls of a fetch of a session with that many partitions: with nothing new, and with one new record."""
    client = await served.connect()
    ends = [served.broker.table()["t", index].committed_end for index in range(count)]
    response = await client.call(fetch("t", dict(enumerate(ends)), session=(0, 0), isolation=isolation))
    session, epoch = response.session_id, 0

    async def ask(**wanted: Any) -> int:
        nonlocal epoch
        epoch += 1
        frame = frame_of(fetch("t", isolation=isolation, session=(session, epoch), **wanted), 1)
        with counting() as counted:
            await exchanged(client, frame)
        return sum(counted.values())

    for _ in range(3):
        quiet = await ask(offsets={})
    for _ in range(3):
        append(served, 1)
        news = await ask(offsets={1: ends[1]})
        ends[1] += 1
    await client.close()
    return quiet, news


async def exchanged(client: Client, frame: bytes) -> None:
    client.writer.write(frame)
    await client.frame()
