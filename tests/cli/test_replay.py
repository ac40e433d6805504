"""hotlog replay: where it goes, and that what was there stays until the new is whole."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from hotlog.cli.replay_target import Target
from tests.cli.conftest import Run, fill, made
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S

OLD = "precious\n"


@pytest.mark.parametrize(
    "wrong",
    [["no-such-topic"], ["{}", "--from", "99"], ["{}", "--from", "soon"], ["{}", "-b", "127.0.0.1:1"], ["{}", "-X", "no.such=1"],
     ["{}", "--direct", "--store", "file:///no/such/place"]],
    ids=" ".join,
)  # fmt: skip
def test_a_replay_that_fails_leaves_the_file_as_it_was(run: Run, topic: str, tmp_path: Path, wrong: list[str]) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(OLD)
    assert run("replay", *(part.format(topic) for part in wrong), "--to", str(path)).code != 0
    assert (path.read_text(), os.listdir(tmp_path)) == (OLD, ["out.jsonl"])


def test_a_replay_that_breaks_off_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(OLD)
    with pytest.raises(KeyboardInterrupt), Target(str(path), "") as target:
        target._write(b"half\n")
        assert path.read_text() == OLD
        raise KeyboardInterrupt
    assert (path.read_text(), os.listdir(tmp_path)) == (OLD, ["out.jsonl"])


def test_a_whole_replay_takes_the_files_place_with_its_mode(broker: HotlogServer, run: Run, topic: str, tmp_path: Path) -> None:
    fill(broker, topic, ["new"])
    path, link = tmp_path / "out.jsonl", tmp_path / "link.jsonl"
    path.write_text(OLD)
    path.chmod(0o640)
    link.symlink_to(path)
    assert run("replay", topic, "--to", str(link)).code == 0
    assert "new" in path.read_text()
    assert (link.is_symlink(), stat.S_IMODE(path.stat().st_mode), sorted(os.listdir(tmp_path))) == (
        True, 0o640, ["link.jsonl", "out.jsonl"],
    )  # fmt: skip
    assert run("replay", topic, "--until", "earliest", "--to", str(path)).code == 0
    assert path.read_text() == "", "a replay of nothing is a whole replay"


def test_a_pipe_is_written_as_it_is(broker: HotlogServer, run: Run, topic: str, tmp_path: Path) -> None:
    fill(broker, topic, ["v"])
    path = tmp_path / "pipe.jsonl"
    os.mkfifo(path)
    heard: list[str] = []
    reader = threading.Thread(target=lambda: heard.append(path.read_text()))
    reader.start()
    assert run("replay", topic, "--to", str(path)).code == 0
    reader.join()
    assert '"value":"v"' in heard[0]
    assert path.is_fifo()


def test_wrong_targets_are_told_before_anything_is_read(run: Run, topic: str, tmp_path: Path) -> None:
    for to, says in (
        (str(tmp_path), "is a directory"),
        (str(tmp_path / "no" / "such.jsonl"), "no directory"),
        (f"{tmp_path}/raw/", "--direct"),
    ):
        said = run("replay", topic, "--to", to)
        assert (said.code, says in said.err) == (2, True)
    said = run("replay", topic, "--to", "no-such-topic")
    assert (said.code, "./no-such-topic" in said.err) == (1, True)


def test_an_offset_that_retention_took_is_remarked_on(broker: HotlogServer, run: Run, topic: str) -> None:
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient

    fill(broker, topic, ["0", "1", "2", "3"])
    place, client = TopicPartition(topic, 0, 2), AdminClient({"bootstrap.servers": broker.bootstrap})
    client.delete_records([place])[place].result(PATIENCE_S)
    for verb in (["replay", topic], ["consume", topic, "-e"]):
        said = run(*verb, "--from", "1")
        assert (said.code, said.out.count("\n"), "offsets before 2 of partition 0 are gone" in said.err) == (0, 2, True)
        assert run(*verb, "--from", "earliest").err.count("gone") == 0


def test_into_a_topic(broker: HotlogServer, run: Run, topic: str) -> None:
    fill(broker, topic, ['{"key":"k","value":"v","headers":{"a":"1"},"timestamp":1359676800000}'], "--json")
    copy = made(run)
    assert run("replay", topic, "--to", copy).code == 0
    assert run("consume", copy, "-e", "--json").out == run("consume", topic, "-e", "--json").out


def test_large_records_go_into_a_topic_that_takes_them_and_are_refused_by_one_that_does_not(
    broker: HotlogServer, run: Run
) -> None:
    large = made(run, "-p", "1", "-c", "max.message.bytes=3000000")
    fill(broker, large, ["a", "x" * 2_900_000])
    copy, small = made(run, "-p", "1", "-c", "max.message.bytes=3000000"), made(run)
    assert run("replay", large, "--to", copy).code == 0
    assert run("consume", copy, "-e", "-f", "%S ").out == "1 2900000 "
    said = run("replay", large, "--to", small)
    assert (said.code, "offset 1" in said.err, "large" in said.err) == (1, True, True)
