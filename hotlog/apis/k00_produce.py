"""Produce (0): check that each batch is what its records say, append it, wait as acks demand.

The plan of a request (apis/produce/plan) says where each batch goes; what must wait before its append is made ready (apis/produce/readiness).

Versions 3 to 13 (topic ids from 13).  One batch per partition, as Kafka demands from version 3 on; magic 0 and 1 are refused (KIP-724).
acks=1 is answered when the leader's own rule is met (its fsync, or its append, as hotlog.durability says), so that what was acknowledged
can be read; acks=-1 when the topic's is; acks=0 not at all (an error then closes the connection: there is no other way to tell).
A batch that begins a transaction in a partition is appended after its coordinator has agreed (hotlog.broker.admission, KIP-890).

Invariants: nothing is appended whose records were not looked at; a batch is appended whole or not at all, in the order of the connection's
requests; except with acks=0 nothing is acknowledged before it is `committed`, a batch that was sent before included; an error
of one partition is that partition's alone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, Later, RequestContext, Spliced
from hotlog.answers.slices import SLICE, breathe
from hotlog.apis.produce.plan import Batch, InlineRoom, Plan, plan_topic
from hotlog.apis.produce.readiness import At, look_inline, make_ready, must_ask, must_wait
from hotlog.apis.produce.short_way import short
from hotlog.kernel.errors import InvalidRecord, InvalidTimestamp, MalformedBatch, NotOneBatch, SequenceError
from hotlog.log.writer import Appended
from hotlog.partitions.waits import all_committed
from hotlog.wire.error_codes import Refused, code_for, is_expected, message_for
from hotlog.wire.produce import (
    VERSIONS,
    PartitionResult,
    ProduceRequest,
    TopicResult,
    decode,
    encode,
)

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker
    from hotlog.partitions.partition import Partition

LOG = logging.getLogger(__name__)

_BEFORE_THE_LOG = (NotOneBatch, MalformedBatch)  # as in Kafka these answers do not tell where the log begins
# Where an answer stands, and the offset up to which its partition must be committed.
_Wait = tuple[list[PartitionResult], int, "Partition", int]


def handle(broker: Broker, context: RequestContext, request: ProduceRequest) -> Any:
    """Append every partition's batch; the reply may come `Later`."""
    broker.produce_requests += 1
    results = [TopicResult(topic.name, topic.topic_id, []) for topic in request.topics]
    if sum(len(topic.partitions) for topic in request.topics) > SLICE:
        return _handle_wide(broker, context, request, results)
    room = InlineRoom()
    plans = [plan_topic(broker, context, request, topic, topic.partitions, room) for topic in request.topics]
    if any(plan.left for plan in plans):
        rest = look_inline(broker, plans)
        if rest or must_wait(plans) or (request.transactional_id is not None and must_ask(plans)):
            return _append_at_last(broker, context, request, plans, rest, results)
    return _answer(context, request, results, _append(broker, context, request, plans, results))


async def _handle_wide(broker: Broker, context: RequestContext, request: ProduceRequest, results: list[TopicResult]) -> Any:
    """The same in slices, so that others get their turns; the connection's next request waits."""
    waits: list[_Wait] = []
    turn, room = SLICE, InlineRoom()
    for topic, result in zip(request.topics, results, strict=True):
        for start in range(0, len(topic.partitions), SLICE):
            some = topic.partitions[start : start + SLICE]
            if len(some) > turn:
                await breathe()
                turn, room = SLICE, InlineRoom()
            turn -= len(some)
            plans = [plan_topic(broker, context, request, topic, some, room)]
            if plans[0].left:
                await make_ready(broker, context, request, plans, look_inline(broker, plans))
            waits += _append(broker, context, request, plans, [result])
    return _answer(context, request, results, waits)


async def _append_at_last(
    broker: Broker,
    context: RequestContext,
    request: ProduceRequest,
    plans: list[Plan],
    rest: list[At],
    results: list[TopicResult],
) -> Any:
    """Append what had to wait; the connection's next request waits too, so order is kept."""
    await make_ready(broker, context, request, plans, rest)
    return _answer(context, request, results, _append(broker, context, request, plans, results))


def _append(
    broker: Broker, context: RequestContext, request: ProduceRequest, plans: list[Plan], results: list[TopicResult]
) -> list[_Wait]:
    """Append what is not yet, and add its answers to the results; what must be committed before they are true."""
    now_ms = broker.clock.now_ms()
    waits: list[_Wait] = []
    for result, plan in zip(results, plans, strict=True):
        answers = result.partitions
        for batch in plan.batches:
            answer, wait_end = _append_one(broker, plan.name, batch, now_ms)
            if wait_end >= 0 and request.acks != 0:
                assert batch.partition is not None
                waits.append((answers, len(answers), batch.partition, wait_end))
            if answer.code:
                context.has_failed = True
            answers.append(answer)
    return waits


def _answer(context: RequestContext, request: ProduceRequest, results: list[TopicResult], waits: list[_Wait]) -> Any:
    if request.acks == 0:
        if context.has_failed:
            raise next(Refused(p.code, p.message or "") for t in results for p in t.partitions if p.code)
        return None
    if waits:
        return Later(_when_committed(context, request.timeout_ms, results, waits))
    return _response(context.version, results)


def _append_one(broker: Broker, topic: str | None, batch: Batch, now_ms: int) -> tuple[PartitionResult, int]:
    """The answer for one partition, and the offset up to which it must be committed first (-1: it is, or it was refused)."""
    if batch.refusal is not None:
        return _refused(broker, topic, batch, batch.refusal), -1
    assert batch.partition is not None
    try:
        appended = batch.appended or _append_now(batch, now_ms)
    except Exception as error:
        return _refused(broker, topic, batch, error), -1
    if batch.records is not None and not appended.is_duplicate:
        broker.metrics.bytes_in.labels(batch.partition.tp.topic).inc(len(batch.records))
        broker.metrics.messages_in.labels(batch.partition.tp.topic).inc(batch.headers[0].record_count)
    end, marks = appended.last_offset + 1, batch.partition.marks
    result = PartitionResult(batch.number, ErrorCode.none, appended.base_offset, appended.append_time_ms, marks.log_start_offset)
    return result, end if marks.high_watermark < end else -1


def _append_now(batch: Batch, now_ms: int) -> Appended:
    """Raises what an append raises."""
    assert batch.partition is not None
    assert batch.records is not None
    if batch.guard is not None:
        batch.partition.marks.producers.require(batch.guard, batch.headers[0].base_sequence)
    return batch.partition.append(batch.records, batch.headers, now_ms=now_ms)


def _refused(broker: Broker, topic: str | None, batch: Batch, error: Exception) -> PartitionResult:
    if not is_expected(error):
        LOG.error("produce to %s-%d failed", topic, batch.number, exc_info=error)
    if topic is not None and broker.topic(topic) is not None:
        broker.metrics.produce_failed.labels(topic).inc()
    faults = error.faults if isinstance(error, (InvalidRecord, InvalidTimestamp)) else ()
    is_log_asked = isinstance(error, (InvalidRecord, InvalidTimestamp, SequenceError)) and not isinstance(error, _BEFORE_THE_LOG)
    start = batch.partition.marks.log_start_offset if batch.partition is not None and is_log_asked else -1
    return PartitionResult(
        batch.number, code_for(error), log_start_offset=start, message=message_for(error), record_errors=faults
    )


async def _when_committed(context: RequestContext, timeout_ms: int, results: list[TopicResult], waits: list[_Wait]) -> Spliced:
    """The reply once every appended batch is committed; a partition that is not in time answers REQUEST_TIMED_OUT."""
    ends = [(partition, end) for _, _, partition, end in waits]
    for number, error in (await all_committed(ends, max(timeout_ms, 1) / 1000)).items():
        answers, at, _, _ = waits[number]
        context.has_failed = True
        answers[at] = PartitionResult(answers[at].partition, code_for(error), message=message_for(error))
    return _response(context.version, results)


def _response(version: int, results: list[TopicResult]) -> Spliced:
    body = encode(version, results)
    return Spliced([body], len(body))


def refuse(context: RequestContext, request: ProduceRequest, error: BaseException) -> Any:
    """An error that belongs to no partition; with acks=0 there is nothing to say."""
    if request.acks == 0:
        return None
    code, message = code_for(error), message_for(error)
    results = [
        TopicResult(t.name, t.topic_id, [PartitionResult(p.partition, code, message=message) for p in t.partitions])
        for t in request.topics
    ]
    return _response(context.version, results)


API = Api(
    key=0,
    name="Produce",
    versions=VERSIONS,
    handle=handle,
    decode=decode,
    refuse=refuse,
    decodes_any_size=True,
    short=short,
)
