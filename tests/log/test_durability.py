"""What an ack promises: group commit, failed fsyncs, full disks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hotlog.kernel.errors import DiskFull, StorageFailed
from hotlog.kernel.ids import TopicPartition
from tests.log.support import T0, TP, Ear, append, batch, config, kill, manager, new_log, opened, read_all
from tests.support.clocks import HandClock
from tests.support.disks import IO, NO_SPACE, FaultyDisk
from tests.tools.patience import SOON_S

PAGE_CACHE = config(hotlog_durability="page-cache")


async def test_the_high_watermark_waits_for_the_fsync(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, disk=disk) as logs:
        log = await new_log(logs)
        await log.flush()
        disk.syncs.clear()
        disk.hold()
        append(log, batch(b"one"))
        waiting = asyncio.ensure_future(log.wait_durable(1))
        await disk.is_holding()
        assert disk.held == 1 and not waiting.done()
        assert (log.high_watermark, log.log_end_offset) == (0, 1)
        assert await read_all(log) == []
        for _ in range(5):  # these come while the first is in flight: they share the second
            append(log, batch(b"more"))
        everyone = [asyncio.ensure_future(log.wait_durable(end)) for end in range(2, 7)]
        disk.let_go()
        await asyncio.gather(waiting, *everyone)
        assert log.high_watermark == 6
        assert len([path for path in disk.syncs if path.endswith(".log")]) == 2


async def test_appends_of_one_turn_of_the_loop_share_one_fsync(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, disk=disk) as logs:
        log = await new_log(logs)
        await log.flush()
        disk.syncs.clear()
        ends = [append(log, batch(b"x")).end_offset for _ in range(20)]
        await asyncio.gather(*(log.wait_durable(end) for end in ends))
        assert len(disk.syncs) == 1


async def test_a_flush_of_a_log_that_is_written_without_a_pause_ends(tmp_path: Path) -> None:
    """A tick of all logs waits for it: it would stand still as long as somebody writes."""
    disk = FaultyDisk()
    async with opened(tmp_path, disk=disk) as logs:
        log = await new_log(logs)
        is_over = False

        def go_on(error: Exception | None) -> None:
            if error is None and not is_over:
                end = append(log, batch(b"more")).end_offset
                append(log, batch(b"more"))
                log.when_committed(end, go_on)

        append(log, batch(b"first"))
        log.when_committed(1, go_on)
        await asyncio.wait_for(log.flush(), SOON_S)
        is_over = True


async def test_a_log_that_cannot_begin_its_sync_keeps_no_other_from_its_own(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        bad, good = await new_log(logs), await new_log(logs, tp=TopicPartition("other", 0))
        await asyncio.gather(bad.flush(), good.flush())

        def fails() -> None:
            raise OSError("a descriptor could not be closed")

        bad._syncer.flusher._plan = fails
        append(bad, batch(b"x"))
        append(good, batch(b"x"))
        await asyncio.wait_for(good.wait_durable(1), SOON_S)
        with pytest.raises(StorageFailed):
            await asyncio.wait_for(bad.wait_durable(1), SOON_S)


async def test_the_recovery_point_waits_for_a_segment_that_closed_during_a_flush(tmp_path: Path) -> None:
    """What it holds is on the device; its indexes are not, and below the recovery point nobody makes them anew."""
    disk = FaultyDisk()
    async with opened(tmp_path, disk=disk) as logs:
        log = await new_log(logs)
        await log.flush()
        disk.hold()
        append(log, batch(b"one"))
        durable = asyncio.ensure_future(log.wait_durable(1))
        await disk.is_holding()
        log.roll(T0)
        disk.let_go()
        disk.hold()  # the next flush
        await durable
        assert (log.durable_end, log.recovery_point) == (1, 0)
        disk.let_go()
        await log.flush()
        assert log.recovery_point == 1


async def test_page_cache_durability_reads_and_acks_at_once(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, PAGE_CACHE, disk=disk) as logs:
        log = await new_log(logs, PAGE_CACHE)
        await log.flush()
        disk.syncs.clear()
        append(log, batch(b"one"))
        assert log.high_watermark == 1 and log.recovery_point == 0
        await log.wait_durable(1)
        assert disk.syncs == []
        await log.flush()
        assert disk.syncs != [] and log.recovery_point == 1


async def test_flush_messages_and_flush_ms(tmp_path: Path) -> None:
    disk, clock = FaultyDisk(), HandClock()
    topic = config(hotlog_durability="page-cache", flush_messages=3, flush_ms=1000)
    async with opened(tmp_path, topic, disk=disk, clock=clock) as logs:
        log = await new_log(logs, topic)
        await log.flush()
        for end in (1, 2):
            append(log, batch(b"x"))
            await log.wait_durable(end)
        assert log.durable_end == 0
        append(log, batch(b"x"))
        await log.wait_durable(3)
        assert log.durable_end == 3
        append(log, batch(b"x"))
        clock.ms += 999
        await log.upkeep.tick(clock.ms)
        assert log.durable_end == 3
        clock.ms += 2
        await log.upkeep.tick(clock.ms)
        assert log.durable_end == 4


async def test_flush_messages_of_one_commits_with_the_fsync(tmp_path: Path) -> None:
    """The log says so by itself, before a partition hands its rule in."""
    topic = config(hotlog_durability="page-cache", flush_messages=1)
    async with opened(tmp_path, topic) as logs:
        log = await new_log(logs, topic)
        append(log, batch(b"x"))
        assert log.high_watermark == 0
        await log.wait_committed(1)
        assert (log.high_watermark, log.durable_end) == (1, 1)


async def test_after_a_failed_fsync_nothing_is_acked_again(tmp_path: Path) -> None:
    disk = FaultyDisk()
    logs = manager(tmp_path, disk=disk)
    await logs.open()
    log = await new_log(logs)
    woken: list[int] = []
    append(log, batch(b"good"))
    await log.wait_durable(1)
    log.add_ear(Ear(lambda: woken.append(log.high_watermark)))
    disk.fail("sync", "*.log", IO)
    append(log, batch(b"lost"))
    with pytest.raises(StorageFailed):
        await log.wait_durable(2)
    assert log.failed is not None and woken == [1]
    disk.heal()  # the next fsync would say all is well: it must not be asked
    disk.syncs.clear()
    with pytest.raises(StorageFailed):
        append(log, batch(b"refused"))
    with pytest.raises(StorageFailed):
        await log.wait_durable(2)
    with pytest.raises(StorageFailed):
        await log.flush()
    await log.upkeep.tick(T0 + 10**9)
    assert log.high_watermark == 1 and [h.base_offset for h in await read_all(log)] == [0]
    await logs.close()
    assert disk.syncs == [] and not (tmp_path / ".kafka_cleanshutdown").exists()
    async with opened(tmp_path) as logs:  # restart and recovery: what was acked is there
        log = logs.get(TP)  # type: ignore[assignment]
        assert log.failed is None and log.high_watermark >= 1


async def test_an_io_error_while_writing_fails_the_log_and_its_waiters(tmp_path: Path) -> None:
    disk = FaultyDisk()
    logs = manager(tmp_path, disk=disk)
    await logs.open()
    log = await new_log(logs)
    disk.hold()
    append(log, batch(b"in flight"))
    waiting = asyncio.ensure_future(log.wait_durable(1))
    await disk.is_holding()
    disk.fail("append", "*.log", IO)
    with pytest.raises(StorageFailed):
        append(log, batch(b"no"))
    disk.let_go()
    with pytest.raises(StorageFailed):
        await waiting
    assert log.high_watermark == 0
    await logs.close()


async def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, disk=disk) as logs:
        log = await new_log(logs)
        append(log, batch(b"before"))
        disk.fail("append", "*.log", NO_SPACE)
        with pytest.raises(DiskFull):
            append(log, batch(b"no room", producer=(5, 0, 0)))
        assert log.failed is None and log.log_end_offset == 1
        await log.wait_durable(1)
        assert len(await read_all(log)) == 1
        disk.heal()
        done = append(log, batch(b"again", producer=(5, 0, 0)))  # not taken for a duplicate
        assert done.base_offset == 1 and not done.is_duplicate
        await log.wait_durable(2)
        assert [h.base_offset for h in await read_all(log)] == [0, 1]


async def test_a_full_disk_at_a_roll_changes_nothing(tmp_path: Path) -> None:
    disk, topic = FaultyDisk(), config(segment_bytes=1024)
    async with opened(tmp_path, topic, disk=disk) as logs:
        log = await new_log(logs, topic)
        append(log, batch(b"x" * 900))
        for call in ("write", "create"):
            disk.heal()
            disk.fail(call, "*000001.*" if call == "create" else "*.timeindex", NO_SPACE)
            with pytest.raises(DiskFull):
                append(log, batch(b"y" * 900))
            assert len(log.segments()) == 1 and log.log_end_offset == 1
        disk.heal()
        append(log, batch(b"y" * 900))
        await log.wait_durable(2)
        assert [s.base_offset for s in log.segments()] == [0, 1]
    async with opened(tmp_path, topic) as logs:
        assert [h.base_offset for h in await read_all(logs.get(TP))] == [0, 1]  # type: ignore[arg-type]
        assert logs.damage == []


async def test_index_and_snapshot_writes_wait_for_space(tmp_path: Path) -> None:
    disk, topic = FaultyDisk(), config(segment_bytes=200_000, index_interval_bytes=0)
    async with opened(tmp_path, topic, disk=disk) as logs:
        log = await new_log(logs, topic)
        for call, pattern in (("write", "*.index"), ("write_atomic", "*.snapshot"), ("write_atomic", "*checkpoint")):
            disk.fail(call, pattern, NO_SPACE)
        for _ in range(1500):  # more entries than are kept in memory
            append(log, batch(b"z"))
        await log.wait_durable(1500)
        assert log.failed is None and len(await read_all(log)) == 1500
        disk.heal()
        log.roll(T0)
        await log.flush()
        await log.upkeep.tick(T0)
        assert (tmp_path / "clicks-0" / "00000000000000001500.snapshot").exists()
        assert (tmp_path / "clicks-0" / "00000000000000000000.index").stat().st_size == 8 * 1499
    async with opened(tmp_path, topic) as logs:
        assert logs.damage == []


async def test_the_reserve_is_kept_and_asked_for_seldom(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, disk=disk, hotlog_disk_reserve_bytes=1000) as logs:
        log = await new_log(logs)
        disk.free = 1 << 40
        for _ in range(100):
            append(log, batch(b"x"))
        assert disk.free_asked == 1
        disk.free = 1050
        logs._parts.space._left = 0
        with pytest.raises(DiskFull, match=r"hotlog\.disk\.reserve\.bytes"):
            append(log, batch(b"x"))
        disk.free = 5000
        append(log, batch(b"x"))
        await log.wait_durable(101)


async def test_waiters_of_a_deleted_log_are_released(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, disk=disk) as logs:
        log = await new_log(logs)
        disk.hold()
        append(log, batch(b"x"))
        waiting = asyncio.ensure_future(log.wait_durable(1))
        await disk.is_holding()
        closed: list[bool] = []
        log.add_ear(Ear(lambda: closed.append(log.is_closed)))
        deleting = asyncio.ensure_future(logs.delete(TP))
        await asyncio.sleep(0)
        disk.let_go()
        await deleting
        await asyncio.gather(waiting, return_exceptions=True)
        assert True in closed and logs.get(TP) is None
        with pytest.raises(StorageFailed):
            append(log, batch(b"x"))


async def test_changing_durability_while_running(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, PAGE_CACHE, disk=disk) as logs:
        log = await new_log(logs, PAGE_CACHE)
        append(log, batch(b"x"))
        log.reconfigure(config())
        assert log.high_watermark == 1  # never goes back
        await log.wait_durable(1)
        assert log.durable_end == 1
        disk.hold()
        append(log, batch(b"x"))
        await disk.is_holding()
        assert log.high_watermark == 1
        log.reconfigure(PAGE_CACHE)
        assert log.high_watermark == 2
        disk.let_go()


async def test_kill_leaves_the_page_cache(tmp_path: Path) -> None:
    logs = manager(tmp_path)
    await logs.open(config_of=lambda tp: PAGE_CACHE)
    log = await new_log(logs, PAGE_CACHE)
    for _ in range(10):
        append(log, batch(b"x"))
    await kill(logs)
    async with opened(tmp_path, PAGE_CACHE) as logs:
        again = logs.get(TP)
        assert again is not None and again.high_watermark == 10 and again.durable_end == 10
        assert logs.damage == []


async def test_small_files_without_space_are_tried_again_by_ticks_not_for_ever(tmp_path: Path) -> None:
    """Else the flusher turns in circles while the disk is full, and a tick that waits for it never removes what would make room."""
    disk, topic = FaultyDisk(), config(segment_bytes=1024)
    async with opened(tmp_path, topic, disk=disk) as logs:
        log = await new_log(logs, topic)
        disk.fail("write_atomic", "*.snapshot", NO_SPACE)
        for end in (1, 2):
            append(log, batch(b"v" * 800))
            await log.wait_durable(end)
        for tries in (1, 2, 3):
            for _ in range(1_000):
                if log._syncer.flusher.is_running:
                    await asyncio.sleep(0.001)
            assert not log._syncer.flusher.is_running
            assert len(disk.failed) == tries
            await logs.tick()
        disk.heal()
        await logs.tick()
        assert (tmp_path / "clicks-0" / f"{1:020d}.snapshot").exists()
