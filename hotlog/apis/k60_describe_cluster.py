"""DescribeCluster (60): brokers, controller and cluster id (KIP-700).

Versions 0 to 2.  Endpoint type 2 (controllers, KIP-919) is refused: there are no controller listeners.

Invariants: tells the same brokers as Metadata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import CLUSTER_OPERATIONS, NO_OPERATIONS, NO_THROTTLE
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 60
BROKERS, CONTROLLERS = 1, 2


def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Describe the cluster."""
    shapes = responses(KEY, context.version)
    endpoint = getattr(request, "endpoint_type", BROKERS)
    if endpoint != BROKERS:
        return _refused(context, endpoint)
    host, port = broker.advertised[context.caller.listener]
    brokers = (
        shapes.DescribeClusterBroker(broker_id=broker.node_id, host=host, port=port, rack=broker.rack or None, is_fenced=False),
    )
    return shapes.DescribeClusterResponse(
        throttle_time=NO_THROTTLE,
        error_code=ErrorCode.none,
        error_message=None,
        endpoint_type=endpoint,
        cluster_id=broker.cluster_id,
        controller_id=broker.image.controller_id,
        brokers=brokers,
        cluster_authorized_operations=CLUSTER_OPERATIONS if request.include_cluster_authorized_operations else NO_OPERATIONS,
    )


def _refused(context: RequestContext, endpoint: int) -> Any:
    context.has_failed = True
    code = ErrorCode.mismatched_endpoint_type if endpoint == CONTROLLERS else ErrorCode.unsupported_endpoint_type
    return responses(KEY, context.version).DescribeClusterResponse(
        throttle_time=NO_THROTTLE,
        error_code=code,
        error_message=f"endpoint type {endpoint} is not served; 1 (brokers) is",
        endpoint_type=BROKERS,
        cluster_id="",
        controller_id=-1,
        brokers=(),
        cluster_authorized_operations=NO_OPERATIONS,
    )


API = Api(key=KEY, name="DescribeCluster", versions=range(3), handle=handle)
