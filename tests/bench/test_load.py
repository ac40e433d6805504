"""The load generator: what it reads in answers, what it keeps of latencies, and what it does when a broker is not as it should be."""

from __future__ import annotations

import bisect
import ctypes
import random
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench.frames import FOLLOW_WAIT_MS, fetch_many, follow_at, heartbeat_frame, metadata_frame, produce_many, stamped_batch
from tests.bench.load import FLAGS, SOURCES, Load, LoadFailed, generator, run_load
from tests.bench.wire import Connection, check_produced, fetched, record_batch
from tests.tools.cache import ToolMissing
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S

COORDINATOR_NOT_AVAILABLE = 15  # there is no topic of offsets, and nothing makes one here
ENOUGH = 40  # answers: what ends a run here is never the clock


class Answer(ctypes.Structure):
    """As in answers.h."""

    _fields_ = (
        ("correlation", ctypes.c_int32),
        ("error", ctypes.c_int),
        ("partitions", ctypes.c_int),
        ("with_records", ctypes.c_int),
        ("batches", ctypes.c_int),
        ("next_offset", ctypes.c_int64),
        ("stamp", ctypes.c_int64),
    )


class Histogram(ctypes.Structure):
    """As in histogram.h."""

    _fields_ = (("counts", ctypes.c_uint64 * (58 << 7)), ("total", ctypes.c_uint64), ("greatest", ctypes.c_uint64))


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return generator()
    except ToolMissing as why:
        pytest.skip(str(why))


@pytest.fixture(scope="module")
def parts(program: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The parts of it that can be called from here; its sources must compile without a warning."""
    library = tmp_path_factory.mktemp("load") / "parts.so"
    sources = [str(each) for each in SOURCES if each.suffix == ".c"]
    subprocess.run(["cc", *FLAGS, "-Werror", "-fPIC", "-shared", "-o", str(library), *sources], check=True)
    found = ctypes.CDLL(str(library))
    found.histogram_at.restype = ctypes.c_uint64
    return found


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HotlogServer]:
    settings = {"hotlog.durability": "page-cache", "auto.create.topics.enable": "false", "group.initial.rebalance.delay.ms": "0"}
    server = HotlogServer(folder=tmp_path_factory.mktemp("broker"), settings=settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def make_topic(broker: HotlogServer, name: str, partitions: int = 4) -> None:
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    new = NewTopic(name, num_partitions=partitions, replication_factor=1, config={"retention.ms": "-1"})
    admin.create_topics([new])[name].result(60)


def ran(program: Path, port: int, frames: list[bytes], *, answers: int = ENOUGH, **more: int) -> dict[str, float]:
    """Until so many answers have come."""
    load = Load(frames=frames, answers=answers, **{"connections": 1, **more})
    return run_load(program, port, load, warm_s=0.0, seconds=PATIENCE_S, cpu=lambda: 0.0)


def test_every_record_that_it_counts_is_in_the_log(program: Path, broker: HotlogServer) -> None:
    make_topic(broker, "counted")
    batch = record_batch([b"x" * 100])
    frames = [produce_many([("counted", number, batch)]) for number in range(4)]
    found = ran(program, broker.port, frames, connections=6, in_flight=3, own=2, partitions=1)
    connection = Connection(broker.bootstrap)
    connection.send(fetch_many({"counted": dict.fromkeys(range(4), 0)}))
    _, following = fetched(connection.receive())
    connection.close()
    assert ENOUGH <= found["answers"] <= sum(following.values())
    assert min(following.values()) > 0, "connections 0, 1 and so on own the frames of all partitions"
    assert (found["errors"], found["wrong"]) == (0, 0)
    assert found["p50_ms"] <= found["p99_ms"] <= found["p999_ms"] <= found["max_ms"]
    assert found["sent_bytes"] >= found["answers"] * len(frames[0]) * 0.5


def test_a_refused_request_leaves_no_result(program: Path, broker: HotlogServer) -> None:
    for frame in (
        produce_many([("nowhere", 0, record_batch([b"x"]))]),
        heartbeat_frame("nobody", 3, "none"),
        metadata_frame("nowhere"),
    ):
        with pytest.raises(
            LoadFailed, match=r"answers with an error, the first (unknown_topic_or_partition|coordinator_not_available)"
        ):
            ran(program, broker.port, [frame], connections=2)


def test_other_records_than_expected_leave_no_result(program: Path, broker: HotlogServer) -> None:
    make_topic(broker, "expected")
    connection = Connection(broker.bootstrap)
    connection.send(produce_many([("expected", 0, record_batch([b"x"]))]))
    check_produced(connection.receive())
    connection.close()
    frame = fetch_many({"expected": {0: 0, 1: 0}}, bytes_min=0)
    assert ran(program, broker.port, [frame], partitions=2, records=1)["batches"] > 0
    for partitions, records in ((2, 2), (2, 0), (1, 1)):
        with pytest.raises(LoadFailed, match="other partitions, or came with other records"):
            ran(program, broker.port, [frame], partitions=partitions, records=records)


def test_no_more_is_sent_than_is_due(program: Path, broker: HotlogServer) -> None:
    make_topic(broker, "paced")
    frames = [produce_many([("paced", 0, record_batch([b"x"]))])]
    found = ran(program, broker.port, frames, answers=20, connections=2, partitions=1, rate=50)
    assert found["seconds"] >= (found["answers"] - 1) / 50


def test_it_follows_a_log_and_knows_when_a_record_was_sent(program: Path, broker: HotlogServer) -> None:
    make_topic(broker, "followed", 1)
    connection = Connection(broker.bootstrap)
    first = time.monotonic_ns()
    for _ in range(20):
        connection.send(produce_many([("followed", 0, stamped_batch())]))
        check_produced(connection.receive())
    connection.close()
    frame, place = follow_at("followed", 0, 5)
    frame = frame.replace(struct.pack(">i", FOLLOW_WAIT_MS), struct.pack(">i", 1))  # nothing more will come
    found = ran(program, broker.port, [frame], answers=5, partitions=1, follow=place)
    assert (found["with_records"], found["batches"]) == (1, 15), "it asked at 5 once, and at the end from then on"
    assert 0 < found["max_ms"] < (time.monotonic_ns() - first) / 1e6, "from the stamp on, by the clock that all processes share"


Behaviour = Callable[[bytes], bytes]


def false_broker(behaviour: Behaviour, *, piece: int = 1 << 20) -> tuple[int, threading.Thread]:
    """One connection to a broker that answers each frame by `behaviour`, `piece` bytes at a time, and closes where that is nothing."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with server, server.accept()[0] as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while frame := connection.recv(4096):
                if not (answer := behaviour(frame)):
                    return
                for at in range(0, len(answer), piece):
                    connection.sendall(answer[at : at + piece])

    thread = threading.Thread(target=serve)
    thread.start()
    return server.getsockname()[1], thread


def beaten(correlation: int, body: bytes = b"\0" * 8) -> bytes:
    """A Heartbeat answer without an error."""
    return struct.pack(">ii", 4 + len(body), correlation) + body


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        (lambda frame: beaten(struct.unpack_from(">i", frame, 8)[0] + 1), "correlation id 2, where 1 was the next"),
        (lambda frame: beaten(1, b"\0" * 7), "11 bytes that are no answer of api 12"),
        (lambda frame: beaten(1, b"\0" * 9), "13 bytes that are no answer of api 12"),
        (lambda frame: b"", "closed by the broker"),
        (lambda frame: beaten(1) * 2, "correlation id 1, where 2 was the next"),
        (lambda frame: struct.pack(">i", -5), "an answer of 4294967295 bytes"),
    ],
    ids=["another's", "cut", "longer", "closed", "twice", "size"],
)
def test_what_is_no_answer_ends_it(program: Path, behaviour: Behaviour, why: str) -> None:
    port, thread = false_broker(behaviour)
    with pytest.raises(LoadFailed, match=why):
        ran(program, port, [heartbeat_frame("group", 1, "member")])
    thread.join(60)


@pytest.mark.parametrize(
    "body", [b"\0" * 8, b"\0" * 7 + b"\1\0" + b"\xc0\xb8\2" + bytes(40_000)], ids=["small", "above its buffer"]
)
def test_answers_that_come_in_pieces_are_put_together(program: Path, body: bytes) -> None:
    port, thread = false_broker(lambda frame: beaten(struct.unpack_from(">i", frame, 8)[0], body), piece=len(body) // 4 + 1)
    frame = heartbeat_frame("group", 1, "member")
    assert ran(program, port, [frame], partitions=0)["answers"] == ENOUGH
    thread.join(60)


def test_the_time_that_counts_begins_once_every_frame_was_answered(program: Path) -> None:
    """The first answer takes longer than the time to warm up.  It does not count, nor does the one to what was in flight at the end."""
    served = 0

    def slow_at_first(frame: bytes) -> bytes:
        nonlocal served
        served += 1
        threading.Event().wait(0.2 if served == 1 else 0.0)
        return beaten(struct.unpack_from(">i", frame, 8)[0])

    port, thread = false_broker(slow_at_first)
    load = Load(frames=[heartbeat_frame("group", 1, "member")], connections=1, answers=ENOUGH)
    found = run_load(program, port, load, warm_s=0.01, seconds=PATIENCE_S, cpu=lambda: 0.0)
    thread.join(60)
    assert served - found["answers"] >= 2


def test_frames_whose_answers_it_cannot_read_are_refused(program: Path) -> None:
    frame = bytearray(heartbeat_frame("group", 1, "member"))
    frame[7] = 3
    with pytest.raises(LoadFailed, match="api 12 version 3 cannot be checked"):
        ran(program, 1, [bytes(frame)])
    with pytest.raises(LoadFailed, match="no whole frame at byte 0"):
        ran(program, 1, [bytes(frame[:-1])])


def test_percentiles_are_at_most_a_hundredth_above(parts: ctypes.CDLL) -> None:
    chance = random.Random(3)
    values = sorted(int(chance.lognormvariate(12, 3)) for _ in range(20_000))
    found = Histogram()
    for value in values:
        parts.histogram_add(ctypes.byref(found), ctypes.c_uint64(value))
    for share in (0.001, 0.25, 0.5, 0.99, 0.999, 1.0):
        said = parts.histogram_at(ctypes.byref(found), ctypes.c_double(share))
        true = values[max(int(share * len(values) + 0.5), 1) - 1]
        assert true <= said <= true * 1.01, share
        assert bisect.bisect_right(values, said) >= int(share * len(values))
    assert parts.histogram_at(ctypes.byref(found), ctypes.c_double(1.0)) == values[-1]
    assert parts.histogram_at(ctypes.byref(Histogram()), ctypes.c_double(0.5)) == 0


def test_an_answer_is_believed_whole_or_not_at_all(parts: ctypes.CDLL, broker: HotlogServer) -> None:
    """Answers of a broker, cut at every byte and longer by one."""
    make_topic(broker, "whole", 3)
    batch = record_batch([b"x", b"y"])
    connection = Connection(broker.bootstrap)

    def read(api: int, raw: bytes) -> Answer | None:
        answer = Answer()
        return answer if parts.answer_read(api, raw, ctypes.c_size_t(len(raw)), ctypes.byref(answer)) else None

    asked = (
        (0, produce_many([("whole", 0, batch), ("whole", 1, batch)]), 2, 0, 0, -1),
        (1, fetch_many({"whole": {0: 0, 1: 0, 2: 0}}), 3, 2, 2, 2),
        (3, metadata_frame("whole"), 3, 0, 0, -1),
        (12, heartbeat_frame("nobody", 1, "none"), 0, 0, 0, -1),
    )
    for api, frame, partitions, with_records, batches, next_offset in asked:
        connection.send(frame)
        raw = bytes(connection.receive())
        found = read(api, raw)
        assert found is not None
        said = (found.correlation, found.partitions, found.with_records, found.batches, found.next_offset)
        assert said == (1, partitions, with_records, batches, next_offset)
        assert found.error == (COORDINATOR_NOT_AVAILABLE if api == 12 else 0)
        assert [cut for cut in range(len(raw)) if read(api, raw[:cut]) is not None] == []
        assert read(api, raw + b"\0") is None
    connection.close()


def test_without_a_compiler_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolMissing, match="cc is not on PATH: the load generator is in C"):
        generator()
