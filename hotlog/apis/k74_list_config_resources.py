"""ListConfigResources (74): the names of what has configurations (KIP-1142; version 0 is KIP-714's ListClientMetricsResources).

Versions 0 and 1: subscriptions of client metrics; from 1 also topics, brokers, their loggers and groups, or those kinds that are asked for.

Invariants: an unknown kind is answered UNSUPPORTED_VERSION, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.config_resources import Kind, resources_of
from hotlog.answers.replies import NO_THROTTLE
from hotlog.answers.slices import slices
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 74
ORDER = (Kind.GROUP, Kind.CLIENT_METRICS, Kind.BROKER_LOGGER, Kind.BROKER, Kind.TOPIC)


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Those of the kinds that are asked for, or of all."""
    shapes = responses(KEY, context.version)
    known = ORDER if context.version > 0 else (Kind.CLIENT_METRICS,)
    wanted = set(getattr(request, "resource_types", ())) or set(known)
    code, found = ErrorCode.none, []
    if wanted <= set(known):
        for kind in known:
            async for names in slices(resources_of(broker, kind) if kind in wanted else []):
                found += [shapes.ConfigResource(resource_name=name, resource_type=kind) for name in names]
    else:
        code, context.has_failed = ErrorCode.unsupported_version, True
    return shapes.ListConfigResourcesResponse(throttle_time=NO_THROTTLE, error_code=code, config_resources=tuple(found))


API = Api(key=KEY, name="ListConfigResources", versions=range(2), handle=handle)
