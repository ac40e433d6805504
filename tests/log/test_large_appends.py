"""Appends that a thread writes: the log stands still meanwhile for writers, and for nobody else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hotlog.kernel.errors import DiskFull, NotReady, StorageFailed
from hotlog.log.partition_log import PartitionLog
from hotlog.log.writer import Appended
from hotlog.wire.batch import check_produced
from tests.log.support import T0, append, batch, config, new_log, opened, read_all
from tests.support.disks import NO_SPACE, FaultyDisk
from tests.tools.patience import SOON_S

PAGE_CACHE = config(hotlog_durability="page-cache", segment_ms=1000)


def in_turn(log: PartitionLog, *values: bytes, producer: tuple[int, int, int] = (-1, -1, -1)) -> asyncio.Future[Appended]:
    data = memoryview(batch(*values, producer=producer))
    return asyncio.ensure_future(log.append_in_turn(data, check_produced(data, batch_bytes_max=1 << 30), now_ms=T0))


async def test_nobody_else_writes_or_rolls_meanwhile_and_turns_are_kept(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, PAGE_CACHE, disk=disk) as logs:
        log = await new_log(logs, PAGE_CACHE)
        append(log, batch(b"a"))
        await log.flush()
        disk.hold()
        first, second = in_turn(log, b"b", b"c"), in_turn(log, b"d")
        await disk.is_holding()
        assert (log.is_writing, log.log_end_offset, log.high_watermark) == (True, 1, 1)
        assert [header.record_count for header in await read_all(log)] == [1]
        with pytest.raises(NotReady):
            append(log, batch(b"x"))
        with pytest.raises(NotReady):
            log.roll(T0)
        assert not log.maybe_roll(T0 + 10**6)
        disk.let_go()
        assert [(done.base_offset, done.end_offset) for done in await asyncio.gather(first, second)] == [(1, 3), (3, 4)]
        assert not log.is_writing
        append(log, batch(b"e"))
        assert [header.base_offset for header in await read_all(log)] == [0, 1, 3, 4]


async def test_an_append_ends_though_nobody_waits_for_it(tmp_path: Path) -> None:
    """A connection that goes away must not leave bytes behind that the log knows nothing of."""
    disk = FaultyDisk()
    async with opened(tmp_path, PAGE_CACHE, disk=disk) as logs:
        log = await new_log(logs, PAGE_CACHE)
        await log.flush()
        disk.hold()
        gone = in_turn(log, b"a")
        await disk.is_holding()
        gone.cancel()
        following = in_turn(log, b"b")
        disk.let_go()
        assert (await following).base_offset == 1
        assert [header.base_offset for header in await read_all(log)] == [0, 1]


async def test_a_full_disk_refuses_it_and_changes_nothing(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, PAGE_CACHE, disk=disk) as logs:
        log = await new_log(logs, PAGE_CACHE)
        disk.fail("append", "*.log", NO_SPACE)
        with pytest.raises(DiskFull):
            await in_turn(log, b"a")
        disk.heal()
        assert (await in_turn(log, b"b")).base_offset == 0
        assert len(await read_all(log)) == 1


async def test_a_repeated_batch_is_known_and_an_epoch_that_ended_writes_nothing(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, PAGE_CACHE, disk=disk) as logs:
        log = await new_log(logs, PAGE_CACHE)
        assert (await in_turn(log, b"a", producer=(7, 0, 0))).is_duplicate is False
        again = await in_turn(log, b"a", producer=(7, 0, 0))
        assert (again.base_offset, again.is_duplicate) == (0, True)
        await log.flush()
        disk.hold()
        late = in_turn(log, b"late")
        await disk.is_holding()
        log.set_leader_epoch(log.leader_epoch + 1)
        disk.let_go()
        with pytest.raises(NotReady, match="epoch"):
            await late
        assert (await in_turn(log, b"b")).base_offset == 1
        assert [header.base_offset for header in await read_all(log)] == [0, 1]


async def test_a_log_that_closes_waits_for_the_write_and_refuses_the_next(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, PAGE_CACHE, disk=disk) as logs:
        log = await new_log(logs, PAGE_CACHE)
        await log.flush()
        disk.hold()
        first = in_turn(log, b"a")
        await disk.is_holding()
        closing = asyncio.ensure_future(log.close())
        await asyncio.sleep(0)
        following = in_turn(log, b"b")
        disk.let_go()
        await asyncio.wait_for(closing, SOON_S)
        assert (await first).base_offset == 0
        with pytest.raises(StorageFailed, match="closed"):
            await following
        assert log.log_end_offset == 1
