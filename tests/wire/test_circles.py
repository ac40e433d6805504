"""Requests leave no circles of objects behind: only the garbage collector finds those, and it stops everybody while it looks."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from hotlog.wire import apis
from tests.wire.serving import Serving, api_versions, batch_of, fetch, produce, serving
from tests.wire.test_calls import ends, member, metadata

ROUNDS = 25
WIDE = 40


@pytest_asyncio.fixture(params=["page-cache", "fsync"])
async def served(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Serving]:
    async with serving(tmp_path, {"hotlog.durability": request.param}) as each:
        await each.broker.create_topic("t", WIDE)
        yield each


@contextmanager
def circles() -> Iterator[Counter[str]]:
    """Counts by type, at its end, what was left to the collector."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found.update(type(each).__qualname__ for each in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("produce one record", produce("t", {0: batch_of(b"x" * 100)})),
        ("produce a compressed batch", produce("t", {0: batch_of(b"x" * 100, codec="gzip")})),
        ("produce to some partitions", produce("t", {number: batch_of(b"x" * 100) for number in range(WIDE)})),
        ("produce to nowhere", produce("nowhere", {0: batch_of(b"x" * 100)})),
        ("produce what is broken", produce("t", {0: batch_of(b"x" * 100)[:-1]})),
        ("fetch from nowhere", fetch("nowhere", {0: 0}, wait_ms=0)),
        ("fetch what is not there", fetch("t", {0: 10_000}, wait_ms=0)),
        ("the end of what is nowhere", ends("nowhere")),
        ("metadata of what is nowhere", metadata("nowhere")),
        ("fetch the end of a partition", fetch("t", {0: 0}, wait_ms=0)),
        ("fetch the ends of some partitions", fetch("t", dict.fromkeys(range(WIDE), 0), wait_ms=0)),
        ("fetch the end of a partition, and wait", fetch("t", {1: 0}, wait_ms=1)),
        ("the end of a partition", ends()),
        ("metadata of a topic", metadata()),
        ("versions", api_versions(3)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_request_leaves_no_circle_behind(served: Serving, name: str, request_: Any) -> None:
    client = await served.connect()
    for _ in range(3):
        await client.call(request_)
    with circles() as found:
        for _ in range(ROUNDS):
            await client.call(request_)
    assert found.total() < ROUNDS, found


async def test_a_fetch_that_waited_leaves_no_circle_behind(served: Serving) -> None:
    reading, writing = await served.connect(), await served.connect()
    with circles() as found:
        for offset in range(ROUNDS):
            correlation = reading.send(asked := fetch("t", {0: offset, 1: 0, 2: 0}, wait_ms=60_000))
            await writing.call(metadata())  # the fetch is served by now, and waits
            await writing.call(produce("t", {0: batch_of(b"x")}))
            await reading.answer(asked, correlation)
    assert found.total() < ROUNDS, found


async def test_a_group_member_leaves_no_circle_behind(served: Serving) -> None:
    one, client = await member(served), await served.connect()
    beat = apis.requests(12, 4).HeartbeatRequest(
        group_id=one.group, generation_id=one.generation, member_id=one.member_id, group_instance_id=None
    )
    shapes = apis.requests(8, 8)
    part = shapes.OffsetCommitRequestPartition(
        partition_index=0, committed_offset=1, committed_leader_epoch=0, committed_metadata=""
    )
    commit = shapes.OffsetCommitRequest(
        group_id=one.group, generation_id_or_member_epoch=one.generation, member_id=one.member_id, group_instance_id=None,
        topics=(shapes.OffsetCommitRequestTopic(name="t", partitions=(part,)),),
    )  # fmt: skip
    with circles() as found:
        for _ in range(ROUNDS):
            await client.call(beat)
            await client.call(commit)
            await client.call(replace(beat, member_id="nobody"))
            await client.call(replace(commit, member_id="nobody"))
    assert found.total() < ROUNDS, found
