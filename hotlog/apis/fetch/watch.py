"""How a fetch that waits hears that it should look again.

A fetch looks for data and, before the loop runs anything else, registers with every log and cold read that had too little.  Only then does it
wait.  What moves after the look, also while the disk is read, is remembered until the next look.

Invariants: between a look and the wait that follows it nothing that moves goes unheard; a watch that ended left nothing behind in the logs.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hotlog.answers.slices import SLICE, breathe
from hotlog.apis.fetch.rounds import Part, Round, State
from hotlog.partitions.partition import Partition

if TYPE_CHECKING:
    from hotlog.broker.polls import Polls


class Watch:
    """One waiting fetch; a context manager."""

    __slots__ = ("_fetch", "_has_moved", "_is_resting", "_partitions", "_polls", "_reads", "_waiting")

    def __init__(self, polls: Polls, fetch: Round) -> None:
        self._polls = polls
        self._fetch = fetch
        self._partitions: dict[Partition, None] = {}
        self._reads: dict[asyncio.Future[Any], None] = {}  # cold ones
        self._has_moved = False
        self._is_resting = False  # moves are noted, but do not end the wait
        self._waiting: asyncio.Future[None] | None = None

    def __enter__(self) -> Watch:
        self._polls.add(self._wake)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._polls.remove(self._wake)
        for partition in self._partitions:
            partition.remove_listener(self._moved)
        for read in self._reads:
            read.remove_done_callback(self._came)

    async def look(self) -> None:
        """The fetch's look, and from the same instant on an ear at all that may add to it; a wide one gives others their turns."""
        self._has_moved = False
        parts = self._fetch.parts
        for at in range(0, len(parts), SLICE):
            if at:
                await breathe()
            some = parts[at : at + SLICE]
            self._fetch.classify(some)
            self._listen(some)
        for number, _ in enumerate(self._fetch.read(), 1):
            if number % SLICE == 0:
                await breathe()
        self._listen(parts)

    async def read_disk(self) -> None:
        """What the look found on disk; what moves meanwhile is noted."""
        await self._fetch.read_disk()
        self._listen(self._fetch.parts)

    def _listen(self, parts: list[Part]) -> None:
        for part in parts:
            partition = part.partition
            if partition is not None and partition not in self._partitions:
                self._partitions[partition] = None
                partition.add_listener(self._moved)
            if part.state is State.COLD:
                read = self._fetch.cold_read(part)
                if read is not None and read not in self._reads:
                    self._reads[read] = None
                    read.add_done_callback(self._came)  # at once if it came meanwhile

    async def moved(self, seconds: float) -> None:
        """Until something moved since the last look, or the time is up."""
        if not self._has_moved:
            await self._wait(seconds)

    async def rest(self, seconds: float) -> None:
        """Until the time is up, whatever moves, unless the broker is stopping."""
        self._is_resting = True
        try:
            await self._wait(seconds)
        finally:
            self._is_resting = False

    async def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        timer = loop.call_later(seconds, self._wake)
        try:
            await self._waiting
        finally:
            timer.cancel()
            self._waiting = None

    def _moved(self) -> None:
        self._has_moved = True
        if not self._is_resting:
            self._wake()

    def _came(self, read: asyncio.Future[Any]) -> None:
        self._reads.pop(read, None)
        self._moved()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
