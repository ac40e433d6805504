"""What a client reads from the cold tier is what it read from the hot one: bytes, keys, headers, timestamps, offsets, times."""

from __future__ import annotations

import random
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.e2e.conftest import FLEETING, create, eventually, produce, read, wait_all_cold
from tests.tools.hotlog_server import HotlogServer

PARTITIONS = 2
BASE_MS = 1_700_000_000_000


def records(seed: int, count: int) -> list[dict[str, Any]]:
    """Records of every shape: no key, no value, headers, out-of-order timestamps, incompressible values."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        record: dict[str, Any] = {
            "value": None if chance.random() < 0.05 else chance.randbytes(chance.randrange(0, 400)),
            "partition": number % PARTITIONS,
            "timestamp": BASE_MS + number * 1000 + chance.randrange(-5000, 5000),
        }
        if chance.random() < 0.7:
            record["key"] = f"key-{chance.randrange(50)}".encode()
        if chance.random() < 0.3:
            record["headers"] = [("h", b"1"), ("h", b"2"), ("none", None)]
        made.append(record)
    return made


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_cold_reads_equal_hot_reads(server: HotlogServer, codec: str) -> None:
    create(server, "mixed", PARTITIONS, **{"retention.ms": "-1", "segment.bytes": "20000"})
    produce(server, "mixed", records(1, 1500), **{"compression.type": codec, "batch.num.messages": 40})
    hot, hot_times = read(server, "mixed", PARTITIONS), lookups(server)
    assert len(hot) == 1500
    server.stop()
    server.start()
    alter(server, "mixed", {"segment.ms": "300", "local.retention.ms": "1"})
    wait_all_cold(server, "mixed", PARTITIONS)
    assert read(server, "mixed", PARTITIONS) == hot
    assert lookups(server) == hot_times


def lookups(server: HotlogServer) -> list[list[int]]:
    """Offsets for times before, between, at, and after the records."""
    consumer = Consumer({"bootstrap.servers": server.bootstrap, "group.id": "times"})
    found = []
    for timestamp in [0, BASE_MS - 10_000, *(BASE_MS + step * 37_001 for step in range(40)), BASE_MS + 10**10]:
        places = [TopicPartition("mixed", index, timestamp) for index in range(PARTITIONS)]
        found.append([place.offset for place in consumer.offsets_for_times(places, timeout=60)])
    consumer.close()
    assert len({tuple(pair) for pair in found}) > 20, "the lookups do not tell places apart"
    return found


def alter(server: HotlogServer, topic: str, config: dict[str, str]) -> None:
    from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": server.bootstrap})  # must outlive its future
    admin.incremental_alter_configs([resource])[resource].result(30)


def test_history_goes_on_growing_while_it_is_read(server: HotlogServer) -> None:
    """Offsets run on over rolls, moves, local drops and a restart; both tiers together are one log."""
    create(server, "grow", **FLEETING)
    for part in range(4):
        produce(server, "grow", [{"value": b"%d-%d" % (part, i)} for i in range(500)], **{"batch.num.messages": 50})
        if part == 1:
            wait_all_cold(server, "grow")
            server.kill()
            server.start()
    rows = read(server, "grow")
    assert [row[1] for row in rows] == list(range(2000))
    assert [row[4] for row in rows] == [b"%d-%d" % (part, i) for part in range(4) for i in range(500)]


def test_a_second_start_reads_cold_chunks_from_its_disk_cache(server: HotlogServer) -> None:
    create(server, "cached", **FLEETING)
    produce(server, "cached", [{"value": b"x" * 500} for _ in range(2000)])
    wait_all_cold(server, "cached")
    first = read(server, "cached")
    server.stop()
    server.start()
    assert read(server, "cached") == first
    hits = metric(server, 'hotlog_cache_hits_total{layer="disk"}')
    assert hits > 0, "the cache did not survive the restart"


def metric(server: HotlogServer, line: str) -> float:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = [float(row.rsplit(" ", 1)[1]) for row in text.splitlines() if row.startswith(line)]
    return sum(found)


def test_delete_records_moves_the_start_over_both_tiers(server: HotlogServer) -> None:
    from confluent_kafka.admin import AdminClient

    create(server, "cut", **FLEETING)
    produce(server, "cut", [{"value": b"%d" % i} for i in range(300)], **{"batch.num.messages": 10})
    wait_all_cold(server, "cut")
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    place = TopicPartition("cut", 0, 123)
    assert admin.delete_records([place])[place].result(30).low_watermark == 123
    assert [row[1] for row in read(server, "cut")] == list(range(123, 300))
    server.kill()
    server.start()
    assert [row[1] for row in read(server, "cut")] == list(range(123, 300))


def test_total_retention_deletes_from_the_store(server: HotlogServer) -> None:
    create(server, "short", **{"segment.ms": "300", "retention.ms": "2000", "local.retention.ms": "1"})
    produce(server, "short", [{"value": b"old"} for _ in range(100)])
    eventually(lambda: not read(server, "short"))
    produce(server, "short", [{"value": b"new"}])
    assert [(row[1], row[4]) for row in read(server, "short")][-1] == (100, b"new")
