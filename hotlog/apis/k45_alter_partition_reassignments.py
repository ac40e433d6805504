"""AlterPartitionReassignments (45): give partitions other replicas, or stop doing so (KIP-455).

Versions 0 and 1: whether the number of replicas may change from 1 (KIP-860).  A partition has one replica and stays where it is: what is asked
for is judged as Kafka's controller judges it, and only where it is now is taken.

Invariants: nothing is changed by what is taken, so that no reassignment is ever under way.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from controller.topic_rules import check_reassignment
from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE, refusal
from hotlog.answers.slices import sliced
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 45


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Judge each partition."""
    shapes = responses(KEY, context.version)
    topics = []
    for topic in request.topics:
        parts = await sliced(topic.partitions, partial(_judged, broker, context, topic.name))
        topics.append(shapes.ReassignableTopicResponse(name=topic.name, partitions=tuple(parts)))
    return shapes.AlterPartitionReassignmentsResponse(
        throttle_time=NO_THROTTLE,
        allow_replication_factor_change=getattr(request, "allow_replication_factor_change", True),
        error_code=ErrorCode.none,
        error_message=None,
        responses=tuple(topics),
    )


def _judged(broker: Broker, context: RequestContext, topic: str, part: Any) -> Any:
    code, message = ErrorCode.none, None
    try:
        check_reassignment(broker.image, topic, part.partition_index, part.replicas)
    except Exception as problem:
        code, message = refusal(context, problem)
    return responses(KEY, context.version).ReassignablePartitionResponse(
        partition_index=part.partition_index, error_code=code, error_message=message
    )


API = Api(
    key=KEY,
    name="AlterPartitionReassignments",
    versions=range(2),
    handle=handle,
    omits=("other replicas than a partition has", "timeout: the answer comes when it is done"),
)
