"""OffsetCommit (8): remember how far a group has read.

Versions 2 to 10: leader epochs from 6, static members from 7 (KIP-345), topic ids from 10.  Retention time (2 to 4) is ignored: the broker's
offsets.retention.minutes decides, as since Kafka 2.1.

Invariants: answered after the record is durable; each partition gets a code of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.group_replies import code_of, coordinator_error
from hotlog.answers.replies import NO_THROTTLE
from hotlog.coordinators.group_types import Code
from hotlog.coordinators.service import Commit
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 8
GROUP_NOT_FOUND_FROM = 9
BY_ID_FROM = 10


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Commit every partition of every topic."""
    shapes = responses(KEY, context.version)
    topics = [(topic, _name(broker, context, topic)) for topic in request.topics]
    commits = [
        Commit(
            name,
            part.partition_index,
            part.committed_offset,
            getattr(part, "committed_leader_epoch", -1),
            part.committed_metadata,
        )
        for topic, name in topics
        if name is not None
        for part in topic.partitions
    ]
    codes: dict[tuple[str, int], Code] = {}
    failure = ErrorCode.none
    try:
        codes = await broker.groups.commit(
            request.group_id,
            member_id=request.member_id,
            instance_id=getattr(request, "group_instance_id", None),
            generation=request.generation_id_or_member_epoch,
            commits=commits,
            unknown=Code.GROUP_ID_NOT_FOUND if context.version >= GROUP_NOT_FOUND_FROM else Code.ILLEGAL_GENERATION,
        )
    except Exception as problem:
        failure = coordinator_error(context, problem)

    def answer(name: str | None, index: int) -> ErrorCode:
        if name is None:
            return ErrorCode.unknown_topic_id
        return failure if failure is not ErrorCode.none else code_of(context, codes[name, index])

    return shapes.OffsetCommitResponse(
        throttle_time=NO_THROTTLE,
        topics=tuple(
            shapes.OffsetCommitResponseTopic(
                name=name or "",
                topic_id=getattr(topic, "topic_id", None),
                partitions=tuple(
                    shapes.OffsetCommitResponsePartition(
                        partition_index=part.partition_index, error_code=answer(name, part.partition_index)
                    )
                    for part in topic.partitions
                ),
            )
            for topic, name in topics
        ),
    )


def _name(broker: Broker, context: RequestContext, topic: Any) -> str | None:
    """The topic's name; None for an id that is unknown."""
    if context.version < BY_ID_FROM:
        return str(topic.name)
    known = broker.topic_by_id(topic.topic_id) if topic.topic_id is not None else None
    return known.name if known is not None else None


API = Api(key=KEY, name="OffsetCommit", versions=range(2, 11), handle=handle, omits=("members of the new protocol (KIP-848)",))
