"""What an export or a direct replay reads: the cold tier, the closed hot segments behind it, and what only a broker has behind those, as one range of offsets.

Invariants: the cold tier is read wherever it has an offset (it is committed; local files may go), a broker only for what nothing else has;
offsets between the tiers that none of them has come as a Hole, never silently.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Protocol

from hotlog.kernel.errors import Invalid
from tiering.replay.direct import DirectReader, Hole, Run
from tiering.replay.local_segments import LocalSegments, SegmentGone

_REOPENS_MAX = 5


class Tail(Protocol):
    """What a broker has of one partition, up to the end that consumers saw when it was asked.  Offsets half open."""

    start_offset: int
    end_offset: int

    def runs(self, start: int, end: int) -> AsyncIterator[Run | Hole]:
        """Batches of [start, end) in order; offsets that the broker has no more (retention) as a Hole."""
        ...

    async def offset_at_time(self, timestamp_ms: int) -> int:
        """The first offset with a timestamp >= `timestamp_ms`, or the end."""
        ...


_Part = tuple[int, int, DirectReader | LocalSegments | Tail]


class PartitionSource:
    """One partition over all tiers.  `reopen` looks at the cold tier anew after a local segment was dropped."""

    def __init__(
        self,
        partition: int,
        cold: DirectReader | None,
        tail: Tail | None,
        hot: LocalSegments | None = None,
        reopen: Callable[[int], Awaitable[DirectReader | None]] | None = None,
    ) -> None:
        self.partition = partition
        self._cold = cold
        self._hot = hot
        self._reopen = reopen
        self._tail = tail

    @property
    def start_offset(self) -> int:
        parts = self._parts()
        return parts[0][0] if parts else 0

    @property
    def end_offset(self) -> int:
        parts = self._parts()
        return parts[-1][1] if parts else 0

    @property
    def cold_end(self) -> int:
        """Where the cold tier ends; 0 if it has nothing."""
        return self._cold.history.end_offset if self._cold is not None else 0

    def _parts(self) -> list[_Part]:
        """Ranges that follow each other, each with the first reader that has it."""
        cold = self._cold
        known: list[_Part] = [(cold.history.start_offset, cold.history.end_offset, cold)] if cold is not None else []
        known += [(reader.start_offset, reader.end_offset, reader) for reader in (self._hot, self._tail) if reader is not None]
        parts: list[_Part] = []
        for start, end, reader in known:
            start = max(start, parts[-1][1]) if parts else start
            if start < end:
                parts.append((start, end, reader))
        return parts

    async def offset_at_time(self, timestamp_ms: int) -> int:
        """The first offset with a timestamp >= `timestamp_ms`, or the end."""
        for start, end, reader in self._parts():
            found = await reader.offset_at_time(timestamp_ms)
            if found < end:
                return max(found, start)
        return self.end_offset

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
                assert self._reopen is not None, "who gives local segments says what follows them"
                self._cold = await self._reopen(self.partition)
        raise Invalid(
            f"local segments of partition {self.partition} go faster than they can be read; export from the store alone"
        )

    async def _runs(self, start: int, end: int) -> AsyncGenerator[Run | Hole, None]:
        parts = self._parts()
        for part_start, part_end, reader in parts:
            if start >= end or part_end <= start:
                continue
            if start < part_start:
                if part_start != parts[0][0]:
                    yield Hole(start, min(part_start, end), "between the tiers")
                start = part_start
            if start < min(part_end, end):
                async with aclosing(reader.runs(start, min(part_end, end))) as items:  # type: ignore[type-var]
                    async for item in items:
                        yield item
            start = part_end
