"""Memory of large requests goes back in a thread: unmapping 50 MB takes ten milliseconds, which the loop has not.

Invariants: memory that somebody still looks at is never taken away (closing a mapping refuses that by itself); after TRIES_MAX turns of the
loop it goes when the last one lets go of it, wherever that is.
"""

from __future__ import annotations

import asyncio
import mmap

from hotlog.world.ports import Disk

TRIES_MAX = 5  # what a request leaves behind on the loop (its task, its context) is gone after a turn or two


def mapping_of(frame: memoryview) -> mmap.mmap | None:
    """The mapping that a large frame lies in."""
    found = frame.obj
    return found if isinstance(found, mmap.mmap) else None


async def unmap(disk: Disk, mapping: mmap.mmap) -> None:
    """Give a mapping back, once nobody looks at it any more."""
    for _ in range(TRIES_MAX):
        await asyncio.sleep(0)
        try:
            await disk.run(mapping.close)
        except BufferError:
            continue
        return
