"""What every request passes before it comes to its door: who asks, whether they may, and how fast they may go on.

Nobody is asked who they are yet, and everybody may do everything: without an authorizer and quotas a door is entered directly.  With an
authorizer a request is refused as a whole if one of its resources is denied.  Kafka refuses some requests resource by resource; a door that
is to do so has to be told which resources are denied.

Invariants: an API without a row in hotlog.front.access is not let through to anybody; what is denied had no effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, Caller, Handler, Later, Principal, Quick, RequestContext, Short
from hotlog.broker.broker import Broker
from hotlog.front.access import CLUSTER_NAME, NEEDS, Need, Operation, Resource
from hotlog.wire.error_codes import Refused

_CODES = {
    Resource.TOPIC: ErrorCode.topic_authorization_failed,
    Resource.GROUP: ErrorCode.group_authorization_failed,
    Resource.CLUSTER: ErrorCode.cluster_authorization_failed,
    Resource.TRANSACTIONAL_ID: ErrorCode.transactional_id_authorization_failed,
}


class Authorizer(Protocol):
    """Who may do what (Kafka's Authorizer)."""

    def allows(self, principal: Principal, host: str, operation: Operation, resource: Resource, name: str) -> bool: ...


class Quotas(Protocol):
    """How fast somebody may go on."""

    def delay_s(self, caller: Caller, client_id: str | None, api_key: int) -> float:
        """Seconds that this request has to wait, and all behind it on its connection; 0 for none."""
        ...


class Guard:
    """Stands before all doors.  None: everybody may, as fast as they can."""

    def __init__(self, authorizer: Authorizer | None = None, quotas: Quotas | None = None) -> None:
        self._authorizer = authorizer
        self._quotas = quotas

    def before(self, api: Api) -> Handler:
        """The handler of `api` behind this guard; the handler itself where there is nothing to ask."""
        handle = api.handle
        if self._authorizer is not None:
            handle = _authorized(self._authorizer, NEEDS[api.key], handle)
        if self._quotas is not None:
            handle = _throttled(self._quotas, handle)
        return handle

    def short_before(self, api: Api) -> Callable[[Broker, int], Short] | None:
        """What makes the short ways of `api`: only where there is nothing to ask, as they do not say what a request names."""
        return api.short if self._authorizer is None and self._quotas is None else None

    def quick_before(self, api: Api) -> Quick | None:
        """The same of what needs nothing of a version but its number."""
        return api.quick if self._authorizer is None and self._quotas is None else None


def _authorized(authorizer: Authorizer, needs: tuple[Need, ...], handle: Handler) -> Handler:
    def authorized(broker: Broker, context: RequestContext, request: Any) -> Any:
        for need in needs:
            _require(authorizer, need, broker, context.caller, request)
        return handle(broker, context, request)

    return authorized


def _require(authorizer: Authorizer, need: Need, broker: Broker, caller: Caller, request: Any) -> None:
    principal, host = caller.principal, caller.peer[0]
    if need.unless is not None and authorizer.allows(principal, host, need.unless, Resource.CLUSTER, CLUSTER_NAME):
        return
    for name in need.names(broker, request):
        if not authorizer.allows(principal, host, need.operation, need.resource, name):
            action = need.operation.name.lower().replace("_", " ")
            raise Refused(_CODES[need.resource], f"{principal} may not {action}: {need.resource.name.lower()} {name!r}")


def _throttled(quotas: Quotas, handle: Handler) -> Handler:
    def throttled(broker: Broker, context: RequestContext, request: Any) -> Any:
        delay_s = quotas.delay_s(context.caller, context.client_id, context.api_key)
        return handle(broker, context, request) if delay_s <= 0 else _late(delay_s, broker, context, request)

    async def _late(delay_s: float, broker: Broker, context: RequestContext, request: Any) -> Any:
        await asyncio.sleep(delay_s)
        answer = handle(broker, context, request)
        if type(answer) is Later:
            return await answer.reply
        return await answer if hasattr(answer, "__await__") else answer

    return throttled
