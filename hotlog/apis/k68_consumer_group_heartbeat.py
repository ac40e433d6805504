"""ConsumerGroupHeartbeat (68): a member of the new protocol joins, is alive, says what it has, learns what it is to have, leaves (KIP-848).

Versions 0 and 1: regular expressions from 1, and member ids are the members' own.

Invariants: answered only where the cluster has finalized group.version; answered when what it changed is committed; a request that contradicts itself is INVALID_REQUEST and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from kio.schema.errors import ErrorCode

from controller.features import GROUP_VERSION, level_of
from hotlog.answers.api import Api, RequestContext
from hotlog.answers.group_replies import GROUPS_ARE_OFF, code_of, coordinator_error
from hotlog.answers.replies import NO_THROTTLE, milliseconds
from hotlog.coordinators.consumer.values import JOIN_EPOCH, LEAVE_EPOCH, LEAVE_STATIC_EPOCH, Beaten, BeatRequest, Owned
from hotlog.coordinators.group_types import Code
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 68
OWN_ID_FROM = 1


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Hand it to the group."""
    if not level_of(broker.image, GROUP_VERSION):
        return _answer(context, Beaten(Code.NONE, GROUPS_ARE_OFF), code_of(context, Code.UNSUPPORTED_VERSION))
    wrong = _wrong(context.version, request)
    if wrong is not None:
        return _answer(context, Beaten(Code.INVALID_REQUEST, wrong), code_of(context, Code.INVALID_REQUEST))
    owned: Mapping[UUID, frozenset[int]] | None = None
    if request.topic_partitions is not None:
        owned = {topic.topic_id: frozenset(topic.partitions) for topic in request.topic_partitions if topic.topic_id is not None}
    names = request.subscribed_topic_names
    asked = BeatRequest(
        member_id=request.member_id,
        epoch=request.member_epoch,
        instance_id=request.instance_id,
        rack_id=request.rack_id,
        rebalance_ms=milliseconds(request.rebalance_timeout),
        topics=tuple(sorted({str(name) for name in names})) if names is not None else None,
        regex=getattr(request, "subscribed_topic_regex", None),
        assignor=request.server_assignor,
        owned=owned,
        client_id=context.client_id or "",
        client_host=f"/{context.caller.peer[0]}",
    )
    try:
        beaten = await broker.groups.beat(request.group_id, asked)
    except Exception as problem:
        return _answer(context, Beaten(Code.NONE, str(problem)), coordinator_error(context, problem))
    return _answer(context, beaten, code_of(context, beaten.code))


def _wrong(version: int, request: Any) -> str | None:
    """What Kafka does not take, in its words."""
    epoch = request.member_epoch
    if (version >= OWN_ID_FROM or epoch > 0 or epoch == LEAVE_EPOCH) and not request.member_id.strip():
        return "MemberId can't be empty."
    if not request.group_id.strip():
        return "GroupId can't be empty."
    for name, text in (("InstanceId", request.instance_id), ("RackId", request.rack_id)):
        if text is not None and not text.strip():
            return f"{name} can't be empty."
    if epoch == JOIN_EPOCH:
        return _wrong_to_join(request)
    if epoch == LEAVE_STATIC_EPOCH and request.instance_id is None:
        return "InstanceId can't be null."
    return "MemberEpoch is invalid." if epoch < LEAVE_STATIC_EPOCH else None


def _wrong_to_join(request: Any) -> str | None:
    if milliseconds(request.rebalance_timeout) == -1:
        return "RebalanceTimeoutMs must be provided in first request."
    if request.topic_partitions is None or request.topic_partitions:
        return "TopicPartitions must be empty when (re-)joining."
    if request.subscribed_topic_names is None and getattr(request, "subscribed_topic_regex", None) is None:
        return "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining."
    return None


def _answer(context: RequestContext, beaten: Beaten, code: ErrorCode) -> Any:
    shapes = responses(KEY, context.version)
    return shapes.ConsumerGroupHeartbeatResponse(
        throttle_time=NO_THROTTLE,
        error_code=code,
        error_message=beaten.message,
        member_id=beaten.member_id,
        member_epoch=beaten.epoch,
        heartbeat_interval=timedelta(milliseconds=beaten.heartbeat_ms),
        assignment=_assignment(shapes, beaten.assignment) if beaten.assignment is not None else None,
    )


def _assignment(shapes: Any, owned: Owned) -> Any:
    return shapes.Assignment(
        topic_partitions=tuple(
            shapes.TopicPartitions(topic_id=topic_id, partitions=tuple(sorted(indexes))) for topic_id, indexes in owned.items()
        )
    )


API = Api(key=KEY, name="ConsumerGroupHeartbeat", versions=range(2), handle=handle)
