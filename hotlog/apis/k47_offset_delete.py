"""OffsetDelete (47): forget a group's offsets for some partitions (KIP-496).

Version 0.

Invariants: offsets of a topic that a member still subscribes to stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.group_replies import CODES, code_of, coordinator_error
from hotlog.answers.replies import NO_THROTTLE
from hotlog.coordinators.group_types import Code
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 47
WHOLE_GROUP = (Code.GROUP_ID_NOT_FOUND, Code.NON_EMPTY_GROUP)


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Delete the offsets named."""
    shapes = responses(KEY, context.version)
    places = [(str(topic.name), int(part.partition_index)) for topic in request.topics for part in topic.partitions]
    code = ErrorCode.none
    codes: dict[tuple[str, int], Code] = {}
    try:
        codes = await broker.groups.delete_offsets(request.group_id, places)
    except Exception as problem:
        code = coordinator_error(context, problem)
    whole = next((answer for answer in codes.values() if answer in WHOLE_GROUP), None)
    if whole is not None:
        code = code_of(context, whole)
    topics = () if code is not ErrorCode.none else request.topics
    return shapes.OffsetDeleteResponse(
        error_code=code,
        throttle_time=NO_THROTTLE,
        topics=tuple(
            shapes.OffsetDeleteResponseTopic(
                name=topic.name,
                partitions=tuple(
                    shapes.OffsetDeleteResponsePartition(
                        partition_index=part.partition_index, error_code=CODES[codes[topic.name, part.partition_index]]
                    )
                    for part in topic.partitions
                ),
            )
            for topic in topics
        ),
    )


API = Api(key=KEY, name="OffsetDelete", versions=range(1), handle=handle)
