"""DescribeClientQuotas (48): there are no quotas yet, so none fits any filter (KIP-546).

Versions 0 and 1.

Invariants: a filter that contradicts itself is refused, as Kafka refuses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE
from hotlog.wire.apis import responses
from hotlog.wire.error_codes import Refused

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 48
USER, CLIENT_ID, IP = "user", "client-id", "ip"
EXACT, DEFAULT, SPECIFIED = 0, 1, 2  # how an entity is to fit


def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Judge the filter, and find nothing."""
    shapes = responses(KEY, context.version)
    try:
        _check(request.components)
    except Refused as wrong:
        context.has_failed = True
        return shapes.DescribeClientQuotasResponse(
            throttle_time=NO_THROTTLE, error_code=wrong.code, error_message=str(wrong), entries=None
        )
    return shapes.DescribeClientQuotasResponse(
        throttle_time=NO_THROTTLE, error_code=ErrorCode.none, error_message=None, entries=()
    )


def _check(components: tuple[Any, ...]) -> None:
    """Raises Refused."""
    seen: set[str] = set()
    for component in components:
        kind, match, text = component.entity_type, component.match_type, component.match
        if not kind:
            raise Refused(ErrorCode.invalid_request, "the type of an entity is empty")
        if kind in seen:
            raise Refused(ErrorCode.invalid_request, f"entity type {kind[:100]!r} is named twice")
        if kind not in (USER, CLIENT_ID, IP):
            raise Refused(
                ErrorCode.unsupported_version, f"entity type {kind[:100]!r} is unknown; user, client-id and ip are known"
            )
        if match not in (EXACT, DEFAULT, SPECIFIED):
            raise Refused(ErrorCode.invalid_request, f"match type {match} is unknown; 0, 1 and 2 are known")
        if (match == EXACT) is not (text is not None):
            raise Refused(ErrorCode.invalid_request, f"match type {match} goes {'with' if match == EXACT else 'without'} a name")
        seen.add(kind)
    if IP in seen and len(seen) > 1:
        raise Refused(ErrorCode.invalid_request, "an address (ip) is not asked for together with users or client ids")


API = Api(key=KEY, name="DescribeClientQuotas", versions=range(2), handle=handle)
