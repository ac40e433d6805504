"""Fetches that are asked again and again while nothing is new: they are answered from what is kept exactly as the general way would answer."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hotlog.apis.fetch import still
from hotlog.apis.fetch.still import KnownFetches, Still
from tests.wire.serving import Client, Serving, fetch, frame_of, serving
from tests.wire.test_fetch_short import append, partition_of

WIDE = 12
EPOCH_FROM = 9
KINDS = {"plain": {}, "committed": {"isolation": 1}, "epoch": {"leader_epoch": 0}}
Move = Callable[[Serving], Awaitable[Any]]


@contextmanager
def general_way(served: Serving) -> Iterator[None]:
    doors = served.connections.dispatch.short_doors
    kept = dict(doors)
    doors.clear()
    try:
        yield
    finally:
        doors.update(kept)


async def both_ways(served: Serving, client: Client, request: Any) -> bytes:
    """The answer, three times: as it comes, as it is learnt, and as it is kept; and the general way's."""
    frame, found = frame_of(request, 7), set()
    for _ in range(3):
        client.writer.write(frame)
        found.add(await client.frame())
    with general_way(served):
        client.writer.write(frame)
        found.add(await client.frame())
    (answer,) = found
    return answer


def stills(served: Serving) -> list[Still]:
    """Those that are true."""
    hosting = served.broker.hosted_places.version
    kept = [known.still for known in served.broker.kept[KnownFetches]._known.values()]
    return [each for each in kept if each is not None and each.is_true_at(hosting)]


async def grow(served: Serving) -> None:
    append(partition_of(served, 3), 10)


async def begin_transaction(served: Serving) -> None:
    append(partition_of(served, 3), 10, producer=77)


async def begin_later(served: Serving) -> None:
    await partition_of(served, 3).delete_records(-1)


async def lead_anew(served: Serving) -> None:
    partition_of(served, 3).lead(1)


async def let_go(served: Serving) -> None:
    topic = served.broker.topic("t")
    assert topic is not None
    await served.broker.delete_topics([topic.topic_id])


@pytest.mark.parametrize("version", [7, 12, 13, 17])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("move", [grow, begin_transaction, begin_later, lead_anew, let_go], ids=lambda each: each.__name__)
async def test_what_was_kept_is_said_only_while_it_is_true(tmp_path: Path, version: int, kind: str, move: Move) -> None:
    async with serving(tmp_path, {"hotlog.durability": "page-cache"}) as served:
        topic_id = (await served.broker.create_topic("t", WIDE)).topic_id
        append(partition_of(served, 3), 10)
        client = await served.connect()
        offsets = {each: partition_of(served, each).log_end_offset for each in range(WIDE)}
        request = fetch("t", offsets, version=version, topic_id=topic_id, **KINDS[kind])
        before = await both_ways(served, client, request)
        assert len(stills(served)) == 1, "it was kept"
        await move(served)
        after = await both_ways(served, client, request)
        assert (after != before) == (move is not lead_anew or (kind == "epoch" and version >= EPOCH_FROM))
        if move is not let_go:
            assert set(partition_of(served, 4).marks._ears) == set(stills(served))


async def test_what_waits_or_has_a_session_is_not_kept(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.broker.create_topic("t", WIDE)
        client = await served.connect()
        offsets = dict.fromkeys(range(WIDE), 0)
        for request in (fetch("t", offsets, wait_ms=1), fetch("t", offsets, session=(0, 0)), fetch("t", offsets | {99: 0})):
            for _ in range(3):
                await client.call(request)
        assert stills(served) == []
        assert len(served.broker.kept[KnownFetches]._known) == 3


async def test_few_are_kept_and_they_let_go_of_the_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(still, "KNOWN_MAX", 5)
    async with serving(tmp_path) as served:
        await served.broker.create_topic("t", WIDE)
        client = await served.connect()
        for bytes_max in range(12):
            for _ in range(2):
                await client.call(fetch("t", dict.fromkeys(range(WIDE), 0), bytes_max=bytes_max))
        assert 0 < len(stills(served)) <= 5
        for index in range(WIDE):
            assert set(partition_of(served, index).marks._ears) == set(stills(served))


async def test_a_story_of_fetches_and_appends_is_told_alike(tmp_path: Path) -> None:
    chance = random.Random(3)
    async with serving(tmp_path, {"hotlog.durability": "page-cache"}) as served:
        await served.broker.create_topic("t", WIDE)
        client, kept = await served.connect(), 0
        for _ in range(60):
            offsets = {each: max(partition_of(served, each).log_end_offset - (chance.random() < 0.01), 0) for each in range(WIDE)}
            isolation = chance.randrange(2)
            await both_ways(served, client, fetch("t", offsets, isolation=isolation))
            kept += len(stills(served)) > 0
            if chance.random() < 0.5:
                append(partition_of(served, chance.randrange(WIDE)), 10)
        assert kept > 30
