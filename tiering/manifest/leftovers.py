"""What lies below a partition and is neither live nor listed as garbage: orphans of uploads that never committed.

The listing and the rows are walked side by side, both by offset, so that no more than the names of one offset are in memory, however many
rows there are.

Invariants: names come ascending by base offset from each stream; a listed object counts only once nothing at its offset can refer to it
any more.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Collection, Sequence

from hotlog.world.ports import ObjectStore
from tiering.manifest.root import Entry
from tiering.objects.keys import ParsedKey, PartitionKeys, parse_key

Rows = AsyncIterator[Entry]  # ascending


class Leftovers:
    """Keys below a partition that nothing expected; `known` are names of pages and garbage objects, complete when `end` is called."""

    def __init__(self, store: ObjectStore, keys: PartitionKeys, known: Collection[str]) -> None:
        self.keys: list[str] = []
        self._listing = store.list(keys.prefix)
        self._known = known
        self._waiting: tuple[str, ParsedKey | None] | None = None  # listed already, beyond what is expected so far
        self._base = -1
        self._expected: set[str] = set()

    async def expect(self, base_offset: int, name: str) -> None:
        """Something refers to `name`; base offsets come ascending."""
        if base_offset > self._base:
            await self._pass(base_offset)
            self._base = base_offset
            self._expected.clear()
        self._expected.add(name)

    async def end(self) -> list[str]:
        """What is left over, after the last that is expected."""
        await self._pass(None)
        return self.keys

    async def _pass(self, base_offset: int | None) -> None:
        """Judge what is listed of segments below `base_offset` (None: all that there is)."""
        while (listed := self._waiting or await self._next()) is not None:
            key, parsed = listed
            if base_offset is not None and not (parsed and parsed.kind == "segment" and parsed.start_offset < base_offset):
                self._waiting = listed
                return
            self._waiting = None
            if parsed is None or not (parsed.name in self._expected or parsed.name in self._known):
                self.keys.append(key)

    async def _next(self) -> tuple[str, ParsedKey | None] | None:
        info = await anext(self._listing, None)
        return None if info is None else (info.key, parse_key(info.key))


async def merged(streams: Sequence[Rows]) -> Rows:
    """Rows of several streams, ascending."""
    heads: list[tuple[int, int, Entry]] = []
    for number, stream in enumerate(streams):
        if (first := await anext(stream, None)) is not None:
            heapq.heappush(heads, (first.base_offset, number, first))
    while heads:
        _, number, row = heapq.heappop(heads)
        yield row
        if (following := await anext(streams[number], None)) is not None:
            heapq.heappush(heads, (following.base_offset, number, following))
