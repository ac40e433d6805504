"""The time during which this node coordinates a partition.  Whoever waits for something within it is told when it ends.

    with tenure:
        await something()  # raises NotCoordinator if the tenure ends meanwhile

Works as `asyncio.timeout` does: the waiting task is cancelled, and the cancellation becomes an error at the edge of the block.

Invariants: a cancellation from elsewhere stays one; nobody enters a tenure that is over; a task is in a tenure once at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from hotlog.kernel.errors import NotReady


class NotServed(NotReady):
    """The partition of a group (or other coordinated thing) cannot be read, or does not exist yet."""


class Loading(NotServed):
    """The partition is here and is not read yet."""


class NotCoordinator(NotServed):
    """The partition is not coordinated here, or not any more."""


class Tenure:
    """From `elected` to `resigned`."""

    def __init__(self, name: str) -> None:
        self.is_over = False
        self._name = name
        self._inside: dict[asyncio.Task[object], None] = {}
        self._told: dict[asyncio.Task[object], None] = {}
        self._watching: dict[Callable[[], None], None] = {}

    def watch(self, ended: Callable[[], None]) -> None:
        """Call `ended` when the tenure ends, unless `leave` is called before: for who waits without a task.  It must not raise."""
        self._watching[ended] = None

    def leave(self, ended: Callable[[], None]) -> None:
        self._watching.pop(ended, None)

    def end(self) -> None:
        """Tell all who wait; idempotent."""
        self.is_over = True
        told, self._inside = self._inside, {}
        self._told.update(told)
        for task in told:
            task.cancel()
        watching, self._watching = self._watching, {}
        for ended in watching:
            ended()

    def error(self) -> NotCoordinator:
        return NotCoordinator(f"{self._name} is not coordinated here any more")

    def __enter__(self) -> None:
        if self.is_over:
            raise self.error()
        task = asyncio.current_task()
        assert task is not None
        assert task not in self._inside, "a task is in a tenure once at a time"
        self._inside[task] = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._inside.pop(task, None)
        if task in self._told:
            del self._told[task]
            is_ours = task.uncancel() == 0  # nobody else wants the task to end
            if is_ours and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise self.error() from error
