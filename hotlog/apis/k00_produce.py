"""Produce (0): check that each batch is what its records say, append it, wait as acks demand.

Versions 3 to 13 (topic ids from 13).  One batch per partition, as Kafka demands from version 3 on; magic 0 and 1 are refused (KIP-724).
acks=1 is answered when the leader's own rule is met (its fsync, or its append, as hotlog.durability says), so that what was acknowledged
can be read; acks=-1 when the topic's is; acks=0 not at all (an error then closes the connection: there is no other way to tell).
A batch that begins a transaction in a partition is appended after its coordinator has agreed (hotlog.broker.admission, KIP-890).

Invariants: nothing is appended whose records were not looked at; a batch is appended whole or not at all, in the order of the connection's
requests; except with acks=0 nothing is acknowledged before it is `committed`, a batch that was sent before included; an error
of one partition is that partition's alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, Later, RequestContext, Spliced
from hotlog.answers.slices import SLICE, breathe
from hotlog.apis.produce.short_way import ACKS_ALLOWED, short
from hotlog.broker.admission import Admitted, Asks, Guard, Wanted, admitted
from hotlog.broker.leaders import not_here
from hotlog.coordinators.transaction_types import Place
from hotlog.kernel.errors import HotlogError, InvalidRecord, InvalidTimestamp, SequenceError
from hotlog.kernel.limits import MiB
from hotlog.log.large_appends import INLINE_APPEND_BYTES_MAX
from hotlog.log.writer import Appended
from hotlog.partitions.waits import all_committed
from hotlog.wire.batch import CODEC_MASK, TRANSACTIONAL_MASK, BatchHeader, check_produced
from hotlog.wire.error_codes import Refused, code_for, is_expected, kept, message_for
from hotlog.wire.inspect import INLINE, THREAD, Room, alone, inspect
from hotlog.wire.plain_batch import sound
from hotlog.wire.produce import (
    TOPIC_ID_FROM,
    VERSIONS,
    PartitionData,
    PartitionResult,
    ProduceRequest,
    TopicData,
    TopicResult,
    decode,
    encode,
)

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker
    from hotlog.partitions.partition import Partition

LOG = logging.getLogger(__name__)

ZSTD_FROM_VERSION = 7  # KIP-110
ABORTABLE_FROM, ADDS_FROM = 11, 12  # KIP-1050, KIP-890
_ZSTD = 4
INLINE_LOOK_BYTES_MAX = 4 * MiB  # of one request, on the event loop


class _Batch(NamedTuple):
    """One partition's part of a request: `refusal` if it was refused, `appended` once it is in the log (`records` are None then, if that
    was by the short way)."""

    number: int
    partition: Partition | None
    records: memoryview | None
    headers: list[BatchHeader]
    refusal: Exception | None
    appended: Appended | None = None
    guard: Guard | None = None  # held against the log before the append

    @property
    def header(self) -> BatchHeader | None:
        """Of a batch that is part of a transaction, unless it was refused."""
        if self.refusal is None and self.headers and self.headers[0].attributes & TRANSACTIONAL_MASK:
            return self.headers[0]
        return None


class _Plan(NamedTuple):
    """Of one topic.  `left` counts the batches that are not appended yet, refused ones too."""

    name: str | None
    batches: list[_Batch]
    left: int


_Place = tuple[_Plan, int]
_Wait = tuple[
    list[PartitionResult], int, "Partition", int
]  # where its answer stands, and the offset up to which it must be committed


def handle(broker: Broker, context: RequestContext, request: ProduceRequest) -> Any:
    """Append every partition's batch; the reply may come `Later`."""
    broker.produce_requests += 1
    results = [TopicResult(topic.name, topic.topic_id, []) for topic in request.topics]
    if sum(len(topic.partitions) for topic in request.topics) > SLICE:
        return _handle_wide(broker, context, request, results)
    room = _Room()
    plans = [_plan_topic(broker, context, request, topic, topic.partitions, room) for topic in request.topics]
    if any(plan.left for plan in plans):
        rest = _look_inline(broker, plans)
        if rest or _must_wait(plans) or (request.transactional_id is not None and _must_ask(plans)):
            return _append_at_last(broker, context, request, plans, rest, results)
    return _answer(context, request, results, _append(broker, context, request, plans, results))


class _Room:
    """How many bytes of a request may still be appended by the short way, before anything of it that may not."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = INLINE_APPEND_BYTES_MAX


async def _handle_wide(broker: Broker, context: RequestContext, request: ProduceRequest, results: list[TopicResult]) -> Any:
    """The same in slices, so that others get their turns; the connection's next request waits."""
    waits: list[_Wait] = []
    turn, room = SLICE, _Room()
    for topic, result in zip(request.topics, results, strict=True):
        for start in range(0, len(topic.partitions), SLICE):
            some = topic.partitions[start : start + SLICE]
            if len(some) > turn:
                await breathe()
                turn, room = SLICE, _Room()
            turn -= len(some)
            plans = [_plan_topic(broker, context, request, topic, some, room)]
            if plans[0].left:
                await _make_ready(broker, context, request, plans, _look_inline(broker, plans))
            waits += _append(broker, context, request, plans, [result])
    return _answer(context, request, results, waits)


def _look_inline(broker: Broker, plans: list[_Plan]) -> list[_Place]:
    """Hold every batch against its records that the event loop may; those that it may not."""
    now_ms = broker.clock.now_ms()
    rest: list[_Place] = []
    size = 0
    for plan in plans:
        for at, batch in enumerate(plan.batches):
            if batch.refusal is None and batch.records is not None:
                size += len(batch.records)
                if size > INLINE_LOOK_BYTES_MAX or not _look(plan, at, now_ms, INLINE):
                    rest.append((plan, at))
    return rest


def _plan_topic(
    broker: Broker,
    context: RequestContext,
    request: ProduceRequest,
    topic: TopicData,
    partitions: Sequence[PartitionData],
    room: _Room,
) -> _Plan:
    """Append what is plain, as long as all before it was, and see what is to be done with the rest."""
    name = topic.name
    if context.version >= TOPIC_ID_FROM:
        assert topic.topic_id is not None, "these versions have it"
        found = broker.topic_by_id(topic.topic_id)
        name = found.name if found is not None else None
    batches: list[_Batch] = []
    table, now_ms = broker.table(), broker.clock.now_ms()
    left = size = count = 0
    for data in partitions:
        partition = None if name is None else table.get((name, data.partition))
        if partition is not None and room.bytes > 0:
            appended = _append_plain(request, partition, data.records, room, now_ms)
            if appended is not None:
                batches.append(_Batch(data.partition, partition, None, [], None, appended))
                size, count = size + len(data.records or b""), count + appended.end_offset - appended.base_offset
                continue
        room.bytes, left = 0, left + 1
        headers: list[BatchHeader] = []
        refusal: Exception | None = None
        try:
            if partition is None:
                raise _nowhere(broker, context, topic, name, data.partition)
            headers = _check(context.version, request, partition, data.records)
        except Exception as error:
            refusal = kept(error)
        batches.append(_Batch(data.partition, partition, data.records, headers, refusal))
    if name is not None and count:
        broker.metrics.bytes_in.labels(name).inc(size)
        broker.metrics.messages_in.labels(name).inc(count)
    return _Plan(name, batches, left)


def _append_plain(
    request: ProduceRequest, partition: Partition, records: memoryview | None, room: _Room, now_ms: int
) -> Appended | None:
    """What became of a batch as small producers send it; None: it is not such a batch, and nothing was done."""
    if records is None or request.acks not in ACKS_ALLOWED or request.transactional_id is not None or len(records) > room.bytes:
        return None
    config = partition.config
    fields = sound(records, config.message_bytes_max, config, now_ms)
    if fields is None:
        return None
    try:
        base = partition.append_plain(records, fields, now_ms)
    except HotlogError:
        return None
    if base < 0:
        return None
    room.bytes -= len(records)
    end = base + fields[12]
    return Appended(base, end - 1, -1, partition.marks.log_start_offset, end, False)


def _nowhere(broker: Broker, context: RequestContext, topic: TopicData, name: str | None, index: int) -> Refused:
    if name is not None and broker.topic(name) is not None:
        return not_here(name, index)
    if context.version >= TOPIC_ID_FROM:
        return Refused(ErrorCode.unknown_topic_id, f"topic id {topic.topic_id} is not known")
    return Refused(ErrorCode.unknown_topic_or_partition, f"topic {name!r} is not known")


def _check(version: int, request: ProduceRequest, partition: Partition, records: memoryview | None) -> list[BatchHeader]:
    """Everything that can be told from the request and the batch header.

    Raises:
        Refused, TooLarge, InvalidRecord
    """
    if request.acks not in ACKS_ALLOWED:
        raise Refused(ErrorCode.invalid_required_acks, f"acks={request.acks} is not allowed; 0, 1 and -1 are")
    if records is None:
        raise InvalidRecord("records are null; one batch is needed")
    headers = check_produced(records, batch_bytes_max=partition.config.message_bytes_max)
    if len(headers) != 1:
        raise InvalidRecord(f"{len(headers)} batches for {partition.tp}; exactly one is allowed")
    header = headers[0]
    attributes = header.attributes
    if attributes & CODEC_MASK == _ZSTD and version < ZSTD_FROM_VERSION:
        raise Refused(ErrorCode.unsupported_compression_type, f"zstd needs Produce version {ZSTD_FROM_VERSION}, not {version}")
    if attributes & TRANSACTIONAL_MASK and request.transactional_id is None:
        raise Refused(ErrorCode.transactional_id_authorization_failed, "records of a transaction come without a transactional id")
    return headers


def _look(plan: _Plan, at: int, now_ms: int, room: Room) -> bool:
    """Hold a batch against its records, and note what they say or why it is refused.  False: it needs a larger room."""
    batch = plan.batches[at]
    assert batch.records is not None
    assert batch.partition is not None
    try:
        header = inspect(batch.records, batch.headers[0], batch.partition.config, now_ms, room)
    except Exception as error:
        plan.batches[at] = batch._replace(refusal=kept(error))
        return True
    if header is None:
        return False
    if header is not batch.headers[0]:
        plan.batches[at] = batch._replace(headers=[header])
    return True


async def _append_at_last(
    broker: Broker,
    context: RequestContext,
    request: ProduceRequest,
    plans: list[_Plan],
    rest: list[_Place],
    results: list[TopicResult],
) -> Any:
    """Append what had to wait; the connection's next request waits too, so order is kept."""
    await _make_ready(broker, context, request, plans, rest)
    return _answer(context, request, results, _append(broker, context, request, plans, results))


def _must_ask(plans: list[_Plan]) -> bool:
    """Whether a batch begins a transaction in its partition."""
    for plan in plans:
        for batch in plan.batches:
            header = batch.header
            if header is not None and batch.partition is not None:
                producers = batch.partition.marks.producers
                if not producers.is_open(header.producer_id, header.producer_epoch):
                    return True
    return False


async def _ask(broker: Broker, version: int, transactional_id: str, plans: list[_Plan]) -> None:
    """Ask the coordinator about batches that begin a transaction in their partition, and note what all are held against once they are appended."""
    found: dict[Place, Wanted] = {}
    where: dict[Place, list[_Place]] = {}
    owners: set[tuple[int, int]] = set()
    for plan in plans:
        for at, batch in enumerate(plan.batches):
            header = batch.header
            if header is not None and batch.partition is not None:
                owners.add((header.producer_id, header.producer_epoch))
                place = batch.partition.tp.topic, batch.partition.tp.partition
                found.setdefault(place, Wanted(batch.partition.marks.producers, header.base_sequence))
                where.setdefault(place, []).append((plan, at))
    outcome: dict[Place, Admitted] = {}
    if len(owners) == 1:
        ((producer_id, epoch),) = owners
        asks = Asks.ADD if version >= ADDS_FROM else Asks.CONFIRM if version >= ABORTABLE_FROM else Asks.CONFIRM_OLD
        outcome = await admitted(
            broker, transactional_id, producer_id, epoch, found, asks, unavailable=ErrorCode.not_enough_replicas
        )
    elif owners:
        mixed = Refused(ErrorCode.invalid_producer_id_mapping, "records of one transaction come from more than one producer")
        outcome = dict.fromkeys(found, mixed)
    for place, answer in outcome.items():
        for plan, at in where[place]:
            refusal = answer if isinstance(answer, Exception) else None
            guard = answer if isinstance(answer, Guard) else None
            plan.batches[at] = plan.batches[at]._replace(refusal=refusal, guard=guard)


async def _make_ready(
    broker: Broker, context: RequestContext, request: ProduceRequest, plans: list[_Plan], rest: list[_Place]
) -> None:
    """Look into the rest off the loop, ask for transactions, wait for room, and write off the loop what the loop must not."""
    now_ms = broker.clock.now_ms()
    if rest:
        async with broker.looks:
            rest = await broker.disk.run(_look_through, rest, now_ms, THREAD)
    if rest:
        async with broker.large_batches:
            room = alone(broker.settings.number("hotlog.batch.decompressed.bytes.max"))
            await broker.disk.run(_look_through, rest, now_ms, room)
    if request.transactional_id is not None and (_must_ask(plans) or _must_wait(plans)):
        await _ask(broker, context.version, request.transactional_id, plans)
    if _must_wait(plans):
        await _wait_room(plans, request.timeout_ms)
        if _must_wait(plans):
            await _append_in_turn(broker, plans)


def _look_through(places: list[_Place], now_ms: int, room: Room) -> list[_Place]:
    """Look into each; those that need a larger room."""
    return [(plan, at) for plan, at in places if not _look(plan, at, now_ms, room)]


def _must_wait(plans: list[_Plan]) -> bool:
    """Whether they cannot be written here and now: too many bytes, a thread writes to one of the logs, or one has too many files open."""
    size = 0
    for plan in plans:
        for batch in plan.batches:
            if batch.refusal is None and batch.records is not None and batch.partition is not None:
                size += len(batch.records)
                if size > INLINE_APPEND_BYTES_MAX or batch.partition.is_busy:
                    return True
    return False


async def _wait_room(plans: list[_Plan], timeout_ms: int) -> None:
    """Until every log may open what an append needs: segments that roll faster than the disk takes them hold up who fills them."""
    try:
        async with asyncio.timeout(max(timeout_ms, 1) / 1000):
            while crowded := _crowded(plans):
                await crowded[0][2].wait_room()
    except TimeoutError:
        for plan, at, partition in _crowded(plans):
            refusal = Refused(
                ErrorCode.request_timed_out, f"{partition.tp} waits for the disk: its segments roll faster than they are synced"
            )
            plan.batches[at] = plan.batches[at]._replace(refusal=refusal)


def _crowded(plans: list[_Plan]) -> list[tuple[_Plan, int, Partition]]:
    return [
        (plan, at, batch.partition)
        for plan in plans
        for at, batch in enumerate(plan.batches)
        if batch.refusal is None and batch.partition is not None and batch.partition.is_crowded
    ]


async def _append_in_turn(broker: Broker, plans: list[_Plan]) -> None:
    """Append off the loop; the connection's next request waits."""
    for plan in plans:
        for at, batch in enumerate(plan.batches):
            if batch.refusal is None and batch.records is not None and batch.partition is not None:
                append = batch.partition.append_in_turn
                try:
                    appended = await append(batch.records, batch.headers, now_ms=broker.clock.now_ms(), guard=batch.guard)
                except Exception as error:
                    plan.batches[at] = batch._replace(refusal=kept(error))
                else:
                    plan.batches[at] = batch._replace(appended=appended)


def _append(
    broker: Broker, context: RequestContext, request: ProduceRequest, plans: list[_Plan], results: list[TopicResult]
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


def _append_one(broker: Broker, topic: str | None, batch: _Batch, now_ms: int) -> tuple[PartitionResult, int]:
    """The answer for one partition, and the offset up to which it must be committed first (-1: it is, or it was refused)."""
    if batch.refusal is not None:
        return _refused(broker, topic, batch.number, batch.refusal), -1
    assert batch.partition is not None
    try:
        appended = batch.appended or _append_now(batch, now_ms)
    except Exception as error:
        refused = _refused(broker, topic, batch.number, error)
        if isinstance(error, SequenceError):  # the log itself says no
            refused = refused._replace(log_start_offset=batch.partition.marks.log_start_offset)
        return refused, -1
    if batch.records is not None and not appended.is_duplicate:
        broker.metrics.bytes_in.labels(batch.partition.tp.topic).inc(len(batch.records))
        broker.metrics.messages_in.labels(batch.partition.tp.topic).inc(batch.headers[0].record_count)
    end, marks = appended.last_offset + 1, batch.partition.marks
    result = PartitionResult(batch.number, ErrorCode.none, appended.base_offset, appended.append_time_ms, marks.log_start_offset)
    return result, end if marks.high_watermark < end else -1


def _append_now(batch: _Batch, now_ms: int) -> Appended:
    """Raises what an append raises."""
    assert batch.partition is not None
    assert batch.records is not None
    if batch.guard is not None:
        batch.partition.marks.producers.require(batch.guard, batch.headers[0].base_sequence)
    return batch.partition.append(batch.records, batch.headers, now_ms=now_ms)


def _refused(broker: Broker, topic: str | None, index: int, error: Exception) -> PartitionResult:
    if not is_expected(error):
        LOG.error("produce to %s-%d failed", topic, index, exc_info=error)
    if topic is not None and broker.topic(topic) is not None:
        broker.metrics.produce_failed.labels(topic).inc()
    faults = error.faults if isinstance(error, (InvalidRecord, InvalidTimestamp)) else ()
    return PartitionResult(index, code_for(error), message=message_for(error), record_errors=faults)


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
