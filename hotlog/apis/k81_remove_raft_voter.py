"""RemoveRaftVoter (81): refused, as by a Kafka whose controllers are given by its configuration (kraft.version 0, KIP-853).

Version 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE
from hotlog.answers.voters import judged
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 81


def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Refuse it, for the reason that Kafka has."""
    context.has_failed = True
    code, message = judged(broker, request)
    return responses(KEY, context.version).RemoveRaftVoterResponse(
        throttle_time=NO_THROTTLE, error_code=code, error_message=message
    )


API = Api(key=KEY, name="RemoveRaftVoter", versions=range(1), handle=handle, omits=("there is no quorum: always refused",))
