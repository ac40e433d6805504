"""hotlog consume: what is printed, when it ends, and that nothing is committed that was not printed."""

from __future__ import annotations

import json
import signal
import threading

import pytest
from confluent_kafka import Consumer, TopicPartition
from crc32c import crc32c

from hotlog.wire.records import NewRecord, encode_batch
from tests.cli.conftest import Run, fill, made, piped, started, store
from tests.e2e.conftest import eventually
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S

CRC_END = 21  # of a batch
RECORD = '{"key":"k","value":"v","timestamp":1359676800000,"headers":[["a","1"],["b",{"base64":"/w=="}]]}'


def committed(broker: HotlogServer, group: str, topic: str) -> int:
    client = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group})
    try:
        return int(client.committed([TopicPartition(topic, 0)], timeout=PATIENCE_S)[0].offset)
    finally:
        client.close()


def test_a_group_member_that_is_stopped_has_printed_what_it_committed(broker: HotlogServer, topic: str) -> None:
    fill(broker, topic, ["1", "2", "3"])
    reader = started(broker, "consume", topic, "-g", f"g-{topic}")
    assert reader.stdout is not None
    first = [reader.stdout.readline() for _ in range(3)]  # at once, though stdout is a pipe and the reader goes on
    assert first == [b"1\n", b"2\n", b"3\n"]
    eventually(lambda: committed(broker, f"g-{topic}", topic) == 3)
    fill(broker, topic, ["4"])
    assert reader.stdout.readline() == b"4\n"
    reader.terminate()
    rest, _ = reader.communicate(timeout=PATIENCE_S)
    assert (rest, reader.returncode) == (b"", 143)
    assert committed(broker, f"g-{topic}", topic) in (3, 4)  # the signal may come between the print and the note
    fill(broker, topic, ["5"])
    assert piped(broker, "consume", topic, "-g", f"g-{topic}", "-e").stdout.endswith(b"5\n")
    assert piped(broker, "consume", topic, "-g", f"g-{topic}", "-e").stdout == b""


def test_a_group_member_without_a_reader_commits_nothing(broker: HotlogServer, topic: str) -> None:
    fill(broker, topic, ["x" * 1000] * 5000)
    member = started(broker, "consume", topic, "-g", f"g-{topic}")
    assert member.stdout is not None
    member.stdout.close()  # nobody will ever read it
    assert member.wait(PATIENCE_S) == 0
    assert committed(broker, f"g-{topic}", topic) < 0


def test_following_through_a_pipe_shows_records_at_once_and_ctrl_c_ends_it(broker: HotlogServer, topic: str) -> None:
    follower = started(broker, "consume", topic, "--from", "earliest")
    assert follower.stdout is not None
    for word in ("a", "b"):
        fill(broker, topic, [word])
        assert follower.stdout.readline() == f"{word}\n".encode()
    follower.send_signal(signal.SIGINT)
    _, said = follower.communicate(timeout=PATIENCE_S)
    assert (follower.returncode, said) == (130, b"")


def test_head_has_enough_and_that_is_no_fault(broker: HotlogServer, topic: str) -> None:
    fill(broker, topic, ["x" * 1000] * 5000)
    for verb in (["consume", topic, "-e"], ["consume", topic, "-e", "--json"], ["replay", topic]):
        reader = started(broker, *verb)
        assert reader.stdout is not None
        assert reader.stdout.readline()
        reader.stdout.close()
        assert reader.stderr is not None
        assert (reader.wait(PATIENCE_S), reader.stderr.read()) == (0, b"")


def test_a_live_topic_ends_where_it_ended_when_the_reader_began(broker: HotlogServer, topic: str, run: Run) -> None:
    fill(broker, topic, ["x" * 100] * 2000)
    stop = threading.Event()

    def keep_writing() -> None:
        while not stop.is_set():
            fill(broker, topic, ["y"] * 100)

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        for verb in (["consume", topic, "-e"], ["replay", topic], ["consume", topic, "--until", "latest"]):
            said = run(*verb)
            assert said.code == 0
            assert said.out.count("x" * 100) == 2000
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (["-e"], "0123456789"),
        (["-e", "-o", "-3"], "789"),
        (["-e", "--from", "4"], "456789"),
        (["--from", "4", "--until", "6"], "45"),
        (["--until", "2"], "01"),
        (["--from", "@5000"], "56789"),
        (["--from", "@2500", "--until", "@4000"], "3"),
        (["--from", "latest"], ""),
        (["--until", "earliest"], ""),
        (["--until", "now"], "0123456789"),
        (["--from", "yesterday"], ""),
        (["--from", "-2h"], ""),
        (["-n", "2"], "01"),
        (["-n", "0"], ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_places_mean_the_same_to_consume_and_replay(broker: HotlogServer, run: Run, options: list[str], values: str) -> None:
    name = made(run, "-p", "1", "-c", "retention.ms=-1")
    fill(broker, name, [f'{{"value":"{n}","timestamp":{n * 1000 + 1}}}' for n in range(10)], "--json")
    bounded = options if "-n" in options or "--until" in options or "-e" in options else [*options, "-e"]
    said = run("consume", name, *bounded)
    assert (said.code, said.out.replace("\n", "")) == (0, values)
    if "-n" not in options:
        said = run("replay", name, *(option for option in options if option != "-e"))
        assert (said.code, "".join(json.loads(line)["value"] for line in said.out.splitlines())) == (0, values)


@pytest.mark.parametrize("verb", ["consume", "replay"])
@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--from", "99"], 1, "past the end of {}: partition 0 ends at 0"),
        (["--from", "1359676800000"], 2, "@1359676800000"),
        (["--from", "yesterday-ish"], 2, "yesterday"),
        (["--until", "9" * 30], 2, "largest"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_places_are_told(verb: str, topic: str, run: Run, options: list[str], code: int, says: str) -> None:
    said = run(verb, topic, *options)
    assert (said.code, said.out) == (code, "")
    assert says.format(topic) in said.err


def test_a_partition_that_is_not_there_is_told_at_once(topic: str, run: Run) -> None:
    said = run("consume", topic, "-p", "7")
    assert (said.code, said.out) == (1, "")
    assert "partition 7 of" in said.err
    assert "0 to 0" in said.err


def test_key_headers_and_formats(broker: HotlogServer, topic: str, run: Run) -> None:
    fill(broker, topic, [RECORD, '{"value":null,"timestamp":7}'], "--json")
    assert piped(broker, "consume", topic, "-e", "-k", ":").stdout == b"k:v\n:\n"
    assert piped(broker, "consume", topic, "-e", "-H", "-k", "=").stdout == b"a=1,b=\xff\tk=v\n\t=\n"
    form = r"%t[%p]@%o %T %k/%K %s/%S %h %%\x21\041\t\n"
    wanted = f"{topic}[0]@0 1359676800000 k/1 v/1 a=1,b=".encode() + b"\xff %!!\t\n" + f"{topic}[0]@1 7 /-1 /-1  %!!\t\n".encode()
    assert piped(broker, "consume", topic, "-e", "-f", form).stdout == wanted
    for bad in ("%q", "%", "\\q", "\\"):
        assert run("consume", topic, "-e", "-f", bad).code == 2


def test_header_names_that_are_no_text_come_as_they_are(broker: HotlogServer, topic: str, run: Run) -> None:
    """Only a client that writes bytes can make them; librdkafka's Python binding cannot even read them."""
    batch = encode_batch([NewRecord(5, b"k", b"v", [("cafX", b"1"), ("b", None)]), NewRecord(6, b"k", b"w")])
    body = batch[CRC_END:].replace(b"cafX", b"caf\xe9")
    store(broker, topic, batch[: CRC_END - 4] + crc32c(body).to_bytes(4, "big") + body)
    assert piped(broker, "consume", topic, "-e", "-H").stdout == b"caf\xe9=1,b=NULL\tv\n\tw\n"
    assert piped(broker, "consume", topic, "-e", "-f", "%h|").stdout == b"caf\xe9=1,b=NULL||"
    for verb in (["consume", topic, "-e", "--json"], ["replay", topic]):
        said = run(*verb)
        assert said.code == 0, said
        lines = [json.loads(line) for line in said.out.splitlines()]
        assert lines[0]["headers"] == [[{"base64": "Y2Fm6Q=="}, "1"], ["b", None]]
        assert [line["value"] for line in lines] == ["v", "w"]
    copy = made(run)
    said = run("replay", topic, "--to", copy)
    assert (said.code, "not UTF-8" in said.err) == (1, True)


def test_bytes_come_as_they_are(broker: HotlogServer, topic: str) -> None:
    value = bytes(range(256)).replace(b"\n", b"").removesuffix(b"\r")
    assert piped(broker, "produce", topic, input=value + b"\n").returncode == 0
    assert piped(broker, "consume", topic, "-e").stdout == value + b"\n"
    assert piped(broker, "consume", topic, "-e", "-f", "%s").stdout == value


def test_several_topics_and_several_partitions(broker: HotlogServer, run: Run) -> None:
    one, two = made(run, "-p", "3"), made(run, "-p", "1")
    for partition in "012":
        fill(broker, one, [f"p{partition}"], "-p", partition)
    fill(broker, two, ["other"])
    assert sorted(run("consume", one, "-e", "-p", "0", "-p", "2").out.split()) == ["p0", "p2"]
    lines = [json.loads(line) for line in run("consume", one, two, "-e", "--json").out.splitlines()]
    assert sorted((line["topic"], line["value"]) for line in lines) == sorted(
        [(one, "p0"), (one, "p1"), (one, "p2"), (two, "other")]
    )
    assert sorted(run("consume", one, two, "-e", "-g", f"g-{one}").out.split()) == ["other", "p0", "p1", "p2"]


@pytest.mark.parametrize(
    "options",
    [["-p", "0"], ["--from", "5"], ["--from", "2013-02-01"]],
    ids=" ".join,
)
def test_what_a_group_decides_itself_is_refused(topic: str, run: Run, options: list[str]) -> None:
    said = run("consume", topic, "-g", "g", *options)
    assert (said.code, options[0].lstrip("-")[0] in said.err) == (2, True)


def test_ways_to_print_exclude_each_other(topic: str, run: Run) -> None:
    assert run("consume", topic, "-e", "--json", "-f", "%s").code == 2
