"""An asyncio event loop on virtual time: when everything sleeps, the clock jumps to the next timer.

It rides on asyncio's private `BaseEventLoop._run_once`, which asks `self._selector.select(timeout)` how long to wait; here that
question moves the clock and returns at once.  test_loop.py pins what is used of it.

Invariants: callbacks run in the order asyncio promises (first scheduled first); time never goes back and moves only when nothing is
ready; no thread, no socket, no real clock: whoever asks for one is told so.
"""

from __future__ import annotations

import asyncio
from asyncio import base_events
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
ROUNDS_WITHOUT_TIME_MAX = 2_000_000


class Deadlock(RuntimeError):
    """Nothing is ready and no timer is set: the run would wait for ever."""


class Livelock(RuntimeError):
    """The loop went round and round without time passing."""


class _VirtualSelector:
    """Answers `select` by moving the loop's clock."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        self._loop.pass_time(timeout)
        return []


class SimLoop(base_events.BaseEventLoop):
    """The loop.  `time()` is seconds since the start of the run, exact to the timers that were set."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._rounds = 0
        self._clock_resolution = 1e-9
        self._selector = _VirtualSelector(self)
        self.tasks: list[asyncio.Task[Any]] = []  # in order of creation: all_tasks() is a set ordered by address
        self.set_task_factory(self._make_task)
        self.unhandled: list[str] = []  # failures that nobody awaited
        self.set_exception_handler(self._note_unhandled)

    def _note_unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        failure = context.get("exception")
        if isinstance(failure, Exception) or failure is None:  # a Crashed task is no news
            self.unhandled.append(f"{context.get('message')}: {failure!r}")

    def _make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, context: Any = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, context=context)
        if len(self.tasks) > 512:
            self.tasks = [one for one in self.tasks if not one.done()]
        self.tasks.append(task)
        return task

    def time(self) -> float:
        return self._now

    def pass_time(self, timeout: float | None) -> None:
        if timeout is None:
            waiting = [f"{task.get_name()}: {_where(task)}" for task in self.tasks if not task.done()]
            raise Deadlock("nothing is scheduled; waiting tasks: " + "; ".join(waiting))
        if timeout > 0:
            # Exactly the timer's own instant: adding a difference of floats would drift.
            due = self._scheduled[0].when() if self._scheduled else self._now + timeout  # type: ignore[attr-defined]
            self._now = max(self._now, min(due, self._now + timeout + self._clock_resolution))
            self._rounds = 0
            return
        self._rounds += 1
        if self._rounds > ROUNDS_WITHOUT_TIME_MAX:
            raise Livelock(f"{self._rounds} rounds at {self._now} s without time passing")

    def _process_events(self, event_list: list[Any]) -> None:
        assert not event_list

    def _write_to_self(self) -> None:
        """A wake-up from another thread: there is none."""

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{func!r} wants a thread in the simulator; use world.disk.run")

    def open_tasks(self) -> list[asyncio.Task[Any]]:
        """Tasks that are not done, oldest first."""
        self.tasks = [task for task in self.tasks if not task.done()]
        return list(self.tasks)


def _where(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    return f"{frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else "no frame"


async def cancel_tasks(loop: SimLoop, keep: list[asyncio.Task[Any]] | None = None) -> None:
    """Cancel every open task but the caller's and those in `keep`, and wait for them (what they raise is dropped)."""
    kept = [asyncio.current_task(), *(keep or [])]
    for _ in range(100):
        others = [task for task in loop.open_tasks() if task not in kept]
        if not others:
            return
        for task in reversed(others):
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    raise RuntimeError(f"tasks refuse to end: {[task.get_name() for task in loop.open_tasks()]}")


def run(main: Callable[[SimLoop], Coroutine[Any, Any, T]]) -> T:
    """Run `main(loop)` to its end on a fresh virtual loop; leftover tasks are cancelled."""
    loop = SimLoop()
    try:
        task = loop.create_task(main(loop), name="main")
        try:
            return loop.run_until_complete(task)
        finally:
            loop.run_until_complete(cancel_tasks(loop))
            loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
