"""Ready-made frames for the load generator and for setting up what it asks for, beside those of wire.py.

Invariants:
- Versions are those whose answers load/answers.c reads: Produce 9, Fetch 12, Metadata 12, Heartbeat 4, OffsetCommit 8.
- A frame that must follow a log says where its offset is (`follow_at`).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from kio.schema.errors import ErrorCode
from kio.schema.fetch.v12 import request as fetch_request
from kio.schema.find_coordinator.v3 import request as coordinator_request
from kio.schema.find_coordinator.v3 import response as coordinator_response
from kio.schema.heartbeat.v4 import request as heartbeat_request
from kio.schema.join_group.v3 import request as join_request
from kio.schema.join_group.v3 import response as join_response
from kio.schema.list_offsets.v8 import request as offsets_request
from kio.schema.list_offsets.v8 import response as offsets_response
from kio.schema.metadata.v12 import request as metadata_request
from kio.schema.offset_commit.v8 import request as commit_request
from kio.schema.produce.v9 import request as produce_request
from kio.schema.sync_group.v3 import request as sync_request
from kio.schema.sync_group.v3 import response as sync_response
from kio.schema.types import BrokerId, GroupId, TopicName
from kio.static.primitive import Records, i8, i16, i32, i32Timedelta, i64

from tests.bench.settings import FETCH_BYTES, MiB
from tests.bench.wire import Connection, Refused, answer_of, frame_of, record_batch

INSIST_SECONDS_MAX = 120
INSIST_PAUSE_S = 0.05
SESSION_SECONDS = 1_500  # of a member that is there only to heartbeat: longer than any measurement, below both brokers' greatest
FOLLOW_WAIT_MS = 5_000
OFFSET_PLACE = 0x5A5A_0102_0304_5A5A
_OFFSET = struct.Struct(">q")
_STAMP = struct.Struct(">q")


def produce_many(batches: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A Produce frame, acks=all, with one batch for each (topic, partition)."""
    by_topic: dict[str, list[produce_request.PartitionProduceData]] = {}
    for topic, partition, batch in batches:
        data = produce_request.PartitionProduceData(index=i32(partition), records=Records(batch))
        by_topic.setdefault(topic, []).append(data)
    topics = tuple(
        produce_request.TopicProduceData(name=TopicName(name), partition_data=tuple(each)) for name, each in by_topic.items()
    )
    timeout = i32Timedelta.parse(timedelta(seconds=30))
    return frame_of(produce_request.ProduceRequest(transactional_id=None, acks=i16(-1), timeout=timeout, topic_data=topics))


def stamped_batch() -> bytes:
    """A batch of one record whose value is the monotonic clock, in nanoseconds."""
    return record_batch([_STAMP.pack(time.monotonic_ns())])


def fetch_many(
    offsets: Mapping[str, Mapping[int, int]],
    *,
    partition_bytes: int = MiB,
    wait_ms: int = 500,
    bytes_min: int = 1,
    session: tuple[int, int] = (0, -1),
) -> bytes:
    """A Fetch frame for `{topic: {partition: offset}}`; `session` is its id and epoch: none unless given."""
    topics = tuple(
        fetch_request.FetchTopic(
            topic=TopicName(topic),
            partitions=tuple(
                fetch_request.FetchPartition(
                    partition=i32(partition), fetch_offset=i64(offset), partition_max_bytes=i32(partition_bytes)
                )
                for partition, offset in each.items()
            ),
        )
        for topic, each in offsets.items()
    )
    return frame_of(
        fetch_request.FetchRequest(
            max_wait=i32Timedelta.parse(timedelta(milliseconds=wait_ms)),
            min_bytes=i32(bytes_min),
            max_bytes=i32(FETCH_BYTES),
            session_id=i32(session[0]),
            session_epoch=i32(session[1]),
            topics=topics,
            forgotten_topics_data=(),
        )
    )


def follow_at(topic: str, partition: int, offset: int) -> tuple[bytes, int]:
    """A Fetch frame that waits for what comes at `offset`, and where in it that offset is."""
    frame = fetch_many({topic: {partition: OFFSET_PLACE}}, wait_ms=FOLLOW_WAIT_MS)
    place = frame.index(_OFFSET.pack(OFFSET_PLACE))
    return frame[:place] + _OFFSET.pack(offset) + frame[place + _OFFSET.size :], place


def metadata_frame(topic: str) -> bytes:
    """A Metadata frame for one topic."""
    wanted = (metadata_request.MetadataRequestTopic(topic_id=None, name=TopicName(topic)),)
    return frame_of(
        metadata_request.MetadataRequest(
            topics=wanted, allow_auto_topic_creation=False, include_topic_authorized_operations=False
        )
    )


def heartbeat_frame(group: str, generation: int, member: str) -> bytes:
    return frame_of(heartbeat_request.HeartbeatRequest(group_id=GroupId(group), generation_id=i32(generation), member_id=member))


def commit_frame(group: str, topic: str, partition: int, offset: int) -> bytes:
    """An OffsetCommit frame of one partition, for a group without members."""
    place = commit_request.OffsetCommitRequestPartition(
        partition_index=i32(partition), committed_offset=i64(offset), committed_metadata=""
    )
    topics = (commit_request.OffsetCommitRequestTopic(name=TopicName(topic), partitions=(place,)),)
    return frame_of(commit_request.OffsetCommitRequest(group_id=GroupId(group), member_id="", topics=topics))


def end_offsets(connection: Connection, partitions: Mapping[str, Sequence[int]]) -> dict[tuple[str, int], int]:
    """The end of each partition's log, as its leader says. Raises Refused."""
    topics = tuple(
        offsets_request.ListOffsetsTopic(
            name=TopicName(topic),
            partitions=tuple(
                offsets_request.ListOffsetsPartition(partition_index=i32(each), timestamp=i64(-1)) for each in numbers
            ),
        )
        for topic, numbers in partitions.items()
    )
    connection.send(frame_of(offsets_request.ListOffsetsRequest(replica_id=BrokerId(-1), isolation_level=i8(0), topics=topics)))
    ends = {}
    for topic in answer_of(offsets_response.ListOffsetsResponse, connection.receive()).topics:
        for each in topic.partitions:
            _check(each.error_code, f"end of {topic.name}-{each.partition_index}")
            ends[str(topic.name), int(each.partition_index)] = int(each.offset)
    return ends


def join_alone(connection: Connection, group: str) -> bytes:
    """Join `group` as its only member; the Heartbeat frame of that member. Raises Refused."""
    insist(lambda: _find_coordinator(connection, group))
    protocol = join_request.JoinGroupRequestProtocol(name="range", metadata=b"")
    seconds = i32Timedelta.parse(timedelta(seconds=SESSION_SECONDS))
    joined: Any = None

    def join() -> None:
        nonlocal joined
        connection.send(
            frame_of(
                join_request.JoinGroupRequest(
                    group_id=GroupId(group),
                    session_timeout=seconds,
                    rebalance_timeout=seconds,
                    member_id="",
                    protocol_type="consumer",
                    protocols=(protocol,),
                )
            )
        )
        joined = answer_of(join_response.JoinGroupResponse, connection.receive())
        _check(joined.error_code, f"join of {group}")

    insist(join)
    assignment = sync_request.SyncGroupRequestAssignment(member_id=joined.member_id, assignment=b"")
    connection.send(
        frame_of(
            sync_request.SyncGroupRequest(
                group_id=GroupId(group), generation_id=joined.generation_id, member_id=joined.member_id, assignments=(assignment,)
            )
        )
    )
    _check(answer_of(sync_response.SyncGroupResponse, connection.receive()).error_code, f"sync of {group}")
    return heartbeat_frame(group, joined.generation_id, joined.member_id)


def _find_coordinator(connection: Connection, group: str) -> None:
    connection.send(frame_of(coordinator_request.FindCoordinatorRequest(key=group, key_type=i8(0))))
    _check(answer_of(coordinator_response.FindCoordinatorResponse, connection.receive()).error_code, f"coordinator of {group}")


def _check(code: ErrorCode, what: str) -> None:
    if code is not ErrorCode.none:
        raise Refused(f"{what}: {code.name}")


def insist(ask: Callable[[], None]) -> None:
    """Ask until it is not refused: a broker lists leaders before their logs are there. Raises the last Refused."""
    give_up = time.monotonic() + INSIST_SECONDS_MAX
    while True:
        try:
            return ask()
        except Refused:
            if time.monotonic() > give_up:
                raise
            time.sleep(INSIST_PAUSE_S)
