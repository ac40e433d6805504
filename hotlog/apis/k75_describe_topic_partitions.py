"""DescribeTopicPartitions (75): Metadata in pages, for many partitions (KIP-966).

Version 0.  No topics asked for means all; topics come sorted by name; the cursor names the first partition of the next page.

Invariants: a page holds at most `response_partition_limit` partitions (and at most PAGE_PARTITIONS_MAX); following the cursor
meets every partition once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from controller.image import TopicImage
from controller.internal_topics import INTERNAL_TOPICS
from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_OPERATIONS, NO_THROTTLE, TOPIC_OPERATIONS, refusal
from hotlog.kernel.errors import Invalid
from hotlog.kernel.ids import parse_topic_name
from hotlog.wire.apis import responses
from hotlog.wire.error_codes import Refused

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 75
PAGE_PARTITIONS_MAX = 2000  # Kafka's max.request.partition.size.limit


def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """One page."""
    shapes = responses(KEY, context.version)
    try:
        names, first = _wanted(broker, request)
    except Refused as refused:
        code, _ = refusal(context, refused)
        nothing = tuple(_missing(shapes, topic.name, code, NO_OPERATIONS) for topic in request.topics)
        return shapes.DescribeTopicPartitionsResponse(throttle_time=NO_THROTTLE, topics=nothing, next_cursor=None)
    left = max(1, min(request.response_partition_limit, PAGE_PARTITIONS_MAX))
    topics = []
    cursor = None
    for name in names:
        topic = broker.topic(name)
        if topic is None:
            topics.append(_missing(shapes, name, _code(name), TOPIC_OPERATIONS))
            continue
        count = len(topic.partitions)
        end = min(count, first + left)
        if left:
            topics.append(_known(shapes, topic, range(min(first, end), end)))
        left -= max(0, end - first)
        if end < count or not left:
            cursor = _next(shapes, broker, names, name, end, count)
            if cursor is not None:
                break
        first = 0
    return shapes.DescribeTopicPartitionsResponse(throttle_time=NO_THROTTLE, topics=tuple(topics), next_cursor=cursor)


def _code(name: str) -> ErrorCode:
    """Why there is no topic of this name."""
    try:
        parse_topic_name(name)
    except Invalid:
        return ErrorCode.invalid_topic_exception if name else ErrorCode.unknown_topic_or_partition
    return ErrorCode.unknown_topic_or_partition


def _wanted(broker: Broker, request: Any) -> tuple[list[str], int]:
    """Names in order from the cursor on, and the partition to begin with."""
    names = sorted({topic.name for topic in request.topics} or broker.image.topics)
    if request.cursor is None:
        return names, 0
    if request.cursor.partition_index < 0:
        raise Refused(ErrorCode.invalid_request, f"cursor names partition {request.cursor.partition_index}; 0 or more is allowed")
    start = str(request.cursor.topic_name)
    if request.topics and start not in names:
        raise Refused(ErrorCode.invalid_request, f"cursor names topic {start!r}, which is not asked for")
    names = [name for name in names if name >= start]
    return names, request.cursor.partition_index if names and names[0] == start else 0


def _next(shapes: Any, broker: Broker, names: list[str], name: str, end: int, count: int) -> Any:
    if end < count:
        return shapes.Cursor(topic_name=name, partition_index=end)
    rest = [other for other in names if other > name]
    return shapes.Cursor(topic_name=rest[0], partition_index=0) if rest else None


def _missing(shapes: Any, name: str, code: ErrorCode, operations: int) -> Any:
    return shapes.DescribeTopicPartitionsResponseTopic(
        error_code=code,
        name=name,
        topic_id=None,
        is_internal=False,
        partitions=(),
        topic_authorized_operations=operations,
    )


def _known(shapes: Any, topic: TopicImage, indexes: range) -> Any:
    parts = []
    for index in indexes:
        image = topic.partitions[index]
        parts.append(
            shapes.DescribeTopicPartitionsResponsePartition(
                error_code=ErrorCode.none,
                partition_index=index,
                leader_id=image.leader,
                leader_epoch=image.leader_epoch,
                replica_nodes=image.replicas,
                isr_nodes=image.replicas,
                eligible_leader_replicas=(),
                last_known_elr=(),
                offline_replicas=(),
            )
        )
    return shapes.DescribeTopicPartitionsResponseTopic(
        error_code=ErrorCode.none,
        name=topic.name,
        topic_id=topic.topic_id,
        is_internal=topic.name in INTERNAL_TOPICS,
        partitions=tuple(parts),
        topic_authorized_operations=TOPIC_OPERATIONS,
    )


API = Api(key=KEY, name="DescribeTopicPartitions", versions=range(1), handle=handle)
