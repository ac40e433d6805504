"""`hotlog serve` before anything is opened: what would hold and why, what is refused; and what a start says in its log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from tests.cli.conftest import Run
from tests.tools.hotlog_server import HotlogServer, ServerFailed


def rows(out: str) -> dict[str, tuple[str, str]]:
    """Setting -> (value, from)."""
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["setting", "value", "from"]
    return {name: (value, origin) for name, value, origin in lines[1:]}


def properties(path: Path, **lines: str) -> Path:
    path.write_text("".join(f"{name.replace('__', '.')}={value}\n" for name, value in lines.items()))
    return path


def test_check_prints_each_value_with_where_it_comes_from_and_makes_nothing(run: Run, tmp_path: Path) -> None:
    file = properties(
        tmp_path / "server.properties", num__partitions="3", log__dirs="cold-data", log__retention__hours="5", num__io__threads="8",
        broker__id="7", rsm__config__storage__s3__bucket__name="logs",
    )  # fmt: skip
    said = run("serve", "--check", "--config", str(file), "--set", "num.partitions=4", "--listen", "127.0.0.1:19092")
    assert said.code == 0, said.err
    found = rows(said.out)
    assert found["num.partitions"] == ("4", "--set")
    assert found["log.retention.ms"] == ("18000000", f"log.retention.hours in {file}")
    assert found["node.id"] == ("7", f"broker.id in {file}")
    assert found["data dir"] == (str(Path.cwd() / "cold-data"), f"log.dirs in {file}")
    assert found["store"] == ("s3://logs/", f"rsm.config.storage.s3.bucket.name in {file}")
    assert found["listen"] == ("127.0.0.1:19092", "--listen")
    assert found["log.segment.bytes"] == (str(2**30), "default")
    assert "without effect here: num.io.threads" in said.err
    assert list(Path.cwd().iterdir()) == [], "nothing was made"


def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = properties(tmp_path / "server.properties", log__dirs="/from/file", rsm__config__storage__s3__bucket__name="logs")
    monkeypatch.setenv("HOTLOG_STORE", "file:///from/environment")
    found = rows(run("serve", "--check", "--config", str(file), "--data-dir", "/from/flag").out)
    assert found["data dir"] == ("/from/flag", "--data-dir")
    assert found["store"] == ("file:///from/environment", "HOTLOG_STORE")
    assert rows(run("serve", "--check", "--store", "file:///flag").out)["store"] == ("file:///flag", "--store")


@pytest.mark.parametrize("verb", [("serve",), ("serve", "--check")])
def test_what_must_not_be_ignored_stops_before_anything_is_made(run: Run, tmp_path: Path, verb: tuple[str, ...]) -> None:
    file = properties(tmp_path / "server.properties", super__users="User:hush", num__partition="3")
    said = run(*verb, "--config", str(file))
    assert said.code == 2
    assert "super.users" in said.err
    assert "num.partitions is meant" in said.err
    assert "hush" not in said.err
    kafkas = tmp_path / "kafka-logs"
    kafkas.mkdir()
    (kafkas / "meta.properties").write_text("version=1\n")
    said = run(*verb, "--set", f"log.dirs={kafkas}")
    assert said.code == 2
    assert "Apache Kafka's logs" in said.err
    said = run(*verb, "--store", "gopher:///x")
    assert said.code == 2
    assert list(Path.cwd().iterdir()) == []


def test_a_level_that_is_none_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTLOG_LOG", "info,hotlog=loud")
    said = run("serve", "--check")
    assert said.code == 2
    assert "hotlog=loud" in said.err


def test_a_start_says_who_serves_what_from_where_and_json_says_it_in_fields(tmp_path: Path) -> None:
    config = properties(tmp_path / "server.properties", num__io__threads="8", zookeeper__connect="zk:1", num__partitions="2")
    server = HotlogServer(
        folder=tmp_path / "broker",
        command_extra=("--log-format", "json", "--config", str(config)),
        environment={"HOTLOG_LOG": "debug", "AWS_SECRET_ACCESS_KEY": "a-very-secret-key"},
    )
    server.start()
    admin = AdminClient({"bootstrap.servers": server.bootstrap, "log_level": 0})
    admin.create_topics([NewTopic("clicks", 3, 1)])["clicks"].result()
    (told,) = admin.describe_configs([ConfigResource(ConfigResource.Type.BROKER, "1")]).values()
    configs = told.result()
    assert configs["log.dirs"].value == str(server.data)
    assert configs["listeners"].value == f"PLAINTEXT://{server.bootstrap}"
    assert {name: configs[name].source for name in ("num.partitions", "num.io.threads", "log.dirs")} == dict.fromkeys(
        ("num.partitions", "num.io.threads", "log.dirs"), 4
    )
    server.stop()
    server.start()
    server.stop()
    text = server.errors.read_text()
    assert "a-very-secret-key" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert all(line["time"].endswith("Z") and line["level"] and line["logger"] for line in lines)
    first, second = [line for line in lines if line["event"].startswith("hotlog serves: ")]
    assert first["listeners"] == f"PLAINTEXT://{server.bootstrap}"
    assert first["store"] == (server.data / "store").as_uri()
    assert (first["node"], first["data_dir"], first["topics"], first["partitions"]) == (1, str(server.data), 0, 0)
    assert (second["cluster_id"], second["topics"], second["partitions"]) == (first["cluster_id"], 1, 3)
    assert second["recovery_seconds"] >= 0
    assert [line["event"] for line in lines if "without effect" in line["event"]] == [
        "accepted, but without effect here: num.io.threads, zookeeper.connect"
    ] * 2, "one line, not one a key"
    events = [line["event"] for line in lines]
    assert any(event.startswith("topic clicks (") and "3 partitions" in event for event in events), "changes are told at info"
    assert any(event.startswith("CreateTopics version") and "done in" in event for event in events), "requests at debug"
    assert not any(line["logger"].startswith(("botocore", "asyncio", "apscheduler")) for line in lines)


def test_a_refused_start_leaves_no_traceback(tmp_path: Path) -> None:
    server = HotlogServer(folder=tmp_path, settings={"hotlog.durabilty": "fsync"})
    with pytest.raises(ServerFailed, match=r"hotlog.durability is meant") as failure:
        server.start()
    assert "Traceback" not in str(failure.value)
