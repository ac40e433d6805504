"""The walks of docs/architecture.md are those that requests really take: calls are traced, and rooms compared with the page."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.house.test_house import ROOT
from tests.wire.serving import Client, batch_of, fetch, fetched, produce, serving
from tests.wire.tiered import SMALL_SEGMENTS, fill, tier_out

PAGE = ROOT / "docs" / "architecture.md"
ROOMS_MAX = 9
# What all rooms stand on, and the meter that counts calls: nothing is walked through there.
BENEATH = {"hotlog/wire", "tiering/objects", "hotlog/world", "hotlog/kernel", "tiering/cost"}


def drawn(title: str) -> list[str]:
    """The rooms of one walk, as the page draws them."""
    text = PAGE.read_text()
    figure = re.search(rf"## {title}\n\n```\n(.*?)```", text, re.DOTALL)
    assert figure is not None, f"docs/architecture.md has no walk named {title!r}"
    return re.findall(r"(?:hotlog|tiering)/\w+", figure[1])


class Walk:
    """The rooms in the order in which a request came to them, and its steps from one room to another."""

    def __init__(self) -> None:
        self.rooms: list[str] = []
        self.steps: dict[tuple[str, str], str] = {}  # (from, to) -> the function that was called first

    def note(self, frame: FrameType, event: str, argument: Any) -> None:
        room = room_of(frame)
        if event != "call" or room is None or room in BENEATH:
            return
        if room not in self.rooms:
            self.rooms.append(room)
        caller = frame.f_back
        while caller is not None and room_of(caller) in BENEATH | {None}:
            caller = caller.f_back
        before = room_of(caller) if caller is not None else None
        if before is not None and before != room:
            self.steps.setdefault((before, room), frame.f_code.co_name)

    def steps_up(self) -> dict[tuple[str, str], str]:
        """Steps to a room that the request had come through before."""
        at = {room: place for place, room in enumerate(self.rooms)}
        return {step: name for step, name in self.steps.items() if at[step[1]] < at[step[0]]}


def room_of(frame: FrameType) -> str | None:
    """The room of the code that runs: a folder of ours; a file at the root of tiering/ belongs to the room it leads to."""
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(ROOT):
        return None
    parts = path.relative_to(ROOT).parts
    if parts[0] not in ("hotlog", "tiering", "controller", "compaction"):
        return None
    if parts == ("tiering", "cold_partition.py"):
        return "tiering/read"
    return "/".join(parts[:2])


@contextmanager
def walked() -> Iterator[Walk]:
    walk = Walk()
    sys.setprofile(walk.note)
    try:
        yield walk
    finally:
        sys.setprofile(None)


async def traced(client: Client, request: Any) -> tuple[Walk, Any]:
    with walked() as walk:
        answer = await client.call(request)
    return walk, answer


@pytest.mark.parametrize("durability", ["fsync", "page-cache"])
async def test_the_walk_of_a_produce(tmp_path: Path, durability: str) -> None:
    async with serving(tmp_path) as served:
        await served.broker.create_topic("t", 1, {"hotlog.durability": durability})
        client = await served.connect()
        await client.call(produce("t", {0: batch_of(b"first")}))
        walk, _ = await traced(client, produce("t", {0: batch_of(b"second", codec="gzip")}))
        rooms = drawn("Produce")
        assert rooms == walk.rooms
        assert len(rooms) <= ROOMS_MAX
        assert walk.steps_up() == {}


@pytest.mark.parametrize("durability", ["fsync", "page-cache"])
async def test_the_short_way_of_a_produce(tmp_path: Path, durability: str) -> None:
    """Nothing goes up again but the ack that an fsync was waited for."""
    async with serving(tmp_path) as served:
        await served.broker.create_topic("t", 1, {"hotlog.durability": durability})
        client = await served.connect()
        for value in (b"first", b"second"):
            await client.call(produce("t", {0: batch_of(value)}))
        walk, _ = await traced(client, produce("t", {0: batch_of(b"third")}))
        rooms = drawn("The short way")
        is_waited_for = durability == "fsync"
        assert walk.rooms == ([*rooms, "hotlog/answers"] if is_waited_for else rooms)
        called_back = {("hotlog/log", "hotlog/apis"): "__call__", ("hotlog/answers", "hotlog/front"): "answered"}
        assert walk.steps_up() == (called_back if is_waited_for else {})


async def test_the_walk_of_a_fetch_of_what_is_only_in_the_store(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.broker.create_topic("t", 1, SMALL_SEGMENTS)
        client, partition = await served.connect(), served.broker.partition("t", 0)
        assert partition is not None
        values = await fill(client, "t", 20)
        await tier_out(served.broker, partition)
        await client.call(fetch("t", {0: partition.log_end_offset}))  # what is made at the first fetch is there
        walk, answer = await traced(client, fetch("t", {0: 0}, wait_ms=30_000))
        assert values[0] in fetched(answer)[0][1]
        rooms = drawn("A fetch, three months old")
        assert [room for room in walk.rooms if room != "hotlog/log"] == rooms  # of the log, it reads where it begins and ends
        assert len(rooms) <= ROOMS_MAX
        assert walk.steps_up() == {}
