"""ListGroups (16): all groups of this broker.

Versions 0 to 5: filter by state from 4 (KIP-518), by type from 5 (KIP-848).

Invariants: filters ignore case; an empty filter lets everything through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE
from hotlog.answers.slices import sliced
from hotlog.coordinators.consumer.machine import AnyGroup
from hotlog.coordinators.consumer.values import PROTOCOL_TYPE
from hotlog.coordinators.group_types import Group
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 16
CLASSIC, CONSUMER = "classic", "consumer"


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """List the groups that pass the filters."""
    shapes = responses(KEY, context.version)
    states = {state.lower() for state in getattr(request, "states_filter", ())}
    types = {kind.lower() for kind in getattr(request, "types_filter", ())}

    def listed(group: AnyGroup) -> Any:
        kind, state, protocol_type = _told(group)
        return shapes.ListedGroup(group_id=group.group_id, protocol_type=protocol_type, group_state=state, group_type=kind)

    groups = [group for group in broker.groups.all() if not types or _told(group)[0] in types]
    if states:
        groups = [group for group in groups if _told(group)[1].lower() in states]
    found = tuple(await sliced(groups, listed))
    return shapes.ListGroupsResponse(throttle_time=NO_THROTTLE, error_code=ErrorCode.none, groups=found)


def _told(group: AnyGroup) -> tuple[str, str, str]:
    """Type, state and protocol type of a group."""
    if isinstance(group, Group):
        return CLASSIC, group.state.value, group.protocol_type or ""
    return CONSUMER, group.state, PROTOCOL_TYPE


API = Api(key=KEY, name="ListGroups", versions=range(6), handle=handle)
