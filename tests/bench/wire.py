"""The bare Kafka protocol over blocking sockets: ready-made Produce frames and plain Fetch loops.

Any library client costs more CPU than a broker does, so on a small machine it measures itself. Here a frame is
built once and sent many times, and of a fetched batch only the header is looked at.

Invariants:
- The same bytes go to every broker; versions are ones every broker of the last years has (Produce 9, Fetch 12, ListOffsets 8).
- An error code in any answer raises; a bench never counts what was refused.
"""

from __future__ import annotations

import io
import socket
import struct
from datetime import timedelta
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from kio.schema.errors import ErrorCode
from kio.schema.fetch.v12 import request as fetch_request
from kio.schema.fetch.v12 import response as fetch_response
from kio.schema.list_offsets.v8 import request as offsets_request
from kio.schema.list_offsets.v8 import response as offsets_response
from kio.schema.produce.v9 import request as produce_request
from kio.schema.produce.v9 import response as produce_response
from kio.schema.types import BrokerId, TopicName
from kio.serial import entity_reader, entity_writer
from kio.static.primitive import Records, i8, i16, i32, i32Timedelta, i64

from tests.bench.settings import FETCH_BYTES, FETCH_PARTITION_BYTES

SOCKET_SECONDS_MAX = 60
SOCKET_BUFFER_BYTES = 4 * 1024 * 1024
_BATCH_HEAD = struct.Struct(">qi")  # base offset, length of what follows
_LAST_OFFSET_DELTA = struct.Struct(">i")
_LAST_OFFSET_DELTA_AT = 23
_CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


class Refused(Exception):
    """The broker answered with an error code."""


class Connection:
    """One blocking connection; requests are answered in order, so correlation ids are counted, not matched."""

    def __init__(self, bootstrap: str) -> None:
        host, _, port = bootstrap.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=SOCKET_SECONDS_MAX)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(SOCKET_BUFFER_BYTES)

    def send(self, frame: bytes | memoryview) -> None:
        self._socket.sendall(frame)

    def receive(self) -> memoryview:
        """The next answer without its length; valid until the next `receive`."""
        size = struct.unpack(">i", self._exactly(4))[0]
        return self._exactly(size)

    def _exactly(self, size: int) -> memoryview:
        if size > len(self._buffer):
            self._buffer = bytearray(2 * size)
        view = memoryview(self._buffer)[:size]
        got = 0
        while got < size:
            count = self._socket.recv_into(view[got:])
            if count == 0:
                raise ConnectionError("the broker closed the connection in the middle of an answer")
            got += count
        return view.toreadonly()

    def close(self) -> None:
        self._socket.close()


def frame_of(request: Any) -> bytes:
    """A kio request entity as one frame, header included."""
    kind = type(request)
    header_type = kind.__header_schema__
    header = header_type(
        request_api_key=kind.__api_key__,
        request_api_version=kind.__version__,
        correlation_id=i32(1),
        client_id="hotlog-bench",
    )
    buffer = io.BytesIO()
    entity_writer(header_type)(buffer, header)
    entity_writer(kind)(buffer, request)
    body = buffer.getvalue()
    return struct.pack(">i", len(body)) + body


def answer_of(kind: Any, raw: memoryview) -> Any:
    """The response entity in one received answer."""
    header_reader = entity_reader(kind.__header_schema__)
    _, header_size = header_reader(raw, 0)
    answer, _ = entity_reader(kind)(raw, header_size)
    return answer


def record_batch(values: list[bytes], codec: str = "none") -> bytes:
    """One v2 record batch of `values`, all with the same timestamp and no keys."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=_CODECS[codec],
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 30,
    )
    for number, value in enumerate(values):
        builder.append(number, timestamp=1_700_000_000_000, key=None, value=value, headers=[])
    return bytes(builder.build())


def produce_frame(topic: str, partition: int, batch: bytes) -> bytes:
    """A Produce v9 frame with acks=all and one batch."""
    data = produce_request.PartitionProduceData(index=i32(partition), records=Records(batch))
    return frame_of(
        produce_request.ProduceRequest(
            transactional_id=None,
            acks=i16(-1),
            timeout=i32Timedelta.parse(timedelta(seconds=30)),
            topic_data=(produce_request.TopicProduceData(name=TopicName(topic), partition_data=(data,)),),
        )
    )


def check_produced(raw: memoryview) -> None:
    """Raise Refused when a Produce answer names an error."""
    answer = answer_of(produce_response.ProduceResponse, raw)
    for topic in answer.responses:
        for partition in topic.partition_responses:
            if partition.error_code is not ErrorCode.none:
                raise Refused(f"produce to {topic.name}-{partition.index}: {partition.error_code.name}")


def fetch_frame(topic: str, offsets: dict[int, int]) -> bytes:
    """A Fetch v12 frame without a session for `{partition: offset}`."""
    partitions = tuple(
        fetch_request.FetchPartition(
            partition=i32(partition),
            fetch_offset=i64(offset),
            partition_max_bytes=i32(FETCH_PARTITION_BYTES),
        )
        for partition, offset in offsets.items()
    )
    return frame_of(
        fetch_request.FetchRequest(
            max_wait=i32Timedelta.parse(timedelta(milliseconds=500)),
            min_bytes=i32(1),
            max_bytes=i32(FETCH_BYTES),
            topics=(fetch_request.FetchTopic(topic=TopicName(topic), partitions=partitions),),
            forgotten_topics_data=(),
        )
    )


def fetched(raw: memoryview) -> tuple[int, dict[int, int]]:
    """Bytes of whole batches in a Fetch answer and, by partition, the offset to go on from. Raises Refused."""
    answer = answer_of(fetch_response.FetchResponse, raw)
    if answer.error_code is not ErrorCode.none:
        raise Refused(f"fetch: {answer.error_code.name}")
    total, following = 0, {}
    for topic in answer.responses:
        for partition in topic.partitions:
            if partition.error_code is not ErrorCode.none:
                raise Refused(f"fetch of {topic.topic}-{partition.partition_index}: {partition.error_code.name}")
            size, after = _walk_batches(partition.records or b"")
            if size:
                total += size
                following[int(partition.partition_index)] = after
    return total, following


def _walk_batches(records: bytes | memoryview) -> tuple[int, int]:
    position, after = 0, -1
    while position + _LAST_OFFSET_DELTA_AT + 4 <= len(records):
        base, length = _BATCH_HEAD.unpack_from(records, position)
        if position + _BATCH_HEAD.size + length > len(records):
            break
        after = base + _LAST_OFFSET_DELTA.unpack_from(records, position + _LAST_OFFSET_DELTA_AT)[0] + 1
        position += _BATCH_HEAD.size + length
    return position, after


def list_offset(connection: Connection, topic: str, partition: int, timestamp: int) -> int:
    """ListOffsets v8 for a timestamp or one of the special values (-1 latest, -2 earliest, -4 earliest local). Raises Refused."""
    wanted = offsets_request.ListOffsetsPartition(partition_index=i32(partition), timestamp=i64(timestamp))
    topics = (offsets_request.ListOffsetsTopic(name=TopicName(topic), partitions=(wanted,)),)
    request = offsets_request.ListOffsetsRequest(replica_id=BrokerId(-1), isolation_level=i8(0), topics=topics)
    connection.send(frame_of(request))
    answer = answer_of(offsets_response.ListOffsetsResponse, connection.receive())
    found = answer.topics[0].partitions[0]
    if found.error_code is not ErrorCode.none:
        raise Refused(f"offsets of {topic}-{partition} at {timestamp}: {found.error_code.name}")
    return int(found.offset)
