"""LeaveGroup (13): one member (to version 2) or several (from 3, KIP-345) leave.

Versions 0 to 5.

Invariants: waits for nothing but the log, where the group is one of the new protocol; the rest of the group rebalances at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.group_replies import code_of, coordinator_error
from hotlog.answers.replies import NO_THROTTLE
from hotlog.coordinators.group_types import Left
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 13
MANY_FROM = 3


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Take the members out of their group."""
    shapes = responses(KEY, context.version)
    if context.version >= MANY_FROM:
        wanted = tuple((member.member_id, member.group_instance_id) for member in request.members)
    else:
        wanted = ((request.member_id, None),)
    code, left = ErrorCode.none, Left(())
    try:
        left = await broker.groups.leave(request.group_id, wanted)
    except Exception as problem:
        code = coordinator_error(context, problem)
    if context.version < MANY_FROM and code is ErrorCode.none:
        code = code_of(context, left.members[0][2])
    return shapes.LeaveGroupResponse(
        throttle_time=NO_THROTTLE,
        error_code=code,
        members=tuple(
            shapes.MemberResponse(member_id=member_id, group_instance_id=instance_id, error_code=code_of(context, answer))
            for member_id, instance_id, answer in left.members
            if context.version >= MANY_FROM
        ),
    )


API = Api(key=KEY, name="LeaveGroup", versions=range(6), handle=handle)
