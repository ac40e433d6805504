"""FindCoordinator (10): which broker drives a group (or a transaction).

Versions 0 to 6: transactions from 1, many keys from 4.  Share groups (type 2) are refused.

Invariants: a coordinator is named only when its part of __consumer_offsets is loaded here; the topic is made on the first question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.group_replies import coordinator_error
from hotlog.answers.replies import NO_THROTTLE
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 10
MANY_FROM = 4
GROUP, TRANSACTION = 0, 1


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Name this broker, once it can answer for the groups."""
    shapes = responses(KEY, context.version)
    kind = getattr(request, "key_type", GROUP)
    code, message = await _state(broker, context, kind)
    host, port = broker.advertised[context.caller.listener]
    node: dict[str, Any] = {"node_id": broker.node_id, "host": host, "port": port}
    if code is not ErrorCode.none:
        node = {"node_id": -1, "host": "", "port": -1}
    if context.version >= MANY_FROM:
        found = tuple(
            shapes.Coordinator(key=key, error_code=code, error_message=message, **node) for key in request.coordinator_keys
        )
        return shapes.FindCoordinatorResponse(throttle_time=NO_THROTTLE, coordinators=found)
    return shapes.FindCoordinatorResponse(throttle_time=NO_THROTTLE, error_code=code, error_message=message, **node)


async def _state(broker: Broker, context: RequestContext, kind: int) -> tuple[ErrorCode, str | None]:
    if kind not in (GROUP, TRANSACTION):
        context.has_failed = True
        return ErrorCode.invalid_request, f"coordinator type {kind} is not served; 0 (group) and 1 (transaction) are"
    try:
        await broker.groups.ensure()
    except Exception as problem:
        return coordinator_error(context, problem), str(problem)
    return ErrorCode.none, None


API = Api(key=KEY, name="FindCoordinator", versions=range(7), handle=handle, omits=("share groups",))
