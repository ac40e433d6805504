"""The C allocator, told what this process does: megabyte buffers that live for one request.

glibc gives the top of the heap back to the kernel as soon as 128 KiB of it are free, so that every fetched megabyte would be faulted in
page by page again; keeping it made a hot fetch twice as fast here (docs/benchmarks.md).

Invariants: nothing here changes what the program computes; without glibc it does nothing.
"""

from __future__ import annotations

import ctypes
import sys

from hotlog.kernel.limits import MiB

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of <malloc.h>
HEAP_KEPT_BYTES_MAX = 128 * MiB
MMAP_BYTES_MIN = 32 * MiB  # the largest that glibc accepts


def keep_heap() -> bool:
    """Keep freed memory for the next request; whether the allocator understood."""
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_TRIM_THRESHOLD, HEAP_KEPT_BYTES_MAX)) and bool(mallopt(_MMAP_THRESHOLD, MMAP_BYTES_MIN))


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
