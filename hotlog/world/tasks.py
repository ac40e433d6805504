"""TaskScope: ordered, owned concurrency.

asyncio.TaskGroup cancels its children in the order of a set of addresses, so one program cancels in different orders from run to
run; a seed could not replay that.  This scope keeps a list.

Invariants: no task outlives its scope; children are cancelled newest first, then awaited oldest first; the first failure is what leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


class TaskScope:
    """Async context manager that owns the tasks started in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._tasks: list[asyncio.Task[Any]] = []
        self._failure: BaseException | None = None
        self._owner: asyncio.Task[Any] | None = None
        self._closing = False

    async def __aenter__(self) -> TaskScope:
        self._owner = asyncio.current_task()
        return self

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
        """Run `coroutine` as a child; its failure cancels the scope's body and siblings."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name or self.name)
        self._tasks.append(task)
        task.add_done_callback(self._child_done)
        return task

    def _child_done(self, task: asyncio.Task[Any]) -> None:
        if task in self._tasks and not self._closing:
            self._tasks.remove(task)
        if task.cancelled():
            return
        failure = task.exception()
        if failure is not None and self._failure is None:
            self._failure = failure
            if self._owner is not None and not self._closing and not self._owner.done():
                self._owner.cancel()

    async def cancel(self) -> None:
        """Cancel all children, newest first, and wait for each, oldest first."""
        self._closing = True
        tasks = list(self._tasks)
        for task in reversed(tasks):
            task.cancel()
        for task in tasks:
            try:
                await task
            except asyncio.CancelledError:
                current = asyncio.current_task()
                if not task.cancelled() and current is not None and current.cancelling():
                    raise
            except Exception as failure:
                self._failure = self._failure or failure
        self._tasks.clear()

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            try:
                while self._tasks and self._failure is None:
                    await asyncio.wait(list(self._tasks), return_when=asyncio.FIRST_EXCEPTION)
            except asyncio.CancelledError:
                if self._failure is None:  # from outside
                    await self.cancel()
                    raise
                kind = asyncio.CancelledError  # our own: a child failed while the scope was waiting here
        await self.cancel()
        if self._failure is not None and (kind is None or kind is asyncio.CancelledError):
            if self._owner is not None and kind is asyncio.CancelledError:
                self._owner.uncancel()
            raise self._failure
