"""Bytes that are read while they are sent: they outlive the segment they are of."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from hotlog.kernel.errors import StorageFailed
from hotlog.log.file_part import FilePart
from hotlog.log.pool import FilePool, Name
from hotlog.world.posix import PosixDisk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "00000000000000000000.log"
    path.write_bytes(bytes(range(256)) * 1024)
    return path


def descriptors(path: Path) -> int:
    return sum(1 for each in Path("/proc/self/fd").iterdir() if str(path) in str(each.resolve()))


async def test_a_part_is_read_on_after_its_segment_is_gone(path: Path) -> None:
    pool = FilePool(PosixDisk())
    part = FilePart(pool, pool.acquire(Name(str(path))), 256, 1024)
    assert len(part) == 1024
    pool.forget(str(path))
    path.unlink()
    data = part.read_now(0, 512)
    assert data is not None
    assert bytes(data) + bytes(await part.read(512, 512)) == bytes(range(256)) * 4
    part.close()
    part.close()
    assert descriptors(path) == 0


async def test_a_part_that_nobody_sends_lets_its_file_go(path: Path) -> None:
    pool = FilePool(PosixDisk())
    part = FilePart(pool, pool.acquire(Name(str(path))), 0, 10)
    pool.forget(str(path))
    assert descriptors(path) == 1
    del part
    gc.collect()
    assert descriptors(path) == 0


async def test_a_file_that_became_shorter_is_an_error(path: Path) -> None:
    pool = FilePool(PosixDisk())
    part = FilePart(pool, pool.acquire(Name(str(path))), 0, 256 * 1024)
    with path.open("r+b") as file:
        file.truncate(1000)
    assert part.read_now(0, 2000) is None, "never fewer bytes than were promised"
    with pytest.raises(StorageFailed, match="ends at byte 1000"):
        await part.read(0, 2000)
    part.close()
