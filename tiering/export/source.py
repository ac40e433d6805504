"""What an export reads: the cold tier, then the closed hot segments behind it, as one range of offsets.

Invariants: the cold tier is read wherever it has an offset (it is committed; local files may go); offsets between the tiers that neither
has come as a Hole, never silently.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from hotlog.kernel.errors import Invalid
from tiering.direct import DirectReader, Hole, Run
from tiering.local_segments import LocalSegments, SegmentGone

_REOPENS_MAX = 5


class PartitionSource:
    """One partition over both tiers.  `reopen` looks at the cold tier anew after a local segment was dropped."""

    def __init__(
        self,
        partition: int,
        cold: DirectReader | None,
        hot: LocalSegments | None,
        reopen: Callable[[int], Awaitable[DirectReader | None]],
    ) -> None:
        self.partition = partition
        self._cold = cold
        self._hot = hot
        self._reopen = reopen

    @property
    def start_offset(self) -> int:
        parts = [part for part in (self._cold_range(), self._hot_range()) if part]
        return min(part[0] for part in parts) if parts else 0

    @property
    def end_offset(self) -> int:
        parts = [part for part in (self._cold_range(), self._hot_range()) if part]
        return max(part[1] for part in parts) if parts else 0

    def _cold_range(self) -> tuple[int, int] | None:
        if self._cold is None or self._cold.history.start_offset >= self._cold.history.end_offset:
            return None
        return self._cold.history.start_offset, self._cold.history.end_offset

    def _hot_range(self) -> tuple[int, int] | None:
        """What only the hot tier has."""
        if self._hot is None:
            return None
        cold = self._cold_range()
        start = max(self._hot.start_offset, cold[1]) if cold else self._hot.start_offset
        return (start, self._hot.end_offset) if start < self._hot.end_offset else None

    async def offset_at_time(self, timestamp_ms: int) -> int:
        """The first offset with a timestamp >= `timestamp_ms`, or the end."""
        cold = self._cold_range()
        if self._cold is not None and cold is not None:
            found = await self._cold.offset_at_time(timestamp_ms)
            if found < cold[1] or self._hot_range() is None:
                return found
        return await self._hot.offset_at_time(timestamp_ms) if self._hot is not None else self.end_offset

    async def aborted(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """Aborted transactions of both tiers: the end of one that began in the cold tier may lie in the hot one."""
        cold = await self._cold.aborted(start, end) if self._cold is not None else []
        return cold + (await self._hot.aborted(start, end) if self._hot is not None else [])

    async def runs(self, start: int, end: int) -> AsyncGenerator[Run | Hole, None]:
        """Batches and holes of [start, end) in order."""
        for _ in range(_REOPENS_MAX):
            try:
                async with aclosing(self._runs(start, end)) as parts:
                    async for part in parts:
                        start = part.end_offset
                        yield part
                return
            except SegmentGone as gone:
                start = max(start, gone.offset)
                self._cold = await self._reopen(self.partition)
        raise Invalid(
            f"local segments of partition {self.partition} go faster than they can be read; export from the store alone"
        )

    async def _runs(self, start: int, end: int) -> AsyncGenerator[Run | Hole, None]:
        cold, hot = self._cold_range(), self._hot_range()
        if self._cold is not None and cold is not None and start < cold[1]:
            async with aclosing(self._cold.runs(max(start, cold[0]), min(end, cold[1]))) as parts:
                async for part in parts:
                    yield part
            start = cold[1]
        if self._hot is None or hot is None or start >= end:
            return
        if start < hot[0] < end and cold is not None:
            yield Hole(start, hot[0], "between the tiers")
        async with aclosing(self._hot.runs(max(start, hot[0]), end)) as runs:
            async for run in runs:
                yield run
