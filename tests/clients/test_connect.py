"""Kafka Connect in distributed mode with an exactly-once source (KIP-618): a file's lines, each once, though the worker dies at work.

Its configurations, offsets and states lie in three compacted topics; the second worker has nothing else to go on from.  It begins once the
transaction of the first one is over: Connect reads its offsets up to what is written, not up to what is stable.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from tests.clients.conftest import not_here
from tests.clients.python_clients import PYTHON_CLIENTS
from tests.tools.applications import Application, connect_worker
from tests.tools.cache import ToolMissing
from tests.tools.patience import PATIENCE_S
from tests.tools.ports import free_ports

TRANSACTIONS = 20
STORAGES = ("config", "offset", "status")


class Worker:
    """One worker and its REST interface."""

    def __init__(self, folder: Path, bootstrap: str, cluster: str) -> None:
        (port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{port}"
        self.topics = {f"{name}.storage.topic": f"{cluster}-{name}" for name in STORAGES}
        properties = {
            "bootstrap.servers": bootstrap, "group.id": cluster, "listeners": self.address, "exactly.once.source.support": "enabled",
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "value.converter": "org.apache.kafka.connect.storage.StringConverter",
            **self.topics, **{f"{name}.storage.replication.factor": "1" for name in STORAGES},
            "offset.storage.partitions": "3", "status.storage.partitions": "2", "plugin.discovery": "service_load",
            "session.timeout.ms": "6000", "heartbeat.interval.ms": "1000", "scheduled.rebalance.max.delay.ms": "0",
            "producer.transaction.timeout.ms": "5000",
        }  # fmt: skip
        self.application: Application = connect_worker(folder, properties)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request; a worker that is not there yet, or not ready, is asked again."""
        data, give_up = None if body is None else json.dumps(body).encode(), time.monotonic() + PATIENCE_S
        while True:
            request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                    return json.load(answer)
            except (urllib.error.URLError, ConnectionError) as not_yet:
                said = not_yet.read().decode() if isinstance(not_yet, urllib.error.HTTPError) else str(not_yet)
                assert time.monotonic() < give_up and self.application.is_alive(), f"{said}; {self.application.said()}"
                time.sleep(0.1)


class Lines:
    """Reads what the connector wrote."""

    def __init__(self, bootstrap: str, topic: str, isolation: str) -> None:
        self.consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "isolation.level": isolation})
        self.consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])

    def read(self, wait_s: float) -> list[str]:
        return [message.value().decode() for message in self.consumer.consume(100, wait_s) if message.error() is None]

    def read_all(self, count: int, worker: Worker) -> list[str]:
        found, give_up = list[str](), time.monotonic() + PATIENCE_S
        while len(found) < count:
            assert time.monotonic() < give_up and worker.application.is_alive(), f"{len(found)}; {worker.application.said()}"
            found += self.read(0.1)
        return found


class Growing:
    """A file to which lines are added."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines = path, list[str]()
        path.touch()

    def grow(self, count: int) -> None:
        added = [f"line {len(self.lines) + number}" for number in range(count)]
        with self.path.open("a") as file:
            file.writelines(f"{line}\n" for line in added)
        self.lines += added


@pytest.fixture
def worker(tmp_path: Path, bootstrap: str, topic: str) -> Iterator[Worker]:
    try:
        worker = Worker(tmp_path / "connect", bootstrap, f"connect-{topic}")
    except ToolMissing as missing:
        not_here("Kafka Connect", missing)
    worker.application.start()
    yield worker
    worker.application.kill()


def test_each_line_arrives_once_though_the_worker_is_killed(worker: Worker, bootstrap: str, topic: str, tmp_path: Path) -> None:
    PYTHON_CLIENTS["confluent-kafka"].create_topic(bootstrap, topic, partitions=1, configs={})
    file = Growing(tmp_path / "lines.txt")
    config = {
        "connector.class": "org.apache.kafka.connect.file.FileStreamSourceConnector", "file": str(file.path), "topic": topic,
        "tasks.max": "1", "exactly.once.support": "required", "transaction.boundary": "poll",
    }  # fmt: skip
    worker.ask("PUT", "/connectors/lines/config", config)
    reader, arrivals, give_up = Lines(bootstrap, topic, "read_uncommitted"), 0, time.monotonic() + PATIENCE_S
    while arrivals < TRANSACTIONS:  # it is at work when it dies
        assert time.monotonic() < give_up, worker.application.said()
        file.grow(2)
        arrivals += bool(reader.read(0.005))
    worker.application.kill()
    file.grow(100)
    worker.application.start()
    assert worker.ask("GET", "/connectors/lines")["config"] == {"name": "lines", **config}
    assert Lines(bootstrap, topic, "read_committed").read_all(len(file.lines), worker) == file.lines
    state = worker.ask("GET", "/connectors/lines/status")
    assert [state["connector"]["state"], *(task["state"] for task in state["tasks"])] == ["RUNNING", "RUNNING"]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in worker.topics.values()]
    found = [future.result(PATIENCE_S) for future in admin.describe_configs(resources).values()]
    assert [entries["cleanup.policy"].value for entries in found] == ["compact"] * 3
