"""TxnOffsetCommit (28): offsets that are committed with a transaction (KIP-98), by a producer for the group that it reads as (KIP-447).

Versions 0 to 5: leader epochs from 2, the group's member and generation from 3, TRANSACTION_ABORTABLE from 4 (KIP-1050); from 5 on it adds the group's
partition to the transaction by itself (KIP-890).

Invariants: nobody sees the offsets before the transaction is committed; each partition gets a code of its own.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.group_replies import code_of, coordinator_error
from hotlog.answers.replies import NO_THROTTLE
from hotlog.broker.admission import Asks, Guard, Wanted, admitted
from hotlog.coordinators.group_types import Code
from hotlog.coordinators.keyed_log import Producer
from hotlog.coordinators.service import Commit
from hotlog.coordinators.tenure import NotCoordinator
from hotlog.wire import apis

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 28
ABORTABLE_FROM, ADDS_FROM = 4, 5


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Commit every partition of every topic, once the transaction has the group's partition."""
    shapes = apis.responses(KEY, context.version)
    codes: dict[tuple[str, int], Code] = {}
    failure = ErrorCode.none
    try:
        codes = await _commit(broker, context, request)
    except Exception as problem:
        failure = coordinator_error(context, problem)
        if failure is ErrorCode.unknown_server_error:
            raise
    topics = []
    for topic in request.topics:
        partitions = [
            shapes.TxnOffsetCommitResponsePartition(
                partition_index=part.partition_index,
                error_code=failure if failure else code_of(context, codes[topic.name, part.partition_index]),
            )
            for part in topic.partitions
        ]
        topics.append(shapes.TxnOffsetCommitResponseTopic(name=topic.name, partitions=tuple(partitions)))
    return shapes.TxnOffsetCommitResponse(throttle_time=NO_THROTTLE, topics=tuple(topics))


async def _commit(broker: Broker, context: RequestContext, request: Any) -> dict[tuple[str, int], Code]:
    producer_id, epoch = request.producer_id, request.producer_epoch
    await broker.groups.ensure()
    place = broker.groups.place_of(request.group_id)
    partition = broker.partition(*place)
    if partition is None:
        raise NotCoordinator(f"{place[0]}-{place[1]} is not here")
    producers = partition.marks.producers
    asks = Asks.ADD if context.version >= ADDS_FROM else Asks.CONFIRM if context.version >= ABORTABLE_FROM else Asks.CONFIRM_OLD
    answers = await admitted(
        broker, request.transactional_id, producer_id, epoch, {place: Wanted(producers, 0)}, asks,
        unavailable=ErrorCode.coordinator_not_available,
    )  # fmt: skip
    guard = answers[place]
    if isinstance(guard, Exception):
        raise guard
    check = partial(producers.require, guard, 0) if isinstance(guard, Guard) else _nothing
    commits = [
        Commit(
            topic.name,
            part.partition_index,
            part.committed_offset,
            getattr(part, "committed_leader_epoch", -1),
            part.committed_metadata,
        )
        for topic in request.topics
        for part in topic.partitions
    ]
    return await broker.groups.commit_in_transaction(
        request.group_id,
        commits,
        Producer(producer_id, epoch, check),
        member_id=getattr(request, "member_id", ""),
        instance_id=getattr(request, "group_instance_id", None),
        generation=getattr(request, "generation_id", -1),
    )


def _nothing() -> None:
    """Is to be checked (transaction.partition.verification.enable)."""


API = Api(key=KEY, name="TxnOffsetCommit", versions=range(6), handle=handle)
