"""DescribeProducers (61): who produces into a partition with an id, and which transactions are open there (KIP-664).

Version 0.

Invariants: an error of one partition is that partition's alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE, refusal
from hotlog.answers.slices import sliced
from hotlog.broker.leaders import led_here
from hotlog.wire import apis

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 61


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Each partition's producers."""
    shapes = apis.responses(KEY, context.version)
    topics = []
    for topic in request.topics:
        partitions = [await _partition(broker, context, shapes, topic.name, index) for index in topic.partition_indexes]
        topics.append(shapes.TopicResponse(name=topic.name, partitions=tuple(partitions)))
    return shapes.DescribeProducersResponse(throttle_time=NO_THROTTLE, topics=tuple(topics))


async def _partition(broker: Broker, context: RequestContext, shapes: Any, topic: str, index: int) -> Any:
    try:
        partition = led_here(broker, topic, index)
    except Exception as problem:
        code, message = refusal(context, problem)
        return shapes.PartitionResponse(partition_index=index, error_code=code, error_message=message, active_producers=())

    def state(each: tuple[int, Any]) -> Any:
        producer_id, producer = each
        return shapes.ProducerState(
            producer_id=producer_id,
            producer_epoch=producer.epoch,
            last_sequence=producer.batches[-1].last_sequence if producer.batches else -1,
            last_timestamp=producer.last_timestamp,
            coordinator_epoch=producer.coordinator_epoch,
            current_txn_start_offset=producer.transaction_start,
        )

    states = await sliced(partition.marks.producers.known(), state)
    return shapes.PartitionResponse(
        partition_index=index, error_code=ErrorCode.none, error_message=None, active_producers=tuple(states)
    )


API = Api(key=KEY, name="DescribeProducers", versions=range(1), handle=handle)
