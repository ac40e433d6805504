"""hotlog topic: what it shows, several at once, and names that are nearly right."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.cli.conftest import Run, fill, made
from tests.tools.hotlog_server import HotlogServer


def test_describe_shows_sizes_leader_isr_and_id(broker: HotlogServer, run: Run) -> None:
    topic = made(run, "-p", "2", "-r", "1", "-c", "retention.ms=-1")
    fill(broker, topic, ["x" * 100] * 10, "-p", "1", "-z", "none")
    shown = json.loads(run("topic", "describe", topic, "--json").out)
    assert uuid.UUID(int=int.from_bytes(__import__("base64").urlsafe_b64decode(shown["id"] + "=="), "big")).version is not None
    empty, filled = shown["partitions"]
    assert (filled["earliest"], filled["latest"], filled["leader"], filled["replicas"], filled["isr"]) == (0, 10, 1, [1], [1])
    assert empty["local_bytes"] == 0
    assert filled["local_bytes"] > 1000
    assert filled["tiered_bytes"] == 0
    table = run("topic", "describe", topic).out
    assert shown["id"] in table
    assert "retention.ms\t-1" in table


def test_describe_names_what_cannot_be_cleaned_and_why(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = made(run, "-p", "2", "-c", "cleanup.policy=compact")
    shown = json.loads(run("topic", "describe", topic, "--json").out)
    assert [part["uncleanable"] for part in shown["partitions"]] == [None, None]
    assert "cannot be cleaned" not in run("topic", "describe", topic).out
    monkeypatch.setattr("hotlog.cli.topic.uncleanable", lambda bootstrap, topic: {1: "a batch that cannot be read"})
    shown = json.loads(run("topic", "describe", topic, "--json").out)
    assert [part["uncleanable"] for part in shown["partitions"]] == [None, "a batch that cannot be read"]
    table = run("topic", "describe", topic).out
    assert "cannot be cleaned" in table and "1\ta batch that cannot be read" in table


def test_replication_factor_is_asked_for(run: Run) -> None:
    said = run("topic", "create", "too-many", "-r", "3")
    assert (said.code, "eplication" in said.err) == (1, True)
    assert run("topic", "create", "one-copy", "--replication-factor", "1").code == 0


def test_several_are_deleted_and_a_mistyped_name_deletes_none(run: Run) -> None:
    one, two = made(run), made(run)
    said = run("topic", "delete", one, f"{two}x", "--yes")
    assert (said.code, f"did you mean {two!r}" in said.err) == (1, True)
    assert {one, two} <= set(run("topic", "list").out.split())
    assert run("topic", "delete", one, two, one, "--yes").code == 0
    assert not {one, two} & set(run("topic", "list").out.split())


@pytest.mark.parametrize(
    "verb", [["topic", "describe"], ["topic", "alter", "-p", "9"], ["consume", "-e"], ["replay"]], ids=" ".join
)
def test_a_near_miss_of_a_topic_is_suggested(run: Run, topic: str, verb: list[str]) -> None:
    said = run(*verb, topic + "x")
    assert (said.code, f"did you mean {topic!r}" in said.err) == (1, True)
