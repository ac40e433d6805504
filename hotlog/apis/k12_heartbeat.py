"""Heartbeat (12): a member is alive; it learns here that a rebalance has begun.

Versions 0 to 4: static members from 3 (KIP-345).

Invariants: never waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hotlog.answers.api import Api, Caller, RequestContext
from hotlog.answers.group_replies import code_of, coordinator_error
from hotlog.answers.replies import NO_THROTTLE
from hotlog.answers.seen import Seen
from hotlog.coordinators.group_handles import Session
from hotlog.wire import short_bodies
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 12
YES = (bytes(2), bytes(6), bytes(6), bytes(6), bytes(8))  # by version: tags from 4, throttle time from 1, error code, tags from 4


def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Prolong the member's session."""
    instance_id = getattr(request, "group_instance_id", None)
    try:
        answer = broker.groups.heartbeat(request.group_id, request.member_id, instance_id, request.generation_id)
        code = code_of(context, answer)
    except Exception as problem:
        code = coordinator_error(context, problem)
    return responses(KEY, context.version).HeartbeatResponse(throttle_time=NO_THROTTLE, error_code=code)


class Sessions(Seen[Session]):
    """Of members: their heartbeats are the same from one rebalance to the next."""


def quick(broker: Broker, caller: Caller, version: int, frame: memoryview, position: int) -> bytes | None:
    """The same where the answer is yes."""
    sessions, key = broker.kept[Sessions], (version, bytes(frame[position:]))
    session = sessions.find(key)
    if session is None or not session.begins_anew():
        group_id, generation, member_id, instance_id = short_bodies.heartbeat(*key)
        session = broker.groups.session_of(group_id, member_id, instance_id, generation)
        if session is None or not session.begins_anew():
            return None
        sessions.keep(key, session)
    return YES[version]


API = Api(key=KEY, name="Heartbeat", versions=range(5), handle=handle, quick=quick)
