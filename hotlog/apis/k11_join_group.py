"""JoinGroup (11): enter a group's next generation.

Versions 0 to 9: rebalance timeout from 1 (KIP-62), member id required from 4 (KIP-394), static members from 5 (KIP-345), skip assignment from
9 (KIP-814).

Invariants: answered when the rebalance is complete, or with an error at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.group_replies import code_of, coordinator_error
from hotlog.answers.replies import NO_THROTTLE, milliseconds
from hotlog.coordinators.group_types import Joined, JoinRequest
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 11
KNOWN_ID_FROM = 4
PROTOCOL_NULLABLE_FROM = 7
SKIP_FROM = 9


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Join, and wait for the others."""
    session_ms = milliseconds(request.session_timeout)
    rebalance = getattr(request, "rebalance_timeout", None)
    try:
        asked = JoinRequest(
            member_id=request.member_id,
            instance_id=getattr(request, "group_instance_id", None),
            client_id=context.client_id or "",
            client_host=f"/{context.caller.peer[0]}",
            session_timeout_ms=session_ms,
            rebalance_timeout_ms=max(milliseconds(rebalance), 0) if rebalance is not None else session_ms,
            protocol_type=request.protocol_type,
            protocols=tuple((protocol.name, bytes(protocol.metadata)) for protocol in request.protocols),
            needs_known_id=context.version >= KNOWN_ID_FROM,
            can_skip_assignment=context.version >= SKIP_FROM,
        )
        joined = await broker.groups.join(request.group_id, asked)
    except Exception as problem:
        return _failed(context, coordinator_error(context, problem), request.member_id)
    code = code_of(context, joined.code)
    return _answer(context, joined) if code is ErrorCode.none else _failed(context, code, joined.member_id)


def _failed(context: RequestContext, code: ErrorCode, member_id: str) -> Any:
    return responses(KEY, context.version).JoinGroupResponse(
        throttle_time=NO_THROTTLE,
        error_code=code,
        generation_id=-1,
        protocol_type=None,
        protocol_name=None if context.version >= PROTOCOL_NULLABLE_FROM else "",
        leader="",
        skip_assignment=False,
        member_id=member_id,
        members=(),
    )


def _answer(context: RequestContext, joined: Joined) -> Any:
    shapes = responses(KEY, context.version)
    return shapes.JoinGroupResponse(
        throttle_time=NO_THROTTLE,
        error_code=ErrorCode.none,
        generation_id=joined.generation,
        protocol_type=joined.protocol_type,
        protocol_name=joined.protocol or "",
        leader=joined.leader,
        skip_assignment=joined.skip_assignment,
        member_id=joined.member_id,
        members=tuple(
            shapes.JoinGroupResponseMember(member_id=member_id, group_instance_id=instance_id, metadata=metadata)
            for member_id, instance_id, metadata in joined.members
        ),
    )


API = Api(key=KEY, name="JoinGroup", versions=range(10), handle=handle)
