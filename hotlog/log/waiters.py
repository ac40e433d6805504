"""Tasks that wait until a log has reached an offset; all that wait for it are released together.

Invariants: a waiter is released when its offset is reached, refused when that cannot come any more, and otherwise leaves by itself;
those that left cost next to nothing (once they are more than those that wait, they are swept out together).
"""

from __future__ import annotations

import asyncio
from heapq import heapify, heappop, heappush

_SWEPT_MIN = 64


class OffsetWaiters:
    """Futures by offset, the lowest first."""

    __slots__ = ("_left", "_serial", "heap")

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, asyncio.Future[None]]] = []  # changed here only
        self._left = 0  # about how many of the heap were cancelled
        self._serial = 0  # no two entries compare equal, and futures cannot be compared

    async def wait(self, offset: int) -> None:
        """Until `release` was called with `offset` or more; raises what `refuse` was given."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._serial += 1
        heappush(self.heap, (offset, self._serial, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._leave()
            raise

    def _leave(self) -> None:
        self._left += 1
        if self._left >= max(_SWEPT_MIN, len(self.heap) // 2):
            self.heap = [entry for entry in self.heap if not entry[2].done()]
            heapify(self.heap)
            self._left = 0

    def release(self, offset: int) -> None:
        """Everything below `offset` is reached."""
        heap = self.heap
        while heap and heap[0][0] <= offset:
            future = heappop(heap)[2]
            if not future.done():
                future.set_result(None)

    def refuse(self, error: Exception, above: int = -1) -> None:
        """Offsets above `above` will not be reached."""
        refused = [entry for entry in self.heap if entry[0] > above]
        self.heap = [entry for entry in self.heap if entry[0] <= above]
        heapify(self.heap)
        for _, _, future in sorted(refused):
            if not future.done():
                future.set_exception(error)
