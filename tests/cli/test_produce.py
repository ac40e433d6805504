"""hotlog produce: what a line may be, and that nobody is left to guess what was delivered."""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hotlog.cli.client import producer
from hotlog.cli.produce import Sender
from hotlog.cli.produce_lines import BadLine, parse_json, text_parser
from hotlog.kernel.errors import HotlogError
from tests.cli.conftest import Run, Said, made, piped, started
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S

GOOD = '{"key":"k","value":"v"}'


def values(run: Run, topic: str) -> list[str]:
    return run("consume", topic, "-e").out.splitlines()


def given_lines(run: Run, tmp_path: Path, topic: str, lines: list[str], *options: str) -> Said:
    path = tmp_path / "lines"
    path.write_text("".join(f"{line}\n" for line in lines))
    return run("produce", topic, "--file", str(path), *options)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[1]", "not a JSON object"),
        ("7", "not a JSON object"),
        ('{"val":"v"}', "unknown field 'val'"),
        ('{"key":"k"}', 'no "value"'),
        ('{"value":"v","timestamp":"soon"}', "timestamp"),
        ('{"value":"v","timestamp":1.5}', "timestamp"),
        ('{"value":"v","timestamp":true}', "timestamp"),
        ('{"value":"v","timestamp":9223372036854775808}', "timestamp"),
        ('{"value":"v","timestamp":-2}', "timestamp"),
        ('{"value":"v","partition":-1}', "partition"),
        ('{"value":"v","partition":4294967296}', "partition"),
        ('{"value":"v","partition":[0]}', "partition"),
        ('{"value":"v","headers":"h"}', "headers"),
        ('{"value":"v","headers":[["a"]]}', "headers"),
        ('{"value":"v","headers":[[1,"a"]]}', "header name"),
        ('{"value":"v","headers":{"a\\u0000":"b"}}', "header name"),
        ('{"value":{"base64":"*"}}', "base64"),
        ('{"value":"\\ud800"}', "surrogate"),
        ("[" * 100_000, "nested too deeply"),
        ('{"value":' + "[" * 100_000, "nested too deeply"),
    ],
    ids=lambda text: text[:40],
)
def test_a_bad_line_stops_with_what_was_delivered_and_where_to_go_on(
    run: Run, topic: str, tmp_path: Path, line: str, why: str
) -> None:
    lines = [GOOD, GOOD, line, GOOD]
    said = given_lines(run, tmp_path, topic, lines, "--json")
    assert said.code == 2
    assert said.err.startswith("hotlog: line 3: ")
    assert why in said.err
    assert "2 records acknowledged, none before line 3 is missing; go on with --resume 3 or leave bad lines out" in said.err
    assert values(run, topic) == ["v", "v"]
    said = given_lines(run, tmp_path, topic, lines, "--json", "--skip-bad", "--resume", "3")
    assert (said.code, "line 3 left out" in said.err, "1 bad lines left out" in said.err) == (0, True, True)
    assert values(run, topic) == ["v", "v", "v"]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda c: st.lists(c) | st.dictionaries(
    st.sampled_from(["key", "value", "timestamp", "partition", "headers", "base64", "x"]), c)))  # fmt: skip
@example({"value": {"base64": 5}})
@example({"value": float("nan")})
def test_any_json_is_a_record_or_a_bad_line(document: object) -> None:
    with contextlib.suppress(BadLine):
        fields = parse_json(json.dumps(document).encode())
        assert isinstance(fields["value"], bytes | None)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_record_or_a_bad_line(line: bytes) -> None:
    with contextlib.suppress(BadLine):
        parse_json(line)
    assert text_parser(None)(line)["value"] in line


def test_a_line_without_its_key_separator_is_bad(run: Run, topic: str, tmp_path: Path) -> None:
    said = given_lines(run, tmp_path, topic, ["a:1", "b"], "-k", ":")
    assert (said.code, "line 2: no key separator ':'" in said.err) == (2, True)
    assert run("consume", topic, "-e", "-k", "=").out == "a=1\n"


def test_headers_and_partition_by_flag(run: Run, tmp_path: Path) -> None:
    topic = made(run, "-p", "3")
    assert given_lines(run, tmp_path, topic, ["v"], "-H", "a=1", "-H", "b=x=y", "-p", "2").code == 0
    assert json.loads(run("consume", topic, "-e", "--json").out)["headers"] == [["a", "1"], ["b", "x=y"]]
    assert run("consume", topic, "-e", "-p", "2").out == "v\n"
    assert given_lines(run, tmp_path, topic, ["v"], "-H", "a").code == 2
    said = given_lines(run, tmp_path, topic, ["v"], "-p", "7")
    assert (said.code, "partition" in said.err.lower()) == (1, True)


def test_client_settings_go_through_and_wrong_ones_are_told(run: Run, topic: str, tmp_path: Path) -> None:
    assert given_lines(run, tmp_path, topic, ["v"], "-X", "acks=1", "-X", "enable.idempotence=false").code == 0
    for wrong in ("no.such.property=1", "socket.timeout.ms=soon", "client.id"):
        said = given_lines(run, tmp_path, topic, ["v"], "-X", wrong)
        assert (said.code, wrong.partition("=")[0] in said.err) == (2, True)
    for verb in (["topic", "list"], ["topic", "describe", topic], ["consume", topic, "-e"], ["replay", topic]):
        assert run(*verb, "-X", "client.id=me").code == 0
        assert run(*verb, "-X", "no.such.property=1").code == 2


def test_brotli_is_no_compression(run: Run, topic: str) -> None:
    said = run("produce", topic, "-z", "brotli")
    assert (said.code, "zstd" in said.err, "\n" in said.err.strip()) == (2, True, False)


def test_values_up_to_the_topics_limit_and_not_beyond(run: Run, tmp_path: Path) -> None:
    topic = made(run, "-p", "1", "-c", "max.message.bytes=3000000")
    assert given_lines(run, tmp_path, topic, ["x" * 2_900_000]).code == 0
    said = given_lines(run, tmp_path, topic, ["a", "x" * 3_100_000, "b"])
    assert (said.code, "line 2" in said.err, "max.message.bytes" in said.err) == (2, True, True)
    said = given_lines(run, tmp_path, topic, ["a", "x" * 3_100_000, "b"], "--skip-bad", "--resume", "2")
    assert said.code == 0
    assert run("consume", topic, "-e", "-f", "%S ").out == "2900000 1 1 "


def test_batches_fit_a_small_segment(run: Run, tmp_path: Path) -> None:
    topic = made(run, "-p", "1", "-c", "segment.bytes=1048576", "-c", "max.message.bytes=100000")
    assert given_lines(run, tmp_path, topic, ["x" * 2000] * 500, "-z", "none").code == 0
    assert len(values(run, topic)) == 500


def test_what_a_broker_refuses_is_told_with_the_line(run: Run, tmp_path: Path) -> None:
    topic = made(run, "-p", "1", "-c", "cleanup.policy=compact", "-c", "remote.storage.enable=false")
    said = given_lines(run, tmp_path, topic, ["no key"])
    assert (said.code != 0, "go on with --resume 1" in said.err) == (True, True)


def test_a_topic_that_is_not_there_is_made_by_the_broker_or_told(run: Run, tmp_path: Path) -> None:
    assert given_lines(run, tmp_path, "new-by-produce", ["v"]).code == 0
    assert values(run, "new-by-produce") == ["v"]


def test_ctrl_c_says_what_was_delivered(broker: HotlogServer, topic: str, run: Run) -> None:
    writer = started(broker, "produce", topic)
    assert writer.stdin is not None
    writer.stdin.write(b"a\nb\n")
    writer.stdin.flush()
    reader = started(broker, "consume", topic, "-n", "2")
    assert reader.wait(PATIENCE_S) == 0
    writer.send_signal(signal.SIGINT)
    writer.wait(PATIENCE_S)
    assert writer.stderr is not None
    assert (writer.returncode, b"2 records acknowledged" in writer.stderr.read()) == (130, True)


def test_a_broker_that_goes_away_is_told_with_where_to_go_on(tmp_path: Path) -> None:
    server = HotlogServer(folder=tmp_path / "broker")
    server.start()
    try:
        sender = Sender(producer(server.bootstrap), "t", stall_s=PATIENCE_S)
        told = r"1 records acknowledged, none before line 2 is missing.*--resume 2"
        with pytest.raises(HotlogError, match=told), sender.reporting(skips=False):
            sender.send(1, {"value": b"a"})
            sender._flush()
            server.kill()
            sender._stall_s = 0.5
            sender.send(2, {"value": b"b"})
    finally:
        server.stop()


def test_consume_and_produce_are_inverse_over_topics(broker: HotlogServer, run: Run) -> None:
    one, two, copy = made(run), made(run), made(run)
    for topic in (one, two):
        assert piped(broker, "produce", topic, input=b"\xff\n").returncode == 0
    lines = piped(broker, "consume", one, two, "-e", "--json").stdout
    assert piped(broker, "produce", copy, "--json", input=lines).returncode == 0
    assert piped(broker, "consume", copy, "-e").stdout == b"\xff\n\xff\n"
