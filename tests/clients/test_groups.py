"""Consumer groups with more than one member: partitions are shared, and come back when a member leaves."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.clients.python_clients import KEEP
from tests.tools.clients import Client, Record
from tests.tools.patience import PATIENCE_S

PARTITIONS = 4


@contextmanager
def member(bootstrap: str, topic: str, group: str, strategy: str) -> Iterator[Consumer]:
    settings = {"auto.offset.reset": "earliest", "enable.auto.commit": False, "log_level": 0}
    settings |= {"heartbeat.interval.ms": 200, "partition.assignment.strategy": strategy}
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, **settings})
    consumer.subscribe([topic])
    try:
        yield consumer
    finally:
        consumer.close()


def settle(members: list[Consumer], wanted: list[int]) -> list[list[int]]:
    """Poll all members until their assignments have the wanted sizes (sorted); the partitions of each."""
    give_up = time.monotonic() + PATIENCE_S
    held: list[list[int]] = []
    while time.monotonic() < give_up:
        for each in members:
            each.poll(0.05)
        held = [sorted(part.partition for part in each.assignment()) for each in members]
        if sorted(map(len, held)) == wanted:
            return held
    raise AssertionError(f"the group did not settle on {wanted} but on {held}")


def share_and_return(bootstrap: str, topic: str, reference: Client, strategy: str) -> None:
    reference.create_topic(bootstrap, topic, partitions=PARTITIONS, configs=KEEP)
    group = f"group-{uuid.uuid4().hex[:8]}"
    with member(bootstrap, topic, group, strategy) as first:
        assert settle([first], [4]) == [[0, 1, 2, 3]]
        with member(bootstrap, topic, group, strategy) as second:
            held = settle([first, second], [2, 2])
            assert sorted(held[0] + held[1]) == [0, 1, 2, 3]
        assert settle([first], [4]) == [[0, 1, 2, 3]]


def test_two_members_share_a_topic_and_one_takes_over(bootstrap: str, topic: str, reference: Client) -> None:
    share_and_return(bootstrap, topic, reference, "range")


def test_cooperative_members_share_a_topic_too(bootstrap: str, topic: str, reference: Client) -> None:
    share_and_return(bootstrap, topic, reference, "cooperative-sticky")


def test_committed_offsets_are_listed_and_the_group_is_described(bootstrap: str, topic: str, reference: Client) -> None:
    reference.create_topic(bootstrap, topic, partitions=1, configs=KEEP)
    records = [Record(partition=0, key=None, value=b"%d" % n, timestamp=1_357_000_000_000) for n in range(10)]
    reference.produce(bootstrap, topic, records)
    group = f"group-{uuid.uuid4().hex[:8]}"
    reference.consume_group(bootstrap, topic, group=group, count=7)
    asking = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
    try:
        assert [each.offset for each in asking.committed([TopicPartition(topic, 0)], PATIENCE_S)] == [7]
    finally:
        asking.close()
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    listed = admin.list_consumer_groups(request_timeout=PATIENCE_S).result(PATIENCE_S)
    assert group in {each.group_id for each in listed.valid}
    give_up = time.monotonic() + PATIENCE_S
    while True:  # librdkafka does not wait long for the answer to its leaving
        described = admin.describe_consumer_groups([group], request_timeout=PATIENCE_S)[group].result(PATIENCE_S)
        assert described.group_id == group
        if (described.state.name, described.members) == ("EMPTY", []):
            break
        assert time.monotonic() < give_up, f"the group stays {described.state.name} with {len(described.members)} members"
