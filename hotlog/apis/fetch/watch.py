"""How a fetch that waits hears that it should look again.

A fetch looks for data and, before the loop runs anything else, registers with every log and cold read that had too little.  Only then does it
wait.  What moves after the look, also while the disk is read, is remembered until the next look.

Invariants: between a look and the wait that follows it nothing that moves goes unheard; a watch that ended left nothing behind in the logs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hotlog.answers.slices import SLICE, breathe
from hotlog.apis.fetch.parts import AT_REST, Part
from hotlog.apis.fetch.rounds import Round
from hotlog.apis.fetch.sessions import Cached
from hotlog.partitions.partition import Partition

if TYPE_CHECKING:
    from hotlog.broker.polls import Polls


class Watch:
    """One waiting fetch; a context manager."""

    __slots__ = (
        "_ears", "_fetch", "_has_looked", "_has_moved", "_heard", "_is_resting", "_news", "_polls", "_reads", "_waiting",
    )  # fmt: skip

    def __init__(self, polls: Polls, fetch: Round) -> None:
        self._polls = polls
        self._fetch = fetch
        self._ears: dict[Part, Partition] = {}  # parts, and where they are ears
        self._heard: dict[Part, None] = {}  # parts that moved since they were looked at
        self._news: dict[Cached, None] = {}  # of the session: what is due since the look
        self._reads: dict[asyncio.Future[Any], None] = {}  # cold ones
        self._has_looked = False
        self._has_moved = False
        self._is_resting = False  # moves are noted, but do not end the wait
        self._waiting: asyncio.Future[None] | None = None

    def __enter__(self) -> Watch:
        self._polls.add(self._wake)
        if self._fetch.session is not None:
            self._fetch.session.waiting[self] = None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._polls.remove(self._wake)
        if self._fetch.session is not None:
            self._fetch.session.waiting.pop(self, None)
        for part, partition in self._ears.items():
            partition.remove_ear(part)
            part.watch = None  # no circle is left (tests/wire/test_circles.py)
        for read in self._reads:
            read.remove_done_callback(self._came)

    async def look(self) -> None:
        """The fetch's look, and from the same instant on an ear at all that may add to it; a wide one gives others their turns.

        The first one looks at all parts, later ones at those that moved.
        """
        fetch = self._fetch
        self._has_moved = False
        heard, news = self._heard, self._news
        if heard:
            self._heard = {}
        if news:
            self._news = {}
        parts = fetch.due(heard, news) if self._has_looked else [*fetch.parts, *fetch.due((), self._of_session())]
        self._has_looked = True
        for at in range(0, len(parts), SLICE):
            if at:
                await breathe()
            some = parts[at : at + SLICE]
            fetch.classify(some)
            self._listen(some)
        for number, _ in enumerate(fetch.read(), 1):
            if number % SLICE == 0:
                await breathe()
        self._listen_to_store()

    def _of_session(self) -> Iterable[Cached]:
        """What came due before this watch began to hear of it."""
        session = self._fetch.session
        return () if session is None else list(session.due)

    async def read_disk(self) -> None:
        """What the look found on disk; what moves meanwhile is noted."""
        await self._fetch.read_disk()
        self._listen_to_store()

    def _listen(self, parts: list[Part]) -> None:
        ears = self._ears
        for part in parts:
            partition = part.partition
            if partition is not None and part not in ears and part.state is not AT_REST:
                ears[part] = partition
                part.watch = self
                partition.add_ear(part)

    def _listen_to_store(self) -> None:
        for part in self._fetch.in_store():
            read = self._fetch.cold_read(part)
            if read is not None and read not in self._reads:
                self._reads[read] = None
                read.add_done_callback(self._came)  # at once if it came meanwhile

    def heard(self, part: Part) -> None:
        """A part's partition moved; the part is no ear any more."""
        self._ears.pop(part, None)
        part.watch = None
        self._heard[part] = None
        self._moved()

    def is_due(self, cached: Cached) -> None:
        """A partition of the session moved (hotlog.apis.fetch.sessions.Waiting)."""
        self._news[cached] = None
        self._moved()

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
