"""Consumers of the new group protocol (KIP-848) as released: librdkafka and the Java client, beside consumers of the classic one.

Kafka's console consumer and its consumer groups tool are the Java client.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.clients.python_clients import KEEP
from tests.clients.test_groups import settle
from tests.tools.clients import Client, Record
from tests.tools.kafka_jars import KafkaJars
from tests.tools.patience import PATIENCE_S

PARTITIONS = 4
CONSOLE = "org.apache.kafka.tools.consumer.ConsoleConsumer"
GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"


@contextmanager
def member(bootstrap: str, topic: str, group: str, protocol: str = "consumer", **settings: str) -> Iterator[Consumer]:
    """A consumer in a group; a topic that begins with ^ is a regular expression."""
    own = {"group.protocol": protocol} if protocol == "consumer" else {"heartbeat.interval.ms": "200"}
    common = {"auto.offset.reset": "earliest", "enable.auto.commit": False, "log_level": 0}
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, **common, **own, **settings})
    consumer.subscribe([topic])
    try:
        yield consumer
    finally:
        consumer.close()


def filled(bootstrap: str, topic: str, reference: Client, count: int = 40) -> None:
    reference.create_topic(bootstrap, topic, partitions=PARTITIONS, configs=KEEP)
    records = [Record(partition=n % PARTITIONS, key=None, value=b"%d" % n, timestamp=1_357_000_000_000 + n) for n in range(count)]
    reference.produce(bootstrap, topic, records)


def read(consumer: Consumer, count: int) -> list[bytes]:
    """So many values."""
    give_up = time.monotonic() + PATIENCE_S
    values: list[bytes] = []
    while len(values) < count:
        assert time.monotonic() < give_up, f"{len(values)} of {count} records came"
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            values.append(message.value() or b"")
    return values


def test_members_share_a_topic_and_one_takes_over(bootstrap: str, topic: str, reference: Client) -> None:
    reference.create_topic(bootstrap, topic, partitions=PARTITIONS, configs=KEEP)
    group = f"group-{uuid.uuid4().hex[:8]}"
    with member(bootstrap, topic, group) as first:
        assert settle([first], [4]) == [[0, 1, 2, 3]]
        with member(bootstrap, topic, group) as second:
            held = settle([first, second], [2, 2])
            assert sorted(held[0] + held[1]) == [0, 1, 2, 3]
        assert settle([first], [4]) == [[0, 1, 2, 3]]


def test_a_group_commits_and_goes_on(bootstrap: str, topic: str, reference: Client) -> None:
    filled(bootstrap, topic, reference)
    group = f"group-{uuid.uuid4().hex[:8]}"
    with member(bootstrap, topic, group) as consumer:
        first = read(consumer, 25)
        consumer.commit(asynchronous=False)
    with member(bootstrap, topic, group) as consumer:
        rest = read(consumer, 15)
    assert sorted(map(int, first + rest)) == list(range(40))


def test_an_expression_finds_topics(bootstrap: str, topic: str, reference: Client) -> None:
    filled(bootstrap, topic, reference)
    group = f"group-{uuid.uuid4().hex[:8]}"
    with member(bootstrap, f"^{topic[:-1]}.$", group) as consumer:
        assert sorted(map(int, read(consumer, 40))) == list(range(40))


def test_a_static_member_comes_back_to_its_partitions(bootstrap: str, topic: str, reference: Client) -> None:
    reference.create_topic(bootstrap, topic, partitions=PARTITIONS, configs=KEEP)
    group = f"group-{uuid.uuid4().hex[:8]}"
    with member(bootstrap, topic, group, **{"group.instance.id": "a"}) as first:
        with member(bootstrap, topic, group, **{"group.instance.id": "b"}) as second:
            held = settle([first, second], [2, 2])
        with member(bootstrap, topic, group, **{"group.instance.id": "b"}) as second:
            assert settle([first, second], [2, 2]) == held


def test_a_group_changes_to_the_new_protocol_and_back(bootstrap: str, topic: str, reference: Client) -> None:
    reference.create_topic(bootstrap, topic, partitions=PARTITIONS, configs=KEEP)
    group = f"group-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    with member(bootstrap, topic, group, "classic", **{"partition.assignment.strategy": "range"}) as classic:
        assert settle([classic], [4]) == [[0, 1, 2, 3]]
        with member(bootstrap, topic, group) as new:
            held = settle([classic, new], [2, 2])
            assert sorted(held[0] + held[1]) == [0, 1, 2, 3]
            described = admin.describe_consumer_groups([group], request_timeout=PATIENCE_S)[group].result(PATIENCE_S)
            assert described.type.name == "CONSUMER"
        assert settle([classic], [4]) == [[0, 1, 2, 3]]
        described = admin.describe_consumer_groups([group], request_timeout=PATIENCE_S)[group].result(PATIENCE_S)
        assert described.type.name == "CLASSIC"


def test_the_java_client_speaks_it_and_kafkas_tool_shows_it(
    jars: KafkaJars, bootstrap: str, topic: str, reference: Client
) -> None:
    filled(bootstrap, topic, reference)
    group = f"group-{uuid.uuid4().hex[:8]}"
    read_by_java = jars.run(
        CONSOLE, "--bootstrap-server", bootstrap, "--topic", topic, "--group", group, "--from-beginning",
        "--max-messages", "40", "--command-property", "group.protocol=consumer",
    )  # fmt: skip
    assert sorted(map(int, read_by_java.stdout.split())) == list(range(40)), read_by_java.stderr
    with member(bootstrap, topic, group) as consumer:
        settle([consumer], [4])
        shown = jars.run(GROUPS, "--bootstrap-server", bootstrap, "--describe", "--group", group, "--members", "--verbose")
        assert re.search(rf"{group}\s.*\b4\b", shown.stdout), shown
        assert topic in shown.stdout
        state = jars.run(GROUPS, "--bootstrap-server", bootstrap, "--describe", "--group", group, "--state").stdout
        assert re.search(rf"{group}\s.*uniform\s+Stable", state), state
        offsets = consumer.committed([TopicPartition(topic, index) for index in range(PARTITIONS)], PATIENCE_S)
        assert sum(part.offset for part in offsets) == 40
