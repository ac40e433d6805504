"""Transactions as applications use them: each client its own, against a real broker."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as AioPartition
from aiokafka.errors import ProducerFenced
from confluent_kafka import OFFSET_BEGINNING, OFFSET_INVALID, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from kafka import ConsumerGroupMetadata, KafkaProducer
from kafka import TopicPartition as PythonPartition
from kafka.structs import OffsetAndMetadata

from tests.clients.conftest import get_client
from tests.tools.clients import FOREIGN_CLIENTS, Client, CommandClient
from tests.tools.patience import PATIENCE_S


@pytest.fixture
def name() -> str:
    return f"txn-{uuid.uuid4().hex[:12]}"


def producer_of(bootstrap: str, name: str) -> Producer:
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": name, "linger.ms": 1})
    producer.init_transactions(PATIENCE_S)
    return producer


def committed(bootstrap: str, topic: str) -> list[bytes]:
    """All that a reader of committed records sees of partition 0, to its end."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "isolation.level": "read_committed",
            "enable.partition.eof": True, "enable.auto.commit": False,
        }
    )  # fmt: skip
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    found: list[bytes] = []
    try:
        while True:
            message = consumer.poll(PATIENCE_S)
            assert message is not None, "neither a record nor the end came"
            if message.error() is not None:
                assert message.error().code() == KafkaError._PARTITION_EOF
                return found
            found.append(message.value())
    finally:
        consumer.close()


def test_confluent_commits_and_aborts(bootstrap: str, topic: str, name: str) -> None:
    producer = producer_of(bootstrap, name)
    for number in range(4):
        producer.begin_transaction()
        for part in range(3):
            producer.produce(topic, b"%d-%d" % (number, part), partition=0)
        if number % 2:
            producer.abort_transaction(PATIENCE_S)
        else:
            producer.commit_transaction(PATIENCE_S)
    assert committed(bootstrap, topic) == [b"%d-%d" % (number, part) for number in (0, 2) for part in range(3)]


def test_confluent_fences_a_zombie(bootstrap: str, topic: str, name: str) -> None:
    zombie = producer_of(bootstrap, name)
    zombie.begin_transaction()
    zombie.produce(topic, b"lost", partition=0)
    zombie.flush(PATIENCE_S)
    heir = producer_of(bootstrap, name)
    with pytest.raises(KafkaException) as fenced:
        zombie.commit_transaction(PATIENCE_S)
    assert fenced.value.args[0].fatal()
    heir.begin_transaction()
    heir.produce(topic, b"kept", partition=0)
    heir.commit_transaction(PATIENCE_S)
    assert committed(bootstrap, topic) == [b"kept"]


def test_confluent_consumes_transforms_and_produces(bootstrap: str, topic: str, name: str) -> None:
    source, sink, group = f"{topic}-in", f"{topic}-out", f"{topic}-group"
    first = Producer({"bootstrap.servers": bootstrap})
    for number in range(20):
        first.produce(source, b"%d" % number, partition=0)
    assert first.flush(PATIENCE_S) == 0
    settings = {
        "bootstrap.servers": bootstrap, "group.id": group, "isolation.level": "read_committed", "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
    }  # fmt: skip
    for attempt in range(2):  # the first one's last transaction is aborted: the second one reads that again
        consumer = Consumer(settings)
        consumer.subscribe([source])
        producer = producer_of(bootstrap, name)
        for batch in range(4 if attempt else 3):
            messages = []
            while len(messages) < 5:
                messages += consumer.consume(5 - len(messages), PATIENCE_S)
            producer.begin_transaction()
            for message in messages:
                assert message.error() is None
                producer.produce(sink, b"done " + message.value(), partition=0)
            position = consumer.position(consumer.assignment())
            producer.send_offsets_to_transaction(position, consumer.consumer_group_metadata(), PATIENCE_S)
            if batch == 2 and not attempt:
                producer.abort_transaction(PATIENCE_S)
                break
            producer.commit_transaction(PATIENCE_S)
            if attempt and batch == 1:
                break
        consumer.close()
    assert committed(bootstrap, sink) == [b"done %d" % number for number in range(20)]


def test_aiokafka_commits_aborts_and_is_fenced(bootstrap: str, topic: str, name: str) -> None:
    async def main() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=name)
        await producer.start()
        async with producer.transaction():
            await producer.send_and_wait(topic, b"one", partition=0)
            await producer.send_offsets_to_transaction({AioPartition(topic, 0): 1}, f"{topic}-group")
        with pytest.raises(ZeroDivisionError):
            async with producer.transaction():
                await producer.send_and_wait(topic, b"two", partition=0)
                raise ZeroDivisionError
        heir = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=name)
        await heir.start()
        with pytest.raises(ProducerFenced):
            async with producer.transaction():
                await producer.send_and_wait(topic, b"three", partition=0)
        async with heir.transaction():
            await heir.send_and_wait(topic, b"four", partition=0)
        await heir.stop()
        await producer.stop()
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap, isolation_level="read_committed", auto_offset_reset="earliest",
            group_id=f"{topic}-group", enable_auto_commit=False,
        )  # fmt: skip
        await consumer.start()
        consumer.assign([AioPartition(topic, 0)])
        assert await consumer.committed(AioPartition(topic, 0)) == 1
        await consumer.seek_to_beginning()
        found = [(await consumer.getone()).value for _ in range(2)]
        await consumer.stop()
        assert found == [b"one", b"four"]

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


def kafka_python(bootstrap: str, topic: str, name: str, group: str, transactions: int) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap, transactional_id=name, max_block_ms=int(PATIENCE_S * 1000))
    producer.init_transactions()
    for number in range(transactions):
        producer.begin_transaction()
        producer.send(topic, b"%d" % number, partition=0)
        producer.send_offsets_to_transaction(
            {PythonPartition(topic, 0): OffsetAndMetadata(number, "", -1)}, ConsumerGroupMetadata(group)
        )
        if number % 2:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
    producer.close()


@pytest.mark.parametrize("client_name", ["kafka-python", *FOREIGN_CLIENTS])
def test_a_client_commits_and_aborts(bootstrap: str, topic: str, name: str, client_name: str, reference: Client) -> None:
    """The Java client's is the protocol of KIP-890: no AddPartitionsToTxn is sent, and each transaction has an epoch of its own."""
    group = f"{topic}-group"
    reference.create_topic(bootstrap, topic, partitions=1, configs={})
    if client_name == "kafka-python":
        kafka_python(bootstrap, topic, name, group, 6)
    else:
        client = get_client(client_name)
        assert isinstance(client, CommandClient)
        client.transact(bootstrap, topic, name, group=group, transactions=6)
    assert committed(bootstrap, topic) == [b"%d" % number for number in (0, 2, 4)]
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    (position,) = consumer.committed([TopicPartition(topic, 0)], PATIENCE_S)
    consumer.close()
    assert position.offset == (OFFSET_INVALID if client_name == "franz-go" else 4)
