"""What clients were promised, and whether it is kept: the ledger of one partition and the checks of faults.md.

Invariants checked: an acknowledged batch inside retention is readable byte for byte at its offset; nothing is read that was not sent; a
batch is there once; offsets follow each other; batches come in the order they were sent; nothing leaves before its retention; what
both tiers have is the same in both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from hotlog.partitions.partition import Partition
from hotlog.wire.batch import header_at, walk
from hotlog.wire.records import NewRecord, encode_batch
from tests.sim.bucket import Violation
from tests.sim.entropy import stream

EMPTY_ANSWERS_MAX = 300
BODY_FROM = 17  # base offset, length and leader epoch before it are the broker's


class Batch(NamedTuple):
    """A batch as it was read."""

    base_offset: int
    next_offset: int
    timestamp: int
    body: bytes


@dataclass
class Sent:
    """A batch that was sent; `base_offset` -1: not (yet) acknowledged.  A resent batch is the same one."""

    number: int
    data: bytes
    count: int
    timestamp: int
    base_offset: int = -1

    @property
    def body(self) -> bytes:
        return self.data[BODY_FROM:]

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.count


@dataclass
class Ledger:
    """Everything one producer sent to one partition; with a `producer_id` of 0 or more it is idempotent."""

    name: str
    seed: int
    producer_id: int
    sent: list[Sent] = field(default_factory=list)
    sequence: int = 0
    gone_below: int = 0  # log start when last looked: it never goes back
    _by_body: dict[bytes, Sent] = field(default_factory=dict)

    def make(self, timestamp: int, *, records: int = 4, value_bytes: int = 100) -> Sent:
        """The next batch, unique."""
        random = stream(self.seed, f"{self.name}/{len(self.sent)}")
        values = [
            b"%s %d %d " % (self.name.encode(), len(self.sent), one) + random.randbytes(value_bytes) for one in range(records)
        ]
        data = encode_batch(
            [NewRecord(timestamp, b"key", value, ()) for value in values],
            producer_id=self.producer_id,
            producer_epoch=0 if self.producer_id >= 0 else -1,
            base_sequence=self.sequence if self.producer_id >= 0 else -1,
        )
        self.sequence += records
        one = Sent(len(self.sent), bytes(data), records, timestamp)
        self.sent.append(one)
        self._by_body[one.body] = one
        return one

    @property
    def acked(self) -> Iterator[Sent]:
        return (one for one in self.sent if one.base_offset >= 0)

    def check(self, found: list[Batch], log_start: int, *, from_offset: int) -> None:
        """Hold what was read from `from_offset` to the end against what was sent and acknowledged."""
        if log_start < self.gone_below:
            raise Violation(f"{self.name}: the log start went back from {self.gone_below} to {log_start}")
        self.gone_below = log_start
        self._check_run(found, from_offset)
        by_base = {batch.base_offset: batch for batch in found}
        for one in self.acked:
            if one.next_offset <= max(log_start, from_offset):
                continue
            batch = by_base.get(one.base_offset)
            if batch is None:
                raise Violation(f"{self.name}: batch {one.number}, acknowledged at offset {one.base_offset}, cannot be read")
            if batch.body != one.body:
                raise Violation(
                    f"{self.name}: offset {one.base_offset} has other bytes than those acknowledged (batch {one.number})"
                )

    def _check_run(self, found: list[Batch], from_offset: int) -> None:
        last, expected = -1, None
        for batch in found:
            one = self._by_body.get(batch.body)
            if one is None:
                raise Violation(f"{self.name}: offset {batch.base_offset} holds a batch that nobody sent")
            if expected is None and not batch.base_offset <= from_offset < batch.next_offset:
                raise Violation(f"{self.name}: a read from {from_offset} begins with [{batch.base_offset}, {batch.next_offset})")
            if expected is not None and batch.base_offset != expected:
                raise Violation(f"{self.name}: after offset {expected} comes {batch.base_offset}")
            if one.number <= last:
                raise Violation(f"{self.name}: batch {one.number} at offset {batch.base_offset} comes after batch {last}")
            last, expected = one.number, batch.next_offset

    def check_not_early(self, log_start: int, *, now_ms: int, retention_ms: int) -> None:
        """Whatever is below the log start was older than `retention_ms`."""
        for one in self.acked:
            if one.next_offset <= log_start and now_ms - one.timestamp <= retention_ms:
                age = (now_ms - one.timestamp) / 3_600_000
                raise Violation(
                    f"{self.name}: batch {one.number} is gone at an age of {age:.1f} h; retention is {retention_ms / 3_600_000:.1f} h"
                )


def batches_of(data: bytes | bytearray | memoryview, from_offset: int) -> list[Batch]:
    """Whole batches in `data` that reach above `from_offset`."""
    view = memoryview(data)
    return [
        Batch(
            header.base_offset,
            header.next_offset,
            header.max_timestamp,
            bytes(view[position + BODY_FROM : position + header.size]),
        )
        for position, header in walk(view)
        if header.next_offset > from_offset
    ]


async def read_hot(partition: Partition, start: int) -> list[Batch]:
    """Everything local from `start` to the high watermark."""
    found: list[Batch] = []
    offset, log = start, partition.log
    while offset < log.high_watermark:
        got = batches_of((await log.read_blocking(offset, 64 * 1024, min_one=True)).data, offset)
        if not got:
            raise Violation(f"{partition.tp}: nothing at offset {offset} of the hot log, which ends at {log.high_watermark}")
        found.extend(got)
        offset = got[-1].next_offset
    return found


async def read_cold(partition: Partition, start: int, end: int) -> list[Batch]:
    """Everything tiered in [start, end), by the cold reader; an empty answer means that a GET takes its time."""
    assert partition.cold is not None
    found: list[Batch] = []
    offset = start
    while offset < end:
        for _ in range(EMPTY_ANSWERS_MAX):
            got = batches_of((await partition.cold.read(offset, 256 * 1024, min_one=True)).data, offset)
            if got:
                break
            await asyncio.sleep(1)
        else:
            raise Violation(f"{partition.tp}: nothing at offset {offset} of the cold tier, which ends at {end}")
        found.extend(got)
        offset = got[-1].next_offset
    return [batch for batch in found if batch.base_offset < end]


async def read_all(partition: Partition, start: int) -> list[Batch]:
    """As a consumer reads from `start`: cold below the local start, hot from there."""
    border = partition.log.local_log_start_offset
    cold = await read_cold(partition, start, border) if start < border else []
    hot_from = max(start, cold[-1].next_offset if cold else border)
    return cold + await read_hot(partition, hot_from)


async def send(partition: Partition, one: Sent, *, now_ms: int) -> None:
    """Produce with acks=all: append, wait until durable, note the ack.  Raises what the log raises."""
    data = bytearray(one.data)
    appended = partition.log.append(memoryview(data), [header_at(data)], now_ms=now_ms)
    await partition.log.wait_durable(appended.end_offset)
    if one.base_offset >= 0 and appended.base_offset != one.base_offset:
        raise Violation(
            f"{partition.tp}: batch {one.number} was acknowledged at {one.base_offset} and again at {appended.base_offset}"
        )
    one.base_offset = appended.base_offset


async def check_partition(partition: Partition, ledger: Ledger) -> None:
    """All that can be read, against the ledger; and the two tiers against each other."""
    start = partition.log_start_offset
    ledger.check(await read_all(partition, start), start, from_offset=start)
    cold = partition.cold
    if cold is not None and cold.ready and cold.end_offset > max(cold.log_start_offset, start):
        begin = max(cold.log_start_offset, start)
        for batch in await read_cold(partition, begin, cold.end_offset):
            one = ledger._by_body.get(batch.body)
            if one is None or (one.base_offset >= 0 and one.base_offset != batch.base_offset):
                raise Violation(
                    f"{ledger.name}: the cold tier has other bytes at offset {batch.base_offset} than the hot one had"
                )
