"""Produce and Fetch by hand against kio, byte for byte."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from hotlog.kernel.errors import Invalid
from hotlog.wire import apis, fetch_reply, fetch_request, produce
from tests.wire.strategies import entities, written

CODES = st.sampled_from(list(ErrorCode))
LONGS = st.integers(-1, 2**62)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def framed(body: bytes) -> memoryview:
    return memoryview(bytearray(b"headhead" + body))


@pytest.mark.parametrize("version", produce.VERSIONS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_produce_request_is_read_as_kio_reads_it(version: int, data: st.DataObject) -> None:
    entity = data.draw(entities(apis.request_type(0, version)))
    found = produce.decode(version, framed(written(entity)), 8)
    assert found.transactional_id == entity.transactional_id
    assert (found.acks, timedelta(milliseconds=found.timeout_ms)) == (entity.acks, entity.timeout)
    assert len(found.topics) == len(entity.topic_data)
    for ours, theirs in zip(found.topics, entity.topic_data, strict=True):
        assert ours.name == getattr(theirs, "name", None)
        assert ours.topic_id == getattr(theirs, "topic_id", None)
        assert [(p.partition, None if p.records is None else bytes(p.records)) for p in ours.partitions] == [
            (p.index, p.records) for p in theirs.partition_data
        ]


def test_records_are_writable_views_of_the_frame() -> None:
    shapes = apis.requests(0, 9)
    part = shapes.PartitionProduceData(index=3, records=b"0123456789")
    topic = shapes.TopicProduceData(name="t", partition_data=(part,))
    entity = shapes.ProduceRequest(transactional_id=None, acks=-1, timeout=timedelta(seconds=1), topic_data=(topic,))
    frame = framed(written(entity))
    records = produce.decode(9, frame, 8).topics[0].partitions[0].records
    assert records is not None
    records[:2] = b"!!"
    assert b"!!23456789" in bytes(frame)


@pytest.mark.parametrize("version", produce.VERSIONS)
@settings(max_examples=10, deadline=None)
@given(junk=st.binary(max_size=60))
def test_a_produce_request_cut_or_bent_is_invalid_or_read(version: int, junk: bytes) -> None:
    try:
        produce.decode(version, memoryview(bytearray(junk)), 0)
    except Invalid as refusal:
        assert "malformed" in str(refusal)


@pytest.mark.parametrize("version", produce.VERSIONS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_produce_response_is_written_as_kio_writes_it(version: int, data: st.DataObject) -> None:
    names = st.tuples(st.text(min_size=1, max_size=5), st.uuids())
    drawn = data.draw(
        st.lists(
            st.tuples(
                names, st.lists(st.tuples(st.integers(0, 99), CODES, LONGS, LONGS, st.none() | st.text(max_size=200)), max_size=3)
            ),
            max_size=3,
        )
    )
    append_ms = data.draw(st.sampled_from([-1, 1_600_000_000_123]))
    shapes = apis.responses(0, version)
    topics, entities_ = [], []
    for (name, topic_id), parts in drawn:
        topics.append(
            produce.TopicResult(
                name,
                topic_id,
                [produce.PartitionResult(i, code, base, append_ms, start, text) for i, code, base, start, text in parts],
            )
        )
        entities_.append(
            shapes.TopicProduceResponse(
                name=name,
                topic_id=topic_id,
                partition_responses=tuple(
                    shapes.PartitionProduceResponse(
                        index=i,
                        error_code=code,
                        base_offset=base,
                        log_append_time=None if append_ms < 0 else EPOCH + timedelta(milliseconds=append_ms),
                        log_start_offset=start,
                        record_errors=(),
                        error_message=text,
                    )
                    for i, code, base, start, text in parts
                ),
            )
        )
    theirs = shapes.ProduceResponse(responses=tuple(entities_), throttle_time=timedelta(milliseconds=7))
    assert produce.encode(version, topics, throttle_ms=7) == written(theirs)


@pytest.mark.parametrize("version", fetch_request.VERSIONS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_fetch_request_is_read_as_kio_reads_it(version: int, data: st.DataObject) -> None:
    entity = data.draw(entities(apis.request_type(1, version)))
    found = fetch_request.decode(version, framed(written(entity)), 8)
    assert timedelta(milliseconds=found.wait_ms_max) == entity.max_wait
    assert (found.bytes_min, found.bytes_max, found.isolation_level) == (
        entity.min_bytes,
        entity.max_bytes,
        entity.isolation_level,
    )
    assert found.session_id == getattr(entity, "session_id", 0)
    assert found.session_epoch == getattr(entity, "session_epoch", -1)
    assert found.rack == getattr(entity, "rack_id", "")
    wanted: dict[Any, Any] = {}
    for topic in entity.topics:
        for part in topic.partitions:
            key = (getattr(topic, "topic_id", None) or getattr(topic, "topic", UUID(int=0)), part.partition)
            wanted[key] = (part.fetch_offset, part.partition_max_bytes, getattr(part, "current_leader_epoch", -1))
    assert {key: tuple(each) for key, each in found.partitions.items()} == wanted
    forgotten = [
        (getattr(topic, "topic_id", None) or getattr(topic, "topic", UUID(int=0)), number)
        for topic in getattr(entity, "forgotten_topics_data", ())
        for number in topic.partitions
    ]
    assert found.forgotten == forgotten


@pytest.mark.parametrize("tagged", [0, 1, 2])
def test_tags_of_one_partition_leave_the_others_as_they_are(tagged: int) -> None:
    shapes = apis.requests(1, 12)
    parts = tuple(shapes.FetchPartition(partition=i, fetch_offset=i + 10, partition_max_bytes=i + 20) for i in range(3))
    request = shapes.FetchRequest(
        max_wait=timedelta(0),
        min_bytes=0,
        max_bytes=1000,
        topics=(shapes.FetchTopic(topic="t", partitions=parts),),
        forgotten_topics_data=(),
    )
    body = written(request)
    unknown = b"\1\x63\2ab"  # one tagged field, number 99, of two bytes
    assert body.count(b"\0" * 3 + bytes([tagged + 20])) == 1
    at = body.index(b"\0" * 3 + bytes([tagged + 20])) + 4
    assert body[at] == 0
    found = fetch_request.decode(12, framed(body[:at] + unknown + body[at + 1 :]), 8)
    assert found == fetch_request.decode(12, framed(body), 8)
    assert found.partitions == {("t", i): (i + 10, i + 20, -1) for i in range(3)}


@pytest.mark.parametrize("version", fetch_request.VERSIONS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_fetch_response_is_written_as_kio_writes_it(version: int, data: st.DataObject) -> None:
    part = st.builds(
        fetch_reply.PartitionReply,
        partition=st.integers(0, 99),
        code=CODES,
        high_watermark=LONGS,
        last_stable_offset=LONGS,
        log_start_offset=LONGS,
        aborted=st.none() | st.lists(st.tuples(LONGS, LONGS), max_size=3),
        records=st.binary(max_size=40) | st.integers(100, 20_000).map(lambda n: b"r" * n),
    )
    drawn = data.draw(st.lists(st.tuples(st.text(min_size=1, max_size=5), st.uuids(), st.lists(part, max_size=3)), max_size=3))
    code, session_id = data.draw(CODES), data.draw(st.integers(0, 2**31 - 1))
    shapes = apis.responses(1, version)
    theirs = shapes.FetchResponse(
        throttle_time=timedelta(0),
        error_code=code,
        session_id=session_id,
        responses=tuple(
            shapes.FetchableTopicResponse(
                topic=name,
                topic_id=topic_id,
                partitions=tuple(
                    shapes.PartitionData(
                        partition_index=reply.partition,
                        error_code=reply.code,
                        high_watermark=reply.high_watermark,
                        last_stable_offset=reply.last_stable_offset,
                        log_start_offset=reply.log_start_offset,
                        aborted_transactions=None
                        if reply.aborted is None
                        else tuple(shapes.AbortedTransaction(producer_id=p, first_offset=o) for p, o in reply.aborted),
                        records=bytes(reply.records),
                    )
                    for reply in parts
                ),
            )
            for name, topic_id, parts in drawn
        ),
    )
    topics = [(topic_id if version >= fetch_request.TOPIC_ID_FROM else name, parts) for name, topic_id, parts in drawn]
    buffers, size = fetch_reply.encode(version, topics, code=code, session_id=session_id)
    assert b"".join(bytes(buffer) for buffer in buffers) == written(theirs)
    assert size == sum(map(len, buffers))


def test_record_bytes_are_spliced_not_copied() -> None:
    records = memoryview(bytearray(1000))
    buffers, _ = fetch_reply.encode(12, [("t", [fetch_reply.PartitionReply(0, records=records)])])
    assert any(buffer is records for buffer in buffers)
