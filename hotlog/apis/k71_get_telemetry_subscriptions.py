"""GetTelemetrySubscriptions (71): which metrics of clients are wanted: none (KIP-714).

Version 0.  ApiVersions does not tell of it, as in a Kafka that has no receiver of telemetry, so that clients do not ask.

Invariants: who asks all the same is told an interval and nothing to push, and is refused within that interval.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE, refusal
from hotlog.observe.client_telemetry import CODECS, PUSH_BYTES_MAX, PUSH_INTERVAL_MS, subscription_id
from hotlog.wire import apis
from hotlog.wire.error_codes import Refused

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 71


def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Nothing is wanted."""
    try:
        instance_id = broker.telemetry.asked(request.client_instance_id)
    except Refused as why:
        return apis.empty_response(KEY, context.version, error_code=refusal(context, why).code)
    return apis.responses(KEY, context.version).GetTelemetrySubscriptionsResponse(
        throttle_time=NO_THROTTLE,
        error_code=ErrorCode.none,
        client_instance_id=instance_id,
        subscription_id=subscription_id(instance_id),
        accepted_compression_types=CODECS,
        push_interval=timedelta(milliseconds=PUSH_INTERVAL_MS),
        telemetry_max_bytes=PUSH_BYTES_MAX,
        delta_temporality=True,
        requested_metrics=(),
    )


API = Api(
    key=KEY,
    name="GetTelemetrySubscriptions",
    versions=range(1),
    handle=handle,
    is_told=False,
    omits=("not told by ApiVersions: nobody takes telemetry",),
)
