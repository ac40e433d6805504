"""The C allocator, told what this process does: megabyte buffers that live for one request.

glibc gives the top of the heap back to the kernel as soon as 128 KiB of it are free, so that every fetched megabyte would be faulted in
page by page again; keeping it made a hot fetch twice as fast here (docs/benchmarks.md).  What a burst leaves behind is given back by
`FreedMemory`: keeping is for the next request, not for ever.  And glibc gives threads heaps of their own, up to eight for each processor, each of
which keeps the most that it ever held: with tens of threads that read and check megabytes, their sum has no bound worth the name.  Few heaps
are enough where one interpreter lock lets one thread allocate at a time.

Invariants: nothing here changes what the program computes; without glibc it does nothing.
"""

from __future__ import annotations

import ctypes
import functools
import resource
import sys

from hotlog.kernel.limits import MiB
from hotlog.world.ports import Disk

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX of <malloc.h>
HEAP_KEPT_BYTES_MAX = 128 * MiB
MMAP_BYTES_MIN = 32 * MiB  # the largest that glibc accepts
HEAPS_MAX = 2
FREED_BYTES_MAX = 2 * HEAP_KEPT_BYTES_MAX  # resident, free and not asked for again: above it all is given back
GIVE_BACK_S = 5.0


def keep_heap() -> bool:
    """Keep freed memory for the next request; whether the allocator understood."""
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_TRIM_THRESHOLD, HEAP_KEPT_BYTES_MAX), (_MMAP_THRESHOLD, MMAP_BYTES_MIN), (_ARENA_MAX, HEAPS_MAX))
    return all([mallopt(*each) for each in wanted])


class FreedMemory:
    """Memory that was freed and that the allocator keeps.  `tick` every GIVE_BACK_S."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._kept = resident_beyond_use()  # the last time when all was given back
        self._is_high = False

    async def tick(self) -> bool:
        """Give back what two looks in a row found free; a disk thread does it, since it takes about 0.1 ms per MiB."""
        await self._disk.run(self._look)
        return False

    def _look(self) -> None:
        beyond = resident_beyond_use()
        if beyond is None or self._kept is None:
            return
        self._kept = min(self._kept, beyond)
        was_high, self._is_high = self._is_high, beyond - self._kept > FREED_BYTES_MAX
        if was_high and self._is_high:
            _trim()
            self._kept, self._is_high = resident_beyond_use(), False


def resident_beyond_use() -> int | None:
    """Bytes of this process in memory that the C allocator did not give out: code, Python's own arenas, what was freed.  None: no glibc."""
    mallinfo = getattr(_libc(), "mallinfo2", None)
    if mallinfo is None:
        return None
    mallinfo.restype = _Mallinfo
    found = mallinfo()
    with open("/proc/self/statm", encoding="ascii") as statm:
        pages = int(statm.read().split()[1])
    return pages * resource.getpagesize() - int(found.uordblks + found.hblkhd)


def _trim() -> None:
    libc = _libc()
    assert libc is not None, "mallinfo2 was there"
    libc.malloc_trim(ctypes.c_size_t(HEAP_KEPT_BYTES_MAX))


class _Mallinfo(ctypes.Structure):
    """struct mallinfo2 of <malloc.h>."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


@functools.cache
def _libc() -> ctypes.CDLL | None:
    """Opened once: each opening leaves a circle of classes to the garbage collector."""
    return ctypes.CDLL(None) if sys.platform == "linux" else None
