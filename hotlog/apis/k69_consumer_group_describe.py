"""ConsumerGroupDescribe (69): members of groups of the new protocol, what they have and what they are to have (KIP-848).

Versions 0 and 1: which protocol a member speaks from 1 (KIP-1099).

Invariants: groups of the classic protocol are GROUP_ID_NOT_FOUND here, as those of the new one are in DescribeGroups.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from kio.schema.errors import ErrorCode

from controller.features import GROUP_VERSION, level_of
from hotlog.answers.api import Api, RequestContext
from hotlog.answers.group_replies import GROUPS_ARE_OFF, code_of, coordinator_error
from hotlog.answers.replies import GROUP_OPERATIONS, NO_OPERATIONS, NO_THROTTLE
from hotlog.answers.slices import sliced
from hotlog.coordinators.consumer.draft import preferred
from hotlog.coordinators.consumer.values import ConsumerGroup, Member
from hotlog.coordinators.group_types import Code
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 69
CLASSIC, CONSUMER = 0, 1


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Describe each group; one that is named twice once."""
    operations = GROUP_OPERATIONS if request.include_authorized_operations else NO_OPERATIONS
    groups = [await _group(broker, context, group_id, operations) for group_id in dict.fromkeys(request.group_ids)]
    return responses(KEY, context.version).ConsumerGroupDescribeResponse(throttle_time=NO_THROTTLE, groups=tuple(groups))


async def _group(broker: Broker, context: RequestContext, group_id: str, operations: int) -> Any:
    if not level_of(broker.image, GROUP_VERSION):
        return _failed(context, group_id, code_of(context, Code.UNSUPPORTED_VERSION), GROUPS_ARE_OFF)
    if not group_id:
        return _failed(context, group_id, code_of(context, Code.INVALID_GROUP_ID), None)
    try:
        described = broker.groups.describe(group_id)
    except Exception as problem:
        return _failed(context, group_id, coordinator_error(context, problem), str(problem))
    group = described.group
    if described.code is not Code.NONE or not isinstance(group, ConsumerGroup):
        why = "not found" if described.code is not Code.NONE else "is not a consumer group"
        return _failed(context, group_id, code_of(context, Code.GROUP_ID_NOT_FOUND), f"Group {group_id} {why}.")
    found = group
    members = await sliced(list(group.members.values()), lambda member: _member(broker, context, found, member))
    return responses(KEY, context.version).DescribedGroup(
        error_code=ErrorCode.none,
        error_message=None,
        group_id=group_id,
        group_state=group.state,
        group_epoch=group.epoch,
        assignment_epoch=group.assignment_epoch,
        assignor_name=preferred(group.members.values(), broker.settings.words("group.consumer.assignors")),
        members=tuple(members),
        authorized_operations=operations,
    )


def _member(broker: Broker, context: RequestContext, group: ConsumerGroup, member: Member) -> Any:
    said = member.said
    return responses(KEY, context.version).Member(
        member_id=member.member_id,
        instance_id=said.instance_id,
        rack_id=said.rack_id,
        member_epoch=member.current.epoch,
        client_id=said.client_id,
        client_host=said.client_host,
        subscribed_topic_names=said.topics,
        subscribed_topic_regex=said.regex,
        assignment=_assignment(broker, context, _held(member)),
        target_assignment=_assignment(broker, context, group.target(member.member_id).parts),
        member_type=CLASSIC if said.classic is not None else CONSUMER,
    )


def _held(member: Member) -> Mapping[UUID, Collection[int]]:
    """What a member has, and what it has yet to give up."""
    found: dict[UUID, set[int]] = {}
    for topic_id, index in member.current.held():
        found.setdefault(topic_id, set()).add(index)
    return found


def _assignment(broker: Broker, context: RequestContext, parts: Mapping[UUID, Collection[int]]) -> Any:
    shapes, known = responses(KEY, context.version), broker.image.topics_by_id
    return shapes.Assignment(
        topic_partitions=tuple(
            shapes.TopicPartitions(topic_id=topic_id, topic_name=known[topic_id].name, partitions=tuple(sorted(indexes)))
            for topic_id, indexes in parts.items()
            if topic_id in known
        )
    )


def _failed(context: RequestContext, group_id: str, code: ErrorCode, message: str | None) -> Any:
    return responses(KEY, context.version).DescribedGroup(
        error_code=code,
        error_message=message,
        group_id=group_id,
        group_state="",
        group_epoch=0,
        assignment_epoch=0,
        assignor_name="",
        members=(),
        authorized_operations=NO_OPERATIONS,
    )


API = Api(key=KEY, name="ConsumerGroupDescribe", versions=range(2), handle=handle)
