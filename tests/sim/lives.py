"""Lives of a process that end in one of their calls to the outside.

Invariants: what a process still says or asserts after its death counts no more, unless it was said in the very turn in which it died.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tests.sim.disk import SimDisk
from tests.sim.fuse import Crashed, Fuse
from tests.sim.loop import SimLoop, cancel_tasks


async def lived(fuse: Fuse, work: Awaitable[None]) -> bool:
    """Do `work` in the life of this fuse; whether it came to its end, or the process died in it.  Its tasks are left to whoever ends it."""
    doing, dying = asyncio.create_task(_quietly(work), name="life"), asyncio.create_task(fuse.wait(), name="death")
    await asyncio.wait([doing, dying], return_when=asyncio.FIRST_COMPLETED)
    dying.cancel()
    if doing.done() or not fuse.blown:
        await doing
    return not fuse.blown


async def _quietly(work: Awaitable[None]) -> None:
    with suppress(Crashed):
        await work


async def next_life(loop: SimLoop, disk: SimDisk, fuse: Fuse, *, power: bool) -> SimDisk:
    """End the life on `disk` by a loss of power or by kill -9; what the next one finds, which has `fuse`."""
    found = disk.lose_power(fuse) if power else disk.kill(fuse)
    await cancel_tasks(loop)
    return found


async def die_in_every_call(
    loop: SimLoop, disk: SimDisk, live: Callable[[SimDisk], Awaitable[None]], *, power: bool, quiet_every: int = 0
) -> int:
    """Live on, dying in the first call of a life, then in the second of the next, and so on until one comes to its end; in how many it died.

    Args:
        quiet_every: after so many deaths a life comes to its end undisturbed.
    """
    deaths = 0
    while True:
        fuse = Fuse(deaths + 1)
        disk = await next_life(loop, disk, fuse, power=power)
        if await lived(fuse, live(disk)):
            return deaths
        deaths += 1
        if quiet_every and deaths % quiet_every == 0:
            disk = await next_life(loop, disk, Fuse(), power=power)
            await live(disk)
