"""UnregisterBroker (64): forget a broker that will not come back (KIP-631).

Version 0.

Invariants: a broker that is registered is not forgotten: nobody else could lead its partitions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 64


def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Refuse it."""
    context.has_failed = True
    code, message = ErrorCode.broker_id_not_registered, f"broker {request.broker_id} is not registered"
    if request.broker_id in broker.image.brokers:
        code, message = (
            ErrorCode.invalid_request,
            f"broker {request.broker_id} is registered: it stays, and with it its partitions",
        )
    return responses(KEY, context.version).UnregisterBrokerResponse(
        throttle_time=NO_THROTTLE, error_code=code, error_message=message
    )


API = Api(key=KEY, name="UnregisterBroker", versions=range(1), handle=handle, omits=("brokers that are registered",))
