"""ListPartitionReassignments (46): none is ever under way, since partitions stay where they are (KIP-455).

Version 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 46


def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """List them."""
    return responses(KEY, context.version).ListPartitionReassignmentsResponse(
        throttle_time=NO_THROTTLE, error_code=ErrorCode.none, error_message=None, topics=()
    )


API = Api(key=KEY, name="ListPartitionReassignments", versions=range(1), handle=handle)
