"""What would be lost if this data directory took the place of another one of the same node: records that only the other one has.

What was acknowledged and is not in the store is on the other directory's disk alone.  That is given up knowingly (`--adopt`) or not at all.

Invariants: nothing is written to the store before it is allowed; every partition that this node leads and that may lose something is named.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from controller.ends import NodeEnds, Older
from controller.image import ClusterImage
from hotlog.kernel.errors import ForeignStore
from hotlog.kernel.ids import PartitionId

LOG = logging.getLogger(__name__)
AT_ONCE = 32
NAMED_MAX = 10_000
TieredEnd = Callable[[PartitionId], Awaitable[int]]  # first offset that the store has not; 0 if it has nothing


class Takeover:
    """Decides for one start.  `is_adopting`: the operator said so."""

    def __init__(
        self,
        *,
        node_id: int,
        is_adopting: bool,
        ends: Callable[[], NodeEnds],
        directory_id: Callable[[], str],
        tiered_end: TieredEnd,
    ) -> None:
        self._node_id = node_id
        self._is_adopting = is_adopting
        self._ends = ends
        self._directory_id = directory_id
        self._tiered_end = tiered_end

    async def __call__(self, image: ClusterImage) -> None:
        """Return if this directory may take the place.

        Raises:
            ForeignStore: it may not; the message names what would be lost.  StoreUnavailable: that cannot be told.
        """
        older = await self._ends().older()
        if older.newest is not None and older.newest.directory_id == self._directory_id():
            return  # the same directory, whose copy of the metadata was lost
        losses = await self._losses(image, older)
        told = "\n".join(losses[:NAMED_MAX] + ([f"  and {len(losses) - NAMED_MAX} more"] if len(losses) > NAMED_MAX else []))
        if self._is_adopting:
            LOG.warning(
                "this data directory takes the place of another one of node.id=%d (--adopt); given up with that:\n%s",
                self._node_id,
                told,
            )
            return
        raise ForeignStore(
            f"node.id={self._node_id} of this cluster was last run from another data directory{_when(older)}, not from this one.  Records that were"
            f" acknowledged and are not in the store are only there, and would be lost:\n{told}\n"
            "Start with that directory (see --data-dir), or with --adopt to go on here without those records; a second broker wants a node.id of"
            ' its own.  docs/operations.md, "A lost data directory", has the ways back.'
        )

    async def _losses(self, image: ClusterImage, older: Older) -> list[str]:
        """A line for each partition that may lose something, by name."""
        wanted = [
            (topic.name, PartitionId(topic.topic_id, index))
            for topic in sorted(image.topics.values(), key=lambda one: one.name)
            for index, part in enumerate(topic.partitions)
            if part.leader == self._node_id
        ]
        gate = asyncio.Semaphore(AT_ONCE)

        async def line(name: str, pid: PartitionId) -> str | None:
            async with gate:
                tiered = await self._tiered_end(pid)
            return _loss(f"{name}-{pid.partition}", tiered, older, pid)

        lines = await asyncio.gather(*(line(name, pid) for name, pid in wanted))
        found = [one for one in lines if one is not None]
        if found:
            return found
        is_exact = older.newest is not None and older.newest.is_final
        return [
            "  none: the store has all of it"
            if is_exact
            else "  none that was noted; what was acknowledged after the last note is not known"
        ]


def _loss(name: str, tiered: int, older: Older, pid: PartitionId) -> str | None:
    newest = older.newest
    if newest is None:
        return f"  {name}: offsets from {tiered} on (nobody noted how many)"
    noted = newest.ends.get(pid.topic_id, {}).get(pid.partition, 0)
    if noted > tiered:
        end = f"{noted}" if newest.is_final else f"{noted} at least"
        return f"  {name}: offsets {tiered} to {end}"
    return None if newest.is_final or noted < tiered or not noted else f"  {name}: offsets from {noted} on, if there were any"


def _when(older: Older) -> str:
    if older.newest is None:
        return ""
    noted = datetime.fromtimestamp(older.newest.noted_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f" (directory.id {older.newest.directory_id}, {'stopped' if older.newest.is_final else 'last heard of'} at {noted})"
