"""Requests that confluent-kafka cannot send: ListOffsets for the tiers' borders (-4 earliest local, -5 latest tiered), DescribeLogDirs, and
for hotlog.cli.tail Fetch with the batches as they are.

Invariants: one connection, one request, one answer; nothing is retried.
"""

from __future__ import annotations

import io
import json
import socket
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from kio.schema.describe_configs.v4.request import DescribeConfigsRequest, DescribeConfigsResource
from kio.schema.describe_configs.v4.response import DescribeConfigsResponse
from kio.schema.describe_log_dirs.v4.request import DescribableLogDirTopic, DescribeLogDirsRequest
from kio.schema.describe_log_dirs.v4.response import DescribeLogDirsResponse
from kio.schema.errors import ErrorCode
from kio.schema.list_offsets.v9.request import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from kio.schema.list_offsets.v9.response import ListOffsetsResponse
from kio.schema.types import BrokerId, TopicName
from kio.serial import entity_reader, entity_writer
from kio.static.primitive import i8, i32, i64

from hotlog.kernel.errors import Corrupt, Invalid, Retry

LIST_OFFSETS, DESCRIBE_CONFIGS, DESCRIBE_LOG_DIRS = (2, 9), (32, 4), (35, 4)  # key and version, all with flexible headers
UNCLEANABLE = "hotlog.uncleanable"
LATEST, EARLIEST = -1, -2
EARLIEST_LOCAL = -4  # KIP-405
LATEST_TIERED = -5  # KIP-1005
REMOTE_DIR = "remote:"  # Hotlog tells the cold tier as a second log dir
_SECONDS = 30.0


class TierSizes(NamedTuple):
    """Bytes of one partition; `tiered` is None where the broker does not tell it."""

    local: int
    tiered: int | None


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
    answer = ask(bootstrap, LIST_OFFSETS, ListOffsetsRequest, body, ListOffsetsResponse)
    return {
        part.partition_index: part.offset if part.error_code is ErrorCode.none else -1
        for found in answer.topics
        for part in found.partitions
    }


def tier_sizes(bootstrap: str, topic: str, partitions: Sequence[int]) -> dict[int, TierSizes]:
    """Bytes of each partition in both tiers; KIP-113.  Raises as `tier_borders`."""
    wanted = DescribableLogDirTopic(topic=TopicName(topic), partitions=tuple(map(i32, partitions)))
    body = DescribeLogDirsRequest(topics=(wanted,))
    answer = ask(bootstrap, DESCRIBE_LOG_DIRS, DescribeLogDirsRequest, body, DescribeLogDirsResponse)
    found: dict[bool, dict[int, int]] = {False: {}, True: {}}
    for directory in answer.results:
        sizes = found[directory.log_dir.startswith(REMOTE_DIR)]
        for part in (part for one in directory.topics if one.name == topic for part in one.partitions):
            sizes[part.partition_index] = sizes.get(part.partition_index, 0) + part.partition_size
    return {index: TierSizes(found[False].get(index, 0), found[True].get(index)) for index in partitions}


def uncleanable(bootstrap: str, topic: str) -> dict[int, str]:
    """Partitions whose log cannot be cleaned, and why (hotlog.answers.uncleanable); empty where a broker does not tell.  Raises as `tier_borders`."""
    wanted = DescribeConfigsResource(resource_type=i8(2), resource_name=topic, configuration_keys=(UNCLEANABLE,))
    answer = ask(
        bootstrap, DESCRIBE_CONFIGS, DescribeConfigsRequest, DescribeConfigsRequest(resources=(wanted,)), DescribeConfigsResponse
    )
    values = [entry.value for result in answer.results for entry in result.configs if entry.name == UNCLEANABLE]
    return {int(index): why for index, why in json.loads(values[0] or "{}").items()} if values else {}


def full_disks(bootstrap: str) -> list[str]:
    """The broker's log dirs that take no record any more; KIP-827.  Raises as `tier_borders`."""
    body = DescribeLogDirsRequest(topics=())
    answer = ask(bootstrap, DESCRIBE_LOG_DIRS, DescribeLogDirsRequest, body, DescribeLogDirsResponse)
    return [one.log_dir for one in answer.results if one.usable_bytes == 0 and not one.log_dir.startswith(REMOTE_DIR)]


def full_disk_words(bootstrap: str) -> str:
    """ ": the disk is full ..." where a broker takes no record for that reason, else "": the client's library repeats it in silence."""
    try:
        full = full_disks(bootstrap)
    except (Retry, Corrupt):
        return ""
    return f": the broker's disk is full, {', '.join(full)} has nothing free above hotlog.disk.reserve.bytes" if full else ""


def ask(bootstrap: str, api: tuple[int, int], kind: Any, body: Any, answer: Any, *, seconds_max: float = _SECONDS) -> Any:
    """One request of `api` (key and version, with flexible headers) and its answer.  Raises as `tier_borders`."""
    return entity_reader(answer)(ask_bytes(bootstrap, api, kind, body, seconds_max=seconds_max), 5)[0]


def ask_bytes(bootstrap: str, api: tuple[int, int], kind: Any, body: Any, *, seconds_max: float = _SECONDS) -> bytes:
    """The same; the answer with its header of 5 bytes, for who reads it by hand.  Raises as `tier_borders`; Invalid: a word is not UTF-8."""
    host, _, port = bootstrap.split(",")[0].rpartition("://")[2].rpartition(":")
    out = io.BytesIO()
    out.write(struct.pack(">hhih", *api, 1, -1) + b"\0")
    try:
        entity_writer(kind)(out, body)
    except UnicodeEncodeError as failure:
        raise Invalid(f"{failure.object!r} is not a text in UTF-8") from None
    try:
        address = (host.strip("[]"), int(port))
        with socket.create_connection(address, timeout=seconds_max) as connection, connection.makefile("rwb") as stream:
            stream.write(struct.pack(">i", out.tell()) + out.getvalue())
            stream.flush()
            size = struct.unpack(">i", stream.read(4))[0]
            reply = stream.read(size)
    except (OSError, ValueError, OverflowError, struct.error) as failure:
        raise Retry(f"no broker answered on {bootstrap}: {failure}") from None
    if len(reply) != size or reply[:5] != struct.pack(">ib", 1, 0):
        raise Corrupt(f"{bootstrap} answered {len(reply)} bytes that are not the reply to API {api[0]}")
    return reply
