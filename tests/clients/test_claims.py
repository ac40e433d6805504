"""What a broker makes of batches whose headers and records claim things: Hotlog's answers are Kafka's (HOTLOG_CLIENTS_AGAINST=kafka)."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from kio.schema.errors import ErrorCode
from kio.schema.produce.v9.request import PartitionProduceData, ProduceRequest, TopicProduceData
from kio.schema.produce.v9.response import PartitionProduceResponse, ProduceResponse

from tests.bench.wire import Connection, answer_of, frame_of, list_offset
from tests.fixtures.raw_batch import RawRecord, raw_batch, zstd
from tests.tools.patience import PATIENCE_S

NONE, INVALID, TIMESTAMP = ErrorCode.none, ErrorCode.invalid_record, ErrorCode.invalid_timestamp
DAY_MS = 86_400_000
NOW = int(time.time() * 1000)
NARROW = {"message.timestamp.before.max.ms": "3600000", "message.timestamp.after.max.ms": "3600000"}
codecs = pytest.mark.parametrize("codec", ["none", "gzip"])


def create(bootstrap: str, topic: str, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for made in admin.create_topics([NewTopic(topic, 1, 1, config=config)]).values():
        made.result(PATIENCE_S)


def send(bootstrap: str, topic: str, batch: bytearray) -> PartitionProduceResponse:
    """The answer; asked again while the new topic's leader is not there yet."""
    data = TopicProduceData(name=topic, partition_data=(PartitionProduceData(index=0, records=bytes(batch)),))  # type: ignore[arg-type]
    request: Any = ProduceRequest(transactional_id=None, acks=-1, timeout=timedelta(seconds=PATIENCE_S), topic_data=(data,))  # type: ignore[arg-type]
    connection = Connection(bootstrap)
    try:
        for _ in range(600):
            connection.send(frame_of(request))
            answer: Any = answer_of(ProduceResponse, connection.receive()).responses[0].partition_responses[0]
            if answer.error_code not in (ErrorCode.unknown_topic_or_partition, ErrorCode.not_leader_or_follower):
                break
            time.sleep(0.1)
        return answer  # type: ignore[no-any-return]
    finally:
        connection.close()


def latest_time(bootstrap: str, topic: str, asked: int) -> int:
    """The offset that ListOffsets answers for a time; -1 for none."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "claims"})
    try:
        (found,) = consumer.offsets_for_times([TopicPartition(topic, 0, asked)], timeout=PATIENCE_S)
        return int(found.offset)
    finally:
        consumer.close()


HONEST = [RawRecord(NOW), RawRecord(NOW)]
CLAIMS: dict[str, tuple[dict[str, str], list[RawRecord], dict[str, Any], ErrorCode, list[int]]] = {
    "a largest timestamp too high": ({}, HONEST, {"max_timestamp": NOW + 10**6}, NONE, []),
    "a largest timestamp of -1": ({}, HONEST, {"max_timestamp": -1}, NONE, []),
    "no timestamps, largest 0": ({}, [RawRecord(-1)] * 5, {"max_timestamp": 0}, NONE, []),
    "timestamps below -1": ({}, [RawRecord(-5)], {}, NONE, []),
    "a count below the truth": ({}, HONEST, {"count": 1}, INVALID, []),
    "a count above the truth": ({}, HONEST, {"count": 3}, INVALID, []),
    "a last offset above the truth": ({}, HONEST, {"last_offset_delta": 5}, INVALID, []),
    "a base offset": ({}, HONEST, {"base_offset": 7}, INVALID, []),
    "the broker's time under CreateTime": ({}, HONEST, {"attributes": 8}, NONE, []),
    "the broker's time under LogAppendTime": ({"message.timestamp.type": "LogAppendTime"}, HONEST, {"attributes": 8}, TIMESTAMP, [0, 1]),
    "two of four out of the limits": (
        NARROW, [RawRecord(NOW), RawRecord(NOW - DAY_MS), RawRecord(-1), RawRecord(NOW + DAY_MS)], {}, TIMESTAMP, [1, 3],
    ),
    "no key on a compacted topic": ({"cleanup.policy": "compact"}, [RawRecord(NOW), RawRecord(NOW, key=None)], {}, INVALID, [1]),
    "no key, and a time out of the limits": (
        {"cleanup.policy": "compact"}, [RawRecord(NOW, key=None), RawRecord(NOW + DAY_MS)], {}, TIMESTAMP, [0, 1],
    ),
    "odd attributes of a record": ({}, [RawRecord(NOW, attributes=1)], {}, NONE, []),
    "a header name that is not UTF-8": ({}, [RawRecord(NOW, headers=((b"caf\xe9", b"1"),))], {}, NONE, []),
}  # fmt: skip


@codecs
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_is_answered_as_kafka_does(bootstrap: str, topic: str, claim: str, codec: str) -> None:
    config, records, said, code, faults = CLAIMS[claim]
    create(bootstrap, topic, **config)
    answer = send(bootstrap, topic, raw_batch(records, codec, **said))
    assert answer.error_code is code
    assert [error.batch_index for error in answer.record_errors] == faults
    assert all(error.batch_index_error_message for error in answer.record_errors)
    connection = Connection(bootstrap)
    try:
        assert list_offset(connection, topic, 0, -1) == (len(records) if code is NONE else 0)
    finally:
        connection.close()
    if code is NONE:
        newest = max(record.timestamp for record in records)
        if newest >= 0:
            assert latest_time(bootstrap, topic, newest) == next(i for i, r in enumerate(records) if r.timestamp == newest)
        assert latest_time(bootstrap, topic, max(newest, 0) + 1) == (-1 if newest >= 0 else latest_time(bootstrap, topic, 0))


@pytest.mark.parametrize(("window_log", "is_taken"), [(24, True), (27, True), (28, False)])
def test_zstd_windows_are_taken_as_by_java(bootstrap: str, topic: str, window_log: int, is_taken: bool) -> None:
    create(bootstrap, topic)
    batch = raw_batch([RawRecord(NOW, value=b"x" * 100_000)], "zstd", compress=lambda data: zstd(data, window_log))
    assert (send(bootstrap, topic, batch).error_code is NONE) == is_taken


def test_records_of_librdkafka_without_a_timestamp_stay(bootstrap: str, topic: str) -> None:
    """It says base timestamp -1 and largest 0: retention of seven days deleted them at its next round."""
    create(bootstrap, topic)
    producer = Producer({"bootstrap.servers": bootstrap})
    for _ in range(5):
        producer.produce(topic, b"v", timestamp=-1)
    assert producer.flush(PATIENCE_S) == 0
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "claims", "auto.offset.reset": "earliest"})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        messages = consumer.consume(5, timeout=PATIENCE_S)
        assert [message.timestamp()[1] for message in messages] == [-1] * 5 or all(m.timestamp()[0] == 0 for m in messages)
    finally:
        consumer.close()
