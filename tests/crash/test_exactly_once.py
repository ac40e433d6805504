"""A consume-transform-produce loop under kill -9 of the broker and of the loop itself: every input is reflected exactly once.

HOTLOG_EXACTLY_ONCE_KILLS (default 6; 50 is the whole proof) is how often somebody dies.  Half of the input lies in the cold tier when it is read.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from hotlog.cli.raw import EARLIEST_LOCAL, tier_borders
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S
from tests.tools.plain import plain_environment
from tests.tools.warm_start import WarmServer

KILLS = int(os.environ.get("HOTLOG_EXACTLY_ONCE_KILLS", "6"))
PARTITIONS, INPUTS = 2, 3000
SETTINGS = {
    "log.segment.bytes": "32768",
    "remote.log.manager.task.interval.ms": "100",
    "log.retention.check.interval.ms": "100",
    "log.segment.delete.delay.ms": "100",
    "transaction.state.log.num.partitions": "2",
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HotlogServer]:
    server = WarmServer(folder=tmp_path / "broker", settings=SETTINGS)
    try:
        server.start()
        yield server
    finally:
        server.close()


class Loop:
    """The process that transforms; started again when it ends."""

    def __init__(self, server: HotlogServer, source: str, sink: str) -> None:
        name = uuid.uuid4().hex[:8]
        arguments = [server.bootstrap, source, sink, f"group-{name}", f"txn-{name}", str(PARTITIONS)]
        self._command = [sys.executable, "-m", "tests.crash.transformer", *arguments]
        self._errors = server.folder / "transformer.err"
        self.process: subprocess.Popen[bytes] | None = None

    def ensure(self) -> None:
        if self.process is None or self.process.poll() is not None:
            with self._errors.open("ab") as errors:
                self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=errors, env=plain_environment())

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_S)


class Sink:
    """What a reader of committed records has seen so far."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.seen: Counter[bytes] = Counter()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "isolation.level": "read_committed",
                "enable.auto.commit": False, "reconnect.backoff.max.ms": 100, "fetch.wait.max.ms": 50, "log_level": 0,
            }
        )  # fmt: skip
        self._consumer.assign([TopicPartition(topic, index, OFFSET_BEGINNING) for index in range(PARTITIONS)])

    def read(self, seconds: float) -> None:
        """What comes within a moment."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for message in self._consumer.consume(500, 0.05):
                error = message.error()
                if error is None:
                    self.seen[message.value()] += 1
                else:
                    assert error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN) or error.retriable(), error

    def close(self) -> None:
        self._consumer.close()


def fill(bootstrap: str, topic: str, numbers: range) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5, "batch.num.messages": 50})
    for number in numbers:
        producer.produce(topic, b"%06d" % number + b"." * 100, partition=number % PARTITIONS)
    assert producer.flush(PATIENCE_S) == 0


def wait_cold(bootstrap: str, topic: str, offset: int) -> None:
    """Until what is below `offset` is only in the store."""
    give_up = time.monotonic() + PATIENCE_S
    while min(tier_borders(bootstrap, topic, list(range(PARTITIONS)), EARLIEST_LOCAL).values()) < offset:
        assert time.monotonic() < give_up, "it does not move to the store"
        time.sleep(0.05)


def test_every_input_is_reflected_exactly_once(server: HotlogServer) -> None:
    chance = random.Random(7)
    source, sink = f"in-{uuid.uuid4().hex[:8]}", f"out-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    cold = {"segment.bytes": "16384", "local.retention.bytes": "16384", "retention.ms": "-1", "segment.ms": "500"}
    for future in admin.create_topics([NewTopic(source, PARTITIONS, config=cold), NewTopic(sink, PARTITIONS)]).values():
        future.result(PATIENCE_S)
    fill(server.bootstrap, source, range(INPUTS // 2))
    wait_cold(server.bootstrap, source, INPUTS // 2 // PARTITIONS * 3 // 4)
    fill(server.bootstrap, source, range(INPUTS // 2, INPUTS))
    loop, reader = Loop(server, source, sink), Sink(server.bootstrap, sink)
    try:
        for kill in range(KILLS):
            loop.ensure()
            goal = min(INPUTS, INPUTS * (kill + 1) // (KILLS + 1))
            _until(loop, reader, goal, slack_s=chance.uniform(0, 0.3))
            if kill % 2 == 0:
                server.kill()
                server.start()
            else:
                loop.kill()
        _until(loop, reader, INPUTS, slack_s=0.5)
    finally:
        loop.kill()
        reader.close()
    doubled = [value for value, count in reader.seen.items() if count > 1]
    assert not doubled
    assert {int(value[:6]) for value in reader.seen} == set(range(INPUTS))


def _until(loop: Loop, reader: Sink, count: int, *, slack_s: float) -> None:
    """Until so many are reflected, and a moment longer: a death should come anywhere."""
    give_up = time.monotonic() + PATIENCE_S
    while len(reader.seen) < count:
        assert time.monotonic() < give_up, f"{len(reader.seen)} of {count} inputs are reflected"
        loop.ensure()
        reader.read(0.05)
    reader.read(slack_s)
