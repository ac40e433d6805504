"""SyncGroup (14): the leader hands in assignments, every member gets its own.

Versions 0 to 5: static members from 3 (KIP-345), protocol checked from 5 (KIP-559).

Invariants: answered after the assignment is durable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.group_replies import code_of, coordinator_error
from hotlog.answers.replies import NO_THROTTLE
from hotlog.coordinators.group_types import Code, Synced
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 14


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Wait for the leader's assignment."""
    try:
        synced = await broker.groups.sync(
            request.group_id,
            member_id=request.member_id,
            instance_id=getattr(request, "group_instance_id", None),
            generation=request.generation_id,
            protocol_type=getattr(request, "protocol_type", None),
            protocol=getattr(request, "protocol_name", None),
            assignments={part.member_id: bytes(part.assignment) for part in request.assignments},
        )
        code = code_of(context, synced.code)
    except Exception as problem:
        synced, code = Synced(Code.NONE), coordinator_error(context, problem)
    return responses(KEY, context.version).SyncGroupResponse(
        throttle_time=NO_THROTTLE,
        error_code=code,
        protocol_type=synced.protocol_type if code is ErrorCode.none else None,
        protocol_name=synced.protocol if code is ErrorCode.none else None,
        assignment=synced.assignment if code is ErrorCode.none else b"",
    )


API = Api(key=KEY, name="SyncGroup", versions=range(6), handle=handle)
