"""Files open for writing: segments that roll faster than the disk takes them, many logs at once, a disk that fails, no descriptor left."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from hotlog.kernel.errors import Retry, StorageFailed
from hotlog.log.manager import LogManager
from hotlog.log.open_writers import ROLLED_MAX
from hotlog.log.partition_log import PartitionLog
from tests.log.support import TP, append, batch, config, new_log, opened, read_all
from tests.support.disks import IO, FaultyDisk
from tests.tools.patience import SOON_S

TINY = config(segment_bytes=1024)  # a batch a segment
LAZY = config(hotlog_durability="page-cache", flush_messages=1 << 40)


def pinned(logs: LogManager) -> int:
    return logs._parts.pool.pinned_count


async def write(log: PartitionLog, value: bytes = b"v" * 800) -> None:
    """As produce does."""
    await log.wait_room()
    append(log, batch(value))


@pytest.mark.parametrize("topic", [TINY, config(segment_bytes=1024, hotlog_durability="page-cache")])
async def test_segments_that_roll_faster_than_they_are_synced_hold_up_their_appends(tmp_path: Path, topic: object) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, topic, disk=disk) as logs:
        log, other = await new_log(logs, topic), await new_log(logs, config(), TP._replace(partition=1))
        disk.hold()

        async def produce() -> None:
            for _ in range(3 * ROLLED_MAX):
                await write(log)

        producing = asyncio.create_task(produce())
        for _ in range(20 * ROLLED_MAX):
            await asyncio.sleep(0)
        assert log.log_end_offset == ROLLED_MAX + 1, "the appends wait"
        assert pinned(logs) <= ROLLED_MAX + 2
        assert not other.is_crowded, "others do not"
        append(other, batch(b"x"))
        disk.let_go()
        async with asyncio.timeout(SOON_S):
            await producing
            await log.flush()
        assert pinned(logs) <= 2, "what is synced is given back"
        assert [header.base_offset for header in await read_all(log)] == list(range(3 * ROLLED_MAX))


@pytest.mark.parametrize("topic", [config(), LAZY])
async def test_all_logs_together_stay_within_a_quarter_of_the_descriptors(tmp_path: Path, topic: object) -> None:
    disk = FaultyDisk()
    disk.descriptors = 64
    async with opened(tmp_path, topic, disk=disk) as logs:
        many = [await new_log(logs, topic, TP._replace(partition=index)) for index in range(60)]
        async with asyncio.timeout(SOON_S):
            for _ in range(2):
                for log in many:
                    await write(log)
                    assert pinned(logs) <= 16
            await asyncio.gather(*(write(log) for log in many))
            assert pinned(logs) <= 16 + 1
            await asyncio.gather(*(log.flush() for log in many))
        assert [log.high_watermark for log in many] == [3] * 60
        assert len(await read_all(many[0])) == 3


async def test_logs_that_all_roll_stay_within_the_bound_for_all(tmp_path: Path) -> None:
    disk = FaultyDisk()
    disk.descriptors = 64
    async with opened(tmp_path, TINY, disk=disk) as logs:
        many = [await new_log(logs, TINY, TP._replace(partition=index)) for index in range(8)]
        most = 0

        async def produce(log: PartitionLog) -> None:
            nonlocal most
            for _ in range(20):
                await write(log)
                most = max(most, pinned(logs))

        async with asyncio.timeout(SOON_S):
            await asyncio.gather(*(produce(log) for log in many))
        assert most <= 16 + len(many)
        assert all(log.failed is None and log.log_end_offset == 20 for log in many)


@pytest.mark.parametrize("call", ["sync", "append"])
async def test_a_failed_log_lets_go_of_every_file(tmp_path: Path, call: str) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, TINY, disk=disk) as logs:
        log = await new_log(logs, TINY)
        disk.hold()
        for _ in range(10):
            append(log, batch(b"v" * 800))
        assert pinned(logs) == 10
        waiting = asyncio.create_task(log.wait_durable(10))
        await disk.is_holding()
        disk.fail(call, "*.log", IO)
        if call == "append":
            with pytest.raises(StorageFailed):
                append(log, batch(b"v" * 800))
            assert pinned(logs) == 11, "a thread has them still"
        disk.let_go()
        with pytest.raises(StorageFailed):
            await waiting
        await log._syncer.flusher.idle()
        assert pinned(logs) == 0
        assert not log.is_crowded, "who appends is refused, not held up"
        await log.wait_room()
        disk.heal()
        assert await log.read_blocking(0, 1000, min_one=True) is not None, "what was acked is still read"


async def test_without_a_descriptor_an_append_is_refused_and_the_log_goes_on(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, TINY, disk=disk) as logs:
        log = await new_log(logs, TINY)
        append(log, batch(b"v" * 800))
        await log.wait_durable(1)
        disk.fail("create", "*", errno.EMFILE)
        with pytest.raises(Retry, match="no file descriptor is left"):
            append(log, batch(b"v" * 800))
        assert (log.failed, log.log_end_offset) == (None, 1)
        disk.heal()
        append(log, batch(b"v" * 800))
        await log.wait_durable(2)
        assert [header.base_offset for header in await read_all(log)] == [0, 1]


async def test_a_flush_without_a_descriptor_is_done_later(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, TINY, disk=disk) as logs:
        log = await new_log(logs, TINY)
        append(log, batch(b"v" * 800))
        disk.fail("write_atomic", "*", errno.EMFILE)
        append(log, batch(b"v" * 800))  # rolls: the flush writes a producer snapshot
        waiting = asyncio.create_task(log.wait_durable(2))
        async with asyncio.timeout(SOON_S):
            while not disk.failed:
                await asyncio.sleep(0.001)
            disk.heal()
            await waiting
        assert log.failed is None
