"""AddPartitionsToTxn (24): which partitions a transaction has.

Versions 0 to 5: PRODUCER_FENCED from 2 (KIP-588).  From 4 on brokers ask (KIP-890): about several transactions at once, and, with `verify_only`, only
whether the partitions are part of them.

Invariants: a transaction gets all partitions of a request or, if one of them does not exist, none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.group_replies import coordinator_error
from hotlog.answers.replies import NO_THROTTLE
from hotlog.answers.transaction_replies import code_of
from hotlog.coordinators.transaction_types import V0, V2, Place
from hotlog.wire import apis

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 24
FENCED_FROM, BATCHED_FROM = 2, 4


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Every transaction of the request."""
    shapes = apis.responses(KEY, context.version)
    if context.version < BATCHED_FROM:
        codes = await _codes(
            broker, context, request.v3_and_below_transactional_id, request.v3_and_below_producer_id,
            request.v3_and_below_producer_epoch, request.v3_and_below_topics, is_question=False,
        )  # fmt: skip
        return shapes.AddPartitionsToTxnResponse(
            throttle_time=NO_THROTTLE, results_by_topic_v3_and_below=_topics(shapes, request.v3_and_below_topics, codes)
        )
    results = []
    for one in request.transactions:
        codes = await _codes(
            broker, context, one.transactional_id, one.producer_id, one.producer_epoch, one.topics, is_question=one.verify_only
        )
        results.append(
            shapes.AddPartitionsToTxnResult(
                transactional_id=one.transactional_id, topic_results=_topics(shapes, one.topics, codes)
            )
        )
    return shapes.AddPartitionsToTxnResponse(
        throttle_time=NO_THROTTLE, error_code=ErrorCode.none, results_by_transaction=tuple(results)
    )


async def _codes(
    broker: Broker,
    context: RequestContext,
    transactional_id: str,
    producer_id: int,
    epoch: int,
    topics: Any,
    *,
    is_question: bool,
) -> Mapping[Place, ErrorCode]:
    """The answer for each partition of one transaction."""
    places = [(str(topic.name), int(index)) for topic in topics for index in topic.partitions]
    unknown = [place for place in places if not _exists(broker, *place)]
    if unknown:
        context.has_failed = True
        refused = dict.fromkeys(places, ErrorCode.operation_not_attempted)
        return refused | dict.fromkeys(unknown, ErrorCode.unknown_topic_or_partition)
    try:
        if is_question:
            found = broker.transactions.verify(transactional_id, producer_id, epoch, places)
        else:
            version = V2 if context.version >= BATCHED_FROM else V0
            code = await broker.transactions.add(transactional_id, producer_id, epoch, places, version)
            found = dict.fromkeys(places, code)
    except Exception as problem:
        return dict.fromkeys(places, coordinator_error(context, problem))
    return {place: code_of(context, code, fenced_from=FENCED_FROM) for place, code in found.items()}


def _exists(broker: Broker, name: str, index: int) -> bool:
    topic = broker.topic(name)
    return topic is not None and 0 <= index < len(topic.partitions)


def _topics(shapes: Any, topics: Any, codes: Mapping[Place, ErrorCode]) -> tuple[Any, ...]:
    return tuple(
        shapes.AddPartitionsToTxnTopicResult(
            name=topic.name,
            results_by_partition=tuple(
                shapes.AddPartitionsToTxnPartitionResult(partition_index=index, partition_error_code=codes[topic.name, index])
                for index in topic.partitions
            ),
        )
        for topic in topics
    )


API = Api(key=KEY, name="AddPartitionsToTxn", versions=range(6), handle=handle)
