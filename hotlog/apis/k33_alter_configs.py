"""AlterConfigs (33): replace all own configurations of a resource (deprecated by KIP-339, still sent by kafkajs and others).

Versions 0 to 2.

Invariants: what is not named goes back to its default; unknown keys of a topic are INVALID_CONFIG; no key names code to load.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE, refusal
from hotlog.apis.k32_describe_configs import BROKER, TOPIC, broker_named
from hotlog.wire.apis import responses
from hotlog.wire.error_codes import Refused

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 33
Alter = Callable[["Broker", Any, bool], Awaitable[None]]


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Replace the configurations of each resource."""
    shapes = responses(KEY, context.version)
    results = await altered(broker, context, request, shapes.AlterConfigsResourceResponse, _alter)
    return shapes.AlterConfigsResponse(throttle_time=NO_THROTTLE, responses=results)


async def altered(broker: Broker, context: RequestContext, request: Any, shape: Any, alter: Alter) -> tuple[Any, ...]:
    """Alter each resource by itself; its answers in `shape` (IncrementalAlterConfigs answers in the same way)."""
    results = []
    for resource in request.resources:
        code, message = ErrorCode.none, None
        try:
            await alter(broker, resource, request.validate_only)
        except Exception as problem:
            code, message = refusal(context, problem)
        results.append(
            shape(
                error_code=code, error_message=message, resource_type=resource.resource_type, resource_name=resource.resource_name
            )
        )
    return tuple(results)


async def _alter(broker: Broker, resource: Any, validate_only: bool) -> None:
    wanted: dict[str, str | None] = {config.name: config.value for config in resource.configs}
    if resource.resource_type == TOPIC:
        await broker.alter_configs(resource.resource_name, wanted, validate_only=validate_only)
    elif resource.resource_type == BROKER:
        node_id = broker_named(broker, resource.resource_name)
        await broker.alter_broker_configs(node_id, wanted, validate_only=validate_only)
    else:
        raise Refused(
            ErrorCode.invalid_request, f"resource type {resource.resource_type} has no configurations here; 2 and 4 have"
        )


API = Api(key=KEY, name="AlterConfigs", versions=range(3), handle=handle, omits=("broker loggers", "client metrics", "groups"))
