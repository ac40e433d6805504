"""The disk reserve: how many bytes may still be appended before free space falls to hotlog.disk.reserve.bytes.

Invariants: the file system is asked at most once per `STEP_BYTES` appended while there is room; a refusal is only given on a fresh answer.
"""

from __future__ import annotations

from hotlog.kernel.errors import DiskFull
from hotlog.kernel.limits import MiB
from hotlog.world.ports import Disk

STEP_BYTES = 32 * MiB


class Space:
    """Shared by all logs of a data directory."""

    __slots__ = ("_directory", "_disk", "_left", "_reserve")

    def __init__(self, disk: Disk, directory: str, reserve_bytes: int) -> None:
        self._disk = disk
        self._directory = directory
        self._reserve = reserve_bytes
        self._left = 0

    def take(self, count: int) -> None:
        """Count `count` bytes as used.

        Raises:
            DiskFull: they would reach into the reserve.
        """
        self._left -= count
        if self._left < 0:
            self._ask(count)

    def _ask(self, count: int) -> None:
        free = self._disk.free_bytes(self._directory)
        room = free - self._reserve - count
        self._left = max(0, min(room // 2, STEP_BYTES))  # half: others write to the disk as well
        if room < 0:
            raise DiskFull(
                f"{self._directory} has {free} bytes free; {count} more would pass the reserve of {self._reserve}"
                " (hotlog.disk.reserve.bytes)"
            )
