"""Which resources have configurations, what there is of each kind, and how a door alters them one by one: shared by the doors of configurations.

Invariants: a resource that is refused changes nothing, and the others are altered all the same; one that is named twice is refused as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Any, NamedTuple

from kio.schema.errors import ErrorCode

from controller.image import ALL_BROKERS
from controller.records import NamedKind
from hotlog.answers.api import RequestContext
from hotlog.answers.replies import refusal
from hotlog.broker.broker import Broker
from hotlog.wire.error_codes import Refused


class Kind(IntEnum):
    """ConfigResource.Type."""

    TOPIC = 2
    BROKER = 4
    BROKER_LOGGER = 8
    CLIENT_METRICS = 16
    GROUP = 32


NAMED_KINDS = {Kind.GROUP: NamedKind.GROUP, Kind.CLIENT_METRICS: NamedKind.CLIENT_METRICS}


class TopicResource(NamedTuple):
    """A topic, there or not."""

    name: str


class BrokerResource(NamedTuple):
    """This broker, or ALL_BROKERS."""

    node_id: int


class LoggerResource(NamedTuple):
    """The loggers of this broker."""


class NamedResource(NamedTuple):
    """A group or a subscription of client metrics, there or not."""

    kind: NamedKind
    name: str


Resource = TopicResource | BrokerResource | LoggerResource | NamedResource


def config_resource(broker: Broker, resource: Any) -> Resource:
    """What is meant by a structure with `resource_type` and `resource_name`.

    Raises:
        Refused: another node, no name, or a kind that has no configurations.
    """
    kind, name = resource.resource_type, str(resource.resource_name)
    match kind:
        case Kind.TOPIC:
            return TopicResource(name)
        case Kind.BROKER:
            return BrokerResource(ALL_BROKERS if name == "" else _this_node(broker, name))
        case Kind.BROKER_LOGGER:
            _this_node(broker, name)
            return LoggerResource()
        case Kind.GROUP | Kind.CLIENT_METRICS:
            if not name:
                raise Refused(ErrorCode.invalid_request, "a group or a subscription of client metrics needs a name")
            return NamedResource(NAMED_KINDS[kind], name)
        case _:
            raise Refused(
                ErrorCode.invalid_request,
                f"resource type {kind} has no configurations; {', '.join(map(str, map(int, Kind)))} have",
            )


def _this_node(broker: Broker, name: str) -> int:
    if name != str(broker.node_id):
        raise Refused(ErrorCode.invalid_request, f"broker {name!r} is not this one; this is broker {broker.node_id}")
    return broker.node_id


def resources_of(broker: Broker, kind: int) -> list[str]:
    """The names of all resources of a kind: topics and brokers that are there, and what else has configurations."""
    match kind:
        case Kind.TOPIC:
            return sorted(broker.image.topics)
        case Kind.BROKER | Kind.BROKER_LOGGER:
            return [str(node_id) for node_id in sorted(broker.image.brokers)]
        case _:
            return sorted(broker.image.named_configs(NAMED_KINDS[Kind(kind)]))


async def altered(context: RequestContext, request: Any, shape: Any, alter: Callable[[Any], Awaitable[None]]) -> tuple[Any, ...]:
    """Alter each resource of `request` by itself; their answers in `shape`."""
    results = []
    times = Counter((resource.resource_type, resource.resource_name) for resource in request.resources)
    for resource in request.resources:
        code, message = ErrorCode.none, None
        try:
            if times[resource.resource_type, resource.resource_name] > 1:
                raise Refused(ErrorCode.invalid_request, f"resource {resource.resource_name!r} is named twice in one request")
            await alter(resource)
        except Exception as problem:
            code, message = refusal(context, problem)
        results.append(
            shape(
                error_code=code, error_message=message, resource_type=resource.resource_type, resource_name=resource.resource_name
            )
        )
    return tuple(results)
