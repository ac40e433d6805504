"""Which partitions of the cold tier are to be looked at: those in which something happened, and those whose time has come.

Invariants: a partition in which nothing happens costs nothing; one look takes at most LOOKED_AT_ONCE partitions; of the times a partition is to be
looked at, only the one noted last counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Iterator

from hotlog.kernel.ids import PartitionId
from tiering.cold_partition import ColdPartition

LOOKED_AT_ONCE = 256  # partitions, in one turn of the event loop


class Attention:
    """The partitions to look at now, and the times at which others are due.  Times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._stirred: dict[PartitionId, ColdPartition] = {}
        self._has_stirred = asyncio.Event()
        self._alarms: list[tuple[float, int, ColdPartition]] = []  # those that were put off are passed over
        self._numbers = itertools.count()

    def __len__(self) -> int:
        """How many partitions are to be looked at."""
        return len(self._stirred)

    def stir(self, cold: ColdPartition) -> None:
        self._stirred[cold.pid] = cold
        self._has_stirred.set()

    def forget(self, pid: PartitionId) -> None:
        self._stirred.pop(pid, None)

    def wake_at(self, cold: ColdPartition, when: float) -> None:
        """`cold` is to be looked at again at `when`, and no more at the time noted before."""
        if cold.alarm_at != when:
            cold.alarm_at = when
            heapq.heappush(self._alarms, (when, next(self._numbers), cold))

    def due(self, now: float) -> Iterator[ColdPartition]:
        """Those whose time has come; each once."""
        while self._alarms and (self._alarms[0][0] <= now or self._alarms[0][2].alarm_at != self._alarms[0][0]):
            when, _, cold = heapq.heappop(self._alarms)
            if cold.alarm_at == when:
                cold.alarm_at = 0.0
                yield cold

    def take_some(self) -> Iterator[ColdPartition]:
        """Partitions to be looked at now, oldest first."""
        for _ in range(min(LOOKED_AT_ONCE, len(self._stirred))):
            yield self._stirred.pop(next(iter(self._stirred)))

    def begin_wait(self) -> None:
        """What stirs from here on ends the next `wait`."""
        self._has_stirred.clear()

    async def wait(self, now: float, seconds_max: float | None) -> None:
        """Until something stirs, a partition's time comes, or `seconds_max` are over (None: for ever)."""
        waits = [] if seconds_max is None else [seconds_max]
        if self._alarms:
            waits.append(max(0.0, self._alarms[0][0] - now))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(waits, default=None)):
                await self._has_stirred.wait()
