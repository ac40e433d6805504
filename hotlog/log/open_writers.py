"""Who holds segments open for writing: a bound for one log, and one for all logs of a data directory.

A log holds its active segment open while it is appended to, and each segment that it rolled until that is on the device.  Who would go
beyond a bound waits before its append: for its own fsyncs, or until another log has given its active segment back, which costs that one an
fsync if it has something to lose.

Invariants: a log holds at most ROLLED_MAX rolled segments and the one of the append that made them so many; all logs together hold at
most `open_max` and one for each log that rolled in the moment before its flush.
"""

from __future__ import annotations

import asyncio
import contextlib
from itertools import islice
from typing import Protocol

from hotlog.kernel.errors import HotlogError
from hotlog.log.pool import FilePool

ROLLED_MAX = 32
OPEN_SHARE = 4  # all logs together: 1/4 of the process's file descriptors (RLIMIT_NOFILE)
READ_SHARE = 8  # and files that are kept open for readers: 1/8
_LOOKED_AT = 16


class OpenLog(Protocol):
    """A log that holds its active segment open."""

    def give_back_writer(self) -> bool:
        """Let go of it if nothing is to be synced; whether that was done."""
        ...

    async def flush(self) -> None: ...


class OpenWriters:
    """The logs that hold their active segment open, the one that opened it first at the head."""

    def __init__(self, pool: FilePool, open_max: int) -> None:
        self._pool = pool
        self._open_max = open_max
        self._open: dict[OpenLog, None] = {}
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def is_full(self) -> bool:
        return self._pool.pinned_count >= self._open_max

    def opened(self, log: OpenLog) -> None:
        self._open[log] = None

    def released(self, log: OpenLog | None = None) -> None:
        """Files were given back; `log` holds none any more."""
        if log is not None:
            self._open.pop(log, None)
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def make_room(self) -> None:
        """Try to have one file less open; returns after a turn of the loop at least, and not for certain with room."""
        oldest = list(islice(self._open, _LOOKED_AT))
        for log in oldest:
            if log.give_back_writer():
                return
            self._open[log] = self._open.pop(log)  # to the end
        if not oldest:  # all that is open was rolled, and is on its way to the device
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future
            return
        with contextlib.suppress(HotlogError, OSError):  # a log that failed has let go
            await oldest[0].flush()
        await asyncio.sleep(0)
        oldest[0].give_back_writer()
