"""Records without a timestamp and retention by time: Hotlog does as a real Apache Kafka, which ages them by when their segment was written."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.clients.conftest import not_here
from tests.tools.cache import ToolMissing
from tests.tools.hotlog_server import HotlogServer
from tests.tools.kafka_jars import kafka_jars
from tests.tools.kafka_server import KafkaServer
from tests.tools.patience import PATIENCE_S

HURRY = {"log.retention.check.interval.ms": "500"}
KEPT = {"retention.ms": str(7 * 86_400_000), "segment.ms": "1000"}
SHORT = {"retention.ms": "1000", "segment.ms": "1000"}


@pytest.fixture(scope="module", params=["kafka", "hotlog"])
def bootstrap(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("no-timestamp")
    server: HotlogServer | KafkaServer
    if request.param == "hotlog":
        server = HotlogServer(folder=folder, settings=HURRY)
        server.start()
    else:
        try:
            server = KafkaServer(jars=kafka_jars(), folder=folder, properties={**HURRY, "log.initial.task.delay.ms": "100"})
            server.format()
            server.start()
            server.wait_ready()
        except ToolMissing as why:
            not_here("Apache Kafka", why)
    yield server.bootstrap
    server.stop()


def test_they_stay_as_long_as_retention_says_and_then_go(bootstrap: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for made in admin.create_topics([NewTopic("kept", 1, 1, config=KEPT), NewTopic("short", 1, 1, config=SHORT)]).values():
        made.result(PATIENCE_S)
    producer = Producer({"bootstrap.servers": bootstrap})
    for topic in ("kept", "short"):
        for _ in range(5):
            producer.produce(topic, b"v", timestamp=-1)
    assert producer.flush(PATIENCE_S) == 0
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "no-timestamp"})
    try:
        give_up = time.monotonic() + PATIENCE_S
        while consumer.get_watermark_offsets(TopicPartition("short", 0), PATIENCE_S) != (5, 5):
            assert time.monotonic() < give_up, "retention of a second has not come"
            time.sleep(0.1)
        assert consumer.get_watermark_offsets(TopicPartition("kept", 0), PATIENCE_S) == (0, 5)
    finally:
        consumer.close()
