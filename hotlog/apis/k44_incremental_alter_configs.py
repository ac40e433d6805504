"""IncrementalAlterConfigs (44): set, delete, append to and subtract from single configurations (KIP-339).

Versions 0 and 1.

Invariants: what is not named stays as it is; APPEND and SUBTRACT are for lists only; a refused resource changes nothing of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from controller.config_rules import ConfigChange
from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE
from hotlog.apis.k32_describe_configs import BROKER, TOPIC, broker_named
from hotlog.apis.k33_alter_configs import altered
from hotlog.wire.apis import responses
from hotlog.wire.error_codes import Refused

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 44


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Change each resource."""
    shapes = responses(KEY, context.version)
    results = await altered(broker, context, request, shapes.AlterConfigsResourceResponse, _alter)
    return shapes.IncrementalAlterConfigsResponse(throttle_time=NO_THROTTLE, responses=results)


async def _alter(broker: Broker, resource: Any, validate_only: bool) -> None:
    changes = [ConfigChange(config.name, config.config_operation, config.value) for config in resource.configs]
    if resource.resource_type == TOPIC:
        await broker.step_configs(resource.resource_name, changes, validate_only=validate_only)
    elif resource.resource_type == BROKER:
        node_id = broker_named(broker, resource.resource_name)
        await broker.step_broker_configs(node_id, changes, validate_only=validate_only)
    else:
        raise Refused(
            ErrorCode.invalid_request, f"resource type {resource.resource_type} has no configurations here; 2 and 4 have"
        )


API = Api(
    key=KEY,
    name="IncrementalAlterConfigs",
    versions=range(2),
    handle=handle,
    omits=("broker loggers", "client metrics", "groups"),
)
