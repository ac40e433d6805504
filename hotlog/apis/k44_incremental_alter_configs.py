"""IncrementalAlterConfigs (44): set, delete, append to and subtract from single configurations (KIP-339).

Versions 0 and 1.

Invariants: what is not named stays as it is; APPEND and SUBTRACT are for lists only; a refused resource changes nothing of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from controller.config_rules import ConfigChange
from hotlog.answers.api import Api, RequestContext
from hotlog.answers.config_resources import altered, config_resource
from hotlog.answers.replies import NO_THROTTLE
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 44


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Change each resource."""

    async def alter(resource: Any) -> None:
        changes = [ConfigChange(config.name, config.config_operation, config.value) for config in resource.configs]
        match config_resource(broker, resource):
            case str(topic):
                await broker.step_configs(topic, changes, validate_only=request.validate_only)
            case int(node_id):
                await broker.step_broker_configs(node_id, changes, validate_only=request.validate_only)

    shapes = responses(KEY, context.version)
    results = await altered(context, request, shapes.AlterConfigsResourceResponse, alter)
    return shapes.IncrementalAlterConfigsResponse(throttle_time=NO_THROTTLE, responses=results)


API = Api(
    key=KEY,
    name="IncrementalAlterConfigs",
    versions=range(2),
    handle=handle,
    omits=("broker loggers", "client metrics", "groups"),
)
