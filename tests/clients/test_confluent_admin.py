"""librdkafka's admin client: what operators' scripts in Python do to topics, records and the offsets of groups."""

from __future__ import annotations

import time
from collections.abc import Callable

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    OffsetSpec,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic

from tests.tools.patience import PATIENCE_S


def admin_of(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})


def wait_until(holds: Callable[[], bool]) -> None:
    """A broker of Kafka hears of a change a moment after it is answered."""
    give_up = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_topics_grow_change_and_go(bootstrap: str, topic: str) -> None:
    admin = admin_of(bootstrap)
    made = NewTopic(topic, num_partitions=1, replication_factor=1, config={"retention.ms": "123456789"})
    admin.create_topics([made], validate_only=True)[topic].result(PATIENCE_S)
    assert topic not in admin.list_topics(timeout=PATIENCE_S).topics
    admin.create_topics([made])[topic].result(PATIENCE_S)
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result(PATIENCE_S)

    def described() -> list[tuple[int, int, int]]:
        (found,) = admin.describe_topics(TopicCollection([topic])).values()
        return [(part.id, len(part.replicas), len(part.isr)) for part in found.result(PATIENCE_S).partitions]

    wait_until(lambda: described() == [(0, 1, 1), (1, 1, 1), (2, 1, 1)])
    changes = [
        ConfigEntry("segment.ms", "1234567", incremental_operation=AlterConfigOpType.SET),
        ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.APPEND),
        ConfigEntry("retention.ms", None, incremental_operation=AlterConfigOpType.DELETE),
    ]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=changes)
    admin.incremental_alter_configs([resource])[resource].result(PATIENCE_S)

    def configs() -> list[str | None]:
        found = admin.describe_configs([resource])[resource].result(PATIENCE_S)
        return [found[entry.name].value for entry in changes]

    wait_until(lambda: configs() == ["1234567", "delete,compact", "604800000"])
    (node,) = admin.describe_cluster().result(PATIENCE_S).nodes
    assert f"{node.host}:{node.port}" == bootstrap
    admin.delete_topics([topic])[topic].result(PATIENCE_S)
    wait_until(lambda: topic not in admin.list_topics(timeout=PATIENCE_S).topics)


def test_records_and_offsets_of_groups_are_moved_and_deleted(bootstrap: str, topic: str) -> None:
    admin, group, first = admin_of(bootstrap), f"{topic}-group", TopicPartition(topic, 0)
    admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])[topic].result(PATIENCE_S)
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    for number in range(10):
        producer.produce(topic, b"%d" % number, partition=0)
    assert producer.flush(PATIENCE_S) == 0

    def offset(spec: OffsetSpec) -> int:
        return int(admin.list_offsets({first: spec})[first].result(PATIENCE_S).offset)

    assert (offset(OffsetSpec.earliest()), offset(OffsetSpec.latest())) == (0, 10)
    (deleted,) = admin.delete_records([TopicPartition(topic, 0, 4)]).values()
    assert deleted.result(PATIENCE_S).low_watermark == 4
    assert offset(OffsetSpec.earliest()) == 4

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
    consumer.commit(offsets=[TopicPartition(topic, 0, 9)], asynchronous=False)
    consumer.close()
    moved = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 5)])
    admin.alter_consumer_group_offsets([moved])[group].result(PATIENCE_S)
    (listed,) = (
        admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(PATIENCE_S).topic_partitions
    )
    assert (listed.topic, listed.partition, listed.offset) == (topic, 0, 5)
    assert group in {each.group_id for each in admin.list_consumer_groups().result(PATIENCE_S).valid}
    admin.delete_consumer_groups([group])[group].result(PATIENCE_S)
    assert group not in {each.group_id for each in admin.list_consumer_groups().result(PATIENCE_S).valid}
