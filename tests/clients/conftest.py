"""A real broker in a process of its own for the client tests, and the clients themselves.

The broker is `hotlog serve`. With HOTLOG_CLIENTS_AGAINST=kafka it is Apache Kafka instead: that proves the tests, not
the broker, since what they ask of Hotlog must then hold of Kafka itself.

Invariants:
- One broker a test process serves all its tests; topics and groups have names of their own.
- A client whose toolchain cannot be had is skipped with the reason, which the last lines of the run repeat (tests/conftest.py); where
  CI is set it is an error, because CI installs everything.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from tests.clients.python_clients import PYTHON_CLIENTS
from tests.tools.cache import BUILD_SECONDS_MAX, FETCHES_MAX, ToolMissing
from tests.tools.clients import FOREIGN_CLIENTS, Client, Kcat, kcat
from tests.tools.hotlog_server import HotlogServer
from tests.tools.kafka_jars import KafkaJars, kafka_jars
from tests.tools.kafka_server import KafkaServer

CLIENT_NAMES = (*PYTHON_CLIENTS, *FOREIGN_CLIENTS)
BROKER_SETTINGS = {"group.initial.rebalance.delay.ms": "0", "log.segment.bytes": "1048576"}
KAFKA_SETTINGS = {  # what Hotlog does at once
    "log.initial.task.delay.ms": "100", "transaction.abort.timed.out.transaction.cleanup.interval.ms": "100",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first run fetches and builds the clients inside a test, while others wait for it: the time limit must not meet a compiler."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(len(FOREIGN_CLIENTS) * FETCHES_MAX * BUILD_SECONDS_MAX))


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HotlogServer | KafkaServer]:
    """The running broker; `.bootstrap` is its address and `.folder` holds its data."""
    server = started_broker(tmp_path_factory.mktemp("broker"), BROKER_SETTINGS)
    yield server
    server.stop()


def started_broker(folder: Path, settings: Mapping[str, str]) -> HotlogServer | KafkaServer:
    """A running broker of the kind that is tested."""
    if os.environ.get("HOTLOG_CLIENTS_AGAINST") != "kafka":
        hotlog = HotlogServer(folder=folder, settings=settings)
        hotlog.start()
        return hotlog
    kafka = KafkaServer(jars=kafka_jars(), folder=folder, properties={**KAFKA_SETTINGS, **settings})
    kafka.format()
    kafka.start()
    kafka.wait_ready()
    return kafka


@pytest.fixture
def bootstrap(broker: HotlogServer | KafkaServer) -> str:
    return broker.bootstrap


@pytest.fixture
def topic() -> str:
    """A topic name nobody used before; not yet created."""
    return f"topic-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def reference() -> Client:
    """The client whose word the others are compared with: librdkafka."""
    return PYTHON_CLIENTS["confluent-kafka"]


@pytest.fixture(params=CLIENT_NAMES)
def client(request: pytest.FixtureRequest) -> Client:
    """Each of the clients in turn."""
    return get_client(request.param)


def get_client(name: str) -> Client:
    """The client by name; skips (or fails, in CI) with the reason when its toolchain is missing."""
    if name in PYTHON_CLIENTS:
        return PYTHON_CLIENTS[name]
    try:
        return FOREIGN_CLIENTS[name]()
    except ToolMissing as why:
        not_here(name, why)


@pytest.fixture
def kcat_client() -> Kcat:
    try:
        return kcat()
    except ToolMissing as why:
        not_here("kcat", why)


@pytest.fixture
def jars() -> KafkaJars:
    """Apache Kafka's jars, for its command line tools."""
    try:
        return kafka_jars()
    except ToolMissing as why:
        not_here("Apache Kafka's tools", why)


def not_here(name: str, why: ToolMissing) -> NoReturn:
    """A tool that cannot be had: an error in CI, a skip that is told at the end elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have {name}: {why}")
    pytest.skip(f"{name}, toolchain missing: {why}")


def data_folder(broker: HotlogServer | KafkaServer) -> Path:
    """Where the broker keeps its partition directories `<topic>-<partition>`, at whatever depth."""
    return broker.folder / "data"
