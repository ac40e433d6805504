"""Cleanings for tests: keyed batches, a cleaner over one log, and what a reader of the log sees."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from compaction.cleaner import Cleaner
from compaction.trusted_clock import TrustedClock
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog
from hotlog.wire.batch import BatchHeader, check_produced, walk
from hotlog.wire.records import NewRecord, decode_batch, encode_batch
from hotlog.world.ports import Clock, Disk, Entropy
from hotlog.world.posix import SystemEntropy
from tests.log.support import T0, config, new_log, opened
from tests.partitions.hosted import hosted
from tests.support.clocks import HandClock
from tests.support.disks import FastDisk

Pair = tuple[bytes | None, bytes | None]


def compacted(**overrides: object) -> TopicConfig:
    given = {
        "cleanup_policy": "compact",
        "segment_bytes": 1024,
        "index_interval_bytes": 200,
        "file_delete_delay_ms": 0,
        **overrides,
    }
    given.setdefault("min_cleanable_dirty_ratio", 0)
    return config(**given)


def keyed(
    pairs: Iterable[Pair], *, codec: int = 0, producer: tuple[int, int, int] = (-1, -1, -1), timestamp: int = T0
) -> bytearray:
    """A produced batch of (key, value)."""
    records = [NewRecord(timestamp + n, key, value) for n, (key, value) in enumerate(pairs)]
    return encode_batch(records, codec, producer_id=producer[0], producer_epoch=producer[1], base_sequence=producer[2])


def put(log: PartitionLog, *pairs: Pair, now_ms: int = T0, **options: object) -> int:
    """Append one batch; its first offset."""
    data = memoryview(keyed(pairs, timestamp=now_ms, **options))  # type: ignore[arg-type]
    return log.append(data, check_produced(data, batch_bytes_max=1 << 30), now_ms=now_ms).base_offset


def cleaner_of(
    *logs: PartitionLog, disk: Disk, clock: Clock, entropy: Entropy | None = None, metrics: Metrics | None = None,
    trusted: TrustedClock | None = None, **settings: object,
) -> Cleaner:  # fmt: skip
    """A cleaner that looks again at every tick."""
    given = {"log.cleaner.backoff.ms": "0"} | {name.replace("_", "."): str(value) for name, value in settings.items()}
    resolved = Settings.resolve(given)
    return Cleaner(
        lambda: [hosted(log) for log in logs], clock=clock, disk=disk, entropy=entropy or SystemEntropy(),
        settings=lambda: resolved, metrics=metrics or Metrics(), trusted=trusted or TrustedClock(clock),
    )  # fmt: skip


class Seen(NamedTuple):
    """A record that a reader saw."""

    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int


async def seen_by_reader(log: PartitionLog, bytes_max: int = 600) -> tuple[list[BatchHeader], list[Seen]]:
    """Everything that may be read, by small reads; offsets that ascend."""
    headers: list[BatchHeader] = []
    records: list[Seen] = []
    offset = log.local_log_start_offset
    while offset < log.high_watermark:
        piece = await log.read_blocking(offset, bytes_max, min_one=True)
        whole = list(walk(memoryview(piece.data)))
        assert whole, f"nothing to be read at offset {offset}, below {log.high_watermark}"
        for at, header in whole:
            headers.append(header)
            found = decode_batch(memoryview(piece.data)[at : at + header.size])
            assert [each.offset for each in found] == sorted({each.offset for each in found})
            records += [Seen(each.offset, each.key, each.value, each.timestamp) for each in found if each.offset >= offset]
        assert headers[-1].next_offset > offset
        offset = headers[-1].next_offset
    assert [record.offset for record in records] == sorted({record.offset for record in records})
    return headers, records


def newest(records: Sequence[Seen]) -> dict[bytes | None, Seen]:
    return {record.key: record for record in records}


class Scene:
    """A log, its cleaner, and the time."""

    def __init__(self, logs: LogManager, log: PartitionLog, clock: HandClock, disk: FastDisk, **settings: object) -> None:
        self.logs, self.log, self.clock = logs, log, clock
        self.metrics = Metrics()
        self.cleaner = cleaner_of(log, disk=disk, clock=clock, metrics=self.metrics, **settings)

    async def clean(self) -> int:
        """Close the active segment and clean until nothing is left to do; how many cleanings there were."""
        self.log.roll(self.clock.now_ms())
        await self.log.flush()
        count = 0
        while await self.cleaner.tick():
            count += 1
            assert count < 50
        return count

    async def records(self) -> list[Seen]:
        return (await seen_by_reader(self.log))[1]


async def scene(logs: LogManager, clock: HandClock, disk: FastDisk, topic: object = None, **settings: object) -> Scene:
    log = await new_log(logs, topic or compacted())  # type: ignore[arg-type]
    return Scene(logs, log, clock, disk, **settings)


Body = Callable[[Scene], Awaitable[None]]


def on_a_log(topic: TopicConfig | None = None, **settings: object) -> Callable[[Body], Callable[[Path, object], Awaitable[None]]]:
    """A test with a scene, for each kind of map."""

    def decorate(body: Body) -> Callable[[Path, object], Awaitable[None]]:
        async def test(tmp_path: Path, kind: object) -> None:
            clock, disk = HandClock(T0), FastDisk(2)
            config = topic or compacted()
            async with opened(tmp_path, config, clock=clock, disk=disk) as logs:
                await body(await scene(logs, clock, disk, config, **settings))

        test.__doc__ = body.__doc__
        return test

    return decorate


def pairs_of(records: list[Seen]) -> list[tuple[int, bytes | None, bytes | None]]:
    return [(record.offset, record.key, record.value) for record in records]
