"""WriteTxnMarkers (27): a coordinator, or an administrator who ends a hanging transaction, ends transactions in partitions of this broker.

Versions 1 and 2: the transaction.version that the transaction was ended by from 2 on.

Invariants: a partition is answered after its marker is committed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.group_replies import coordinator_error
from hotlog.broker.markers import mark_each
from hotlog.kernel.errors import NotReady
from hotlog.wire import apis
from hotlog.wire.error_codes import code_for, is_expected
from hotlog.wire.markers import Marker

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 27


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """End each transaction in each of its partitions."""
    shapes = apis.responses(KEY, context.version)
    results = []
    for one in request.markers:
        marker = Marker(one.producer_id, one.producer_epoch, one.coordinator_epoch, one.transaction_result)
        places = list(dict.fromkeys((str(topic.name), int(index)) for topic in one.topics for index in topic.partition_indexes))
        outcomes = await mark_each(broker, marker, getattr(one, "transaction_version", 0), places)
        codes = {place: _code(context, outcome) for place, outcome in outcomes.items()}
        topics = tuple(
            shapes.WritableTxnMarkerTopicResult(
                name=topic.name,
                partitions=tuple(
                    shapes.WritableTxnMarkerPartitionResult(partition_index=index, error_code=codes[topic.name, index])
                    for index in topic.partition_indexes
                ),
            )
            for topic in one.topics
        )
        results.append(shapes.WritableTxnMarkerResult(producer_id=one.producer_id, topics=topics))
    return shapes.WriteTxnMarkersResponse(markers=tuple(results))


def _code(context: RequestContext, outcome: Exception | None) -> ErrorCode:
    if outcome is None:
        return ErrorCode.none
    context.has_failed = True
    if isinstance(outcome, NotReady):  # a group's partition that is not read yet, too: it is asked again
        return ErrorCode.not_leader_or_follower
    return code_for(outcome) if is_expected(outcome) else coordinator_error(context, outcome)


API = Api(key=KEY, name="WriteTxnMarkers", versions=range(1, 3), handle=handle)
