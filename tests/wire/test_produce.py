"""Produce on a socket: acks, versions, idempotence, and every way to be refused."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import struct
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from kio.schema.errors import ErrorCode

from hotlog.kernel.errors import DiskFull
from hotlog.log import flusher
from hotlog.log.waiters import Told
from hotlog.wire import apis
from hotlog.wire import produce as codec
from hotlog.wire.batch import crc32c, crc_ok, walk
from hotlog.wire.records import NewRecord, encode_batch
from hotlog.world.ports import Disk, Due
from tests.fixtures.raw_batch import RawRecord, raw_batch
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import Client, Serving, batch_of, produce, produced, serving
from tests.wire.test_records import bomb, resealed, with_body

NONE = ErrorCode.none


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path) as each:
        yield each


@pytest_asyncio.fixture
async def client(served: Serving) -> Client:
    await served.broker.create_topic("t", 2)
    return await served.connect()


def end_of(served: Serving, index: int = 0, topic: str = "t") -> int:
    partition = served.broker.partition(topic, index)
    assert partition is not None
    return partition.log.log_end_offset


@pytest.mark.parametrize("version", codec.VERSIONS)
async def test_every_version_appends(served: Serving, client: Client, version: int) -> None:
    topic = served.broker.topic("t")
    assert topic is not None
    request = produce("t", {0: batch_of(b"a"), 1: batch_of(b"b", b"c")}, version=version, topic_id=topic.topic_id)
    response = await client.call(request)
    assert produced(response) == [(0, NONE, 0), (1, NONE, 0)]
    assert response.responses[0].partition_responses[0].log_append_time is None
    assert (end_of(served, 0), end_of(served, 1)) == (1, 2)
    assert served.counted("kafka_server_brokertopicmetrics_messagesin_total", topic="t") == 3


class HeldFlush:
    """The next fsyncs begin and do not end before `let_go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, disk: Disk) -> None:
        self.has_begun = asyncio.Event()
        self._gate = asyncio.Event()
        begin, run = disk.begin_syncs, disk.run

        async def later(syncs: Sequence[Due]) -> None:
            await self._gate.wait()
            begin(syncs)

        def held(syncs: Sequence[Due]) -> None:
            self.has_begun.set()
            self._task = asyncio.ensure_future(later(syncs))

        async def held_job(function: Any, *args: Any, **kwargs: Any) -> Any:
            if function is flusher.run_job:
                self.has_begun.set()
                await self._gate.wait()
            return await run(function, *args, **kwargs)

        monkeypatch.setattr(disk, "begin_syncs", held)
        monkeypatch.setattr(disk, "run", held_job)

    @property
    def is_held(self) -> bool:
        return not self._gate.is_set()

    def let_go(self) -> None:
        self._gate.set()


async def answered(client: Client, request: Any, flush: HeldFlush) -> tuple[Any, bool]:
    """The answer, and whether the fsync was still held when it came."""
    answer = await client.call(request)
    return answer, flush.is_held


@pytest.mark.parametrize("acks", [1, -1])
async def test_what_is_acknowledged_is_durable_and_readable(
    served: Serving, client: Client, monkeypatch: pytest.MonkeyPatch, acks: int
) -> None:
    partition, other, flush = served.broker.partition("t", 0), await served.connect(), HeldFlush(monkeypatch, served.broker.disk)
    assert partition is not None
    waiting = asyncio.create_task(answered(client, produce("t", {0: batch_of(b"a")}, acks=acks), flush))
    await asyncio.wait_for(flush.has_begun.wait(), PATIENCE_S)
    for _ in range(3):
        assert produced(await other.call(produce("t", {9: batch_of(b"x")})))[0][1] is not NONE  # the broker answers others
    flush.let_go()
    answer, was_held = await waiting
    assert (produced(answer), was_held) == ([(0, NONE, 0)], False)
    assert partition.log.high_watermark == 1


async def test_a_repeated_batch_waits_for_the_fsync_that_still_runs(
    served: Serving, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was appended once and is not durable: the second answer promises as much as the first."""
    pid = await producer_id(client)
    again, other, flush = await served.connect(), await served.connect(), HeldFlush(monkeypatch, served.broker.disk)
    request = produce("t", {0: numbered(pid, 0, b"a", b"b")})
    first = asyncio.create_task(answered(client, request, flush))
    await asyncio.wait_for(flush.has_begun.wait(), PATIENCE_S)
    second = asyncio.create_task(answered(again, request, flush))
    for _ in range(3):
        await other.call(produce("t", {9: batch_of(b"x")}))
    flush.let_go()
    for answer, was_held in await asyncio.gather(first, second):
        assert (produced(answer), was_held) == ([(0, NONE, 0)], False)
    assert end_of(served) == 2


async def test_acks_0_is_not_answered_and_an_error_closes_the_connection(served: Serving, client: Client) -> None:
    client.send(produce("t", {0: batch_of(b"a")}, acks=0))
    assert produced(await client.call(produce("t", {0: batch_of(b"b")}))) == [(0, NONE, 1)]
    client.send(produce("t", {9: batch_of(b"a")}, acks=0))
    assert await client.is_closed()
    assert end_of(served) == 2


async def test_log_append_time_is_told(served: Serving) -> None:
    await served.broker.create_topic("late", 1, {"message.timestamp.type": "LogAppendTime"})
    client = await served.connect()
    response = await client.call(produce("late", {0: batch_of(b"a")}))
    stamp = response.responses[0].partition_responses[0].log_append_time
    assert abs(stamp.timestamp() - time.time()) < PATIENCE_S


def old_format(magic: int) -> bytes:
    body = struct.pack(">bb", magic, 0) + struct.pack(">ii", -1, 1) + b"x"
    return struct.pack(">qiI", 0, len(body) + 4, 0) + body + bytes(40)


def flipped() -> bytes:
    batch = batch_of(b"value")
    batch[-3] ^= 1
    return bytes(batch)


def with_header(offset: int, form: str, value: int) -> bytes:
    batch = batch_of(b"value", b"more")
    struct.pack_into(form, batch, offset, value)
    struct.pack_into(">I", batch, 17, crc32c(bytes(batch[21:])))
    return bytes(batch)


LIES: dict[str, tuple[Any, ErrorCode]] = {
    "magic 0": (old_format(0), ErrorCode.invalid_record),
    "magic 1": (old_format(1), ErrorCode.invalid_record),
    "magic 3": (with_header(16, ">b", 3), ErrorCode.corrupt_message),
    "bad crc": (flipped(), ErrorCode.corrupt_message),
    "empty": (b"", ErrorCode.invalid_record),
    "cut off": (bytes(batch_of(b"value")[:-1]), ErrorCode.invalid_record),
    "trailing junk": (bytes(batch_of(b"value")) + b"junk", ErrorCode.invalid_record),
    "two batches": (bytes(batch_of(b"a") + batch_of(b"b")), ErrorCode.invalid_record),
    "length too long": (with_header(8, ">i", 2**31 - 1), ErrorCode.invalid_record),
    "length negative": (with_header(8, ">i", -1), ErrorCode.corrupt_message),
    "length too short": (with_header(8, ">i", 48), ErrorCode.corrupt_message),
    "count negative": (with_header(57, ">i", -1), ErrorCode.invalid_record),
    "count zero": (with_header(57, ">i", 0), ErrorCode.invalid_record),
    "count too large": (with_header(57, ">i", 3), ErrorCode.invalid_record),
    "count and delta too large": (bytes(with_body(0, bytes(batch_of(b"v")[61:]), 1000)), ErrorCode.invalid_record),
    "control batch": (with_header(21, ">h", 0x20), ErrorCode.invalid_record),
    "unknown codec": (with_header(21, ">h", 5), ErrorCode.invalid_record),
    "attributes from the future": (with_header(21, ">h", 0x80), ErrorCode.invalid_record),
    "compressed garbage": (bytes(with_body(4, b"garbage", 1)), ErrorCode.invalid_record),
    "gzip garbage": (bytes(with_body(1, b"\x1f\x8bgarbage", 1)), ErrorCode.invalid_record),
    "compressed, cut off": (bytes(resealed(encode_batch([NewRecord(1, None, b"v" * 99)], "lz4")[:-6])), ErrorCode.invalid_record),
    "zstd bomb": (bytes(with_body(4, bomb(4, 160 * 1024 * 1024), 10)), ErrorCode.message_too_large),
    "too large": (bytes(batch_of(b"x" * 1_100_000)), ErrorCode.message_too_large),
    "producer without epoch": (with_header(43, ">q", 5), ErrorCode.invalid_record),
    "transactional": (with_header(21, ">h", 0x10), ErrorCode.transactional_id_authorization_failed),
    "count below the truth": (bytes(raw_batch([RawRecord()] * 3, count=2)), ErrorCode.invalid_record),
    "offsets that do not follow": (bytes(raw_batch([RawRecord(delta=0), RawRecord(delta=0)])), ErrorCode.invalid_record),
    "base offset": (bytes(raw_batch([RawRecord()], base_offset=7)), ErrorCode.invalid_record),
    "far future": (bytes(batch_of(b"v", timestamp=10**14)), ErrorCode.invalid_timestamp),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_batch_that_lies_is_refused_and_nothing_is_appended(served: Serving, client: Client, name: str) -> None:
    records, code = LIES[name]
    response = await client.call(produce("t", {0: records, 1: batch_of(b"honest")}))
    assert produced(response) == [(0, code, -1), (1, NONE, 0)]
    assert response.responses[0].partition_responses[0].error_message
    assert (end_of(served, 0), end_of(served, 1)) == (0, 1)
    assert served.counted("kafka_server_brokertopicmetrics_failedproducerequests_total", topic="t") == 1


async def first_error(client: Client, topic: str, batch: bytearray, version: int = 9) -> Any:
    """What the only partition is answered with."""
    return (await client.call(produce(topic, {0: batch}, version=version))).responses[0].partition_responses[0]


async def test_what_is_stored_says_what_the_records_say(served: Serving, client: Client) -> None:
    """librdkafka with timestamp=-1 says 0, Sarama up to 1.45 says -1, a buggy client anything."""
    now = served.broker.clock.now_ms()
    for times, claim in [((-1, -1), 0), ((now, now - 5), -1), ((now - 9, now), now + 10**6)]:
        batch = raw_batch([RawRecord(time) for time in times], "lz4", max_timestamp=claim)
        assert (await first_error(client, "t", batch)).error_code is NONE
    partition = served.broker.partition("t", 0)
    assert partition is not None
    await partition.log.wait_durable(6)
    stretch = partition.log.read(0, 1 << 20, min_one=True)
    assert stretch is not None
    stored = memoryview(stretch.data)
    found = list(walk(stored))
    assert [header.max_timestamp for _, header in found] == [-1, now, now]
    assert all(crc_ok(stored[at : at + header.size]) for at, header in found)
    assert await partition.log.offset_of_max_timestamp() == (2, now, 0)


async def test_a_repeated_batch_with_a_wrong_timestamp_is_recognised(served: Serving, client: Client) -> None:
    pid = await producer_id(client)
    for _ in range(2):
        batch = raw_batch([RawRecord(served.broker.clock.now_ms())] * 2, max_timestamp=-1, producer=(pid, 0, 0))
        assert produced(await client.call(produce("t", {0: batch}))) == [(0, NONE, 0)]
    assert end_of(served) == 2


@pytest.mark.parametrize("version", [7, 8, 9, 11])
async def test_limits_on_timestamps_hold_for_every_record(served: Serving, version: int) -> None:
    await served.broker.create_topic(
        "narrow", 1, {"message.timestamp.before.max.ms": "3600000", "message.timestamp.after.max.ms": "3600000"}
    )
    client = await served.connect()
    now, day = served.broker.clock.now_ms(), 24 * 3600 * 1000
    batch = raw_batch([RawRecord(now), RawRecord(now - day), RawRecord(-1), RawRecord(now + day)], max_timestamp=now)
    answer = await first_error(client, "narrow", batch, version)
    assert answer.error_code is ErrorCode.invalid_timestamp
    if version >= 8:
        assert [error.batch_index for error in answer.record_errors] == [1, 3]
        assert str(now - day) in answer.record_errors[0].batch_index_error_message
        assert "record 1" in answer.error_message
    assert end_of(served, topic="narrow") == 0
    assert (await first_error(client, "narrow", raw_batch([RawRecord(now), RawRecord(-1)]), version)).error_code is NONE


async def test_a_compacted_topic_takes_no_record_without_a_key(served: Serving) -> None:
    """KIP-467: the answer says which."""
    await served.broker.create_topic("keyed", 1, {"cleanup.policy": "compact"})
    client = await served.connect()
    answer = await first_error(client, "keyed", raw_batch([RawRecord(), RawRecord(key=None)], "gzip"))
    assert answer.error_code is ErrorCode.invalid_record
    assert [(error.batch_index, "key" in error.batch_index_error_message) for error in answer.record_errors] == [(1, True)]
    assert "without a key" in answer.error_message
    assert (await first_error(client, "keyed", raw_batch([RawRecord(), RawRecord(key=b"", value=None)]))).error_code is NONE


async def test_zstd_needs_version_7(client: Client) -> None:
    batch = batch_of(b"v", codec="zstd")
    assert produced(await client.call(produce("t", {0: batch}, version=6)))[0][1] is ErrorCode.unsupported_compression_type
    assert produced(await client.call(produce("t", {0: batch}, version=7)))[0][1] is NONE


@pytest.mark.parametrize("acks", [2, -2, 32767])
async def test_other_acks_are_refused(served: Serving, client: Client, acks: int) -> None:
    assert produced(await client.call(produce("t", {0: batch_of(b"a")}, acks=acks))) == [(0, ErrorCode.invalid_required_acks, -1)]
    assert end_of(served) == 0


async def test_what_is_not_here_is_named(client: Client) -> None:
    assert produced(await client.call(produce("nope", {0: batch_of(b"a")})))[0][1] is ErrorCode.unknown_topic_or_partition
    assert produced(await client.call(produce("t", {9: batch_of(b"a")})))[0][1] is ErrorCode.unknown_topic_or_partition
    request = produce("", {0: batch_of(b"a")}, version=13, topic_id=UUID(int=7))
    assert produced(await client.call(request))[0][1] is ErrorCode.unknown_topic_id


async def test_a_transactional_id_without_a_transaction_says_nothing(served: Serving, client: Client) -> None:
    assert produced(await client.call(produce("t", {0: batch_of(b"a")}, transactional_id="tx"))) == [(0, NONE, 0)]


# Idempotence (KIP-98)


async def producer_id(client: Client, version: int = 4) -> int:
    shapes = apis.requests(22, version)
    request = shapes.InitProducerIdRequest(
        transactional_id=None, transaction_timeout=timedelta(0), producer_id=-1, producer_epoch=-1
    )
    response = await client.call(request)
    assert (response.error_code, response.producer_epoch) == (NONE, 0)
    return int(response.producer_id)


def numbered(pid: int, sequence: int, *values: bytes, epoch: int = 0) -> bytearray:
    return batch_of(*values, producer_id=pid, producer_epoch=epoch, base_sequence=sequence)


@pytest.mark.parametrize("version", range(7))
async def test_producer_ids_are_never_given_twice(client: Client, version: int) -> None:
    ids = [await producer_id(client, version) for _ in range(5)]
    assert len(set(ids)) == 5


async def test_a_repeated_batch_is_answered_with_its_old_offset_and_not_appended(served: Serving, client: Client) -> None:
    pid = await producer_id(client)
    first, second = numbered(pid, 0, b"a", b"b"), numbered(pid, 2, b"c")
    assert produced(await client.call(produce("t", {0: first}))) == [(0, NONE, 0)]
    assert produced(await client.call(produce("t", {0: second}))) == [(0, NONE, 2)]
    assert produced(await client.call(produce("t", {0: first}))) == [(0, NONE, 0)]
    assert produced(await client.call(produce("t", {0: second}))) == [(0, NONE, 2)]
    assert end_of(served) == 3


async def test_a_gap_an_overlap_and_an_old_epoch_are_refused(served: Serving, client: Client) -> None:
    pid = await producer_id(client)
    await client.call(produce("t", {0: numbered(pid, 0, b"a", b"b", epoch=1)}))
    for batch, code in [
        (numbered(pid, 5, b"gap", epoch=1), ErrorCode.out_of_order_sequence_number),
        (numbered(pid, 1, b"over", b"lap", epoch=1), ErrorCode.out_of_order_sequence_number),
        (numbered(pid, 2, b"old", epoch=0), ErrorCode.invalid_producer_epoch),
    ]:
        assert produced(await client.call(produce("t", {0: batch}))) == [(0, code, -1)]
    assert end_of(served) == 2


async def test_pipelined_sequences_are_taken_in_order(served: Serving, client: Client) -> None:
    pid = await producer_id(client)
    requests = [produce("t", {0: numbered(pid, i, b"%d" % i)}) for i in range(50)]
    correlations = [client.send(request) for request in requests]
    answers = [await client.answer(r, c) for r, c in zip(requests, correlations, strict=True)]
    assert [produced(answer)[0][1:] for answer in answers] == [(NONE, i) for i in range(50)]


# Disk


async def test_a_full_disk_is_a_clear_retriable_error_and_passes(
    served: Serving, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = served.broker.partition("t", 0)
    assert partition is not None
    await client.call(produce("t", {0: batch_of(b"a")}))

    def full(*args: Any, **options: Any) -> Any:
        raise DiskFull("t-0: no space left on the data directory")

    with monkeypatch.context() as patch:
        patch.setattr(partition, "append", full)
        response = await client.call(produce("t", {0: batch_of(b"b"), 1: batch_of(b"c")}))
    assert produced(response) == [(0, ErrorCode.kafka_storage_error, -1), (1, NONE, 0)]
    assert "no space left" in response.responses[0].partition_responses[0].error_message
    assert produced(await client.call(produce("t", {0: batch_of(b"b")}))) == [(0, NONE, 1)]


async def test_a_failed_fsync_is_not_acknowledged(served: Serving, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = served.broker.partition("t", 0)
    assert partition is not None

    def failing(end_offset: int, told: Told, timeout_s: float | None = None) -> None:
        told(OSError(errno.EIO, "I/O error"))

    monkeypatch.setattr(partition, "when_committed", failing)
    partition.log.set_commit_rule(lambda log_end, durable_end: 0)
    response = await client.call(produce("t", {0: batch_of(b"b")}))
    assert produced(response) == [(0, ErrorCode.kafka_storage_error, -1)]
    assert "EIO" in response.responses[0].partition_responses[0].error_message


async def test_a_batch_that_is_not_durable_in_time_times_out(served: Serving, client: Client) -> None:
    partition = served.broker.partition("t", 0)
    assert partition is not None
    partition.log.set_commit_rule(lambda log_end, durable_end: 0)
    request = dataclasses.replace(produce("t", {0: batch_of(b"b")}), timeout=timedelta(milliseconds=50))
    assert produced(await client.call(request)) == [(0, ErrorCode.request_timed_out, -1)]
