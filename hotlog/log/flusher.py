"""Group commit: one fsync in flight per log; appends that come while it runs join the next one.

Invariants: what is reported as durable was covered by an fsync that began after it was written; after a failed fsync nothing is reported
as durable any more and no file is synced again (a retried fsync may lie: the kernel has marked the pages clean).
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import NamedTuple

from hotlog.world.ports import Disk, File

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
AGAIN_S = 0.1  # without a descriptor


class FlushJob(NamedTuple):
    """What one trip to the disk does, in this order: sync log files, sync index files, sync the directory, write small files.

    When it is done everything below the offset `end` is durable.
    """

    writes: tuple[tuple[str, bytes], ...]
    logs: tuple[File, ...]
    index_paths: tuple[str, ...]
    directory: str | None
    end: int
    closed: tuple[str, ...]  # log files that need no writer afterwards


def run_job(disk: Disk, job: FlushJob) -> tuple[tuple[str, bytes], ...]:
    """Do the job; return the small files that found no space (they can be rebuilt, so the log goes on).  Blocks; raises OSError."""
    for log in job.logs:
        log.sync()
    for path in job.index_paths:
        file = disk.open(path)
        try:
            file.sync()
        finally:
            file.close()
    if job.directory is not None:
        disk.sync_dir(job.directory)
    unwritten = []
    for path, data in job.writes:
        try:
            disk.write_atomic(path, data)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            unwritten.append((path, data))
    return tuple(unwritten)


class Flusher:
    """Runs jobs one after another while `plan` has any."""

    __slots__ = ("_disk", "_fail", "_note", "_plan", "is_syncing", "task")

    def __init__(
        self,
        disk: Disk,
        *,
        plan: Callable[[], FlushJob | None],
        note: Callable[[FlushJob, tuple[tuple[str, bytes], ...]], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._disk = disk
        self._plan = plan
        self._note = note
        self._fail = fail
        self.task: asyncio.Task[None] | None = None  # looked at from outside, never set
        self.is_syncing = False  # a thread holds the files of a job

    @property
    def is_running(self) -> bool:
        return self.task is not None

    def kick(self) -> None:
        """See to it that a job runs soon; the caller's other appends of this turn of the loop join it."""
        if self.task is None:
            self.task = asyncio.get_running_loop().create_task(self._run(), name="flusher")

    async def _run(self) -> None:
        try:
            while (job := self._plan()) is not None:
                try:
                    unwritten = await self._done(job)
                except Exception as error:
                    self._fail(error)
                    return
                self._note(job, unwritten)
        finally:
            self.task = None

    async def _done(self, job: FlushJob) -> tuple[tuple[str, bytes], ...]:
        """What `run_job` says; without a descriptor to open the small files it is begun again later, as no sync has failed."""
        while True:
            self.is_syncing = True
            try:
                return await self._disk.run(run_job, self._disk, job)
            except OSError as error:
                if error.errno not in NO_DESCRIPTORS:
                    raise
            finally:
                self.is_syncing = False
            await asyncio.sleep(AGAIN_S)

    async def idle(self) -> None:
        """Until no job is in flight."""
        while self.task is not None:
            await asyncio.wait([self.task])
