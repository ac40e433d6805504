"""What stands in __consumer_offsets is what Kafka 4.3 would have written: its own tools read all of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.clients.python_clients import KEEP
from tests.clients.test_groups import member as classic_member
from tests.clients.test_groups import settle
from tests.clients.test_new_protocol import CONSOLE, member
from tests.tools.clients import Client
from tests.tools.hotlog_server import HotlogServer
from tests.tools.kafka_jars import KafkaJars, dump_segments

TOPIC, CLASSIC, NEW = "read", "classic-group", "new-group"
FORMATTER = "org.apache.kafka.tools.consumer.OffsetsMessageFormatter"
KINDS = {1: "offset", 2: "classic group", 3: "group", 5: "member", 6: "target epoch", 7: "target", 8: "current"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HotlogServer]:
    server = HotlogServer(
        folder=tmp_path, settings={"group.initial.rebalance.delay.ms": "0", "offsets.topic.num.partitions": "1"}
    )
    server.start()
    yield server
    server.stop()


def use(server: HotlogServer, reference: Client) -> None:
    """Groups of both protocols that join, commit and leave."""
    reference.create_topic(server.bootstrap, TOPIC, partitions=2, configs=KEEP)
    with classic_member(server.bootstrap, TOPIC, CLASSIC, "range") as consumer:
        settle([consumer], [2])
        commit(consumer, 3)
    with member(server.bootstrap, TOPIC, NEW) as consumer, member(server.bootstrap, TOPIC, NEW) as other:
        settle([consumer, other], [1, 1])
        commit(consumer, 7)


def commit(consumer: Consumer, offset: int) -> None:
    consumer.commit(
        offsets=[TopicPartition(part.topic, part.partition, offset) for part in consumer.assignment()], asynchronous=False
    )


def test_kafkas_dump_tool_decodes_every_record(jars: KafkaJars, server: HotlogServer, reference: Client) -> None:
    use(server, reference)
    server.stop()
    logs = sorted((server.data / "log" / "__consumer_offsets-0").glob("*.log"))
    dump = dump_segments(jars, logs, "--offsets-decoder")
    assert (dump.exit_code, dump.complaints) == (0, [])
    keys = [json.loads(found) for found in re.findall(r"key: (\{.*?\}\}) payload", dump.text)]
    assert {int(key["type"]) for key in keys} >= KINDS.keys(), dump.text
    assert len(keys) == len(re.findall(r"\| offset: \d+ ", dump.text)), "every record has a key that it knows"
    values = [json.loads(found) for found in re.findall(r"payload: (\{.*\}\})", dump.text)]
    offsets = {value["data"]["offset"] for value in values if "offset" in value["data"]}
    assert offsets == {3, 7}
    members = [value["data"] for value in values if "subscribedTopicNames" in value["data"]]
    assert {tuple(each["subscribedTopicNames"]) for each in members} == {(TOPIC,)}


def documents(text: str) -> Iterator[Any]:
    """JSON documents one behind the other."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        found, end = decoder.raw_decode(text, at)
        yield found
        at = text.find("{", end)


def test_kafkas_console_consumer_formats_committed_offsets(jars: KafkaJars, server: HotlogServer, reference: Client) -> None:
    use(server, reference)
    shown = jars.run(
        CONSOLE, "--bootstrap-server", server.bootstrap, "--topic", "__consumer_offsets", "--partition", "0", "--offset", "earliest",
        "--formatter", FORMATTER, "--timeout-ms", "10000",
    )  # fmt: skip
    found = list(documents(shown.stdout))
    committed = {(each["key"]["data"]["group"], each["value"]["data"]["offset"]) for each in found if each["value"]}
    assert committed == {(CLASSIC, 3), (NEW, 7)}, shown.stdout + shown.stderr[-1_000:]
