"""Which resources have configurations, and how a door alters them one by one: shared by DescribeConfigs and both AlterConfigs.

Invariants: a resource that is refused changes nothing, and the others are altered all the same; a topic is a name, a broker a number.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from kio.schema.errors import ErrorCode

from controller.image import ALL_BROKERS
from hotlog.answers.api import RequestContext
from hotlog.answers.replies import refusal
from hotlog.broker.broker import Broker
from hotlog.wire.error_codes import Refused

TOPIC, BROKER = 2, 4  # ConfigResource.Type


def config_resource(broker: Broker, resource: Any) -> str | int:
    """The name of a topic, or the node id of this broker; ALL_BROKERS for the broker without a name.

    Raises:
        Refused: another node, or a kind that has no configurations here.
    """
    kind, name = resource.resource_type, str(resource.resource_name)
    if kind == TOPIC:
        return name
    if kind != BROKER:
        raise Refused(ErrorCode.invalid_request, f"resource type {kind} has no configurations here; 2 and 4 have")
    if name == "":
        return ALL_BROKERS
    if name != str(broker.node_id):
        raise Refused(ErrorCode.invalid_request, f"broker {name!r} is not this one; the only broker is {broker.node_id}")
    return broker.node_id


async def altered(context: RequestContext, request: Any, shape: Any, alter: Callable[[Any], Awaitable[None]]) -> tuple[Any, ...]:
    """Alter each resource of `request` by itself; their answers in `shape`."""
    results = []
    for resource in request.resources:
        code, message = ErrorCode.none, None
        try:
            await alter(resource)
        except Exception as problem:
            code, message = refusal(context, problem)
        results.append(
            shape(
                error_code=code, error_message=message, resource_type=resource.resource_type, resource_name=resource.resource_name
            )
        )
    return tuple(results)
