"""Large receive buffers that are used again once nobody looks at them any more.

A run of chunks is 16 MiB.  Taken fresh from the system each time, its pages cost more CPU than the transfer that fills them: page faults,
zeroing, and on a virtual machine the host's own.  So buffers come back by themselves: one is free when no memoryview of it is alive, whoever
had the last (the chunk cache, a reply that a slow client has not taken yet, a thread that was told to stop).  Huge pages are not asked for:
they make faults few, but a virtual machine's free blocks of that size are the ones its host has taken back, and cost it twice as much.

Each use of a buffer is an object of its own (a view's `obj`), whose end can be watched (tiering.cache.loans).

Invariants: memory of a living view is never handed out again; what is kept for later is at most `idle_bytes_max`; a buffer is larger
than what was asked for by less than SLACK_BYTES, so that who counts his views' lengths counts what is held.
"""

from __future__ import annotations

import mmap
import sys
from ctypes import c_char

from hotlog.kernel.limits import RANGE_BYTES_MAX, MiB

LARGE_BYTES_MIN = 1 * MiB  # below, a fresh buffer costs as little
LARGE_BYTES_MAX = 4 * RANGE_BYTES_MAX  # above, nobody on a hot path asks; and a range that no object has must not cost its size
SLACK_BYTES = 1 * MiB
IDLE_BYTES_MAX = 4 * RANGE_BYTES_MAX
_FREE_REFERENCES = 2  # the list's and the argument of getrefcount; every view's chain ends in one more
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


class Buffers:
    """Buffers of one store.  Not thread-safe: one thread takes; views may die in any."""

    def __init__(self, idle_bytes_max: int = IDLE_BYTES_MAX) -> None:
        self._idle_bytes_max = idle_bytes_max
        self._kept: list[mmap.mmap] = []  # free ones and used ones, most recently handed out last

    @property
    def idle_bytes(self) -> int:
        """Bytes of kept buffers that nobody looks at."""
        return sum(len(self._kept[at]) for at in range(len(self._kept)) if self._is_free(at))

    def buffer_of(self, size: int) -> memoryview:
        """A writable view of exactly `size` bytes, of any content."""
        found, idle = -1, 0
        for at in range(len(self._kept) - 1, -1, -1):  # the most recently used first: it is the warmest
            if not self._is_free(at):
                continue
            held = len(self._kept[at])
            if found < 0 and size <= held < size + SLACK_BYTES:
                found = at
                continue
            idle += held
            if idle > self._idle_bytes_max:
                del self._kept[at]  # unmapped: this was its last reference
                idle -= held
                found -= found > at
        buffer = self._kept.pop(found) if found >= 0 else _mapped(size)
        self._kept.append(buffer)
        return memoryview((c_char * len(buffer)).from_buffer(buffer)).cast("B")[:size]

    def _is_free(self, at: int) -> bool:
        return sys.getrefcount(self._kept[at]) == _FREE_REFERENCES


def _mapped(size: int) -> mmap.mmap:
    return mmap.mmap(-1, -(-size // SLACK_BYTES) * SLACK_BYTES, flags=_PRIVATE)
