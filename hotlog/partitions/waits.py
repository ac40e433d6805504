"""Waiting for the commit of several partitions at once: an entry of a queue for each, and one future for all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from hotlog.log.waiters import Together
from hotlog.partitions.partition import Partition

IN_A_TURN = 256  # partitions asked before others get a turn


async def all_committed(ends: Iterable[tuple[Partition, int]], timeout_s: float) -> dict[int, Exception]:
    """Until everything below its offset is committed in each partition, or cannot be any more, or `timeout_s` seconds are over.

    Returns the errors by the number of the partition in `ends`: StorageFailed, NotReady (it was cut off) or TimeoutError.
    """
    together = Together()
    for number, (partition, end) in enumerate(ends):
        partition.when_committed(end, together.told(number), timeout_s)
        if number % IN_A_TURN == IN_A_TURN - 1:
            await asyncio.sleep(0)
    return await together.all_told()
