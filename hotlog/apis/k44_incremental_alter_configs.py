"""IncrementalAlterConfigs (44): set, delete, append to and subtract from single configurations (KIP-339), and change levels of loggers (KIP-412).

Versions 0 and 1.

Invariants: what is not named stays as it is; APPEND and SUBTRACT are for lists only; a refused resource changes nothing of it; levels of loggers
last as long as the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from controller.changes import BrokerSteps, Change, IncrementalAlterConfigs, NamedSteps, StepNamedConfigs, TopicSteps
from controller.config_rules import DELETE, SET, ConfigChange
from hotlog.answers.api import Api, RequestContext
from hotlog.answers.config_resources import BrokerResource, NamedResource, Resource, TopicResource, altered, config_resource
from hotlog.answers.replies import NO_THROTTLE
from hotlog.observe import loggers
from hotlog.wire.apis import responses
from hotlog.wire.error_codes import Refused

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 44


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Change each resource."""

    async def alter(resource: Any) -> None:
        steps = [ConfigChange(config.name, config.config_operation, config.value) for config in resource.configs]
        change = _change(config_resource(broker, resource), tuple(steps))
        if change is not None:
            await broker.submit_one(change, validate_only=request.validate_only)
        else:
            _change_levels(steps, validate_only=request.validate_only)

    shapes = responses(KEY, context.version)
    results = await altered(context, request, shapes.AlterConfigsResourceResponse, alter)
    return shapes.IncrementalAlterConfigsResponse(throttle_time=NO_THROTTLE, responses=results)


def _change(resource: Resource, steps: tuple[ConfigChange, ...]) -> Change | None:
    """What is asked of the cluster; None: it is this process's own."""
    match resource:
        case TopicResource(name):
            return IncrementalAlterConfigs(topics=(TopicSteps(name, steps),))
        case BrokerResource(node_id):
            return IncrementalAlterConfigs(brokers=(BrokerSteps(node_id, steps),))
        case NamedResource(kind, name):
            return StepNamedConfigs(resources=(NamedSteps(kind, name, steps),))
        case _:
            return None


def _change_levels(steps: Sequence[ConfigChange], *, validate_only: bool) -> None:
    wanted: dict[str, str | None] = {}
    for step in steps:
        if step.name in wanted:
            raise Refused(ErrorCode.invalid_request, f"logger {step.name!r} is changed twice in one request")
        if step.operation not in (SET, DELETE) or (step.operation == SET and step.value is None):
            raise Refused(ErrorCode.invalid_request, f"the level of logger {step.name!r} can be set or taken away")
        wanted[step.name] = step.value if step.operation == SET else None
    loggers.check(wanted)
    if not validate_only:
        loggers.change(wanted)


API = Api(key=KEY, name="IncrementalAlterConfigs", versions=range(2), handle=handle)
