"""Python's Kafka clients behind the same few verbs as the foreign ones: confluent-kafka, kafka-python, aiokafka.

Invariants:
- Clients are used as released, with their defaults wherever the verb does not ask for something else; only how long they wait is up to
  the tests, because it says how busy the machine is.
- Every wait has an end: a client that hears nothing for PATIENCE_S raises ClientFailed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import kafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as AioTopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin import NewTopic as AioNewTopic
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from kafka.admin import KafkaAdminClient
from kafka.admin import NewTopic as KafkaNewTopic

from tests.tools.clients import Client, ClientFailed, Record
from tests.tools.patience import PATIENCE_S

T = TypeVar("T")
PATIENCE_MS = int(PATIENCE_S * 1000)
REQUEST_MS = PATIENCE_MS // 2  # an answer that comes late is not asked for again
SESSION_MS = 60_000  # longer than any stall, shorter than patience: whoever could not say that it leaves is missed in the end

# The sample records are from 2013; without this the retention worker rightly removes them while a test reads.
KEEP = {"retention.ms": "-1"}


class ConfluentKafka:
    """confluent-kafka: librdkafka from Python."""

    name = "confluent-kafka"
    null_headers = True

    def produce(
        self, bootstrap: str, topic: str, records: Sequence[Record], *, codec: str = "none", idempotent: bool = False
    ) -> list[int]:
        settings = {"acks": "all", "compression.type": codec, "enable.idempotence": idempotent}
        producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0, **settings})
        offsets: dict[int, int] = {}

        def told(number: int) -> Callable[[Any, Message], None]:
            def delivered(error: Any, message: Message) -> None:
                if error is None:
                    offsets[number] = message.offset() or 0

            return delivered

        for number, each in enumerate(records):
            headers: list[tuple[str, str | bytes | None]] = list(each.headers)
            producer.produce(
                topic,
                key=each.key,
                value=each.value,
                partition=each.partition,
                timestamp=each.timestamp,
                headers=headers,
                on_delivery=told(number),
            )
        left = producer.flush(PATIENCE_S)
        if left or len(offsets) < len(records):
            raise ClientFailed(f"{len(offsets)} of {len(records)} records were delivered")
        return [offsets[number] for number in range(len(records))]

    def consume(self, bootstrap: str, topic: str, *, count: int, from_ms: int | None = None) -> list[Record]:
        consumer = self._consumer(bootstrap, "reader")
        try:
            listed = consumer.list_topics(topic, PATIENCE_S).topics[topic].partitions
            if from_ms is None:
                starts = [TopicPartition(topic, partition, 0) for partition in listed]
            else:
                asked = [TopicPartition(topic, partition, from_ms) for partition in listed]
                starts = consumer.offsets_for_times(asked, PATIENCE_S)
            consumer.assign(starts)
            return self._read(consumer, count)
        finally:
            consumer.close()

    def consume_group(self, bootstrap: str, topic: str, *, group: str, count: int) -> list[Record]:
        consumer = self._consumer(bootstrap, group)
        try:
            consumer.subscribe([topic])
            found = self._read(consumer, count)
            after = {each.partition: each.offset + 1 for each in found}
            offsets = [TopicPartition(topic, partition, offset) for partition, offset in after.items()]
            consumer.commit(offsets=offsets, asynchronous=False)
            return found
        finally:
            consumer.close()

    def create_topic(self, bootstrap: str, topic: str, *, partitions: int, configs: Mapping[str, str]) -> None:
        admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        new = NewTopic(topic, num_partitions=partitions, replication_factor=1, config=dict(configs))
        for future in admin.create_topics([new]).values():
            future.result(PATIENCE_S)

    @staticmethod
    def _consumer(bootstrap: str, group: str) -> Consumer:
        settings = {"auto.offset.reset": "earliest", "enable.auto.commit": False, "log_level": 0}
        return Consumer({"bootstrap.servers": bootstrap, "group.id": group, **settings})

    @staticmethod
    def _read(consumer: Consumer, count: int) -> list[Record]:
        found: list[Record] = []
        while len(found) < count:
            message = consumer.poll(PATIENCE_S)
            if message is None or message.error() is not None:
                raise ClientFailed(f"after {len(found)} of {count} records: {message and message.error()}")
            found.append(
                Record(
                    partition=message.partition() or 0,
                    offset=message.offset() or 0,
                    timestamp=message.timestamp()[1],
                    key=_plain(message.key()),
                    value=_plain(message.value()),
                    headers=_pairs(message.headers()),
                )
            )
        return found


class KafkaPython:
    """kafka-python 3."""

    name = "kafka-python"
    null_headers = False

    def produce(
        self, bootstrap: str, topic: str, records: Sequence[Record], *, codec: str = "none", idempotent: bool = False
    ) -> list[int]:
        compression = None if codec == "none" else codec
        producer = kafka.KafkaProducer(
            bootstrap_servers=bootstrap, acks="all", compression_type=compression, enable_idempotence=idempotent,
            bootstrap_timeout_ms=PATIENCE_MS, max_block_ms=PATIENCE_MS, request_timeout_ms=REQUEST_MS, delivery_timeout_ms=PATIENCE_MS,
        )  # fmt: skip
        try:
            futures = [
                producer.send(
                    topic,
                    key=each.key,
                    value=each.value,
                    headers=list(each.headers),
                    partition=each.partition,
                    timestamp_ms=each.timestamp,
                )
                for each in records
            ]
            return [future.get(PATIENCE_S).offset for future in futures]
        finally:
            producer.close()

    def consume(self, bootstrap: str, topic: str, *, count: int, from_ms: int | None = None) -> list[Record]:
        consumer = self._consumer(bootstrap, None)
        try:
            parts = [kafka.TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
            consumer.assign(parts)
            consumer.seek_to_beginning(*parts)
            if from_ms is not None:
                consumer.seek_to_end(*parts)
                for part, found in consumer.offsets_for_times(dict.fromkeys(parts, from_ms)).items():
                    if found is not None:
                        consumer.seek(part, found.offset)
            return self._read(consumer, count)
        finally:
            consumer.close()

    def consume_group(self, bootstrap: str, topic: str, *, group: str, count: int) -> list[Record]:
        consumer = self._consumer(bootstrap, group)
        try:
            consumer.subscribe([topic])
            found = self._read(consumer, count)
            consumer.commit()
            return found
        finally:
            consumer.close()

    def create_topic(self, bootstrap: str, topic: str, *, partitions: int, configs: Mapping[str, str]) -> None:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap, bootstrap_timeout_ms=PATIENCE_MS, request_timeout_ms=REQUEST_MS
        )  # fmt: skip
        try:
            admin.create_topics([KafkaNewTopic(topic, partitions, 1, topic_configs=dict(configs))])
        finally:
            admin.close()

    @staticmethod
    def _consumer(bootstrap: str, group: str | None) -> Any:
        settings = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "session_timeout_ms": SESSION_MS}
        settings |= {"bootstrap_timeout_ms": PATIENCE_MS, "request_timeout_ms": REQUEST_MS}
        return kafka.KafkaConsumer(bootstrap_servers=bootstrap, group_id=group, **settings)

    @staticmethod
    def _read(consumer: Any, count: int) -> list[Record]:
        found: list[Record] = []
        give_up = time.monotonic() + PATIENCE_S
        while len(found) < count:
            if time.monotonic() > give_up:
                raise ClientFailed(f"only {len(found)} of {count} records came")
            for batch in consumer.poll(timeout_ms=500, max_records=count - len(found)).values():
                found.extend(_of_python(each) for each in batch)
        return found


class AioKafka:
    """aiokafka: its producer has no Kafka 4 versions, which is why old ones must stay."""

    name = "aiokafka"
    null_headers = True

    def produce(
        self, bootstrap: str, topic: str, records: Sequence[Record], *, codec: str = "none", idempotent: bool = False
    ) -> list[int]:
        async def run() -> list[int]:
            compression = None if codec == "none" else codec
            producer = AIOKafkaProducer(
                bootstrap_servers=bootstrap, acks="all", compression_type=compression, enable_idempotence=idempotent,
                request_timeout_ms=REQUEST_MS,
            )  # fmt: skip
            await producer.start()
            try:
                sent = [
                    await producer.send(
                        topic,
                        key=each.key,
                        value=each.value,
                        headers=list(each.headers),
                        partition=each.partition,
                        timestamp_ms=each.timestamp,
                    )
                    for each in records
                ]
                return [(await future).offset for future in sent]
            finally:
                await producer.stop()

        return _run(run())

    def consume(self, bootstrap: str, topic: str, *, count: int, from_ms: int | None = None) -> list[Record]:
        async def read(consumer: Any) -> list[Record]:
            listed = await _partitions(consumer, topic)
            consumer.assign(listed)
            await consumer.seek_to_beginning(*listed)
            if from_ms is not None:
                await consumer.seek_to_end(*listed)
                for part, found in (await consumer.offsets_for_times(dict.fromkeys(listed, from_ms))).items():
                    if found is not None:
                        consumer.seek(part, found.offset)
            return await self._read(consumer, count)

        return _run(self._with_consumer(bootstrap, None, read))

    def consume_group(self, bootstrap: str, topic: str, *, group: str, count: int) -> list[Record]:
        async def read(consumer: Any) -> list[Record]:
            consumer.subscribe([topic])
            found = await self._read(consumer, count)
            await consumer.commit()
            return found

        return _run(self._with_consumer(bootstrap, group, read))

    def create_topic(self, bootstrap: str, topic: str, *, partitions: int, configs: Mapping[str, str]) -> None:
        async def run() -> None:
            admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=REQUEST_MS)
            await admin.start()
            try:
                await admin.create_topics([AioNewTopic(topic, partitions, 1, topic_configs=dict(configs))])
            finally:
                await admin.close()

        _run(run())

    @staticmethod
    async def _with_consumer(bootstrap: str, group: str | None, read: Callable[[Any], Awaitable[list[Record]]]) -> list[Record]:
        settings = {"auto_offset_reset": "earliest", "enable_auto_commit": False}
        settings |= {"request_timeout_ms": REQUEST_MS, "session_timeout_ms": SESSION_MS}
        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, **settings)
        await consumer.start()
        try:
            return await read(consumer)
        finally:
            await consumer.stop()

    @staticmethod
    async def _read(consumer: Any, count: int) -> list[Record]:
        found: list[Record] = []
        while len(found) < count:
            batches = await consumer.getmany(timeout_ms=500, max_records=count - len(found))
            for batch in batches.values():
                found.extend(_of_python(each) for each in batch)
        return found


async def _partitions(consumer: Any, topic: str) -> list[AioTopicPartition]:
    consumer.subscribe([topic])
    while not (numbers := consumer.partitions_for_topic(topic)):
        await asyncio.sleep(0.05)
    consumer.unsubscribe()
    return [AioTopicPartition(topic, number) for number in sorted(numbers)]


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, PATIENCE_S))


def _of_python(found: Any) -> Record:
    return Record(
        partition=found.partition,
        offset=found.offset,
        timestamp=found.timestamp,
        key=found.key,
        value=found.value,
        headers=tuple(found.headers),
    )


def _pairs(headers: Any) -> tuple[tuple[str, bytes | None], ...]:
    return tuple((name, _plain(value)) for name, value in headers or ())


def _plain(raw: Any) -> bytes | None:
    return None if raw is None else bytes(raw)


PYTHON_CLIENTS: Mapping[str, Client] = {each.name: each for each in (ConfluentKafka(), KafkaPython(), AioKafka())}
