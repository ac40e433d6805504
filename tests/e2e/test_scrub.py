"""Bits that rot under a running broker (docs/faults.md, row 12): found by its scrub, kept from clients and from the store, made good where there is a copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from hotlog.cli.raw import EARLIEST_LOCAL, LATEST_TIERED, tier_borders
from hotlog.wire.batch import walk
from tests.e2e.conftest import HURRY, alter, create, eventually, hotlog, metric, produce, read, running
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S

SCRUBBED = {**HURRY, "hotlog.scrub.interval.ms": "300"}
SMALL = {"retention.ms": "-1", "segment.bytes": "20000"}
PLAIN = {"compression.type": "none", "batch.num.messages": 10, "linger.ms": 50}


@pytest.fixture
def scrubbed(tmp_path: Path, minio_url: str) -> Iterator[HotlogServer]:
    with running(HotlogServer(folder=tmp_path / "broker", settings=SCRUBBED, store=minio_url)) as server:
        yield server


def fill(server: HotlogServer, topic: str) -> list[Any]:
    produce(server, topic, [{"value": b"%d" % n + b"x" * 400} for n in range(400)], **PLAIN)
    return read(server, topic)


def rot(server: HotlogServer, topic: str) -> tuple[int, int, int]:
    """Flip one payload bit in the third batch of the second segment; its offsets, and where the segment ends."""
    _, second, third, *_ = sorted((server.data / "log" / f"{topic}-0").glob("*.log"))
    body = second.read_bytes()
    position, header = list(walk(body))[2]
    with second.open("r+b") as file:
        at = position + header.size - 100
        file.seek(at)
        file.write(bytes([body[at] ^ 0x10]))
    return header.base_offset, header.next_offset, int(third.stem)


def found(server: HotlogServer, where: str) -> float:
    return metric(server, f'hotlog_corruption_total{{where="{where}"}}')


def test_rot_in_a_tiered_segment_is_read_from_the_store(scrubbed: HotlogServer) -> None:
    create(scrubbed, "rot", **SMALL)
    before = fill(scrubbed, "rot")
    eventually(lambda: tier_borders(scrubbed.bootstrap, "rot", [0], LATEST_TIERED)[0] > 300)
    assert tier_borders(scrubbed.bootstrap, "rot", [0], EARLIEST_LOCAL)[0] == 0
    *_, segment_end = rot(scrubbed, "rot")
    eventually(lambda: found(scrubbed, "scrub") == 1)
    assert read(scrubbed, "rot") == before
    eventually(lambda: metric(scrubbed, 'hotlog_scrub_repairs_total{topic="rot"}') == 1)
    assert tier_borders(scrubbed.bootstrap, "rot", [0], EARLIEST_LOCAL)[0] == segment_end
    assert metric(scrubbed, 'hotlog_log_damaged_segments{topic="rot"}') == 0
    assert read(scrubbed, "rot") == before
    hotlog("manifest", "verify", "rot", "--store", str(scrubbed.store))


def test_rot_in_a_segment_without_a_copy_is_refused_and_not_uploaded(scrubbed: HotlogServer) -> None:
    create(scrubbed, "only", **SMALL, **{"remote.log.copy.disable": "true"})
    before = fill(scrubbed, "only")
    start, end, segment_end = rot(scrubbed, "only")
    eventually(lambda: found(scrubbed, "scrub") == 1)
    got, error = consume(scrubbed, "only", 0)
    assert got == [row[4] for row in before[:start]]
    assert error == KafkaError.INVALID_MSG, "CORRUPT_MESSAGE"
    got, error = consume(scrubbed, "only", end)
    assert got == [row[4] for row in before[end:]]
    assert error == KafkaError._PARTITION_EOF
    alter(scrubbed, "only", {"remote.log.copy.disable": "false"})
    eventually(lambda: found(scrubbed, "copy") > 0)
    assert tier_borders(scrubbed.bootstrap, "only", [0], LATEST_TIERED)[0] < start
    eventually(lambda: metric(scrubbed, 'kafka_server_brokertopicmetrics_remotecopylagsegments{topic="only"}') > 1)
    assert metric(scrubbed, 'hotlog_log_damaged_segments{topic="only"}') == 1
    produce(scrubbed, "only", [{"value": b"it lives"}])
    assert f"deleting records up to {segment_end} gives it up" in scrubbed.errors.read_text()


def consume(server: HotlogServer, topic: str, offset: int) -> tuple[list[bytes | None], int]:
    """Values from `offset` on, and the error code that ends them."""
    consumer = Consumer({"bootstrap.servers": server.bootstrap, "group.id": "e2e", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, offset)])
    values: list[bytes | None] = []
    try:
        while True:
            message = consumer.poll(PATIENCE_S)
            assert message is not None, f"silence after {len(values)} records"
            error = message.error()
            if error is not None:
                return values, error.code()
            values.append(message.value())
    finally:
        consumer.close()
