"""What a client reads from the cold tier is what it read from the hot one: bytes, keys, headers, timestamps, offsets, times."""

from __future__ import annotations

import random
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from hotlog.cli.raw import LATEST_TIERED, tier_borders
from tests.e2e.conftest import FLEETING, alter, create, eventually, metric, produce, read, wait_all_cold
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S

PARTITIONS = 2
EARLIEST = -2  # ListOffsets
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
        found.append([place.offset for place in consumer.offsets_for_times(places, timeout=PATIENCE_S)])
    consumer.close()
    assert len({tuple(pair) for pair in found}) > 20, "the lookups do not tell places apart"
    return found


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


def test_delete_records_moves_the_start_over_both_tiers(server: HotlogServer) -> None:
    from confluent_kafka.admin import AdminClient

    create(server, "cut", **FLEETING)
    produce(server, "cut", [{"value": b"%d" % i} for i in range(300)], **{"batch.num.messages": 10})
    wait_all_cold(server, "cut")
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    place = TopicPartition("cut", 0, 123)
    cut = admin.delete_records([place], request_timeout=PATIENCE_S)[place].result(PATIENCE_S)
    assert cut.low_watermark == 123
    assert [row[1] for row in read(server, "cut")] == list(range(123, 300))
    server.kill()
    server.start()
    assert [row[1] for row in read(server, "cut")] == list(range(123, 300))


def test_total_retention_deletes_from_the_store(server: HotlogServer) -> None:
    create(server, "short", **{"segment.ms": "300", "retention.ms": "2000", "local.retention.ms": "1"})
    produce(server, "short", [{"value": b"old"} for _ in range(100)])
    eventually(lambda: tier_borders(server.bootstrap, "short", [0], EARLIEST)[0] == 100)
    assert read(server, "short") == []
    alter(server, "short", {"retention.ms": "-1"})  # or what follows would expire on a machine that takes its time
    produce(server, "short", [{"value": b"new"}])
    assert [(row[1], row[4]) for row in read(server, "short")] == [(100, b"new")]


def test_a_damaged_local_copy_is_made_good_by_the_store(server: HotlogServer) -> None:
    """Fault 12: what a local segment's checks refuse is served from the cold copy, and told."""
    create(server, "rot", **{"retention.ms": "-1", "segment.bytes": "20000"})
    produce(server, "rot", [{"value": b"%d" % n + b"x" * 400} for n in range(300)], **{"batch.num.messages": 10})
    before = read(server, "rot")
    eventually(lambda: tier_borders(server.bootstrap, "rot", [0], LATEST_TIERED)[0] > 200)
    server.stop()
    segment = sorted((server.data / "log" / "rot-0").glob("*.log"))[1]
    body = bytearray(segment.read_bytes())
    second = 12 + int.from_bytes(body[8:12], "big")  # where the second batch begins
    body[second + 8 : second + 12] = b"\xff\xff\xff\xff"  # its length
    segment.write_bytes(body)
    server.start()
    assert read(server, "rot") == before
    assert metric(server, "hotlog_corruption_total") > 0


def test_metrics_tell_what_happened(server: HotlogServer) -> None:
    create(server, "told", **FLEETING)
    produce(server, "told", [{"value": b"x" * 1000} for _ in range(500)], **{"compression.type": "none"})
    wait_all_cold(server, "told")
    assert len(read(server, "told")) == 500
    told = '{topic="told"}'
    for name, low, high in [
        ("kafka_server_brokertopicmetrics_messagesin_total", 500, 500),
        ("kafka_server_brokertopicmetrics_bytesin_total", 500_000, 600_000),
        ("kafka_server_brokertopicmetrics_bytesout_total", 500_000, 700_000),
        ("kafka_server_brokertopicmetrics_remotecopybytes_total", 500_000, 600_000),
        ("kafka_server_brokertopicmetrics_remotecopyrequests_total", 1, 500),
        ("kafka_server_brokertopicmetrics_remotefetchbytes_total", 500_000, 1_500_000),
    ]:
        assert low <= metric(server, name + told) <= high, name
    kafka = "kafka_server_brokertopicmetrics_"
    for name, low, high in [  # gauges: as they were when the broker last looked
        ("remotelogsizebytes", 500_000, 600_000),
        ("remotelogmetadatacount", 1, 500),
        ("remotecopylagbytes", 0, 0),
        ("remotecopylagsegments", 0, 0),
    ]:
        eventually(lambda name=name, low=low, high=high: low <= metric(server, kafka + name + told) <= high)
    for name in ("remotecopyerrors_total", "remotefetcherrors_total"):
        assert metric(server, kafka + name + told) == 0
    assert metric(server, 'hotlog_store_requests_total{kind="put",outcome="ok",purpose="upload",topic="told"}') >= 1
    assert metric(server, "kafka_log_flush_seconds_count") >= 1
    assert metric(server, 'kafka_network_requests_total{api="Produce"}') >= 1
