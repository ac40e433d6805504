"""DeleteTopics (20).

Versions 1 to 6: by name, from 6 by name or id (KIP-516); the error in words from 5.

Invariants: the topic is gone for clients when this is answered; what it left in both tiers is removed afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

from kio.schema.errors import ErrorCode

from controller.image import TopicImage
from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE, refusal
from hotlog.wire.apis import responses
from hotlog.wire.error_codes import Refused

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 20
BY_ID_FROM = 6


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Delete all topics in one commit."""
    if context.version >= BY_ID_FROM:
        wanted = [(topic.name, topic.topic_id) for topic in request.topics]
    else:
        wanted = [(name, None) for name in request.topic_names]
    counts = Counter(wanted)
    wanted = list(counts)
    found = [_found(broker, name, topic_id, counts[name, topic_id]) for name, topic_id in wanted]
    sound = [topic.topic_id for topic in found if isinstance(topic, TopicImage)]
    refusals: Iterator[Exception | None]
    try:
        refusals = iter(await broker.delete_topics(sound) if sound else [])
    except Exception as problem:
        refusals = iter([problem] * len(sound))
    results = []
    for (name, topic_id), topic in zip(wanted, found, strict=True):
        if isinstance(topic, TopicImage):
            results.append(_result(context, topic.name, topic.topic_id, next(refusals)))
        else:
            results.append(_result(context, name, topic_id, topic))
    return responses(KEY, context.version).DeleteTopicsResponse(throttle_time=NO_THROTTLE, responses=tuple(results))


def _result(context: RequestContext, name: str | None, topic_id: UUID | None, problem: Exception | None) -> Any:
    code, message = (ErrorCode.none, None) if problem is None else refusal(context, problem)
    return responses(KEY, context.version).DeletableTopicResult(
        name=name if context.version >= BY_ID_FROM else name or "", topic_id=topic_id, error_code=code, error_message=message
    )


def _found(broker: Broker, name: str | None, topic_id: UUID | None, times: int) -> TopicImage | Refused:
    """The topic that is meant, or why there is none."""
    if times > 1:
        return Refused(ErrorCode.invalid_request, f"topic {name or topic_id!r} is named {times} times in one request")
    if name is None and topic_id is None:
        return Refused(ErrorCode.invalid_request, "a topic has neither name nor id")
    if name is not None and topic_id is not None:
        return Refused(ErrorCode.invalid_request, f"topic {name!r} is named by id as well; one of both is allowed")
    if topic_id is not None:
        topic = broker.topic_by_id(topic_id)
        return topic or Refused(ErrorCode.unknown_topic_id, f"no topic has the id {topic_id}")
    topic = broker.topic(name or "")
    return topic or Refused(ErrorCode.unknown_topic_or_partition, f"topic {name!r} does not exist")


API = Api(
    key=KEY,
    name="DeleteTopics",
    versions=range(1, 7),
    handle=handle,
    omits=(
        "timeout: the answer comes when it is done",
        "internal topics (Kafka deletes them with all groups' offsets, and with what is to become of transactions; here POLICY_VIOLATION)",
    ),
)
