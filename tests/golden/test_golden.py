"""What earlier versions wrote is opened, read whole and gone on with: data directories and buckets that are kept for good (README.md).

The broker of a test is a process of its own whose clock begins when its data was made.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import zstandard
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from kio.schema.errors import ErrorCode
from kio.schema.produce.v9.request import PartitionProduceData, ProduceRequest, TopicProduceData
from kio.schema.produce.v9.response import ProduceResponse
from kio.schema.types import TopicName
from kio.static.primitive import i16, i32, i32Timedelta

from hotlog.cli.app import main
from hotlog.cli.raw import ask
from tests.golden.clients import PARTITIONS, SETTINGS, TIERED, ServerThen, facts, produce, rows
from tests.golden.make import roll
from tests.tools.patience import PATIENCE_S

HERE = Path(__file__).parent
VERSIONS = [path.name.removesuffix(".tar.zst") for path in sorted(HERE.glob("*.tar.zst"))]
STORE_WAITS = ("hotlog.store.attempt.timeout.ms", "hotlog.store.total.timeout.ms", "hotlog.garbage.grace.ms")
MOMENTS = ("stopped", "killed")
DAY_MS = 24 * 60 * 60 * 1000
UNPACKED_BYTES_MAX = 64 * 1024 * 1024


def unpacked(version: str, moment: str, folder: Path) -> dict[str, Any]:
    """A copy of the data of one moment below `folder`, and what clients saw of it."""
    packed = (HERE / f"{version}.tar.zst").read_bytes()
    plain = zstandard.ZstdDecompressor(max_window_size=2**27).decompress(packed, max_output_size=UNPACKED_BYTES_MAX)
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        tar.extractall(folder, [each for each in tar if each.name.startswith(moment + "/")], filter="data")
    seen: dict[str, Any] = json.loads((folder / moment / "facts.json").read_text())
    return seen


@contextmanager
def running(folder: Path, seen: dict[str, Any], *extra: str, later_ms: int = 1000, **settings: str) -> Iterator[ServerThen]:
    """A broker over a copy, its clock `later_ms` after the copy was made."""
    server = ServerThen(
        folder=folder, settings=SETTINGS | settings, store=f"file://{folder}/store", command_extra=extra,
        environment={"HOTLOG_TEST_EARLIER_MS": str(int(time.time() * 1000) - seen["made_ms"] - later_ms)},
    )  # fmt: skip
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("version", VERSIONS)
def test_everything_is_found_and_goes_on(version: str, moment: str, tmp_path: Path, verbs: Verbs) -> None:
    seen = unpacked(version, moment, tmp_path)
    folder = tmp_path / moment
    last_batch = _last_batch(folder / "data" / "log" / "hot-0")
    with running(folder, seen) as server:
        _same(facts(server.bootstrap), seen)
        assert _produced_again(server.bootstrap, last_batch) == seen["rows"]["hot"][-1][1] + 1 - _records(last_batch)
        for topic in PARTITIONS:
            produce(
                server.bootstrap,
                topic,
                _fresh(server.now_ms),
                batch_records=6,
            )
        for topic in TIERED:
            roll(server, topic, server.now_ms)
            assert verbs.problems(topic, folder) == []
        server.kill()
        server.start()
        for topic in PARTITIONS:
            _only_more(rows(server.bootstrap, topic), seen["rows"][topic], count=30)
        admin = AdminClient({"bootstrap.servers": server.bootstrap})
        assert verbs.garbage("long", folder), "no test without"
        cut = admin.delete_records([TopicPartition("long", 0, 900)], request_timeout=PATIENCE_S)
        assert cut[TopicPartition("long", 0)].result(PATIENCE_S).low_watermark == 900
        admin.delete_topics(["holed"], request_timeout=PATIENCE_S)["holed"].result(PATIENCE_S)
        kept = rows(server.bootstrap, "long")
    (folder / "data" / "trusted-clock").unlink()  # or time for deletion would go on from where it was, an hour later at most
    often = dict.fromkeys(STORE_WAITS, "3000") | {"hotlog.reconcile.interval.ms": "2000"}  # how often what is doomed is looked at
    with running(folder, seen, later_ms=2 * DAY_MS, **often) as server:  # all that is doomed is due
        _eventually(lambda: verbs.garbage("long", folder) == [])
        _eventually(lambda: len(list((folder / "store").glob("*/data/*/*/*/manifest"))) == 3)  # the partitions of long and mixed
        assert verbs.problems("long", folder) == []
        assert rows(server.bootstrap, "long") == kept
        assert kept[0][1] == 900


@pytest.mark.parametrize("version", VERSIONS)
def test_the_bucket_alone_has_what_was_copied(version: str, tmp_path: Path, verbs: Verbs) -> None:
    seen = unpacked(version, "stopped", tmp_path)
    folder = tmp_path / "stopped"
    (folder / "data").rename(folder / "lost")
    with running(folder, seen, "--adopt") as server:
        for topic in TIERED:
            ends = [end + 1 for end in seen["borders"][topic]["tiered"]]
            anew = [{"value": b"anew", "partition": index, "timestamp": server.now_ms} for index in range(PARTITIONS[topic])]
            produce(server.bootstrap, topic, anew, batch_records=1)  # behind the hole of what was not copied
            found = [row for row in rows(server.bootstrap, topic) if row[4] != "anew"]
            assert found == [row for row in seen["rows"][topic] if row[1] < ends[row[0]]]
        assert verbs.problems("mixed", folder) == []


def _fresh(now_ms: int) -> list[dict[str, Any]]:
    """New records, of the broker's time: real time is in its future, and refused as that."""
    return [{"key": b"k", "value": b"new%d" % n, "partition": 0, "timestamp": now_ms} for n in range(30)]


def _same(now: dict[str, Any], seen: dict[str, Any]) -> None:
    """What clients see is what they saw; the borders between the tiers may have moved on."""
    now = json.loads(json.dumps(now))  # tuples and numbers as they are kept
    for topic, borders in seen["borders"].items():
        for name, offsets in borders.items():
            told = now["borders"][topic][name]
            assert told == offsets or (name in ("local", "tiered") and all(a >= b for a, b in zip(told, offsets, strict=True))), (
                topic
            )
    for topic, ends in seen["epochs"].items():
        _same_epochs(now["epochs"][topic], ends)
    for name in seen.keys() - {"borders", "epochs", "made_ms"}:
        assert now[name] == seen[name], name


def _same_epochs(now: list[list[int]], ends: list[list[int]]) -> None:
    """A start begins a leader epoch: one that was not known before may be, and one without a record is forgotten for the next one."""
    for told, before in zip(now, ends, strict=True):
        if before[0] >= 0:
            assert told[1] == before[1]
            assert told == before or told[0] == before[0] - 1


def _only_more(now: list[list[Any]], before: list[list[Any]], *, count: int) -> None:
    """Every record that was there is, and `count` new ones behind them."""
    known = {(row[0], row[1]) for row in before}
    assert [row for row in now if (row[0], row[1]) in known] == before
    fresh = [row for row in now if (row[0], row[1]) not in known]
    assert [row[4] for row in fresh] == [f"new{n}" for n in range(count)]


def _last_batch(directory: Path) -> bytes:
    """The newest batch of a partition, as its producer sent it."""
    body = sorted(directory.glob("*.log"))[-1].read_bytes()
    position, last = 0, 0
    while position < len(body):
        last = position
        position += 12 + int.from_bytes(body[position + 8 : position + 12], "big")
    return struct.pack(">q", 0) + body[last + 8 : last + 12] + struct.pack(">i", -1) + body[last + 16 :]


def _records(batch: bytes) -> int:
    return int.from_bytes(batch[57:61], "big")


def _produced_again(bootstrap: str, batch: bytes) -> int:
    """The offset that a batch gets which was acknowledged once already: an idempotent producer's state outlives restarts."""
    data = PartitionProduceData(index=i32(0), records=batch)
    body = ProduceRequest(
        transactional_id=None, acks=i16(-1), timeout=i32Timedelta.parse(timedelta(seconds=30)),
        topic_data=(TopicProduceData(name=TopicName("hot"), partition_data=(data,)),),
    )  # fmt: skip
    answer = ask(bootstrap, (0, 9), ProduceRequest, body, ProduceResponse)
    told = answer.responses[0].partition_responses[0]
    assert told.error_code is ErrorCode.none
    return int(told.base_offset)


class Verbs:
    """`hotlog manifest` in this process, on the store below a folder."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def _told(self, verb: str, topic: str, folder: Path) -> list[dict[str, Any]]:
        self._capfd.readouterr()
        code = main(["manifest", verb, topic, "--store", f"file://{folder}/store", "--json"])
        out, err = self._capfd.readouterr()
        told: list[dict[str, Any]] = json.loads(out)
        assert (code == 0) == (not any(each.get("problems") for each in told)), err
        return told

    def problems(self, topic: str, folder: Path) -> list[Any]:
        """What `verify` finds."""
        return [problem for report in self._told("verify", topic, folder) for problem in report["problems"]]

    def garbage(self, topic: str, folder: Path) -> list[Any]:
        """What the manifests of a topic list as garbage."""
        return [item for each in self._told("show", topic, folder) for item in (*each["garbage"], *each["garbage_ranges"])]


@pytest.fixture
def verbs(capfd: pytest.CaptureFixture[str]) -> Verbs:
    return Verbs(capfd)


def _eventually(what: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < give_up, "it did not come to be"
        time.sleep(0.2)
