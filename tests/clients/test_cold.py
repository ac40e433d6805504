"""Every client reads a topic whose local segments are gone, and sees what it saw while they were there.

Invariants:
- The clock of the comparison is the log's own: the earliest local offset is beyond what is compared before it begins.
- The same calls are made hot and cold; whole records are compared, offsets and timestamps included.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.bench.wire import Connection, list_offset
from tests.clients.conftest import CLIENT_NAMES, get_client
from tests.clients.python_clients import KEEP, PYTHON_CLIENTS
from tests.tools.clients import Client, Record
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S

TOPIC = "history"
PARTITIONS = 2
MESSAGES = 1_200
BASE_MS = 1_357_000_000_000
LATEST, EARLIEST_LOCAL = -1, -4
SETTINGS = {
    "group.initial.rebalance.delay.ms": "0",
    "remote.log.manager.task.interval.ms": "200",
    "log.retention.check.interval.ms": "200",
}
TIERED = {"remote.storage.enable": "true", "segment.bytes": "65536", **KEEP}


def in_order(records: list[Record]) -> list[Record]:
    return sorted(records, key=lambda each: (each.partition, each.offset))


def wait_local_gone(bootstrap: str) -> dict[int, int]:
    """Wait until most of each partition is only in the store; where its local log begins then."""
    connection, give_up = Connection(bootstrap), time.monotonic() + PATIENCE_S
    try:
        while True:
            local = {number: list_offset(connection, TOPIC, number, EARLIEST_LOCAL) for number in range(PARTITIONS)}
            ends = {number: list_offset(connection, TOPIC, number, LATEST) for number in range(PARTITIONS)}
            if all(local[number] > ends[number] * 3 // 4 for number in local):
                return local
            assert time.monotonic() < give_up, f"still local after {PATIENCE_S} s: from {local} to {ends}"
            time.sleep(0.1)
    finally:
        connection.close()


@pytest.fixture(scope="module")
def tiered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[Record]]]:
    """A broker whose topic lies in a directory store, and the records as they were read while it was hot."""
    server = HotlogServer(folder=tmp_path_factory.mktemp("tiered"), settings=SETTINGS)
    server.start()
    try:
        client = PYTHON_CLIENTS["confluent-kafka"]
        client.create_topic(server.bootstrap, TOPIC, partitions=PARTITIONS, configs=TIERED)
        for start in range(0, MESSAGES, 100):
            records = [
                Record(
                    partition=number % PARTITIONS,
                    key=b"k%d" % number,
                    value=None if number % 50 == 0 else b"v%d-" % number + b"x" * 700,
                    headers=(("number", b"%d" % number),),
                    timestamp=BASE_MS + 1_000 * number,
                )
                for number in range(start, start + 100)
            ]
            client.produce(server.bootstrap, TOPIC, records)
        hot = in_order(client.consume(server.bootstrap, TOPIC, count=MESSAGES))
        drop_local(server.bootstrap)
        wait_local_gone(server.bootstrap)
        yield server.bootstrap, hot
    finally:
        server.stop()


def drop_local(bootstrap: str) -> None:
    """Ask for no local copies beyond the open segment, as an operator would."""
    from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

    entry = ConfigEntry("local.retention.bytes", "1", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, TOPIC, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(PATIENCE_S)


@pytest.mark.parametrize("name", CLIENT_NAMES)
def test_a_client_reads_from_the_cold_tier_what_was_hot(name: str, tiered: tuple[str, list[Record]]) -> None:
    bootstrap, hot = tiered
    client: Client = get_client(name)
    assert in_order(client.consume(bootstrap, TOPIC, count=MESSAGES)) == hot


@pytest.mark.parametrize("name", CLIENT_NAMES)
def test_a_client_seeks_by_timestamp_into_the_cold_tier(name: str, tiered: tuple[str, list[Record]]) -> None:
    bootstrap, hot = tiered
    start_ms = BASE_MS + 300_500
    wanted = [each for each in hot if each.timestamp >= start_ms]
    assert in_order(get_client(name).consume(bootstrap, TOPIC, count=len(wanted), from_ms=start_ms)) == wanted
