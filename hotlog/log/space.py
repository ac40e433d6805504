"""The disk reserve: how many bytes may still be appended before free space falls to hotlog.disk.reserve.bytes.

Invariants: while there is room the file system is asked at most once per `STEP_BYTES` appended, and by `look` every second, since others fill
the disk as well; a refusal is only given on a fresh answer; that the disk is full is told once when it begins, and once when it ends.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from hotlog.kernel.condition import Condition
from hotlog.kernel.errors import DiskFull
from hotlog.kernel.limits import MiB
from hotlog.world.ports import Disk

LOG = logging.getLogger(__name__)
STEP_BYTES = 32 * MiB
_ENOUGH_SHARE = 16  # the trouble ends once this part of the reserve is free above it (or a step): not at every byte


class Volume(NamedTuple):
    """Bytes of a volume: all of it, and what logs may still grow by."""

    total: int
    usable: int


class Space:
    """Shared by all logs of a data directory."""

    def __init__(self, disk: Disk, directory: str, reserve_bytes: int) -> None:
        self._disk = disk
        self._directory = directory
        self._reserve = reserve_bytes
        self._left = 0
        self.full = Condition(LOG, logging.ERROR)

    def use_bytes(self, count: int) -> None:
        """Count `count` bytes as used.

        Raises:
            DiskFull: they would reach into the reserve.
        """
        self._left -= count
        if self._left < 0:
            self._ask(count)

    def volume(self) -> Volume:
        """The volume, as the file system says now.

        Raises:
            OSError
        """
        usable = max(0, self._disk.free_bytes(self._directory) - self._reserve)
        return Volume(self._disk.total_bytes(self._directory), usable)

    async def look(self) -> None:
        """Ask the file system now, in a disk thread: what was free may be taken by others, or be free again."""
        try:
            free = await self._disk.run(self._disk.free_bytes, self._directory)
        except OSError as trouble:
            LOG.debug("%s: %s", self._directory, trouble)
            return
        room = self._seen(free)
        if room < 0:
            self.full.begins(self._told(free))
        elif room >= min(STEP_BYTES, self._reserve // _ENOUGH_SHARE):
            self.full.ends(f"{self._directory} has {free} bytes free again: records are taken")

    def _seen(self, free: int) -> int:
        room = free - self._reserve
        self._left = max(0, min(room // 2, STEP_BYTES))  # half: others write to the disk as well
        return room

    def _ask(self, count: int) -> None:
        free = self._disk.free_bytes(self._directory)
        if self._seen(free - count) < 0:
            self.full.begins(self._told(free))
            raise DiskFull(f"{self._told(free)}; {count} more would pass it")

    def _told(self, free: int) -> str:
        return (
            f"the disk is full: {self._directory} has {free} bytes free, the reserve (hotlog.disk.reserve.bytes) is {self._reserve}:"
            " no record is taken"
        )
