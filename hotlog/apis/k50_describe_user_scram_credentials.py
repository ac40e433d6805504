"""DescribeUserScramCredentials (50): there are no credentials yet, so nobody has any (KIP-554).

Version 0.  kafka-configs.sh asks this whenever it is to describe users.

Invariants: a user who is named is answered once; a user named twice is refused, as in Kafka.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE
from hotlog.answers.slices import sliced
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 50


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Say of each user that they have none."""
    shapes = responses(KEY, context.version)
    counts = Counter(user.name for user in request.users or ())
    context.has_failed = bool(counts)

    def result(name: str) -> Any:
        code, message = ErrorCode.resource_not_found, "the user has no credentials"
        if counts[name] > 1:
            code, message = ErrorCode.duplicate_resource, "the user is named more than once"
        return shapes.DescribeUserScramCredentialsResult(user=name, error_code=code, error_message=message, credential_infos=())

    return shapes.DescribeUserScramCredentialsResponse(
        throttle_time=NO_THROTTLE,
        error_code=ErrorCode.none,
        error_message=None,
        results=tuple(await sliced(list(counts), result)),
    )


API = Api(key=KEY, name="DescribeUserScramCredentials", versions=range(1), handle=handle)
