"""One request that librdkafka cannot send: ListOffsets for the tiers' borders (-4 earliest local, -5 latest tiered).

Invariants: one connection, one request, one answer; nothing is retried.
"""

from __future__ import annotations

import io
import socket
import struct

from kio.schema.errors import ErrorCode
from kio.schema.list_offsets.v9.request import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from kio.schema.list_offsets.v9.response import ListOffsetsResponse
from kio.schema.types import BrokerId, TopicName
from kio.serial import entity_reader, entity_writer
from kio.static.primitive import i8, i32, i64

from hotlog.kernel.errors import Corrupt, Retry

LIST_OFFSETS, VERSION = 2, 9
LATEST = -1
EARLIEST_LOCAL = -4  # KIP-405
LATEST_TIERED = -5  # KIP-1005
_SECONDS = 30.0


def tier_borders(bootstrap: str, topic: str, partitions: list[int], timestamp: int) -> dict[int, int]:
    """Offset per partition for one of the special timestamps; -1 where the broker has none.

    Raises:
        Retry: nobody answers there.  Corrupt: not the answer that was asked for.
    """
    asked = tuple(
        ListOffsetsPartition(partition_index=i32(index), current_leader_epoch=i32(-1), timestamp=i64(timestamp))
        for index in partitions
    )
    wanted = (ListOffsetsTopic(name=TopicName(topic), partitions=asked),)
    body = ListOffsetsRequest(replica_id=BrokerId(-1), isolation_level=i8(0), topics=wanted)
    answer = _ask(bootstrap, body)
    return {
        part.partition_index: part.offset if part.error_code is ErrorCode.none else -1
        for found in answer.topics
        for part in found.partitions
    }


def _ask(bootstrap: str, body: ListOffsetsRequest) -> ListOffsetsResponse:
    host, _, port = bootstrap.rpartition(":")
    out = io.BytesIO()
    out.write(struct.pack(">hhih", LIST_OFFSETS, VERSION, 1, -1) + b"\0")
    entity_writer(ListOffsetsRequest)(out, body)
    try:
        with socket.create_connection((host, int(port)), timeout=_SECONDS) as connection, connection.makefile("rwb") as stream:
            stream.write(struct.pack(">i", out.tell()) + out.getvalue())
            stream.flush()
            size = struct.unpack(">i", stream.read(4))[0]
            reply = stream.read(size)
    except (OSError, struct.error) as failure:
        raise Retry(f"no broker answered on {bootstrap}: {failure}") from None
    if len(reply) != size or reply[:5] != struct.pack(">ib", 1, 0):
        raise Corrupt(f"{bootstrap} answered {len(reply)} bytes that are not a ListOffsets reply")
    return entity_reader(ListOffsetsResponse)(reply, 5)[0]
