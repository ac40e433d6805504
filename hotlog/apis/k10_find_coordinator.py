"""FindCoordinator (10): which broker drives a group (or a transaction).

Versions 0 to 6: transactions from 1, many keys from 4.  Share groups (type 2) are refused.

Invariants: a coordinator is named only when its part of __consumer_offsets or __transaction_state is loaded here; the topic is made on the first
question.
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
    from hotlog.coordinators.service import GroupCoordinator
    from hotlog.coordinators.transactions import TransactionCoordinator

KEY = 10
MANY_FROM = 4
GROUP, TRANSACTION = 0, 1


def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Name this broker, once it can answer for the groups."""
    kind = getattr(request, "key_type", GROUP)
    if kind not in (GROUP, TRANSACTION):
        context.has_failed = True
        wrong = f"coordinator type {kind} is not served; 0 (group) and 1 (transaction) are"
        return _response(broker, context, request, ErrorCode.invalid_request, wrong)
    coordinator = broker.groups if kind == GROUP else broker.transactions
    if coordinator.is_settled:
        return _response(broker, context, request, ErrorCode.none, None)
    return _ensured(broker, coordinator, context, request)


async def _ensured(
    broker: Broker, coordinator: GroupCoordinator | TransactionCoordinator, context: RequestContext, request: Any
) -> Any:
    try:
        await coordinator.ensure()
    except Exception as problem:
        return _response(broker, context, request, coordinator_error(context, problem), str(problem))
    return _response(broker, context, request, ErrorCode.none, None)


def _response(broker: Broker, context: RequestContext, request: Any, code: ErrorCode, message: str | None) -> Any:
    shapes = responses(KEY, context.version)
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


API = Api(key=KEY, name="FindCoordinator", versions=range(7), handle=handle, omits=("share groups",))
