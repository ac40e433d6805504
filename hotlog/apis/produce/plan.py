"""What a Produce asks of one topic, batch by batch: where each goes, and what the request and the batch header say against it.

Plain batches of small producers are in the log when the plan is made, as long as all before them were plain.

Invariants: nothing is appended behind a batch of the same request that is not yet; a refused batch is in the plan with its error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from kio.schema.errors import ErrorCode

from hotlog.answers.api import RequestContext
from hotlog.apis.produce.short_way import ACKS_ALLOWED
from hotlog.broker.admission import Guard
from hotlog.broker.leaders import not_here
from hotlog.kernel.errors import HotlogError, NotOneBatch
from hotlog.log.large_appends import INLINE_APPEND_BYTES_MAX
from hotlog.log.writer import Appended
from hotlog.wire.batch import CODEC_MASK, TRANSACTIONAL_MASK, BatchHeader, check_produced
from hotlog.wire.error_codes import Refused, kept
from hotlog.wire.plain_batch import sound
from hotlog.wire.produce import TOPIC_ID_FROM, PartitionData, ProduceRequest, TopicData

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker
    from hotlog.partitions.partition import Partition

ZSTD_FROM_VERSION = 7  # KIP-110
_ZSTD = 4


class Batch(NamedTuple):
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


class Plan(NamedTuple):
    """Of one topic.  `left` counts the batches that are not appended yet, refused ones too."""

    name: str | None
    batches: list[Batch]
    left: int


class InlineRoom:
    """How many bytes of a request may still be appended by the short way, before anything of it that may not."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = INLINE_APPEND_BYTES_MAX


def plan_topic(
    broker: Broker,
    context: RequestContext,
    request: ProduceRequest,
    topic: TopicData,
    partitions: Sequence[PartitionData],
    room: InlineRoom,
) -> Plan:
    """Append what is plain, as long as all before it was, and see what is to be done with the rest."""
    name = topic.name
    if context.version >= TOPIC_ID_FROM:
        assert topic.topic_id is not None, "these versions have it"
        found = broker.topic_by_id(topic.topic_id)
        name = found.name if found is not None else None
    batches: list[Batch] = []
    table, now_ms = broker.table(), broker.clock.now_ms()
    left = size = count = 0
    for data in partitions:
        partition = None if name is None else table.get((name, data.partition))
        if partition is not None and room.bytes > 0:
            appended = _append_plain(request, partition, data.records, room, now_ms)
            if appended is not None:
                batches.append(Batch(data.partition, partition, None, [], None, appended))
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
        batches.append(Batch(data.partition, partition, data.records, headers, refusal))
    if name is not None and count:
        broker.metrics.bytes_in.labels(name).inc(size)
        broker.metrics.messages_in.labels(name).inc(count)
    return Plan(name, batches, left)


def _append_plain(
    request: ProduceRequest, partition: Partition, records: memoryview | None, room: InlineRoom, now_ms: int
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
        raise NotOneBatch("records are null; one batch is needed")
    headers = check_produced(records, batch_bytes_max=partition.config.message_bytes_max)
    if len(headers) != 1:
        raise NotOneBatch(f"{len(headers)} batches for {partition.tp}; exactly one is allowed")
    header = headers[0]
    attributes = header.attributes
    if attributes & CODEC_MASK == _ZSTD and version < ZSTD_FROM_VERSION:
        raise Refused(ErrorCode.unsupported_compression_type, f"zstd needs Produce version {ZSTD_FROM_VERSION}, not {version}")
    if attributes & TRANSACTIONAL_MASK and request.transactional_id is None:
        raise Refused(ErrorCode.transactional_id_authorization_failed, "records of a transaction come without a transactional id")
    return headers
