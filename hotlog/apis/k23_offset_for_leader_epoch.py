"""OffsetForLeaderEpoch (23): where a leader epoch ended (KIP-101, KIP-279, KIP-320), over both tiers.

Versions 2 to 4.

Invariants: the answer is the largest known epoch not above the one asked for, and its end offset; epochs older than the local log are
looked up in the cold tier.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.slices import SLICE, breathe, gathered
from hotlog.broker.leaders import check_epoch
from hotlog.wire import apis
from hotlog.wire.error_codes import Refused, code_for, is_expected

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker, Partition

LOG = logging.getLogger(__name__)

UNKNOWN = (-1, -1)


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Every partition of the request, the cold look-ups at once."""
    shapes = apis.responses(context.api_key, context.version)
    topics = []
    for topic in request.topics:
        found = await gathered(topic.partitions, partial(_answer, broker, topic.topic))
        results = []
        for number, (part, each) in enumerate(zip(topic.partitions, found, strict=True), 1):
            if number % SLICE == 0:
                await breathe()
            code, (epoch, end_offset) = ErrorCode.none, each if isinstance(each, tuple) else UNKNOWN
            if isinstance(each, BaseException):
                context.has_failed = True
                code = code_for(each)
                if not is_expected(each):
                    LOG.error("OffsetForLeaderEpoch of %s-%d failed", topic.topic, part.partition, exc_info=each)
            results.append(
                shapes.EpochEndOffset(error_code=code, partition=part.partition, leader_epoch=epoch, end_offset=end_offset)
            )
        topics.append(shapes.OffsetForLeaderTopicResult(topic=topic.topic, partitions=tuple(results)))
    return shapes.OffsetForLeaderEpochResponse(throttle_time=timedelta(0), topics=tuple(topics))


async def _answer(broker: Broker, topic: str, part: Any) -> tuple[int, int]:
    partition = broker.partition(topic, part.partition)
    if partition is None:
        raise Refused(ErrorCode.unknown_topic_or_partition, f"partition {topic}-{part.partition} is not here")
    check_epoch(partition, part.current_leader_epoch)
    return await end_offset_for_epoch(partition, part.leader_epoch)


async def end_offset_for_epoch(partition: Partition, epoch: int) -> tuple[int, int]:
    """(largest known epoch <= `epoch`, its end offset) from the tier that knows it.

    Raises:
        StoreUnavailable: only the cold tier knows it, and it does not answer.
    """
    log, cold = partition.log, partition.cold
    entries = log.epochs.entries
    is_older = bool(entries) and epoch < entries[0][0]
    if is_older and cold is not None and cold.ready and cold.end_offset > cold.log_start_offset:
        found = await cold.end_offset_for_epoch(epoch)
        if found != UNKNOWN:
            return found
    return log.end_offset_for_epoch(epoch)


API = Api(key=23, name="OffsetForLeaderEpoch", versions=range(2, 5), handle=handle)
