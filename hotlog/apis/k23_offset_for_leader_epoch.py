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
from hotlog.broker.leaders import led_here
from hotlog.partitions.answers import UNKNOWN_EPOCH
from hotlog.wire import apis
from hotlog.wire.error_codes import code_for, is_expected

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

LOG = logging.getLogger(__name__)


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
            code, (epoch, end_offset) = ErrorCode.none, each if isinstance(each, tuple) else UNKNOWN_EPOCH
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
    partition = led_here(broker, topic, part.partition, part.current_leader_epoch)
    return await partition.end_offset_for_epoch(part.leader_epoch)


API = Api(key=23, name="OffsetForLeaderEpoch", versions=range(2, 5), handle=handle)
