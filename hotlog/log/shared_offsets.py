"""What all logs of a data directory say of themselves in the files that they share: recovery points, high watermarks, log starts,
and up to where they were cleaned.

Invariants: what is written was true of each log after the caller asked for it; what is known of a directory that could not be opened is kept
for when it can; a cancelled caller stops no write half way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import Protocol

from hotlog.kernel.ids import TopicPartition
from hotlog.log import files
from hotlog.log.offset_files import OffsetFiles


class Log(Protocol):
    """A log, by what the files say of it."""

    tp: TopicPartition

    @property
    def recovery_point(self) -> int: ...

    @property
    def high_watermark(self) -> int: ...

    @property
    def log_start_offset(self) -> int: ...

    @property
    def cleaned_end(self) -> int: ...


class SharedOffsets:
    """Looks at the logs and writes.

    Args:
        look: all logs, a bounded number in one turn of the loop.
        failed: the partitions whose directories could not be opened.
    """

    def __init__(
        self, offset_files: OffsetFiles, *, look: Callable[[], AsyncIterator[Log]], failed: Collection[TopicPartition]
    ) -> None:
        self._files = offset_files
        self._look = look
        self._failed = failed
        self._saving = asyncio.Lock()  # held from the look at the logs until what was seen is written
        self._wanted = self._done = 0

    async def save_recovery_points(self) -> None:
        async with self._saving:
            points = self._of_failed(files.RECOVERY_POINTS)
            async for log in self._look():
                points[log.tp] = log.recovery_point
            await self._files.save(files.RECOVERY_POINTS, points)

    async def save_ends(self) -> None:
        """Recovery points and high watermarks."""
        async with self._saving:
            points, marks = self._of_failed(files.RECOVERY_POINTS), {}
            async for log in self._look():
                points[log.tp], marks[log.tp] = log.recovery_point, log.high_watermark
            await self._files.save(files.RECOVERY_POINTS, points)
            await self._files.save(files.HIGH_WATERMARKS, marks)

    async def save_log_starts(self) -> None:
        """Group commit: who asks while a write runs shares the next one."""
        self._wanted += 1
        await asyncio.shield(asyncio.get_running_loop().create_task(self._save_starts(self._wanted)))

    async def _save_starts(self, number: int) -> None:
        async with self._saving:
            if self._done >= number:
                return  # another's look at the logs began after this call
            wanted = self._wanted
            starts = self._of_failed(files.LOG_STARTS)
            async for log in self._look():
                if log.log_start_offset > 0:
                    starts[log.tp] = log.log_start_offset
            if starts != self._files.saved(files.LOG_STARTS):
                await self._files.save(files.LOG_STARTS, starts)
            self._done = wanted

    async def save_cleaned_ends(self) -> None:
        """Up to where each log was cleaned, of those that ever were."""
        async with self._saving:
            ends = self._of_failed(files.CLEANER_OFFSETS)
            async for log in self._look():
                if log.cleaned_end >= 0:
                    ends[log.tp] = log.cleaned_end
            if ends != self._files.saved(files.CLEANER_OFFSETS):
                await self._files.save(files.CLEANER_OFFSETS, ends)

    async def forget(self, tp: TopicPartition, here: Collection[TopicPartition]) -> None:
        """What the files say of a deleted partition would be believed of the new one of its name after a restart.

        Args:
            here: the partitions that have a log.
        """
        async with self._saving:
            for name in (files.RECOVERY_POINTS, files.LOG_STARTS, files.CLEANER_OFFSETS):
                saved = self._files.saved(name)
                if tp in saved:
                    await self._files.save(name, {one: at for one, at in saved.items() if one in here or one in self._failed})

    def _of_failed(self, name: str) -> dict[TopicPartition, int]:
        saved = self._files.saved(name)
        return {tp: saved[tp] for tp in self._failed if tp in saved}
