"""What the golden data holds, seen by clients: made and asked for with the wire and the command line alone, so that it fits every version.

Invariants: nothing of hotlog's inside is imported but `hotlog.cli.raw`, which speaks to a broker.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, ConsumerGroupTopicPartitions, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType
from kio.schema.offset_for_leader_epoch.v4.request import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from kio.schema.offset_for_leader_epoch.v4.response import OffsetForLeaderEpochResponse
from kio.schema.types import BrokerId, TopicName
from kio.static.primitive import i32

from hotlog.cli.raw import EARLIEST, EARLIEST_LOCAL, LATEST, LATEST_TIERED, ask, tier_borders
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S

SETTINGS = {
    "remote.log.manager.task.interval.ms": "200",
    "log.retention.check.interval.ms": "200",
    "log.segment.delete.delay.ms": "100",
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "2",
    "auto.create.topics.enable": "false",
}
PARTITIONS = {"long": 1, "mixed": 2, "latest": 1, "hot": 1, "holed": 1}
TIERED = ("long", "mixed", "holed")
GROUPS = ("readers", "assigned")
TIMES = [0, *(1_700_000_000_000 + step * 7_919 for step in range(-2, 60)), 1_900_000_000_000]


class ServerThen(HotlogServer):
    """A broker that believes it is `earlier_ms` earlier (see then.py)."""

    @property
    def now_ms(self) -> int:
        return int(time.time() * 1000) - int(self.environment["HOTLOG_TEST_EARLIER_MS"])

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.golden.then", *super().command()[3:]]


def rows(bootstrap: str, topic: str) -> list[list[Any]]:
    """[partition, offset, timestamp, key, value, headers] of every record, by partition and offset; bytes as latin-1 text."""
    count = PARTITIONS[topic]
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": "golden", "enable.partition.eof": True, "auto.offset.reset": "error",
        "enable.auto.commit": False, "check.crcs": True,
    })  # fmt: skip
    consumer.assign([TopicPartition(topic, index, OFFSET_BEGINNING) for index in range(count)])
    found: list[list[Any]] = []
    ended: set[int] = set()
    while len(ended) < count:
        m = consumer.poll(PATIENCE_S)
        assert m is not None, f"{topic}: silence after {len(found)} records"
        if m.error() is None:
            headers = [[name, _text(value)] for name, value in m.headers() or ()]
            found.append([m.partition(), m.offset(), m.timestamp()[1], _text(m.key()), _text(m.value()), headers])
        else:
            assert m.error().code() == KafkaError._PARTITION_EOF, m.error()
            ended.add(m.partition())
    consumer.close()
    return sorted(found, key=lambda row: row[:2])


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("latin-1")


def offsets_at_times(bootstrap: str, topic: str) -> list[list[int]]:
    """The offset at each of TIMES, for each partition."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    found = []
    for index in range(PARTITIONS[topic]):
        place = TopicPartition(topic, index)
        asked = [admin.list_offsets({place: OffsetSpec.for_timestamp(at)})[place] for at in TIMES]
        found.append([future.result(PATIENCE_S).offset for future in asked])
    return found


def committed(bootstrap: str, group: str) -> list[list[Any]]:
    """[topic, partition, offset, metadata] of everything a group has committed."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    answer = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(PATIENCE_S)
    return sorted([p.topic, p.partition, p.offset, p.metadata] for p in answer.topic_partitions)


def configs(bootstrap: str, topic: str) -> dict[str, str]:
    """What was set of a topic."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    resource = ConfigResource(ResourceType.TOPIC, topic)
    entries = admin.describe_configs([resource])[resource].result(PATIENCE_S).values()
    return {entry.name: entry.value for entry in entries if entry.source == 1}


def epoch_ends(bootstrap: str, topic: str) -> list[list[int]]:
    """[epoch, end offset] that the broker tells for each leader epoch from 0 to 2, for each partition."""
    epochs = range(3)
    found = []
    for index in range(PARTITIONS[topic]):
        for epoch in epochs:
            part = OffsetForLeaderPartition(partition=i32(index), current_leader_epoch=i32(-1), leader_epoch=i32(epoch))
            wanted = OffsetForLeaderTopic(topic=TopicName(topic), partitions=(part,))
            body = OffsetForLeaderEpochRequest(replica_id=BrokerId(-1), topics=(wanted,))
            answer = ask(bootstrap, (23, 4), OffsetForLeaderEpochRequest, body, OffsetForLeaderEpochResponse)
            told = answer.topics[0].partitions[0]
            found.append([told.leader_epoch, told.end_offset])
    return found


def facts(bootstrap: str) -> dict[str, Any]:
    """Everything that must still be there."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    listed = admin.list_topics(timeout=PATIENCE_S)
    borders = {"earliest": EARLIEST, "latest": LATEST, "local": EARLIEST_LOCAL, "tiered": LATEST_TIERED}
    return {
        "cluster": listed.cluster_id,
        "topics": sorted(listed.topics),
        "rows": {topic: rows(bootstrap, topic) for topic in PARTITIONS},
        "times": {topic: offsets_at_times(bootstrap, topic) for topic in PARTITIONS},
        "epochs": {topic: epoch_ends(bootstrap, topic) for topic in PARTITIONS},
        "configs": {topic: configs(bootstrap, topic) for topic in PARTITIONS},
        "committed": {group: committed(bootstrap, group) for group in GROUPS},
        "borders": {
            topic: {name: list(tier_borders(bootstrap, topic, list(range(count)), which).values()) for name, which in borders.items()}
            for topic, count in PARTITIONS.items()
        },
    }  # fmt: skip


def produce(bootstrap: str, topic: str, records: Iterable[dict[str, Any]], *, batch_records: int, **client: Any) -> None:
    """Send in batches of exactly `batch_records` records a partition, each acknowledged before the next."""
    failures: list[str] = []
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 100, "enable.idempotence": True, **client})
    for batch in _batches(list(records), batch_records):
        for record in batch:
            producer.produce(topic, on_delivery=lambda error, _: failures.append(str(error)) if error else None, **record)
        assert producer.flush(PATIENCE_S) == 0
    assert failures == [], failures


def _batches(records: list[dict[str, Any]], size: int) -> list[Sequence[dict[str, Any]]]:
    return [records[first : first + size] for first in range(0, len(records), size)]
