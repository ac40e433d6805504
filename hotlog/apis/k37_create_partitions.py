"""CreatePartitions (37): more partitions for a topic (KIP-195).

Versions 0 to 3.

Invariants: a topic never loses a partition; `validate_only` changes nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE, refusal
from hotlog.wire.apis import responses
from hotlog.wire.error_codes import Refused

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 37


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Grow each topic."""
    shapes = responses(KEY, context.version)
    counts = Counter(wanted.name for wanted in request.topics)
    results = []
    for wanted in {each.name: each for each in request.topics}.values():  # what is named twice is answered once
        code, message = ErrorCode.none, None
        try:
            if not wanted.name:
                raise Refused(ErrorCode.unknown_topic_or_partition, "no topic has an empty name")
            if counts[wanted.name] > 1:
                raise Refused(
                    ErrorCode.invalid_request, f"topic {wanted.name!r} is named {counts[wanted.name]} times in one request"
                )
            assigned = None if wanted.assignments is None else [tuple(part.broker_ids) for part in wanted.assignments]
            await broker.create_partitions(wanted.name, wanted.count, assigned, validate_only=request.validate_only)
        except Exception as problem:
            code, message = refusal(context, problem)
        results.append(shapes.CreatePartitionsTopicResult(name=wanted.name, error_code=code, error_message=message))
    return shapes.CreatePartitionsResponse(throttle_time=NO_THROTTLE, results=tuple(results))


API = Api(
    key=KEY, name="CreatePartitions", versions=range(4), handle=handle, omits=("timeout: the answer comes when it is done",)
)
