"""PushTelemetry (72): metrics of a client, which nobody takes (KIP-714).

Version 0.  ApiVersions does not tell of it (k71_get_telemetry_subscriptions).

Invariants: what was pushed is judged as in Kafka, and dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE, refusal
from hotlog.observe.client_telemetry import PUSH_BYTES_MAX
from hotlog.wire.apis import responses
from hotlog.wire.error_codes import Refused

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 72


def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Judge and drop it."""
    code = ErrorCode.none
    try:
        broker.telemetry.pushed(
            request.client_instance_id,
            request.subscription_id,
            request.compression_type,
            is_last=request.terminating,
            is_too_large=len(request.metrics) > PUSH_BYTES_MAX,
        )
    except Refused as why:
        code = refusal(context, why).code
    return responses(KEY, context.version).PushTelemetryResponse(throttle_time=NO_THROTTLE, error_code=code)


API = Api(
    key=KEY,
    name="PushTelemetry",
    versions=range(1),
    handle=handle,
    is_told=False,
    omits=("not told by ApiVersions: nobody takes telemetry",),
)
