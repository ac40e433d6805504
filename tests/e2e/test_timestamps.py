"""Timestamps 0 (the epoch) and -1 (none) are values like any other: what puts records into a topic keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import create, hotlog, read, running
from tests.tools.hotlog_server import HotlogServer

TIMES = [0, -1, 0, 0, 1_359_676_800_000, -1, 0]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HotlogServer]:
    with running(HotlogServer(folder=tmp_path / "broker")) as server:
        yield server


def test_produce_and_replay_keep_timestamps_0_and_none(server: HotlogServer) -> None:
    for topic in ("events", "copy"):
        create(server, topic)
    lines = [
        {"key": None, "value": None if n == 2 else f"v{n}", "timestamp": t, "headers": {"n": str(n)}} for n, t in enumerate(TIMES)
    ]
    hotlog("produce", "events", "--json", "-b", server.bootstrap, input="".join(json.dumps(line) + "\n" for line in lines))
    wanted = [(n, time, None, None if n == 2 else f"v{n}".encode(), [("n", str(n).encode())]) for n, time in enumerate(TIMES)]
    assert [row[1:] for row in read(server, "events")] == wanted
    hotlog("replay", "events", "--to", "copy", "-b", server.bootstrap)
    assert [row[1:] for row in read(server, "copy")] == wanted


def test_a_key_finds_its_partition_whatever_its_timestamp(server: HotlogServer) -> None:
    create(server, "events", 7)
    keys = [f"key-{n}" for n in range(40)]
    lines = [{"key": key, "value": "v", "timestamp": time} for time in (0, 1_000) for key in keys]
    hotlog("produce", "events", "--json", "-b", server.bootstrap, input="".join(json.dumps(line) + "\n" for line in lines))
    rows = read(server, "events", 7)
    at_epoch, later = ({row[3]: row[0] for row in rows if row[2] == time} for time in (0, 1_000))
    assert len(at_epoch) == len(keys)
    assert at_epoch == later
