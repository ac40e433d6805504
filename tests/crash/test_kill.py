"""kill -9 of a real broker under load (docs/faults.md, rows 1, 2, 4, 8): nothing acknowledged is lost, nothing idempotent is doubled.

HOTLOG_KILL_LOOPS (default 10; CI runs 100) is how often it dies.  The broker is `hotlog serve`, begun warm; the client librdkafka with acks=all and
idempotence, which goes on retrying over the restarts.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S
from tests.tools.warm_start import WarmServer

LOOPS = int(os.environ.get("HOTLOG_KILL_LOOPS", "10"))
PARTITIONS = 3
SETTINGS = {
    "log.segment.bytes": "65536",
    "remote.log.manager.task.interval.ms": "100",
    "log.retention.check.interval.ms": "200",
    "log.segment.delete.delay.ms": "100",
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HotlogServer]:
    server = WarmServer(folder=tmp_path / "broker", settings=SETTINGS)
    try:
        server.start()
        yield server
    finally:
        server.close()


class Load(threading.Thread):
    """Produces numbered records until told to stop; remembers what was acknowledged, and where."""

    def __init__(self, bootstrap: str, topic: str, *, pause_s: float = 0.002) -> None:
        super().__init__(daemon=True)
        self._pause_s = pause_s  # after every hundred records
        self.acked: dict[bytes, tuple[int, int]] = {}
        self.failed: list[str] = []
        self.progress = threading.Condition()
        self._halt = threading.Event()
        self._topic = topic
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 2, "batch.num.messages": 50,
                "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100, "retry.backoff.ms": 20, "log_level": 0,
                # The kills and the machine bound the rate, not the client: it gives up on nothing.
                "queue.buffering.max.messages": 2_000, "message.timeout.ms": 0,
            }
        )  # fmt: skip

    def _done(self, error: Any, message: Any) -> None:
        if error is not None:
            self.failed.append(str(error))
            return
        with self.progress:
            self.acked[message.value()] = (message.partition(), message.offset())
            self.progress.notify_all()

    def run(self) -> None:
        number = 0
        while not self._halt.is_set():
            value = b"%012d" % number + b"x" * 300
            try:
                self._producer.produce(self._topic, value, partition=number % PARTITIONS, on_delivery=self._done)
                number += 1
            except BufferError:
                self._producer.poll(0.05)
            self._producer.poll(0)
            if number % 100 == 0:
                self._producer.poll(self._pause_s)
        assert self._producer.flush(PATIENCE_S) == 0

    def wait_for_more(self, count: int) -> None:
        """Until `count` more records are acknowledged than now."""
        with self.progress:
            wanted = len(self.acked) + count
            assert self.progress.wait_for(lambda: len(self.acked) >= wanted, timeout=PATIENCE_S), "no progress"

    def stop(self) -> None:
        self._halt.set()
        self.join(2 * PATIENCE_S)
        assert not self.is_alive()


def create(server: HotlogServer, topic: str, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    new = NewTopic(topic, num_partitions=PARTITIONS, replication_factor=1, config=config)
    admin.create_topics([new], request_timeout=PATIENCE_S)[topic].result(PATIENCE_S)


def read_all(server: HotlogServer, topic: str) -> list[tuple[int, int, bytes]]:
    """(partition, offset, value) of everything there is."""
    consumer = Consumer({"bootstrap.servers": server.bootstrap, "group.id": "check", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, index, OFFSET_BEGINNING) for index in range(PARTITIONS)])
    ended: set[int] = set()
    found = []
    give_up = time.monotonic() + PATIENCE_S
    while len(ended) < PARTITIONS:
        assert time.monotonic() < give_up, f"only {sorted(ended)} came to an end"
        for message in consumer.consume(5000, 0.5):
            if message.error() is None:
                found.append((message.partition(), message.offset(), message.value()))
            else:
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                ended.add(message.partition())
    consumer.close()
    return found


def check(found: list[tuple[int, int, bytes]], load: Load) -> None:
    """Acked is there, where it was said to be; nothing twice; order per partition; offsets strictly rising."""
    assert load.failed == []
    by_value = {value: (partition, offset) for partition, offset, value in found}
    assert len(by_value) == len(found), "a record is there twice"
    lost = {value: place for value, place in load.acked.items() if by_value.get(value) != place}
    assert lost == {}
    for index in range(PARTITIONS):
        mine = [(offset, value) for partition, offset, value in found if partition == index]
        assert [offset for offset, _ in mine] == sorted({offset for offset, _ in mine})
        assert [value for _, value in mine] == sorted(value for _, value in mine)


@pytest.mark.timeout(4 * PATIENCE_S + 60 * LOOPS)
def test_kill_under_load_loses_and_doubles_nothing(server: HotlogServer) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    create(server, "load")
    load = Load(server.bootstrap, "load")
    load.start()
    for _ in range(LOOPS):
        load.wait_for_more(chance.randrange(1, 3000))
        server.kill()
        server.start()
    load.stop()
    assert load.acked, f"seed {seed}"
    check(read_all(server, "load"), load)


@pytest.mark.timeout(4 * PATIENCE_S + 60 * LOOPS)
def test_kill_while_segments_move_and_local_copies_go(server: HotlogServer) -> None:
    create(server, "moving", **{"local.retention.ms": "1", "retention.ms": "-1"})
    load = Load(server.bootstrap, "moving")
    load.start()
    for _ in range(min(max(3, LOOPS // 2), 10)):
        before = objects(server)
        load.wait_for_more(4000)
        wait_for_more_objects(server, before)  # or the test would not test what it says
        server.kill()
        server.start()
    load.stop()
    check(read_all(server, "moving"), load)


def objects(server: HotlogServer) -> set[Path]:
    """The segments in the store.  Not by rglob: that fails where the broker removes a folder of an upload meanwhile."""
    walked = os.walk(server.data / "store")
    return {Path(folder) / name for folder, _, names in walked for name in names if name.endswith(".seg")}


def wait_for_more_objects(server: HotlogServer, before: set[Path]) -> None:
    """Until a segment came that is not in `before`."""
    give_up = time.monotonic() + PATIENCE_S
    while not objects(server) - before:
        assert time.monotonic() < give_up, "nothing is tiered"
        time.sleep(0.02)


def test_a_stopped_broker_starts_from_where_it_was(server: HotlogServer) -> None:
    create(server, "clean")
    load = Load(server.bootstrap, "clean")
    load.start()
    load.wait_for_more(1000)
    load.stop()
    server.stop()
    server.start()
    check(read_all(server, "clean"), load)
