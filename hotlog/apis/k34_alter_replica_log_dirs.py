"""AlterReplicaLogDirs (34): have partitions kept in another directory (KIP-113).

Versions 1 and 2.  There is one data directory, and each partition that is here lies in it: to move it there is done, any other directory is
not found.  The store, which DescribeLogDirs tells as a directory, is none.

Invariants: nothing moves; of a partition that is named twice the last directory counts, as in Kafka.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE
from hotlog.answers.slices import sliced, slices
from hotlog.wire.apis import responses
from hotlog.wire.error_codes import code_for

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 34
NAME_BYTES_MAX = 255
MOVING_SUFFIX_BYTES = (
    1 + 32 + len("-future")
)  # of the name that the new copy of a partition has in Kafka until it is the only one
Codes = dict[str, dict[int, ErrorCode]]  # topic -> partition -> what became of it


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Judge each partition."""
    codes: Codes = defaultdict(dict)
    for directory in request.dirs:
        for topic in directory.topics:
            of_topic = codes[topic.name]
            async for some in slices(topic.partitions):
                of_topic.update((index, _judged(broker, directory.path, topic.name, index)) for index in some)
    rows = []
    for topic, of_topic in codes.items():
        if of_topic:
            rows.append(_topic(context, topic, await sliced(list(of_topic.items()), partial(_row, context))))
    return _answer(context, rows)


def _row(context: RequestContext, judged: tuple[int, ErrorCode]) -> Any:
    index, code = judged
    context.has_failed = context.has_failed or code is not ErrorCode.none
    return responses(KEY, context.version).AlterReplicaLogDirPartitionResult(partition_index=index, error_code=code)


def _topic(context: RequestContext, topic: str, rows: list[Any]) -> Any:
    return responses(KEY, context.version).AlterReplicaLogDirTopicResult(topic_name=topic, partitions=tuple(rows))


def _judged(broker: Broker, path: str, topic: str, index: int) -> ErrorCode:
    if len(f"{topic}-{index}") + MOVING_SUFFIX_BYTES > NAME_BYTES_MAX:
        return ErrorCode.invalid_topic_exception
    if path != broker.logs.directory:
        return ErrorCode.log_dir_not_found
    if broker.partition(topic, index) is not None:
        return ErrorCode.none
    known = broker.topic(topic)
    is_known = known is not None and 0 <= index < len(known.partitions)
    return ErrorCode.replica_not_available if is_known else ErrorCode.unknown_topic_or_partition


def _answer(context: RequestContext, topics: list[Any]) -> Any:
    return responses(KEY, context.version).AlterReplicaLogDirsResponse(throttle_time=NO_THROTTLE, results=tuple(topics))


def refuse(context: RequestContext, request: Any, error: BaseException) -> Any:
    """The same for each partition: there is no other place for it."""
    indexes: dict[str, dict[int, None]] = defaultdict(dict)
    for directory in request.dirs:
        for topic in directory.topics:
            indexes[topic.name].update(dict.fromkeys(topic.partitions))
    code = code_for(error)
    rows = [_topic(context, topic, [_row(context, (index, code)) for index in found]) for topic, found in indexes.items()]
    return _answer(context, rows)


API = Api(
    key=KEY,
    name="AlterReplicaLogDirs",
    versions=range(1, 3),
    handle=handle,
    refuse=refuse,
    omits=("other directories than the one there is",),
)
