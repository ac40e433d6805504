"""The simulated disk: what survives a kill and a power loss, what fails on request, and that a dead process stays dead."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from tests.sim.clock import SimClock
from tests.sim.disk import Machine, SimDisk
from tests.sim.entropy import stream
from tests.sim.fuse import Crashed, Fuse
from tests.sim.loop import SimLoop, run
from tests.sim.trace import Trace


def new_disk(loop: SimLoop, seed: int = 0, fuse: Fuse | None = None, capacity_bytes: int | None = None) -> SimDisk:
    machine = Machine(stream(seed, "disk"), capacity_bytes=capacity_bytes)
    return SimDisk(machine, SimClock(loop), Trace(loop), fuse or Fuse())


def with_disk(body: Callable[[SimDisk], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main(loop: SimLoop) -> None:
        await body(new_disk(loop, **options))

    run(main)


def make_synced(disk: SimDisk, path: str, data: bytes) -> None:
    disk.make_dirs("/d")
    disk.sync_dir("/")
    file = disk.open(path, create=True)
    file.append([data])
    file.sync()
    disk.sync_dir("/d")


def test_synced_bytes_under_a_synced_name_survive_every_power_loss() -> None:
    async def body(disk: SimDisk) -> None:
        make_synced(disk, "/d/log", b"s" * 3000)
        disk.open("/d/log").append([b"u" * 3000])
        after = disk.lose_power(Fuse())
        assert after.read("/d/log")[:3000] == b"s" * 3000

    for seed in range(50):
        with_disk(body, seed=seed)


def test_unsynced_bytes_are_lost_kept_torn_or_zeroed_as_the_seed_says() -> None:
    fates: set[str] = set()

    async def body(disk: SimDisk) -> None:
        make_synced(disk, "/d/log", b"s" * 700)
        file = disk.open("/d/log")
        for _ in range(3):
            file.append([b"u" * 700])
        tail = disk.lose_power(Fuse()).read("/d/log")[700:]
        fates.add("lost" if not tail else "kept" if tail == b"u" * 2100 else "zeroed" if b"\0" in tail else "short")

    for seed in range(80):
        with_disk(body, seed=seed)
    assert fates == {"lost", "kept", "zeroed", "short"}


def test_a_name_that_was_not_synced_may_vanish_with_its_synced_bytes() -> None:
    found: set[bool] = set()

    async def body(disk: SimDisk) -> None:
        file = disk.open("/new", create=True)
        file.append([b"x"])
        file.sync()
        found.add(disk.lose_power(Fuse()).exists("/new"))

    for seed in range(20):
        with_disk(body, seed=seed)
    assert found == {True, False}


def test_a_rename_is_whole_or_not_at_all() -> None:
    outcomes: set[tuple[bool, bytes]] = set()

    async def body(disk: SimDisk) -> None:
        make_synced(disk, "/d/a", b"new")
        make_synced(disk, "/d/b", b"old")
        disk.rename("/d/a", "/d/b")
        after = disk.lose_power(Fuse())
        outcomes.add((after.exists("/d/a"), after.read("/d/b")))

    for seed in range(20):
        with_disk(body, seed=seed)
    assert outcomes == {(True, b"old"), (False, b"new")}


def test_write_atomic_gives_old_or_new_at_every_crash_point() -> None:
    seen: set[bytes] = set()

    async def attempt(loop: SimLoop, seed: int, at: int) -> bool:
        disk = new_disk(loop, seed)
        make_synced(disk, "/d/x", b"old" * 500)
        second = disk.kill(Fuse(at))
        crashed = False
        try:
            second.write_atomic("/d/x", b"new" * 500)
        except Crashed:
            crashed = True
        after = second.lose_power(Fuse())
        seen.add(after.read("/d/x"))
        if not crashed:
            assert after.read("/d/x") == b"new" * 500
        after.write_atomic("/d/x", b"again")  # a leftover temporary file is no obstacle
        return crashed

    for seed in range(10):
        at = 1
        while run(lambda loop, seed=seed, at=at: attempt(loop, seed, at)):  # type: ignore[misc]
            at += 1
        assert at >= 5
    assert seen == {b"old" * 500, b"new" * 500}


def test_a_kill_keeps_the_page_cache_and_tears_only_the_write_in_flight() -> None:
    async def body(disk: SimDisk) -> None:
        disk.open("/f", create=True).append([b"a" * 100])
        second = disk.kill(Fuse(at=2))
        with pytest.raises(Crashed):
            second.open("/f").append([b"b" * 100])
        data = second.kill(Fuse()).read("/f")
        assert data[:100] == b"a" * 100
        assert data[100:] == b"b" * (len(data) - 100)

    for seed in range(10):
        with_disk(body, seed=seed)


def test_the_dead_stay_dead() -> None:
    async def body(disk: SimDisk) -> None:
        file = disk.open("/f", create=True)
        disk.kill(Fuse())
        for call in (lambda: file.append([b"x"]), lambda: disk.exists("/f"), lambda: disk.write_atomic("/g", b""), file.sync):
            with pytest.raises(Crashed):
                call()
        with pytest.raises(Crashed):
            await disk.run(len, "x")

    with_disk(body)


def test_a_failed_fsync_leaves_its_bytes_in_doubt_even_after_a_good_one() -> None:
    kept: set[bool] = set()

    async def body(disk: SimDisk) -> None:
        make_synced(disk, "/d/log", b"s")
        file = disk.open("/d/log")
        file.append([b"doubt"])
        disk.machine.fail("sync")
        with pytest.raises(OSError, match="Input/output"):
            file.sync()
        file.sync()
        assert file.read_at(0, 6) == b"sdoubt"
        kept.add(b"doubt" in disk.lose_power(Fuse()).read("/d/log"))

    for seed in range(20):
        with_disk(body, seed=seed)
    assert kept == {True, False}


def test_a_full_disk_says_so_keeps_no_half_and_recovers() -> None:
    async def body(disk: SimDisk) -> None:
        file = disk.open("/f", create=True)
        file.append([b"x" * 80])
        with pytest.raises(OSError) as failure:
            file.append([b"y" * 15, b"z" * 15])
        assert failure.value.errno == errno.ENOSPC
        assert (file.size, disk.free_bytes("/"), disk.total_bytes("/")) == (80, 20, 100)
        file.truncate(10)
        file.append([b"y" * 30])
        assert disk.free_bytes("/") == 60
        disk.remove("/f")
        assert disk.free_bytes("/") == 100

    with_disk(body, capacity_bytes=100)


def test_faults_hit_the_call_they_were_ordered_for() -> None:
    async def body(disk: SimDisk) -> None:
        disk.open("/a.log", create=True)
        file = disk.open("/b.log", create=True)
        disk.machine.fail("append", errno.EIO, pattern="*/b.log", skip=1)
        disk.open("/a.log").append([b"1"])
        file.append([b"1"])
        with pytest.raises(OSError, match="Input/output"):
            file.append([b"2"])
        file.append([b"3"])
        disk.machine.fail("read", errno.EIO)
        with pytest.raises(OSError, match="Input/output"):
            file.read_at(0, 1)
        assert file.read_at(0, 9) == b"13"
        disk.machine.flip("/b.log", 0, bit=1)
        assert file.read_at(0, 9) == b"33"

    with_disk(body)


def test_work_off_the_loop_ends_later_and_runs_even_if_its_caller_left() -> None:
    async def body(disk: SimDisk) -> None:
        order: list[str] = []
        tasks = [asyncio.create_task(disk.run(order.append, name)) for name in "abcdefgh"]
        await asyncio.sleep(0)
        assert order == []
        tasks[0].cancel()
        await asyncio.sleep(1)
        assert sorted(order) == list("abcdefgh")
        assert order != sorted(order)  # threads do not keep the order they were asked in

    with_disk(body, seed=3)


def test_directories_move_with_what_is_in_them_and_need_their_own_sync() -> None:
    async def body(disk: SimDisk) -> None:
        make_synced(disk, "/d/log", b"x")
        disk.rename("/d", "/e")
        assert disk.listdir("/") == ["e"]
        disk.open("/e/two", create=True).append([b"y"])
        disk.sync_dir("/e")
        disk.sync_dir("/")
        after = disk.lose_power(Fuse())
        assert after.read("/e/log") == b"x"
        assert after.listdir("/e") == ["log", "two"]
        after.remove_tree("/e")
        assert not after.exists("/e")

    with_disk(body)


def test_a_directory_that_a_killed_process_made_outlives_a_power_loss_once_it_was_made_again() -> None:
    async def body(disk: SimDisk) -> None:
        for call in range(1, 8):
            with suppress(Crashed):
                SimDisk(disk.machine, disk._clock, disk._trace, Fuse(call)).make_dirs(f"/{call}/e/f")
            after = SimDisk(disk.machine, disk._clock, disk._trace, Fuse())
            after.make_dirs(f"/{call}/e")
            after.make_dirs(f"/{call}/e/f")
            assert after.lose_power(Fuse()).exists(f"/{call}/e/f")

    for seed in range(10):
        with_disk(body, seed=seed)


def test_names_must_exist_and_be_of_the_right_kind() -> None:
    async def body(disk: SimDisk) -> None:
        disk.make_dirs("d/e")
        with pytest.raises(FileNotFoundError):
            disk.open("d/none")
        with pytest.raises(FileNotFoundError):
            disk.open("none/x", create=True)
        with pytest.raises(IsADirectoryError):
            disk.open("d/e")
        with pytest.raises(FileNotFoundError):
            disk.listdir("none")
        disk.remove("d/none")
        file = disk.open("d/f", create=True)
        assert disk.open("d/f", read_only=True).size == 0
        with pytest.raises(OSError, match="read-only"):
            disk.open("d/f", read_only=True).append([b"x"])
        file.close()
        with pytest.raises(OSError, match="closed"):
            file.append([b"x"])

    with_disk(body)
