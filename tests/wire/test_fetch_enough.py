"""When a fetch has enough to be answered before its time is up: min bytes as Kafka counts them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.tools.patience import PATIENCE_S
from tests.wire.polling import append, is_left_alone, partition_of, until_waiting
from tests.wire.serving import POLL_MS, Serving, fetch, fetched, serving
from tests.wire.test_fetch import Tiered, tiered, without_short_ways

__all__ = ["tiered"]  # a fixture
GIVEN_MAX = 4_096
Ask = Callable[..., Awaitable[Callable[[], Awaitable[int]]]]


@pytest_asyncio.fixture(params=["short", "general"])
async def served(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Serving]:
    async with serving(tmp_path, {"hotlog.durability": "page-cache", "fetch.max.bytes": str(GIVEN_MAX)}) as each:
        await each.broker.create_topic("t", 2, {"segment.bytes": "16384"})
        if request.param == "general":
            without_short_ways(each)
        yield each


@pytest.fixture(params=["one", "two", "session"])
def ask(served: Serving, request: pytest.FixtureRequest) -> Ask:
    """Ask for partition 0, as clients of a kind do; then ask that for how many bytes came."""

    async def ask(offset: int, **options: Any) -> Callable[[], Awaitable[int]]:
        client = await served.connect()
        offsets, session = {0: offset} if request.param == "one" else {0: offset, 1: 0}, (0, -1)
        if request.param == "session":
            first = await client.call(fetch("t", offsets, session=(0, 0)))
            offsets, session = {}, (first.session_id, 1)
        asked = fetch("t", offsets, session=session, wait_ms=POLL_MS, **options)
        correlation = client.send(asked)

        async def bytes_there() -> int:
            async with asyncio.timeout(PATIENCE_S / 2):  # long before its time is up
                return len(fetched(await client.answer(asked, correlation))[0][1])

        return bytes_there

    return ask


async def until_it_waits(served: Serving) -> None:
    await served.working()
    if served.connections.dispatch.short_doors.get((1 << 16) + 12):
        await until_waiting(served)


async def test_more_than_the_broker_gives_is_not_waited_for(served: Serving, ask: Ask) -> None:
    for _ in range(8):
        append(partition_of(served), 1_000)
    answer = await ask(0, bytes_min=100_000)
    assert await answer() == GIVEN_MAX
    assert is_left_alone(served)


async def test_who_waits_is_answered_with_all_that_the_broker_gives(served: Serving, ask: Ask) -> None:
    answer = await ask(0, bytes_min=100_000)
    await until_it_waits(served)
    for _ in range(8):
        append(partition_of(served), 1_000)
    assert await answer() == GIVEN_MAX


@pytest.mark.parametrize("isolation", [0, 1])
async def test_nothing_comes_to_the_rest_of_an_older_segment(served: Serving, ask: Ask, isolation: int) -> None:
    partition = partition_of(served)
    while not partition.marks.committed.base:
        append(partition, 1_000)
    answer = await ask(partition.marks.committed.base - 1, bytes_min=GIVEN_MAX, isolation=isolation)
    assert 1_000 < await answer() < 2_000


async def test_who_waits_at_the_end_of_a_segment_is_answered_when_another_begins(served: Serving, ask: Ask) -> None:
    partition = partition_of(served)
    append(partition, 1_000)
    answer = await ask(0, bytes_min=GIVEN_MAX)
    await until_it_waits(served)
    partition.roll(0)
    append(partition, 1_000)
    assert 1_000 < await answer() < 2_000


async def test_behind_the_last_stable_offset_another_segment_is_none(served: Serving, ask: Ask) -> None:
    """What may be read ends in the segment of the reader: it waits for what is committed next."""
    partition = partition_of(served)
    append(partition, 1_000)
    append(partition, 100, producer=1)
    partition.roll(0)
    append(partition, 1_000)
    assert not partition.marks.is_in_older_segment(0, committed_only=True)
    assert partition.marks.is_in_older_segment(0, committed_only=False)
    await ask(0, bytes_min=2_000, isolation=1)
    await until_it_waits(served)
    assert served.connections.working == 1


async def test_what_came_from_the_store_does_not_wait_for_more(tiered: Tiered) -> None:
    """As in Kafka, whose fetches from the store end with what that gave."""
    asked = fetch("cold", {0: 0}, wait_ms=POLL_MS, bytes_min=1_000_000)
    async with asyncio.timeout(PATIENCE_S / 2):
        assert fetched(await tiered.client.call(asked))[0][1]
