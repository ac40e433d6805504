"""ListOffsets (2): the offset for a time, or for one of the named positions, over both tiers.

Versions 1 to 11.  Named positions: -1 latest, -2 earliest, -3 largest timestamp (KIP-734, version 7), -4 earliest local (KIP-405,
version 8), -5 latest tiered (KIP-1005, version 9), -6 earliest not yet tiered (version 11).  A position that a version does not know is
answered UNSUPPORTED_VERSION, as Kafka does.

Invariants: an answer lies within [log start, high watermark or last stable offset]; the cold part is asked first, since it holds the older
offsets; only times and -3 wait.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, Caller, RequestContext
from hotlog.answers.slices import SLICE, slices
from hotlog.broker.leaders import led_here
from hotlog.kernel.errors import StoreUnavailable
from hotlog.wire import apis, short_bodies
from hotlog.wire.error_codes import Refused, code_for, is_expected, kept

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker
    from hotlog.partitions.partition import Partition

LOG = logging.getLogger(__name__)

LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING_UPLOAD = -1, -2, -3, -4, -5, -6
_SINCE = {LATEST: 1, EARLIEST: 1, MAX_TIMESTAMP: 7, EARLIEST_LOCAL: 8, LATEST_TIERED: 9, EARLIEST_PENDING_UPLOAD: 11}
READ_COMMITTED = 1
QUICK_BYTES_MAX = 4096  # of a request that is answered at once: some 200 partitions


class Found(NamedTuple):
    """An offset with its timestamp (ms) and leader epoch; -1 where there is none."""

    offset: int = -1
    timestamp: int = -1
    leader_epoch: int = -1


def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Named positions at once; times may have to ask the store."""
    is_committed = getattr(request, "isolation_level", 0) == READ_COMMITTED
    if sum(len(topic.partitions) for topic in request.topics) > SLICE:
        return _wide(broker, context, request, is_committed)
    answers = [
        [_answer(broker, context.version, topic.name, part, is_committed) for part in topic.partitions]
        for topic in request.topics
    ]
    if any(not isinstance(answer, (Found, Exception)) for topic in answers for answer in topic):
        return _wait(broker, context, request, answers)
    return _response(context, request, answers)


async def _wide(broker: Broker, context: RequestContext, request: Any, is_committed: bool) -> Any:
    """The same, a slice of a topic's partitions at a time."""
    topics: list[Any] = []
    seconds = _seconds(broker, request)
    for topic in request.topics:
        partitions: list[Any] = []
        async for some in slices(topic.partitions):
            found = [[_answer(broker, context.version, topic.name, part, is_committed) for part in some]]
            await _await_all(found, seconds)
            partitions += _partitions(context, topic.name, some, found[0])
        topics.append(
            apis.responses(context.api_key, context.version).ListOffsetsTopicResponse(
                name=topic.name, partitions=tuple(partitions)
            )
        )
    return apis.responses(context.api_key, context.version).ListOffsetsResponse(throttle_time=timedelta(0), topics=tuple(topics))


def _answer(broker: Broker, version: int, topic: str, part: Any, is_committed: bool) -> Found | Exception | Awaitable[Found]:
    try:
        partition = led_here(broker, topic, part.partition_index, getattr(part, "current_leader_epoch", -1))
        if part.timestamp >= 0 or part.timestamp == MAX_TIMESTAMP:
            if part.timestamp == MAX_TIMESTAMP and version < _SINCE[MAX_TIMESTAMP]:
                raise Refused(ErrorCode.unsupported_version, f"position {MAX_TIMESTAMP} needs version {_SINCE[MAX_TIMESTAMP]}")
            return _search(partition, part.timestamp, is_committed)
        if part.timestamp not in _SINCE or version < _SINCE[part.timestamp]:
            raise Refused(ErrorCode.unsupported_version, f"position {part.timestamp} is not known in version {version}")
        return _named(partition, part.timestamp, is_committed)
    except Exception as error:
        return kept(error)


def _named(partition: Partition, position: int, is_committed: bool) -> Found:
    if position == LATEST:
        return Found(partition.readable_end(is_committed), -1, partition.leader_epoch)
    if position == EARLIEST:
        offset = partition.log_start_offset
    else:
        ranges = partition.ranges()
        if position == EARLIEST_LOCAL:
            offset = ranges.local_start
        elif ranges.stored_end < 0:
            return Found()
        elif position == LATEST_TIERED:
            offset = ranges.stored_end - 1 if ranges.is_tiered else -1
        else:
            offset = ranges.stored_end if ranges.is_tiered else ranges.local_start
    return Found(offset, -1, partition.epoch_at(offset))


async def _search(partition: Partition, timestamp: int, is_committed: bool) -> Found:
    """The first record at or after a time, or the one with the largest; none if it is not readable yet."""
    found = await (partition.offset_of_max_time() if timestamp == MAX_TIMESTAMP else partition.offset_for_time(timestamp))
    if found is None or found.offset >= partition.readable_end(is_committed):
        return Found()
    return Found(*found)


async def _wait(broker: Broker, context: RequestContext, request: Any, answers: list[list[Any]]) -> Any:
    await _await_all(answers, _seconds(broker, request))
    return _response(context, request, answers)


def _seconds(broker: Broker, request: Any) -> float:
    """How long a search may take."""
    seconds = broker.settings.number("remote.list.offsets.request.timeout.ms") / 1000
    asked = getattr(request, "timeout", None)
    if asked is not None and asked > timedelta(0):
        seconds = min(seconds, asked.total_seconds())
    return seconds


async def _await_all(answers: list[list[Any]], seconds: float) -> None:
    """Put what searches find, or raise, in their places."""
    places = [(topic, at) for topic in answers for at, answer in enumerate(topic) if not isinstance(answer, (Found, Exception))]
    found = await asyncio.gather(*(_within(topic[at], seconds) for topic, at in places), return_exceptions=True)
    for (topic, at), each in zip(places, found, strict=True):
        topic[at] = each


async def _within(search: Awaitable[Found], seconds: float) -> Found:
    async with asyncio.timeout(seconds):
        return await search


def _response(context: RequestContext, request: Any, answers: list[list[Any]]) -> Any:
    shapes = apis.responses(context.api_key, context.version)
    topics = [
        shapes.ListOffsetsTopicResponse(
            name=topic.name, partitions=tuple(_partitions(context, topic.name, topic.partitions, found))
        )
        for topic, found in zip(request.topics, answers, strict=True)
    ]
    return shapes.ListOffsetsResponse(throttle_time=timedelta(0), topics=tuple(topics))


def _partitions(context: RequestContext, topic: str, parts: Sequence[Any], answers: list[Any]) -> list[Any]:
    shapes = apis.responses(context.api_key, context.version)
    partitions = []
    for part, each in zip(parts, answers, strict=True):
        code = ErrorCode.none
        if isinstance(each, BaseException):
            code = _code(context, topic, part.partition_index, each)
            each = Found()
        partitions.append(
            shapes.ListOffsetsPartitionResponse(
                partition_index=part.partition_index,
                error_code=code,
                timestamp=each.timestamp,
                offset=each.offset,
                leader_epoch=each.leader_epoch,
            )
        )
    return partitions


def _code(context: RequestContext, topic: str, index: int, error: BaseException) -> ErrorCode:
    context.has_failed = True
    if not is_expected(error):
        LOG.error("ListOffsets of %s-%d failed", topic, index, exc_info=error)
    if isinstance(error, StoreUnavailable):
        return ErrorCode.request_timed_out  # retriable, and says what it is
    return code_for(error)


# Answers by hand: (partition, error code, timestamp, offset), the leader epoch from 4, tags from 6.
_PLAIN, _WITH_EPOCH, _TAGGED = struct.Struct(">ihqq"), struct.Struct(">ihqqi"), struct.Struct(">ihqqiB")
_HEAD, _HEAD_THROTTLED, _COUNT = b"\0\0\0\1", bytes(4) + b"\0\0\0\1", struct.Struct(">i")


def quick(broker: Broker, caller: Caller, version: int, frame: memoryview, position: int) -> bytes | None:
    """The ends of partitions of one topic that are led here."""
    if len(frame) > QUICK_BYTES_MAX:
        return None
    asked = short_bodies.list_offsets(version, bytes(frame[position:]))
    is_committed, answers = asked.isolation_level == READ_COMMITTED, []
    for index, epoch, wanted in asked.partitions:
        partition = broker.hosted_places.get((asked.topic, index))
        if partition is None or 0 <= epoch != partition.leader_epoch:
            return None
        if wanted == LATEST:
            offset, own_epoch = partition.readable_end(is_committed), partition.leader_epoch
        elif wanted == EARLIEST:
            offset = partition.marks.log_start_offset
            own_epoch = partition.epoch_at(offset)
        else:
            return None
        if version >= 6:
            answers.append(_TAGGED.pack(index, 0, -1, offset, own_epoch, 0))
        elif version >= 4:
            answers.append(_WITH_EPOCH.pack(index, 0, -1, offset, own_epoch))
        else:
            answers.append(_PLAIN.pack(index, 0, -1, offset))
    if version >= 6:  # tags of the header, throttle time, one topic, ...; tags of the topic and of the response
        return b"".join((b"\0\0\0\0\0\2", asked.echo, bytes((len(answers) + 1,)), *answers, b"\0\0"))
    return b"".join((_HEAD if version < 2 else _HEAD_THROTTLED, asked.echo, _COUNT.pack(len(answers)), *answers))


API = Api(key=2, name="ListOffsets", versions=range(1, 12), handle=handle, quick=quick)
