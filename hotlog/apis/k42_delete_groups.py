"""DeleteGroups (42): forget groups and their offsets (KIP-229).

Versions 0 to 2.

Invariants: a group with members is NON_EMPTY_GROUP and stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.group_replies import code_of, coordinator_error
from hotlog.answers.replies import NO_THROTTLE
from hotlog.answers.slices import slices
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 42


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Delete each group; one that is named twice once."""
    shapes = responses(KEY, context.version)
    results = []
    async for groups in slices(tuple(dict.fromkeys(request.groups_names))):
        for group_id in groups:
            try:
                code = code_of(context, await broker.groups.delete(group_id))
            except Exception as problem:
                code = coordinator_error(context, problem)
            results.append(shapes.DeletableGroupResult(group_id=group_id, error_code=code))
    return shapes.DeleteGroupsResponse(throttle_time=NO_THROTTLE, results=tuple(results))


API = Api(key=KEY, name="DeleteGroups", versions=range(3), handle=handle)
