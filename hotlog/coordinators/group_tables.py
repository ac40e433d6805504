"""Where groups are kept: the partitions of __consumer_offsets on this node, read and found by group.

Every group belongs to one partition of __consumer_offsets, found by its name.

Invariants: a partition is read once as long as its log stays the same; one that cannot be read is never served, and the others are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator

from hotlog.coordinators.offset_log import OffsetLog
from hotlog.coordinators.offset_records import GroupValue, partition_for
from hotlog.kernel.errors import HotlogError, NotReady
from hotlog.log.partition_log import PartitionLog
from hotlog.world.ports import Clock

LOG = logging.getLogger(__name__)


class GroupNotServed(NotReady):
    """The group's partition is not loaded, or cannot be read."""


class GroupTables:
    """The callables reach the broker: see GroupCoordinator.  `found` is called with each group that a partition holds, once it is read."""

    def __init__(
        self,
        *,
        clock: Clock,
        log_of: Callable[[int], PartitionLog | None],
        ensure_topic: Callable[[], Awaitable[None]],
        partition_count: Callable[[], int],
        found: Callable[[str, GroupValue, OffsetLog], object],
    ) -> None:
        self._clock = clock
        self._log_of = log_of
        self._ensure_topic = ensure_topic
        self._partition_count = partition_count
        self._found = found
        self._tables: dict[int, OffsetLog] = {}
        self._broken: set[int] = set()
        self._loading = asyncio.Lock()

    def __iter__(self) -> Iterator[OffsetLog]:
        return iter(list(self._tables.values()))

    @property
    def exist(self) -> bool:
        """Whether there is a __consumer_offsets at all."""
        return self._partition_count() > 0

    async def load(self) -> None:
        """Read every partition that is here and was not read yet."""
        async with self._loading:
            for index in range(self._partition_count()):
                log = self._log_of(index)
                if log is None or index in self._broken or (index in self._tables and self._tables[index].log is log):
                    continue
                table = OffsetLog(log, self._clock)
                try:
                    await table.replay()
                except HotlogError:
                    LOG.exception("groups of %s cannot be read and are not served", log.tp)
                    self._broken.add(index)
                    continue
                self._tables[index] = table
                for group_id, value in table.groups():
                    self._found(group_id, value, table)

    async def ensure(self) -> None:
        """Create and load __consumer_offsets if it is missing."""
        if not self.exist:
            await self._ensure_topic()
        await self.load()

    def of(self, group_id: str) -> OffsetLog:
        """The table of the group's partition.

        Raises:
            GroupNotServed: not loaded (yet), or broken.
        """
        count = self._partition_count()
        if count == 0:
            raise GroupNotServed("__consumer_offsets does not exist yet; ask for the coordinator first")
        index = partition_for(group_id, count)
        table = self._tables.get(index)
        if table is None:
            state = "cannot be read" if index in self._broken else "is not loaded yet"
            raise GroupNotServed(f"__consumer_offsets-{index}, which holds group {group_id!r}, {state}")
        return table

    async def for_writing(self, group_id: str) -> OffsetLog:
        """The same; what is missing is created and read first."""
        try:
            return self.of(group_id)
        except GroupNotServed:
            await self.ensure()
            return self.of(group_id)
