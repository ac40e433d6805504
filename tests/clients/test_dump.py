"""Kafka's own DumpLogSegments reads the files our broker wrote, and finds nothing wrong with them.

Invariants:
- The tool is proved to complain first: a damaged index and a damaged batch must not come out clean.
- Files are read after a clean stop and after kill -9 with a recovery, both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.python_clients import KEEP, PYTHON_CLIENTS
from tests.tools.clients import Record
from tests.tools.hotlog_server import HotlogServer
from tests.tools.kafka_jars import KafkaJars, dump_segments

MESSAGES = 3_000
SEGMENT_BYTES = 262_144
TOPIC = "dumped"
BASE_MS = 1_357_000_000_000
BATCH = re.compile(r"baseOffset: (\d+) lastOffset: (\d+) .* crc: \d+ isvalid: true")
PAYLOAD = re.compile(r"\| offset: (\d+) .* key: (k\d+) payload: (\S+)")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HotlogServer]:
    settings = {"log.segment.bytes": str(SEGMENT_BYTES), "log.index.interval.bytes": "4096"}
    settings["hotlog.remote.storage.enable"] = "false"
    server = HotlogServer(folder=tmp_path, settings=settings)
    server.start()
    yield server
    server.stop()


def fill(server: HotlogServer) -> None:
    """Several segments of one partition, by an idempotent producer, in many small batches."""
    client = PYTHON_CLIENTS["confluent-kafka"]
    client.create_topic(server.bootstrap, TOPIC, partitions=1, configs=KEEP)
    for start in range(0, MESSAGES, 100):
        records = [
            Record(partition=0, key=b"k%d" % n, value=b"v%d-" % n + b"x" * 300, timestamp=BASE_MS + n)
            for n in range(start, start + 100)
        ]
        client.produce(server.bootstrap, TOPIC, records, idempotent=True)


def files_of(server: HotlogServer, *suffixes: str) -> list[Path]:
    folder = server.data / "log" / f"{TOPIC}-0"
    return sorted(each for each in folder.iterdir() if each.suffix in suffixes)


def assert_clean(jars: KafkaJars, server: HotlogServer) -> None:
    """All three ways of the tool over all files of the partition."""
    logs = files_of(server, ".log")
    everything = files_of(server, ".log", ".index", ".timeindex", ".snapshot")
    assert len(logs) > 2, "several segments, or nothing is proved about closed ones"
    assert {each.suffix for each in everything} == {".log", ".index", ".timeindex", ".snapshot"}
    dump = dump_segments(jars, everything, "--deep-iteration", "--print-data-log")
    assert (dump.exit_code, dump.complaints) == (0, [])
    found = PAYLOAD.findall(dump.text)
    assert [int(offset) for offset, _, _ in found] == list(range(MESSAGES))
    assert [(key, value[: len(key) + 1]) for _, key, value in found] == [(f"k{n}", f"v{n}-") for n in range(MESSAGES)]
    assert dump.text.count("isvalid: true") == len(BATCH.findall(dump.text)) > 0
    indexes = files_of(server, ".index", ".timeindex")
    sane = dump_segments(jars, indexes, "--index-sanity-check")
    assert (sane.exit_code, sane.complaints) == (0, [])
    assert sane.text.count("passed sanity check") == len(indexes)
    verified = dump_segments(jars, indexes, "--verify-index-only")
    assert (verified.exit_code, verified.complaints) == (0, [])


def test_segments_indexes_and_snapshots_after_a_clean_stop(jars: KafkaJars, server: HotlogServer) -> None:
    fill(server)
    server.stop()
    assert_clean(jars, server)


def test_segments_and_indexes_after_a_kill_and_a_recovery(jars: KafkaJars, server: HotlogServer) -> None:
    fill(server)
    server.kill()
    server.start()
    server.stop()
    assert_clean(jars, server)


def test_the_tool_does_complain_about_damage(jars: KafkaJars, server: HotlogServer) -> None:
    fill(server)
    server.stop()
    log, index = files_of(server, ".log")[0], files_of(server, ".index")[0]
    body = bytearray(log.read_bytes())
    body[200] ^= 0xFF  # inside the first batch's records
    log.write_bytes(body)
    assert dump_segments(jars, [log], "--deep-iteration").complaints != []
    entries = bytearray(index.read_bytes())
    entries[7] ^= 0x01  # the first entry's position
    index.write_bytes(entries)
    assert dump_segments(jars, [index], "--verify-index-only").complaints != []
