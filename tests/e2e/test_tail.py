"""Nothing is left out without a word: open segments come through the broker, or it is said that they did not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer

from tests.e2e.conftest import create, hotlog, produce, running
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S
from tests.tools.plain import plain_environment
from tests.tools.ports import free_ports

HURRY = {"remote.log.manager.task.interval.ms": "200"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HotlogServer]:
    with running(HotlogServer(folder=tmp_path / "broker", settings=HURRY)) as server:
        yield server


def said(server: HotlogServer, *arguments: str, code: int = 0, bootstrap: str = "") -> str:
    """What a verb says on standard error."""
    places = ["--store", (server.data / "store").as_uri(), "-b", bootstrap or server.bootstrap]
    command = [sys.executable, "-m", "hotlog", *arguments, *places]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=plain_environment())
    assert done.returncode == code, done.stderr
    return done.stderr


def records(first: int, count: int) -> list[dict[str, Any]]:
    return [{"value": json.dumps({"n": n}), "partition": n % 2, "timestamp": 1_000 + n} for n in range(first, first + count)]


def exported(lake: Path) -> list[int]:
    return sorted(n for path in lake.rglob("*.parquet") for n in pq.ParquetFile(path).read(["n"]).column(0).to_pylist())


def test_an_export_has_the_open_segments_and_each_record_once(server: HotlogServer, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    export = ["export", "events", "--to", str(lake), "--schema", "auto"]
    create(server, "events", 2, retention_ms="-1")
    produce(server, "events", records(0, 30))
    assert "30 rows" in said(server, *export, "--from", "2", "--tail") or exported(lake)
    assert exported(lake) == list(range(4, 30))
    assert "4 rows" in said(server, *export)
    assert exported(lake) == list(range(30))
    hotlog("topic", "roll", "events", "--wait", "-b", server.bootstrap)
    assert "0 rows" in said(server, *export), "what came by the tail does not come again from the bucket"
    produce(server, "events", records(30, 5))
    told = said(server, *export, "--no-tail")
    assert "5 records up to offset 18 of partition 0, offset 17 of partition 1 are in open segments" in told
    assert "hotlog topic roll events" in told
    assert "5 rows" in said(server, *export)
    produce(server, "events", records(35, 5))
    hotlog("topic", "roll", "events", "--wait", "-b", server.bootstrap)
    produce(server, "events", records(40, 5))
    assert "10 rows" in said(server, *export), "the cold tier first, then the tail"
    assert exported(lake) == list(range(45))


def test_a_direct_replay_has_the_open_segments(server: HotlogServer, tmp_path: Path) -> None:
    create(server, "events", 2, retention_ms="-1")
    produce(server, "events", records(0, 20), **{"batch.num.messages": 3})
    hotlog("topic", "roll", "events", "--wait", "-b", server.bootstrap)
    produce(server, "events", records(20, 20), **{"batch.num.messages": 3})
    for options, wanted in (
        ([], range(40)),
        (["--no-tail"], range(20)),
        (["--from", "12"], range(24, 40)),
        (["--until", "12"], range(24)),
    ):
        said(server, "replay", "events", "--direct", "--to", str(tmp_path / "out.jsonl"), *options)
        lines = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
        assert sorted(json.loads(line["value"])["n"] for line in lines) == list(wanted)


@pytest.mark.parametrize("verb", [["export", "events"], ["replay", "events", "--direct"]])
def test_without_a_broker_it_is_said_what_cannot_be_known(server: HotlogServer, tmp_path: Path, verb: list[str]) -> None:
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    to = ["--to", str(tmp_path / ("lake" if verb[0] == "export" else "out.jsonl"))]
    create(server, "events")
    assert "topic events is empty" in said(server, *verb, *to)
    produce(server, "events", [{"value": "v"}] * 3)
    told = said(server, *verb, *to, bootstrap=nobody)
    assert f"no broker answered on {nobody}" in told
    assert "nothing of topic events is in the store yet" in told
    assert "3 records up to offset 3 of partition 0 are in open segments" in said(server, *verb, *to, "--no-tail")
    said(server, *verb, *to, "--tail", bootstrap=nobody, code=3)
    hotlog("topic", "roll", "events", "--wait", "-b", server.bootstrap)
    assert "how many records follow offset 3 of partition 0 cannot be known" in said(server, *verb, *to, bootstrap=nobody)


def test_without_a_broker_its_data_directory_knows_how_many_are_left_out(server: HotlogServer, tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    create(server, "events", 2, retention_ms="-1")
    produce(server, "events", records(0, 30))
    hotlog("topic", "roll", "events", "--wait", "-b", server.bootstrap)
    produce(server, "events", records(30, 7))
    export = ["export", "events", "--to", str(tmp_path / "lake"), "--schema", "auto", "--data-dir", str(server.data)]
    told = said(server, *export, bootstrap=nobody)
    assert "7 records up to offset 19 of partition 0, offset 18 of partition 1 are in open segments" in told
    assert exported(tmp_path / "lake") == list(range(30))


def test_a_broker_of_another_cluster_is_not_asked_for_records(server: HotlogServer, tmp_path: Path) -> None:
    with running(HotlogServer(folder=tmp_path / "other")) as other:
        for one in (server, other):
            create(one, "events")
        produce(other, "events", [{"value": "not ours"}] * 3)
        told = said(server, "export", "events", "--to", str(tmp_path / "lake"), bootstrap=other.bootstrap)
        assert "does not serve this topic of this bucket" in told
        said(server, "export", "events", "--to", str(tmp_path / "lake"), "--tail", bootstrap=other.bootstrap, code=2)
    assert not list((tmp_path / "lake").rglob("*.parquet"))


def test_a_roll_outlives_a_restart_and_leaves_younger_segments(server: HotlogServer) -> None:
    create(server, "events")
    hotlog("topic", "roll", "events", "--wait", "-b", server.bootstrap)
    produce(server, "events", [{"value": "v"}])
    server.stop()
    server.start()
    hotlog("topic", "roll", "events", "--wait", "-b", server.bootstrap)
    producer = Producer({"bootstrap.servers": server.bootstrap})
    producer.produce("events", b"w")
    assert producer.flush(PATIENCE_S) == 0
    logs = sorted(path.name for path in (server.data / "log" / "events-0").glob("*.log"))
    assert logs[-1] == "00000000000000000001.log", "what was appended after the roll is not closed by it"
