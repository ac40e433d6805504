"""Fetches of the short way that wait: who wakes them, when their time is over, and how many of them look in one turn of the loop.

A fetch that waits costs one entry of a table: no task, no future, and no timer of its own.  Those that wait equally long stand in one line, whose
first is due first; one timer serves a line.  What wakes a fetch does so in the midst of something, so it looks a little later; all that were woken
together look together, and what one of them finds the others need not look for.

Invariants: a fetch is answered once, or its connection is lost; one that left is in no line and is an ear of nothing; one turn looks at AT_ONCE; who
would begin to wait while the broker is stopping does not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

from hotlog.answers.api import Pending, RequestContext
from hotlog.apis.fetch.replies import refuse
from hotlog.apis.fetch.shared import Shared
from hotlog.wire.error_codes import is_expected
from hotlog.wire.fetch_request import FetchRequest

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

LOG = logging.getLogger(__name__)

WAIT_MS_MAX = 60_000  # the longest poll, whatever the client says
AT_ONCE = 128  # fetches that look in one turn of the loop: 1 to 2 ms
LINES_MAX = 64  # clients choose how long they wait
REST_SECONDS = 0.005  # between looks while fewer than the client's min bytes are there
SLACK_SECONDS = 0.0005  # who is due so soon need not be rung for again


class Waiter(Pending):
    """One fetch.  `is_late`: its time is over, so it is answered with whatever is there; `has_rested`: it may wait for the next move again."""

    __slots__ = ("has_rested", "is_late", "line", "rest", "task", "waits")
    holds = True

    def __init__(self, waits: Waits) -> None:
        self.buffers = self.owner = self.door = None  # as Pending.__init__, without a call
        self.has_failed = self.is_late = self.has_rested = False
        self.waits = waits
        self.line: Line | None = None
        self.rest: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None

    def look(self, shared: Shared) -> None:
        """Answer, or wait for the next move."""
        raise NotImplementedError

    def leave(self) -> None:
        """Be an ear no more."""
        raise NotImplementedError

    def go_long(self) -> None:
        """Have the general way answer."""
        raise NotImplementedError

    def moved(self) -> None:
        """What it waits for moved (hotlog.log.marks.Ear)."""
        if self.rest is None:
            self.waits.wake(self)

    def gone(self) -> bool:
        self.owner = None
        self.waits.end(self)
        if self.task is not None:
            self.task.cancel()
        return True


class Line:
    """Fetches that wait equally long, and when the time of each is over (monotonic seconds): first come, first due."""

    __slots__ = ("deadlines", "timer", "wait_ms")

    def __init__(self, wait_ms: int) -> None:
        self.wait_ms = wait_ms
        self.deadlines: dict[Waiter, float] = {}  # bounded by the connections, as each of them waits once
        self.timer: asyncio.TimerHandle | None = None


class Waits:
    """All that wait (`broker.kept`)."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._monotonic = broker.clock.monotonic
        self._lines: dict[int, Line] = {}  # by ms; bounded by LINES_MAX
        self._woken: dict[Waiter, None] = {}  # bounded by who waits
        self._is_due = False
        self._tasks: set[asyncio.Task[None]] = set()
        broker.polls.add(self.hurry)

    def __len__(self) -> int:
        return sum(len(line.deadlines) for line in self._lines.values())

    def has_room(self, wait_ms: int) -> bool:
        """Whether a fetch may begin to wait that long."""
        return (wait_ms in self._lines or len(self._lines) < LINES_MAX) and not self._broker.polls.is_stopping

    def begin(self, waiter: Waiter, wait_ms: int) -> None:
        """Wait from now on."""
        line = self._lines.get(wait_ms)
        if line is None:
            line = self._lines[wait_ms] = Line(wait_ms)
        waiter.line = line
        line.deadlines[waiter] = self._monotonic() + wait_ms / 1000
        if line.timer is None:
            line.timer = asyncio.get_running_loop().call_later(wait_ms / 1000, self._ring, line)

    def end(self, waiter: Waiter) -> None:
        """Wait no more."""
        waiter.leave()
        line, waiter.line = waiter.line, None
        if line is not None:
            del line.deadlines[waiter]
            if line.timer is None and not line.deadlines:
                del self._lines[line.wait_ms]
        if waiter.rest is not None:
            waiter.rest.cancel()
            waiter.rest = None
        self._woken.pop(waiter, None)

    def rest(self, waiter: Waiter) -> None:
        """Look again in a little while, whatever moves: there are many small appends, and too few bytes yet."""
        waiter.rest = asyncio.get_running_loop().call_later(REST_SECONDS, self._rested, waiter)

    def _rested(self, waiter: Waiter) -> None:
        waiter.rest = None
        waiter.has_rested = True
        self.wake(waiter)

    # Who looks

    def wake(self, waiter: Waiter) -> None:
        """Look again, after all that happens now has happened."""
        self._woken[waiter] = None
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        woken, shared = self._woken, Shared()
        try:
            for waiter in list(islice(woken, AT_ONCE)):
                if waiter not in woken:  # its connection was lost meanwhile
                    continue
                del woken[waiter]
                try:
                    waiter.look(shared)
                except Exception:
                    LOG.exception("a fetch that waits could not look")
                    if waiter.buffers is None:
                        waiter.go_long()
        finally:
            self._is_due = bool(woken)
            if woken:
                asyncio.get_running_loop().call_soon(self._look)

    def _ring(self, line: Line) -> None:
        """The time of the first in a line is over, or was."""
        line.timer = None
        now = self._monotonic() + SLACK_SECONDS
        for waiter, deadline in line.deadlines.items():
            if deadline > now:
                line.timer = asyncio.get_running_loop().call_later(deadline - now, self._ring, line)
                break
            waiter.is_late = True
            self.wake(waiter)
        if not line.deadlines:
            del self._lines[line.wait_ms]

    def hurry(self) -> None:
        """Let all answer with what they have."""
        for line in self._lines.values():
            for waiter in line.deadlines:
                waiter.is_late = True
                self.wake(waiter)

    # What is not for the short way after all

    def hand_over(self, waiter: Waiter, context: RequestContext, request: FetchRequest, begin: Callable[[], Any]) -> None:
        """Have what `begin` returns, or what that is awaited for, be the answer."""
        self.end(waiter)
        work = self._long(waiter, context, request, begin)
        waiter.task = task = asyncio.get_running_loop().create_task(work, name="fetch")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _long(self, waiter: Waiter, context: RequestContext, request: FetchRequest, begin: Callable[[], Any]) -> None:
        try:
            answer = begin()
            if hasattr(answer, "__await__"):
                answer = await answer
        except Exception as error:
            answer = refused(context, request, error)
        waiter.known(waiter.door.encode(context.correlation_id, answer), has_failed=context.has_failed)

    async def close(self) -> None:
        """Give up what the general way does for them (the broker is stopping)."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def refused(context: RequestContext, request: FetchRequest, error: Exception) -> Any:
    """The answer to a request that failed as a whole, as dispatch has it for the general way."""
    if not is_expected(error):
        LOG.error("Fetch version %d failed", context.version, exc_info=error)
    context.has_failed = True
    return refuse(context, request, error)
