"""ElectLeaders (43): have the preferred replica lead, or any that is left (KIP-183, KIP-460).

Versions 0 to 2: which of both from 1.  Every partition has one replica, and that leads it: no election is needed.

Invariants: elects nobody; where all partitions are meant, topics are answered without those that need no election, as in Kafka.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE
from hotlog.answers.slices import sliced
from hotlog.wire.apis import responses
from hotlog.wire.error_codes import Refused, code_for, message_for

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 43
PREFERRED, UNCLEAN = 0, 1
Outcome = Callable[[str, int], tuple[ErrorCode, str]]  # of a partition of a topic


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Say of each partition that it is led."""
    kind = getattr(request, "election_type", PREFERRED)
    if request.topic_partitions == ():
        return _answer(context, ErrorCode.none, [])
    if kind not in (PREFERRED, UNCLEAN):
        context.has_failed = True
        unknown = Refused(ErrorCode.invalid_request, f"election type {kind} is unknown; 0 (preferred) and 1 (unclean) are known")
        return refuse(context, request, unknown)
    topics = broker.image.topics

    def outcome(name: str, index: int) -> tuple[ErrorCode, str]:
        topic = topics.get(name)
        if topic is not None and 0 <= index < len(topic.partitions):
            return ErrorCode.election_not_needed, "its only replica leads it"
        context.has_failed = True
        return ErrorCode.unknown_topic_or_partition, "there is no such " + ("topic" if topic is None else "partition")

    if request.topic_partitions is None:
        return _answer(context, ErrorCode.none, await sliced(list(topics), partial(_topic, context, parts=())))
    results = []
    for asked in request.topic_partitions:
        parts = await sliced(asked.partitions, partial(_result, context, outcome, asked.topic))
        results.append(_topic(context, asked.topic, parts))
    return _answer(context, ErrorCode.none, results)


def _result(context: RequestContext, outcome: Outcome, topic: str, index: int) -> Any:
    code, message = outcome(topic, index)
    return responses(KEY, context.version).PartitionResult(partition_id=index, error_code=code, error_message=message)


def _topic(context: RequestContext, topic: str, parts: Sequence[Any]) -> Any:
    return responses(KEY, context.version).ReplicaElectionResult(topic=topic, partition_result=tuple(parts))


def _answer(context: RequestContext, code: ErrorCode, results: list[Any]) -> Any:
    return responses(KEY, context.version).ElectLeadersResponse(
        throttle_time=NO_THROTTLE, error_code=code, replica_election_results=tuple(results)
    )


def refuse(context: RequestContext, request: Any, error: BaseException) -> Any:
    """The same for all, partition by partition too: there is where clients look."""
    told = code_for(error), message_for(error)
    topics = request.topic_partitions or ()
    results = [
        _topic(context, asked.topic, [_result(context, lambda *_: told, asked.topic, index) for index in asked.partitions])
        for asked in topics
    ]
    return _answer(context, told[0], results)


API = Api(key=KEY, name="ElectLeaders", versions=range(3), handle=handle, refuse=refuse)
