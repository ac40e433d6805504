"""DescribeGroups (15): state and members of classic groups.

Versions 0 to 6: an unknown group is "Dead" without an error up to version 5, GROUP_ID_NOT_FOUND from 6 (KIP-1043).

Invariants: metadata is told only when the group is stable, an assignment as long as it is not withdrawn, as Kafka does.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.group_replies import coordinator_error
from hotlog.answers.replies import GROUP_OPERATIONS, NO_OPERATIONS, NO_THROTTLE
from hotlog.answers.slices import sliced
from hotlog.coordinators.group_types import Code, Group, State
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 15
NOT_FOUND_FROM = 6


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Describe each group; one that is named twice once."""
    groups = tuple(
        await sliced(
            list(dict.fromkeys(request.groups)),
            partial(_describe, broker, context, getattr(request, "include_authorized_operations", False)),
        )
    )
    return responses(KEY, context.version).DescribeGroupsResponse(throttle_time=NO_THROTTLE, groups=groups)


def _describe(broker: Broker, context: RequestContext, with_operations: bool, group_id: str) -> Any:
    code, message = ErrorCode.none, None
    group, state = Group(group_id=group_id), "Dead"
    try:
        described = broker.groups.describe(group_id)
        if described.code is Code.NONE and isinstance(described.group, Group):
            group, state = described.group, described.group.state.value
        elif context.version >= NOT_FOUND_FROM:
            why = "not found" if described.code is not Code.NONE else "is not a classic group"
            code, message = ErrorCode.group_id_not_found, f"Group {group_id} {why}."
    except Exception as problem:
        code, message, state = coordinator_error(context, problem), str(problem), ""
    shapes = responses(KEY, context.version)
    is_stable = group.state is State.STABLE
    return shapes.DescribedGroup(
        error_code=code,
        error_message=message,
        group_id=group_id,
        group_state=state,
        protocol_type=group.protocol_type or "",
        protocol_data=(group.protocol or "") if is_stable else "",
        members=tuple(
            shapes.DescribedGroupMember(
                member_id=member.member_id,
                group_instance_id=member.instance_id,
                client_id=member.client_id,
                client_host=member.client_host,
                member_metadata=member.metadata(group.protocol) if is_stable else b"",
                member_assignment=group.assignment(member.member_id),
            )
            for member in group.members.values()
        ),
        authorized_operations=GROUP_OPERATIONS if with_operations and code is ErrorCode.none else NO_OPERATIONS,
    )


API = Api(key=KEY, name="DescribeGroups", versions=range(7), handle=handle)
