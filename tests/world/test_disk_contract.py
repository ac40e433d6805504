"""What every Disk must do, real or simulated.

To hold another form to it, add an entry to FORMS: (name, maker of a contract bench).
"""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hotlog.world.ports import Buffer, Disk, File
from hotlog.world.posix import PosixDisk
from tests.tools.patience import PATIENCE_S

MakeDisk = Callable[[Path], tuple[Disk, str]]  # a directory that may be used -> (disk, root path on that disk)


def posix(tmp_path: Path) -> tuple[Disk, str]:
    return PosixDisk(2), str(tmp_path)


FORMS: dict[str, MakeDisk] = {"posix": posix}


@pytest.fixture(params=sorted(FORMS))
def disk_root(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Disk, str]:
    return FORMS[request.param](tmp_path)


def test_append_gathers_and_counts(disk_root: tuple[Disk, str]) -> None:
    disk, root = disk_root
    file = disk.open(f"{root}/a", create=True)
    assert file.size == 0
    assert file.append([b"one", bytearray(b"two"), memoryview(b"three")]) == 11
    assert file.append([b"!"]) == 1
    assert (file.size, disk.size(f"{root}/a"), disk.read(f"{root}/a")) == (12, 12, b"onetwothree!")
    file.close()
    again = disk.open(f"{root}/a")
    assert again.size == 12 and again.path == f"{root}/a"
    again.close()


def test_append_of_more_buffers_than_one_call_takes(disk_root: tuple[Disk, str]) -> None:
    disk, root = disk_root
    file = disk.open(f"{root}/a", create=True)
    assert file.append([b"%04d" % number for number in range(3000)]) == 12_000
    assert disk.read(f"{root}/a") == b"".join(b"%04d" % number for number in range(3000))
    file.close()


def test_reads_end_at_the_end_of_the_file(disk_root: tuple[Disk, str]) -> None:
    disk, root = disk_root
    file = disk.open(f"{root}/a", create=True)
    file.append([b"0123456789"])
    assert bytes(file.read_at(3, 4)) == b"3456"
    assert bytes(file.read_at(8, 100)) == b"89"
    assert bytes(file.read_at(10, 1)) == b""
    for offset, length, wanted in ((3, 4, b"3456"), (8, 100, b"89"), (10, 1, b"")):
        got = file.read_at_nowait(offset, length)
        assert got is None or bytes(got) == wanted
        assert bytes(file.read_once(offset, length)) == wanted
    file.close()


def test_write_at_and_truncate_keep_the_size_right(disk_root: tuple[Disk, str]) -> None:
    disk, root = disk_root
    file = disk.open(f"{root}/a", create=True)
    file.write_at(0, b"abcdef")
    file.write_at(2, b"XY")
    assert (file.size, disk.read(f"{root}/a")) == (6, b"abXYef")
    file.write_at(5, b"12345")
    assert file.size == 10
    file.truncate(4)
    assert (file.size, disk.read(f"{root}/a")) == (4, b"abXY")
    file.append([b"zz"])
    file.sync()
    assert disk.read(f"{root}/a") == b"abXYzz"
    file.close()


def test_open_needs_create_for_a_new_file(disk_root: tuple[Disk, str]) -> None:
    disk, root = disk_root
    with pytest.raises(FileNotFoundError):
        disk.open(f"{root}/missing")
    with pytest.raises(FileNotFoundError):
        disk.open(f"{root}/no/such/dir", create=True)
    with pytest.raises(FileNotFoundError):
        disk.read(f"{root}/missing")
    with pytest.raises(FileNotFoundError):
        disk.size(f"{root}/missing")
    assert not disk.exists(f"{root}/missing")


def test_a_read_only_file_cannot_be_written(disk_root: tuple[Disk, str]) -> None:
    disk, root = disk_root
    disk.write_atomic(f"{root}/a", b"data")
    file = disk.open(f"{root}/a", read_only=True)
    with pytest.raises(OSError, match=r".*"):
        file.append([b"more"])
    file.close()
    assert disk.read(f"{root}/a") == b"data"


def test_write_atomic_replaces_and_leaves_nothing_else(disk_root: tuple[Disk, str]) -> None:
    disk, root = disk_root
    disk.write_atomic(f"{root}/a", b"old content")
    disk.write_atomic(f"{root}/a", memoryview(b"new"))
    assert disk.read(f"{root}/a") == b"new"
    assert disk.listdir(root) == ["a"]


def test_directories(disk_root: tuple[Disk, str]) -> None:
    disk, root = disk_root
    disk.make_dirs(f"{root}/x/y/z")
    disk.make_dirs(f"{root}/x/y/z")
    for name in ("c", "a", "b"):
        disk.write_atomic(f"{root}/x/{name}", b"")
    assert disk.listdir(f"{root}/x") == ["a", "b", "c", "y"]
    disk.sync_dir(f"{root}/x")
    disk.rename(f"{root}/x", f"{root}/moved")
    assert not disk.exists(f"{root}/x") and disk.exists(f"{root}/moved/y/z")
    disk.remove_tree(f"{root}/moved")
    disk.remove_tree(f"{root}/moved")
    assert disk.listdir(root) == []
    with pytest.raises(FileNotFoundError):
        disk.listdir(f"{root}/moved")


def test_posix_syncs_the_name_of_a_directory_that_it_finds_and_of_each_that_it_makes(tmp_path: Path) -> None:
    synced: list[str] = []

    class Noting(PosixDisk):
        def sync_dir(self, path: str) -> None:
            synced.append(path)
            if path == str(tmp_path.parent):
                raise PermissionError(errno.EACCES, "the home of others")
            super().sync_dir(path)

    def asked(path: Path) -> list[str]:
        synced.clear()
        disk.make_dirs(str(path))
        return list(synced)

    disk = Noting(1)
    assert asked(tmp_path / "a" / "b") == [str(tmp_path.parent), str(tmp_path), str(tmp_path / "a")]
    assert asked(tmp_path / "a") == [str(tmp_path)]
    assert asked(tmp_path / "a") == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        disk.make_dirs(str(tmp_path / "file" / "c"))
    with pytest.raises(FileExistsError):
        disk.make_dirs(str(tmp_path / "file"))


def test_an_open_file_outlives_its_name(disk_root: tuple[Disk, str]) -> None:
    disk, root = disk_root
    disk.write_atomic(f"{root}/a", b"still here")
    file = disk.open(f"{root}/a", read_only=True)
    disk.rename(f"{root}/a", f"{root}/b")
    assert bytes(file.read_at(0, 5)) == b"still"
    disk.remove(f"{root}/b")
    disk.remove(f"{root}/b")
    assert bytes(file.read_at(6, 4)) == b"here"
    file.close()


def test_rename_replaces_a_file(disk_root: tuple[Disk, str]) -> None:
    disk, root = disk_root
    disk.write_atomic(f"{root}/a", b"a")
    disk.write_atomic(f"{root}/b", b"b")
    disk.rename(f"{root}/a", f"{root}/b")
    assert disk.listdir(root) == ["b"] and disk.read(f"{root}/b") == b"a"


def test_figures(disk_root: tuple[Disk, str]) -> None:
    disk, root = disk_root
    disk.write_atomic(f"{root}/a", b"x")
    assert 0 < disk.free_bytes(root) < disk.total_bytes(root)
    assert disk.modified_ms(f"{root}/a") >= 0


# -- what only the real disk can show


def test_posix_never_follows_a_link_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"secret")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    disk = PosixDisk(1)
    with pytest.raises(OSError, match=r".*"):
        disk.open(str(tmp_path / "link"))
    with pytest.raises(OSError, match=r".*"):
        disk.read(str(tmp_path / "link"))


def test_posix_lock_is_exclusive_until_closed(tmp_path: Path) -> None:
    disk, path = PosixDisk(1), str(tmp_path / ".lock")
    held = disk.lock(path)
    with pytest.raises(BlockingIOError):
        disk.lock(path)
    held.close()
    disk.lock(path).close()


def test_posix_files_do_not_leak_into_children(tmp_path: Path) -> None:
    file = PosixDisk(1).open(str(tmp_path / "a"), create=True)
    descriptor = file.fileno()
    assert descriptor is not None and not os.get_inheritable(descriptor)
    file.close()
    assert file.fileno() is None


# In another process: the limit and the signal would harm this one, and a fork of it would inherit its threads' locks.
FULL_DEVICE = """
import os, resource, signal, sys
from hotlog.world.posix import PosixDisk
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.dont_write_bytecode = True
file = PosixDisk(1).open(sys.argv[1], create=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
file.append([b"12345678"])
try:
    file.append([b"abc", b"def"])
except OSError:
    assert (file.size, os.path.getsize(sys.argv[1])) == (8, 8)
else:
    raise AssertionError("more was written than there was room for")
"""


def test_posix_append_on_a_full_device_leaves_the_old_size(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes writes short and then fail, as a full device does."""
    subprocess.run([sys.executable, "-c", FULL_DEVICE, str(tmp_path / "a")], check=True)
    assert (tmp_path / "a").read_bytes() == b"12345678"


def test_posix_run_gives_results_and_errors(tmp_path: Path) -> None:
    disk, root = posix(tmp_path)

    async def main() -> None:
        await disk.run(disk.write_atomic, f"{root}/a", data=b"by keyword")
        assert await disk.run(disk.read, f"{root}/a") == b"by keyword"
        with pytest.raises(FileNotFoundError):
            await disk.run(disk.read, f"{root}/missing")

    asyncio.run(main())


def test_posix_run_tells_of_a_stop_iteration_instead_of_waiting_for_ever(tmp_path: Path) -> None:
    """No future carries one; its waiter hung for as long as its own patience."""
    disk, _ = posix(tmp_path)

    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(disk.run(lambda: next(iter(()))), PATIENCE_S)

    asyncio.run(main())


def cached(file: File, offset: int, length: int) -> Buffer:
    """What the page cache gives; if it let that go meanwhile, it is asked to have it again."""
    for _ in range(1000):
        data = file.read_at_nowait(offset, length)
        if data is not None:
            return data
        file.read_at(offset, length)
    raise AssertionError("the page cache never has what was just read")


def test_posix_read_buffers_are_used_again_only_when_nobody_has_them(tmp_path: Path) -> None:
    disk, path = PosixDisk(1), str(tmp_path / "a")
    file = disk.open(path, create=True)
    for number in range(40):
        file.append([bytes([number]) * 262_144])
    held = [cached(file, number * 262_144, 262_144) for number in range(40)]
    for number, data in enumerate(held):
        assert bytes(data) == bytes([number]) * 262_144
    kept = [memoryview(data)[100:200] for data in held]
    del held
    for _ in range(50):
        file.read_at_nowait(0, 262_144)
    assert [bytes(view) for view in kept] == [bytes([number]) * 100 for number in range(40)]
    file.close()


@pytest.mark.parametrize("is_cached", [True, False])
def test_posix_read_once_leaves_the_page_cache_as_it_was(
    tmp_path: Path, is_cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "a")
    file = PosixDisk(1).open(path, create=True)
    file.append([b"0123456789"])
    advice: list[tuple[int, int, int]] = []
    monkeypatch.setattr("hotlog.world.posix._advise", lambda _, offset, length, what: advice.append((offset, length, what)))
    monkeypatch.setattr("hotlog.world.posix.PosixFile.read_at_nowait", lambda self, offset, length: b"234" if is_cached else None)
    assert bytes(file.read_once(2, 3)) == b"234"
    dropped = [] if is_cached else [(2, 3, os.POSIX_FADV_DONTNEED)]
    assert advice == [(0, 0, os.POSIX_FADV_RANDOM), *dropped]
    file.close()
