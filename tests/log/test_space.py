"""The disk reserve: noticed within a second whoever filled the disk, told once, and over when there is room."""

from __future__ import annotations

import logging

import pytest

from hotlog.kernel.errors import DiskFull
from hotlog.kernel.limits import MiB
from hotlog.log.space import Space
from tests.support.disks import FaultyDisk

RESERVE = 64 * MiB


def space_of(free: int) -> tuple[Space, FaultyDisk]:
    disk = FaultyDisk()
    disk.free = free
    return Space(disk, "/data/log", RESERVE), disk


async def test_a_disk_that_others_fill_is_noticed_before_the_next_step(caplog: pytest.LogCaptureFixture) -> None:
    space, disk = space_of(1 << 40)
    space.use_bytes(1000)
    disk.free = RESERVE - 1
    space.use_bytes(1000)
    with caplog.at_level(logging.INFO):
        await space.look()
        for _ in range(3):
            with pytest.raises(DiskFull, match=r"the disk is full: /data/log has \d+ bytes free"):
                space.use_bytes(1000)
            await space.look()
        assert [(line.levelname, line.message.startswith("the disk is full: /data/log")) for line in caplog.records] == [
            ("ERROR", True)
        ]
        assert "hotlog.disk.reserve.bytes" in space.full.reason
        disk.free = RESERVE + 1 * MiB
        await space.look()
        assert space.full, "not over at the first free bytes: it would be told again and again"
        disk.free = RESERVE + 32 * MiB
        await space.look()
        assert not space.full
        space.use_bytes(1000)
    assert [line.levelname for line in caplog.records] == ["ERROR", "INFO"]


async def test_a_refusal_is_told_though_nobody_has_looked(caplog: pytest.LogCaptureFixture) -> None:
    space, _ = space_of(RESERVE + 500)
    with caplog.at_level(logging.INFO), pytest.raises(DiskFull):
        space.use_bytes(1000)
    assert space.full
    assert [line.levelname for line in caplog.records] == ["ERROR"]
