"""hotlog group: what is listed and shown, and offsets that are reset, or would be."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.cli.conftest import Run, fill, made
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S


@pytest.fixture
def group() -> str:
    return f"group-{uuid.uuid4().hex[:8]}"


@contextmanager
def member(broker: HotlogServer, group: str, topic: str, protocol: str = "classic") -> Iterator[Consumer]:
    """A member that has its partitions."""
    settings: dict[str, Any] = {
        "bootstrap.servers": broker.bootstrap,
        "group.id": group,
        "group.protocol": protocol,
        "log_level": 0,
    }
    consumer = Consumer({**settings, "enable.auto.commit": False, "auto.offset.reset": "earliest", "client.id": "teller"})
    has_all: list[bool] = []
    consumer.subscribe([topic], on_assign=lambda _, places: has_all.append(bool(places)))
    try:
        for _ in range(int(PATIENCE_S * 5)):
            if any(has_all):
                break
            consumer.poll(0.2)
        yield consumer
    finally:
        consumer.close()


def commit(broker: HotlogServer, group: str, topic: str, *offsets: int) -> None:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group, "log_level": 0})
    consumer.commit(offsets=[TopicPartition(topic, index, offset) for index, offset in enumerate(offsets)], asynchronous=False)
    consumer.close()


def offsets(run: Run, group: str) -> dict[int, Any]:
    """What is committed, by partition."""
    shown = json.loads(run("group", "describe", group, "--json").out)
    return {row["partition"]: row["committed"] for row in shown["offsets"]}


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_describe_shows_members_offsets_lag_and_tier(broker: HotlogServer, run: Run, group: str, protocol: str) -> None:
    topic = made(run, "-p", "2")
    fill(broker, topic, ["x"] * 10, "-p", "0")
    with member(broker, group, topic, protocol) as consumer:
        consumer.commit(offsets=[TopicPartition(topic, 0, 4)], asynchronous=False)
        shown = json.loads(run("group", "describe", group, "--json").out)
        assert (shown["group"], shown["type"], shown["state"]) == (group, protocol, "stable")
        (only,) = shown["members"]
        assert only["client"] == "teller"
        assert only["partitions"] == [{"topic": topic, "partition": 0}, {"topic": topic, "partition": 1}]
        first, second = shown["offsets"]
        assert {key: first[key] for key in ("committed", "latest", "lag", "tier")} == {
            "committed": 4,
            "latest": 10,
            "lag": 6,
            "tier": "hot",
        }
        assert first["member"] == only["member"]
        assert (second["committed"], second["lag"], second["tier"]) == (None, None, None)
        table = run("group", "describe", group).out
        assert f"{topic}\t0\t4\t10\t6\thot\t{only['member']}" in table
        assert f"{topic}:0,1" in table


def test_groups_are_listed_by_state_and_type(broker: HotlogServer, run: Run, group: str) -> None:
    topic = made(run)
    commit(broker, group, topic, 0)
    with member(broker, f"{group}-new", topic, "consumer"):

        def listed(*options: str) -> dict[str, str]:
            rows = json.loads(run("group", "list", *options, "--json").out)
            return {row["group"]: f"{row['type']} {row['state']}" for row in rows if row["group"].startswith(group)}

        everything = {group: "classic empty", f"{group}-new": "consumer stable"}
        assert listed() == everything
        assert listed("--state", "Empty") == {group: everything[group]}
        assert listed("--type", "consumer") == {f"{group}-new": everything[f"{group}-new"]}
    assert run("group", "list", "--state", "sleepy").code == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--to", "earliest"], 0),
        (["--to", "latest"], 10),
        (["--to", "7"], 7),
        (["--to", "-3"], 7),
        (["--to", "2001-01-01"], 0),
        (["--to", "now"], 10),
        (["--shift", "3"], 8),
        (["--shift", "-2"], 3),
        (["--shift", "-100"], 0),
        (["--shift", "100"], 10),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_offsets_are_reset_where_it_was_said(broker: HotlogServer, run: Run, group: str, words: list[str], expected: int) -> None:
    topic = made(run)
    fill(broker, topic, ["x"] * 10)
    commit(broker, group, topic, 5)
    plan = run("group", "offsets", "reset", group, *words, "--dry-run", "--json")
    assert json.loads(plan.out) == [{"topic": topic, "partition": 0, "before": 5, "after": expected}]
    assert offsets(run, group) == {0: 5}, "a dry run changes nothing"
    assert run("group", "offsets", "reset", group, *words, "--yes").code == 0
    assert offsets(run, group) == {0: expected}


def test_some_partitions_are_reset(broker: HotlogServer, run: Run, group: str) -> None:
    topic = made(run, "-p", "3")
    for index in range(3):
        fill(broker, topic, ["x"] * 10, "-p", str(index))
    commit(broker, group, topic, 5, 5, 5)
    assert run("group", "offsets", "reset", group, "--topic", f"{topic}:0,2", "--to", "latest", "--yes").code == 0
    assert offsets(run, group) == {0: 10, 1: 5, 2: 10}
    other = made(run)
    fill(broker, other, ["x"] * 3)
    assert run("group", "offsets", "reset", group, "-t", other, "--to", "latest", "--yes").code == 0, (
        "also one that it never read"
    )


def test_what_cannot_be_reset_is_told(broker: HotlogServer, run: Run, group: str) -> None:
    topic = made(run)
    assert run("group", "offsets", "reset", group, "--to", "latest", "--yes").code == 1
    assert run("group", "offsets", "reset", group, "--yes").code == 2
    assert run("group", "offsets", "reset", group, "--to", "1", "--shift", "1").code == 2
    assert run("group", "offsets", "reset", group, "-t", f"{topic}:x", "--to", "latest").code == 2
    assert run("group", "offsets", "reset", group, "-t", "nowhere", "--to", "latest").code == 1
    assert run("group", "describe", group).code == 1
    with member(broker, group, topic, "consumer"):
        said = run("group", "offsets", "reset", group, "-t", topic, "--to", "latest", "--yes")
        assert (said.code, "1 members" in said.err) == (1, True)
        said = run("group", "delete", group, "--yes")
        assert (said.code, "not deleted" in said.err) == (1, True)


def test_groups_are_deleted(broker: HotlogServer, run: Run, group: str) -> None:
    topic = made(run)
    commit(broker, group, topic, 0)
    assert run("group", "delete", group, f"{group}-unknown", "--yes").code == 1
    assert run("group", "describe", group).code == 1


def test_a_group_reads_on(broker: HotlogServer, run: Run, group: str) -> None:
    topic = made(run)
    fill(broker, topic, [str(number) for number in range(10)])
    first = run("consume", topic, "--group", group, "-n", "4").out.split()
    assert offsets(run, group) == {0: 4}
    rest = run("consume", topic, "--group", group, "--until-end").out.split()
    assert first + rest == [str(number) for number in range(10)]
