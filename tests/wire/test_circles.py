"""Requests leave no circles of objects behind: only the garbage collector finds those, and it stops everybody while it looks."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from hotlog.apis.fetch.waits import Waits
from hotlog.wire import apis
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import Serving, api_versions, batch_of, fetch, produce, serving
from tests.wire.test_calls import ends, member, metadata

ROUNDS = 25
WIDE = 40


@pytest_asyncio.fixture(params=["page-cache", "fsync"])
async def served(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Serving]:
    async with serving(tmp_path, {"hotlog.durability": request.param}) as each:
        await each.broker.create_topic("t", WIDE)
        client = await each.connect()
        await client.call(produce("t", {WIDE - 1: batch_of(b"the first sync loads what it needs")}))
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


@pytest.mark.parametrize("bytes_min", [1, 100_000])
async def test_a_session_at_rest_that_waited_leaves_no_circle_behind(served: Serving, bytes_min: int) -> None:
    """With too little to answer with, the general way goes on with it."""
    reading, writing = await served.connect(), await served.connect()
    first = await reading.call(fetch("t", dict.fromkeys(range(3), 0), session=(0, 0)))
    with circles() as found:
        for number in range(1, ROUNDS + 1):
            asked = fetch(
                "t", {}, session=(first.session_id, number), wait_ms=60_000 if bytes_min == 1 else 20, bytes_min=bytes_min
            )
            correlation = reading.send(asked)
            await writing.call(metadata())
            await writing.call(produce("t", {number % 3: batch_of(b"x")}))
            await reading.answer(asked, correlation)
    assert found.total() < ROUNDS, found


@pytest.mark.parametrize("kind", ["one", "some", "session"])
async def test_a_fetch_that_waited_and_was_lost_leaves_no_circle_behind(served: Serving, kind: str) -> None:
    rest = [await served.connect() for _ in range(ROUNDS)]
    sent = {"one": {0: 0}, "some": {0: 0, 1: 0}, "session": {0: 0, 1: 0}}[kind]
    waiting = fetch("t", sent, wait_ms=60_000)
    sessions = [(await each.call(fetch("t", sent, session=(0, 0)))).session_id for each in rest] if kind == "session" else []
    for number, each in enumerate(rest):
        each.send(fetch("t", {}, session=(sessions[number], 1), wait_ms=60_000) if sessions else waiting)
    async with asyncio.timeout(PATIENCE_S):
        while len(served.broker.kept[Waits]) < ROUNDS:
            await asyncio.sleep(0)
    waits = served.broker.kept[Waits]
    with circles() as found:
        for line in list(waits._lines.values()):
            for waiter in list(line.deadlines):
                assert waiter.gone()
        del line, waiter
    assert not len(waits)
    kinds = {name: count for name, count in found.items() if name in ("Poll", "RoundPoll", "RestPoll", "Round", "Part")}
    assert not kinds


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
