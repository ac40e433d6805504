"""Small helpers of the hot log's tests: batches, a log manager on a directory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from hotlog.kernel.errors import Corrupt
from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog
from hotlog.log.segment import SegmentInfo
from hotlog.log.writer import Appended
from hotlog.wire.batch import BatchHeader, check_produced, walk
from hotlog.wire.records import NewRecord, encode_batch
from hotlog.world.ports import Disk
from hotlog.world.posix import SystemEntropy
from tests.support.clocks import HandClock
from tests.support.disks import FastDisk, FaultyDisk

TP = TopicPartition("clicks", 0)
TOPIC_ID = UUID("00112233-4455-6677-8899-aabbccddeeff")
T0 = 1_700_000_000_000


def batch(
    *values: bytes,
    timestamp: int = T0,
    step: int = 0,
    producer: tuple[int, int, int] = (-1, -1, -1),
    codec: int = 0,
    timestamps: Sequence[int] | None = None,
    is_transactional: bool = False,
) -> bytearray:
    """A produced batch; `producer` is (id, epoch, base sequence)."""
    times = timestamps or [timestamp + step * index for index in range(len(values))]
    records = [NewRecord(time, None, value) for time, value in zip(times, values, strict=True)]
    producer_id, epoch, sequence = producer
    return encode_batch(
        records, codec, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence, is_transactional=is_transactional
    )


def append(log: PartitionLog, *batches: bytes | bytearray, now_ms: int = T0) -> Appended:
    """Append as produce does."""
    data = memoryview(bytearray(b"".join(batches)))
    return log.append(data, check_produced(data, batch_bytes_max=1 << 30), now_ms=now_ms)


def config(**overrides: object) -> TopicConfig:
    """Topic settings by Kafka's names with _ for the dots; not tiered unless asked for."""
    given = {name.replace("_", "."): str(value) for name, value in overrides.items()}
    given.setdefault("remote.storage.enable", "false")
    return TopicConfig.resolve(given)


def manager(directory: object, *, disk: Disk | None = None, clock: HandClock | None = None, **settings: object) -> LogManager:
    given = {name.replace("_", "."): str(value) for name, value in settings.items()}
    given.setdefault("hotlog.disk.reserve.bytes", "0")
    return LogManager(
        clock or HandClock(), disk or FastDisk(2), SystemEntropy(), Settings.resolve(given), Metrics(), str(directory)
    )


class Ear:
    """Calls `heard` when a log moved."""

    def __init__(self, heard: Callable[[], object]) -> None:
        self.moved = heard


@asynccontextmanager
async def opened(directory: object, topic: TopicConfig | None = None, **options: object) -> AsyncIterator[LogManager]:
    """A manager that was opened and is closed at the end."""
    logs = manager(directory, **options)  # type: ignore[arg-type]
    await logs.open(config_of=lambda tp: topic or config())
    try:
        yield logs
    finally:
        disk = options.get("disk")
        if isinstance(disk, FaultyDisk):
            disk.let_go()  # a test that failed meanwhile ends all the same
        await logs.close()


async def new_log(logs: LogManager, topic: TopicConfig | None = None, tp: TopicPartition = TP) -> PartitionLog:
    return await logs.create(tp, TOPIC_ID, topic or config())


def closed_segments(log: PartitionLog) -> tuple[SegmentInfo, ...]:
    """Those that lie wholly below the high watermark; one that damage cuts short is not whole."""
    end = log.high_watermark - isinstance(log.failed, Corrupt)
    return tuple(info for info in log.segments()[:-1] if info.end_offset <= end)


async def read_all(log: PartitionLog, offset: int | None = None, *, bytes_max: int = 1 << 20) -> list[BatchHeader]:
    """Headers of all whole batches from `offset` on, by repeated reads."""
    found: list[BatchHeader] = []
    offset = log.local_log_start_offset if offset is None else offset
    while True:
        piece = log.read(offset, bytes_max, min_one=True)
        if piece is None:
            piece = await log.read_blocking(offset, bytes_max, min_one=True)
        headers = [header for _, header in walk(memoryview(piece.data))]
        if not headers:
            return found
        found += headers
        offset = headers[-1].next_offset


async def kill(logs: LogManager) -> None:
    """What kill -9 leaves: files as they are; only descriptors and the lock go."""
    for log in logs.all():
        await log.discard()
    logs._parts.pool.close()
    logs._home.let_go()
    await asyncio.sleep(0)
