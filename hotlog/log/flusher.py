"""Group commit: one fsync in flight per log; appends that come while it runs join the next one.

A job that is nothing but a sync joins those of all other logs that are due in this turn of the loop (sync_rounds.py); one that has more to do
is done by a thread.

Invariants: what is reported as durable was covered by an fsync that began after it was written; after a failed fsync nothing is reported
as durable any more and no file is synced again (a retried fsync may lie: the kernel has marked the pages clean).
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import NamedTuple

from hotlog.log.sync_rounds import SyncRounds
from hotlog.world.ports import Disk, Due, File

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
AGAIN_S = 0.1  # without a descriptor
_NEVER = float("inf")  # no job has this number


Small = bytes | Callable[[], bytes]
"""What a small file will hold; a function is asked by the thread that writes it."""
Writes = tuple[tuple[str, Small], ...]


class FlushJob(NamedTuple):
    """What one trip to the disk does, in this order: sync log files, sync index files, sync the directory, write small files.

    When it is done everything below the offset `end` is durable.
    """

    writes: Writes
    logs: tuple[File, ...]
    index_paths: tuple[str, ...]
    directory: str | None
    end: int
    closed: tuple[str, ...]  # log files that need no writer afterwards

    @property
    def is_plain(self) -> bool:
        """Whether it is nothing but a sync of one log file, as nearly always."""
        return len(self.logs) == 1 and not (self.writes or self.index_paths or self.directory or self.closed)


def run_job(disk: Disk, job: FlushJob) -> Writes:
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
            disk.write_atomic(path, data() if callable(data) else data)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            unwritten.append((path, data))
    return tuple(unwritten)


class Flusher:
    """Runs jobs one after another while `plan` has any."""

    __slots__ = ("_begun", "_disk", "_fail", "_job", "_note", "_plan", "_rounds", "_task", "_waiting", "is_running", "is_syncing")

    def __init__(
        self,
        disk: Disk,
        rounds: SyncRounds,
        *,
        plan: Callable[[], FlushJob | None],
        note: Callable[[FlushJob, Writes], bool],
        fail: Callable[[Exception], None],
    ) -> None:
        self._disk = disk
        self._rounds = rounds
        self._plan = plan
        self._note = note
        self._fail = fail
        self._job: FlushJob | None = None
        self._task: asyncio.Task[None] | None = None
        self._begun = 0  # jobs
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []  # and the number of the job that each waits for
        self.is_running = False  # looked at from outside, never set
        self.is_syncing = False  # the files of a job are in use

    def kick(self) -> None:
        """See to it that a job runs soon; the caller's other appends of this turn of the loop join it."""
        if not self.is_running:
            self.is_running = True
            self._rounds.join(self)

    def begin(self) -> Due | None:
        """Begin the next job, if there is one: what the round is to sync for it, or None if that is not all of it."""
        job = self._job = self._plan()
        if job is None:
            self._ended()
            return None
        self._begun += 1
        self.is_syncing = True
        if job.is_plain:
            return job.logs[0], self.over
        self._task = asyncio.get_running_loop().create_task(self._run(job), name="flusher")
        return None

    async def _run(self, job: FlushJob) -> None:
        """A job of several files, in a thread; without a descriptor to open the small ones it is begun again later, as no sync has failed."""
        while True:
            self.is_syncing = True
            try:
                unwritten = await self._disk.run(run_job, self._disk, job)
            except OSError as error:
                self.is_syncing = False
                if error.errno not in NO_DESCRIPTORS:
                    return self.over(error)
            except Exception as error:
                return self.over(error)
            else:
                return self.over(None, unwritten)
            await asyncio.sleep(AGAIN_S)

    def over(self, error: Exception | None, unwritten: Writes = ()) -> None:
        """The job is done, or it failed, or there was none: `error` came when it was planned."""
        job, self._job, self._task = self._job, None, None
        self.is_syncing = False
        goes_on = False
        try:
            if error is None:
                assert job is not None
                goes_on = self._note(job, unwritten)
        except Exception as problem:  # what was to be noted is not known any more: as if the disk had failed
            error = problem
        try:
            if error is not None:
                self._fail(error)
        finally:
            if goes_on and error is None:
                self._rounds.join(self)  # with what came meanwhile
                if self._waiting:
                    self._tell(self._begun)
            else:
                self._ended()

    def _ended(self) -> None:
        self.is_running = False
        if self._waiting:
            self._tell(_NEVER)

    def _tell(self, over: float) -> None:
        """Jobs up to this number are over."""
        told = [future for number, future in self._waiting if number <= over and not future.done()]
        self._waiting = [entry for entry in self._waiting if entry[0] > over]
        for future in told:
            future.set_result(None)

    async def covered(self) -> None:
        """Until a job that begins from now on is over, or none is to begin: a log that is written without a pause is never idle."""
        if self.is_running:
            await self._over(self._begun + 1)

    async def idle(self) -> None:
        """Until no job is in flight."""
        while self.is_running:
            await self._over(_NEVER)

    async def _over(self, number: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((number, future))
        await future
