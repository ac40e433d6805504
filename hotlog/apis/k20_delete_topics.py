"""DeleteTopics (20).

Versions 1 to 6: by name, from 6 by name or id (KIP-516); the error in words from 5.

Invariants: the topic is gone for clients when this is answered; what it left in both tiers is removed afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from kio.schema.errors import ErrorCode

from hotlog.apis.api import Api, RequestContext
from hotlog.apis.error_codes import Refused
from hotlog.apis.replies import NO_THROTTLE, refusal
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.apis.broker import Broker

KEY = 20
BY_ID_FROM = 6


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Delete each topic."""
    if context.version >= BY_ID_FROM:
        wanted = [(topic.name, topic.topic_id) for topic in request.topics]
    else:
        wanted = [(name, None) for name in request.topic_names]
    results = tuple([await _delete(broker, context, name, topic_id) for name, topic_id in wanted])
    return responses(KEY, context.version).DeleteTopicsResponse(throttle_time=NO_THROTTLE, responses=results)


async def _delete(broker: Broker, context: RequestContext, name: str | None, topic_id: UUID | None) -> Any:
    code, message = ErrorCode.none, None
    try:
        topic = _found(broker, name, topic_id)
        name, topic_id = topic.name, topic.topic_id
        await broker.delete_topic(topic.topic_id)
    except Exception as problem:
        code, message = refusal(context, problem)
    return responses(KEY, context.version).DeletableTopicResult(
        name=name if context.version >= BY_ID_FROM else name or "", topic_id=topic_id, error_code=code, error_message=message
    )


def _found(broker: Broker, name: str | None, topic_id: UUID | None) -> Any:
    if name is not None and topic_id is not None:
        raise Refused(ErrorCode.invalid_request, f"topic {name!r} is named by id as well; one of both is allowed")
    if topic_id is not None:
        topic = broker.topic_by_id(topic_id)
        if topic is None:
            raise Refused(ErrorCode.unknown_topic_id, f"no topic has the id {topic_id}")
        return topic
    topic = broker.topic(name or "")
    if topic is None:
        raise Refused(ErrorCode.unknown_topic_or_partition, f"topic {name!r} does not exist")
    return topic


API = Api(key=KEY, name="DeleteTopics", versions=range(1, 7), handle=handle, omits=("timeout: the answer comes when it is done",))
