"""DeleteRecords (21): move the log start over both tiers (KIP-107).

Versions 0 to 2.  -1 means the high watermark.  Records leave at once for clients; files and objects follow.

Invariants: refused for a topic that is only compacted, as Kafka does; the answered low watermark is the log start that is in force.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE, refusal
from hotlog.broker.leaders import led_here
from hotlog.wire.apis import responses
from hotlog.wire.error_codes import Refused

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 21


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Move each partition's log start."""
    shapes = responses(KEY, context.version)
    topics = []
    for topic in request.topics:
        parts = []
        for part in topic.partitions:
            low, code = -1, ErrorCode.none
            try:
                low = await _delete(broker, topic.name, part.partition_index, part.offset)
            except Exception as problem:
                code = refusal(context, problem).code
            parts.append(
                shapes.DeleteRecordsPartitionResult(partition_index=part.partition_index, low_watermark=low, error_code=code)
            )
        topics.append(shapes.DeleteRecordsTopicResult(name=topic.name, partitions=tuple(parts)))
    return shapes.DeleteRecordsResponse(throttle_time=NO_THROTTLE, topics=tuple(topics))


async def _delete(broker: Broker, topic: str, index: int, offset: int) -> int:
    partition = led_here(broker, topic, index)
    if not partition.config.is_deleted:
        raise Refused(ErrorCode.policy_violation, f"records of {topic} cannot be deleted: its cleanup.policy has no `delete`")
    return await partition.delete_records(offset)


API = Api(key=KEY, name="DeleteRecords", versions=range(3), handle=handle, omits=("timeout: the answer comes when it is done",))
