"""Who waits until a log has reached an offset: callbacks, and tasks that `wait`; all that wait for it are told in one turn of the loop.

A request costs one entry of a queue: no task, no future, and no timer of its own.  One timer serves all entries of a log; it is set for
the earliest deadline when it was set, and looks around when it rings.

Invariants: each is told once: that its offset is reached, that this cannot come any more, or that its time is over; the lowest offset is told
first, of equals who came first; tasks that left cost next to nothing (once they are more than those that wait, they are swept out together).
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from functools import partial
from operator import itemgetter

LOG = logging.getLogger(__name__)
_SWEPT_MIN = 64
_NEVER = float("inf")

Told = Callable[[Exception | None], object]
"""Called on the loop with None, or with the reason why the offset was not reached.  It must not raise."""
_NOBODY: deque[tuple[int, Told, float]] = deque(
    maxlen=0
)  # of logs for which nobody ever waited: a deque takes 0.7 KiB when it is made


class OffsetWaiters:
    """Entries by offset, the lowest first."""

    __slots__ = ("_left", "_timer", "waiting")

    def __init__(self) -> None:
        self.waiting = _NOBODY  # (offset, told, deadline), changed here only; bounded by the requests
        self._left = 0  # about how many of them are tasks that left
        self._timer: asyncio.TimerHandle | None = None

    def add(self, offset: int, told: Told, timeout_s: float | None = None) -> None:
        """Call `told` once, later: after `release` was called with `offset` or more, with what `refuse` was given, or with TimeoutError."""
        deadline = _NEVER
        if timeout_s is not None:
            loop = asyncio.get_running_loop()
            deadline = loop.time() + timeout_s
            if self._timer is None or deadline < self._timer.when():
                self._set_timer(loop, deadline)
        waiting = self.waiting
        if waiting is _NOBODY:
            waiting = self.waiting = deque()
        if not waiting or waiting[-1][0] <= offset:  # nearly always: logs grow at their end
            waiting.append((offset, told, deadline))
        else:
            waiting.insert(bisect_right(waiting, offset, key=itemgetter(0)), (offset, told, deadline))

    async def wait(self, offset: int) -> None:
        """Until `release` was called with `offset` or more; raises what `refuse` was given."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.add(offset, _Task(future))
        try:
            await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._leave()
            raise

    def _leave(self) -> None:
        self._left += 1
        if self._left >= max(_SWEPT_MIN, len(self.waiting) // 2):
            self.waiting = deque(entry for entry in self.waiting if not (isinstance(entry[1], _Task) and entry[1].future.done()))
            self._left = 0

    def release(self, offset: int) -> None:
        """Everything below `offset` is reached."""
        while self.waiting and self.waiting[0][0] <= offset:  # looked up anew each time: who is told may have the others refused
            told = self.waiting.popleft()[1]
            try:
                told(None)
            except Exception:  # one request's bug must not keep the acks of the others
                LOG.exception("an ack could not be given")

    def refuse(self, error: Exception, above: int = -1) -> None:
        """Offsets above `above` will not be reached."""
        refused = [entry for entry in self.waiting if entry[0] > above]
        self.waiting = deque(entry for entry in self.waiting if entry[0] <= above)
        self._tell(refused, error)

    def _tell(self, entries: list[tuple[int, Told, float]], error: Exception) -> None:
        for _, told, _ in entries:
            try:
                told(error)
            except Exception:
                LOG.exception("a refusal could not be given")

    # -- deadlines

    def _set_timer(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(deadline, self._rings, loop)

    def _rings(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        late = [entry for entry in self.waiting if entry[2] <= now]
        if late:
            self.waiting = deque(entry for entry in self.waiting if entry[2] > now)
        earliest = min((entry[2] for entry in self.waiting), default=_NEVER)
        if earliest < _NEVER:
            self._set_timer(loop, earliest)
        self._tell(late, TimeoutError())


class _Task:
    """A task that waits."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future

    def __call__(self, error: Exception | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


class Together:
    """Several waits, of any logs, that one task waits for: an entry of a queue each, and one future."""

    __slots__ = ("_done", "_errors", "_left")

    def __init__(self) -> None:
        self._left = 0
        self._errors: dict[int, Exception] = {}
        self._done: asyncio.Future[None] | None = None

    def told(self, number: int) -> Told:
        """What one more wait, `number`, is to call, once."""
        self._left += 1
        return partial(self._told, number)

    def _told(self, number: int, error: Exception | None) -> None:
        if error is not None:
            self._errors[number] = error
        self._left -= 1
        if not self._left and self._done is not None and not self._done.done():
            self._done.set_result(None)

    async def all_told(self) -> dict[int, Exception]:
        """Until each was told; the errors by number."""
        if self._left:
            self._done = asyncio.get_running_loop().create_future()
            await self._done
        return self._errors
