"""Files of segments that left the log: renamed at once, so that a restart knows that they are gone, and removed after file.delete.delay.ms.

Invariants: a name that is condemned never comes back into the log; what is not removed when the process ends is removed by the next start.
"""

from __future__ import annotations

from collections.abc import Iterable

from hotlog.log import files
from hotlog.log.awake import NEVER
from hotlog.log.pool import FilePool
from hotlog.log.segment import Segment
from hotlog.world.ports import Disk

SUFFIXES = (files.LOG, files.INDEX, files.TIME_INDEX, files.TXN_INDEX, files.SNAPSHOT)


class Condemned:
    """The files of one log that wait for their removal."""

    def __init__(self, disk: Disk, pool: FilePool, directory: str) -> None:
        self._disk = disk
        self._pool = pool
        self._directory = directory
        self._waiting: tuple[tuple[int, tuple[str, ...]], ...] = ()  # (due, paths)

    async def condemn(self, victims: Iterable[Segment], due_ms: int) -> None:
        """Rename the files of `victims`, which are in the log no more; they are removed at `due_ms`."""
        self.note(await self._disk.run(self._rename, tuple(victims)), due_ms)

    def _rename(self, victims: tuple[Segment, ...]) -> tuple[str, ...]:
        paths = []
        for segment in victims:
            for suffix in SUFFIXES:
                path = segment.path(suffix)
                if self._disk.exists(path):
                    self._disk.rename(path, path + files.DELETED)
                    paths.append(path + files.DELETED)
                self._pool.forget(path)
        self._disk.sync_dir(self._directory)
        return tuple(paths)

    def note(self, paths: tuple[str, ...], due_ms: int) -> None:
        """Files that have such a name already."""
        self._waiting = (*self._waiting, (due_ms, paths))

    @property
    def due_ms(self) -> int:
        """When the next files are to be removed; NEVER if none wait."""
        return min((due for due, _ in self._waiting), default=NEVER)

    async def remove_due(self, now_ms: int) -> None:
        """Remove what has waited long enough."""
        due = [path for when, paths in self._waiting if when <= now_ms for path in paths]
        if due:
            self._waiting = tuple(entry for entry in self._waiting if entry[0] > now_ms)
            await self._disk.run(self._remove, due)

    def _remove(self, paths: list[str]) -> None:
        for path in paths:
            self._pool.forget(path)  # a replaced segment may be open under this name, and would keep its bytes on the disk
            self._disk.remove(path)
