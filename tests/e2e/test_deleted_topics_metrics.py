"""A deleted topic leaves no series behind once its objects are gone; a group's lag names the tier that it reads from."""

from __future__ import annotations

import urllib.request
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.e2e.conftest import FLEETING, HURRY, create, eventually, metric, produce, running, wait_all_cold
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S


def series_of(server: HotlogServer, topic: str) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=PATIENCE_S) as answer:
        return [line for line in answer.read().decode().splitlines() if f'topic="{topic}"' in line]


def test_a_deleted_topic_has_no_series(tmp_path: Path, minio_url: str) -> None:
    timeouts = dict.fromkeys(
        ("hotlog.store.attempt.timeout.ms", "hotlog.store.total.timeout.ms", "hotlog.garbage.grace.ms"), "5000"
    )
    settings = {**HURRY, **timeouts}
    with running(HotlogServer(folder=tmp_path / "broker", settings=settings, store=minio_url)) as server:
        for topic in ("stays", "goes"):
            create(server, topic, 1, **FLEETING)
            produce(server, topic, [{"value": b"x"}])
            wait_all_cold(server, topic)
        assert series_of(server, "goes")
        consumer = Consumer({"bootstrap.servers": server.bootstrap, "group.id": "late", "enable.auto.commit": False})
        consumer.commit(offsets=[TopicPartition("stays", 0, 0)], asynchronous=False)
        consumer.close()
        admin = AdminClient({"bootstrap.servers": server.bootstrap})  # must outlive its future
        admin.delete_topics(["goes"])["goes"].result(PATIENCE_S)
        eventually(lambda: not series_of(server, "goes"))
        assert series_of(server, "stays")
        eventually(lambda: metric(server, 'hotlog_group_lag{group="late",tier="cold",topic="stays"}') == 1)
