"""A broker on MinIO with a hurry: segments roll by time, move and leave the local disk within seconds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from hotlog.cli.raw import EARLIEST_LOCAL, LATEST, LATEST_TIERED, tier_borders
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S
from tests.tools.plain import plain_environment

HURRY = {
    "remote.log.manager.task.interval.ms": "200",
    "log.retention.check.interval.ms": "200",
    "log.segment.delete.delay.ms": "100",
    "group.initial.rebalance.delay.ms": "0",
}
# Everything rolls 300 ms after it was written, and leaves the local disk once it is in the store.
FLEETING = {"segment.ms": "300", "local.retention.ms": "1", "retention.ms": "-1"}
Row = tuple[int, int, int, bytes | None, bytes | None, Any]


@pytest.fixture
def server(tmp_path: Path, minio_url: str) -> Iterator[HotlogServer]:
    with running(HotlogServer(folder=tmp_path / "broker", settings=HURRY, store=minio_url)) as server:
        yield server


@contextmanager
def running(server: HotlogServer) -> Iterator[HotlogServer]:
    """The server, started; stopped afterwards whatever happens."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


def create(server: HotlogServer, topic: str, partitions: int = 1, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    config = {name.replace("_", "."): value for name, value in config.items()}
    wanted = NewTopic(topic, num_partitions=partitions, replication_factor=1, config=config)
    admin.create_topics([wanted], request_timeout=PATIENCE_S)[topic].result(PATIENCE_S)


def produce(server: HotlogServer, topic: str, records: list[dict[str, Any]], **client: Any) -> None:
    """Send and have all of it acknowledged, each record once however often it had to be sent."""
    failures: list[str] = []
    producer = Producer({"bootstrap.servers": server.bootstrap, "linger.ms": 5, "enable.idempotence": True, **client})
    for record in records:
        producer.produce(topic, on_delivery=lambda error, _: failures.append(str(error)) if error else None, **record)
        producer.poll(0)
    assert producer.flush(PATIENCE_S) == 0
    assert failures == []


def read(server: HotlogServer, topic: str, partitions: int = 1, **client: Any) -> list[Row]:
    """(partition, offset, timestamp, key, value, headers) of everything, by partition and offset."""
    consumer = Consumer(
        {
            "bootstrap.servers": server.bootstrap,
            "group.id": "e2e",
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            **client,
        }
    )
    consumer.assign([TopicPartition(topic, index, OFFSET_BEGINNING) for index in range(partitions)])
    rows: list[Row] = []
    ended: set[int] = set()
    give_up = time.monotonic() + PATIENCE_S
    while len(ended) < partitions:
        assert time.monotonic() < give_up, f"partitions {sorted(ended)} of {partitions} ended, {len(rows)} records"
        for m in consumer.consume(1000, 0.5):
            if m.error() is None:
                rows.append((m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers()))
            else:
                assert m.error().code() == KafkaError._PARTITION_EOF, m.error()
                ended.add(m.partition())
    consumer.close()
    return sorted(rows, key=lambda row: row[:2])


def eventually(what: Callable[[], Any], *, seconds_max: float = PATIENCE_S) -> Any:
    """The first true value of `what`; polls what cannot be awaited from outside the process."""
    give_up = time.monotonic() + seconds_max
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < give_up, "it did not come to be"
        time.sleep(0.05)


def wait_all_cold(server: HotlogServer, topic: str, partitions: int = 1) -> None:
    """Until every record of the topic is in the store and none on the local disk."""

    def is_cold() -> bool:
        indexes = list(range(partitions))
        ends = tier_borders(server.bootstrap, topic, indexes, LATEST)
        local = tier_borders(server.bootstrap, topic, indexes, EARLIEST_LOCAL)
        tiered = tier_borders(server.bootstrap, topic, indexes, LATEST_TIERED)
        return all(local[i] == ends[i] and tiered[i] + 1 == ends[i] for i in indexes)

    eventually(is_cold)


def metric(server: HotlogServer, line: str) -> float:
    """The sum of all samples that begin with `line`, scraped now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    return sum(float(row.rsplit(" ", 1)[1]) for row in text.splitlines() if row.startswith(line))


def alter(server: HotlogServer, topic: str, config: dict[str, str]) -> None:
    """Change configuration of a topic."""
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": server.bootstrap})  # must outlive its future
    admin.incremental_alter_configs([resource], request_timeout=PATIENCE_S)[resource].result(PATIENCE_S)


def hotlog(*arguments: str, code: int = 0, timeout: float = PATIENCE_S, **options: Any) -> str:
    """Run a verb in a process of its own; its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "hotlog", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **{"env": plain_environment(), **options},
    )
    assert done.returncode == code, f"exit code {done.returncode}: {done.stdout[-1500:]} {done.stderr[-3000:]}"
    return done.stdout if code == 0 else done.stdout + done.stderr


def hotlog_json(*arguments: str, **options: Any) -> Any:
    return json.loads(hotlog(*arguments, "--json", **options))
