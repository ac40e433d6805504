"""AlterConfigs (33): replace all own configurations of a resource (deprecated by KIP-339, still sent by kafkajs and others).

Versions 0 to 2.  The levels of loggers are changed by IncrementalAlterConfigs only, as in Kafka.

Invariants: what is not named goes back to its default; unknown keys of a topic are INVALID_CONFIG; no key names code to load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from controller.changes import AlterConfigs, AlterNamedConfigs, BrokerConfigs, Change, NamedConfigs, TopicConfigs
from hotlog.answers.api import Api, RequestContext
from hotlog.answers.config_resources import BrokerResource, NamedResource, TopicResource, altered, config_resource
from hotlog.answers.replies import NO_THROTTLE
from hotlog.wire.apis import responses
from hotlog.wire.error_codes import Refused

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 33


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Replace the configurations of each resource."""

    async def alter(resource: Any) -> None:
        await broker.submit_one(_change(broker, resource), validate_only=request.validate_only)

    shapes = responses(KEY, context.version)
    results = await altered(context, request, shapes.AlterConfigsResourceResponse, alter)
    return shapes.AlterConfigsResponse(throttle_time=NO_THROTTLE, responses=results)


def _change(broker: Broker, resource: Any) -> Change:
    wanted: dict[str, str | None] = {config.name: config.value for config in resource.configs}
    if len(wanted) < len(resource.configs):
        raise Refused(ErrorCode.invalid_request, f"a key of {resource.resource_name!r} is given twice")
    match config_resource(broker, resource):
        case TopicResource(name):
            return AlterConfigs(topics=(TopicConfigs(name, wanted),))
        case BrokerResource(node_id):
            return AlterConfigs(brokers=(BrokerConfigs(node_id, wanted),))
        case NamedResource(kind, name):
            return AlterNamedConfigs(resources=(NamedConfigs(kind, name, wanted),))
        case _:
            raise Refused(ErrorCode.invalid_request, "levels of loggers are changed by IncrementalAlterConfigs")


API = Api(key=KEY, name="AlterConfigs", versions=range(3), handle=handle)
