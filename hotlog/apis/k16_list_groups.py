"""ListGroups (16): all groups of this broker.

Versions 0 to 5: filter by state from 4 (KIP-518), by type from 5 (KIP-848; all groups here are "classic").

Invariants: filters ignore case; an empty filter lets everything through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE
from hotlog.answers.slices import sliced
from hotlog.coordinators.group_types import Group
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 16
TYPE = "classic"


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """List the groups that pass the filters."""
    shapes = responses(KEY, context.version)
    states = {state.lower() for state in getattr(request, "states_filter", ())}
    types = {kind.lower() for kind in getattr(request, "types_filter", ())}

    def listed(group: Group) -> Any:
        state = group.state.value
        return shapes.ListedGroup(
            group_id=group.group_id, protocol_type=group.protocol_type or "", group_state=state, group_type=TYPE
        )

    groups = broker.groups.all() if not types or TYPE in types else []
    if states:
        groups = [group for group in groups if group.state.value.lower() in states]
    found = tuple(await sliced(groups, listed))
    return shapes.ListGroupsResponse(throttle_time=NO_THROTTLE, error_code=ErrorCode.none, groups=found)


API = Api(key=KEY, name="ListGroups", versions=range(6), handle=handle)
