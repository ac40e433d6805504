"""How far each node's logs have come, noted in the store: so that a node whose disk is lost gives no offset out twice.

Each life of a node (incarnation) notes in an object of its own, so a process that lives on elsewhere can't set back what a newer one noted;
its first note takes over what older ones say and deletes them.  What is acknowledged after the last note is covered by a margin: who
begins anew begins MARGIN offsets later, unless the note was the last word of a clean stop.

Invariants: what `bound` says was reached by no life that noted, as long as it noted at least every MARGIN offsets; a note that says less
than an older one is never written; a note only ever delays, nothing is deleted because of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

from controller.codec import ENDS, Ends, decode_ends, encode_ends
from controller.keys import ends_key, ends_prefix
from hotlog.kernel.errors import NotFound
from hotlog.world.ports import Clock, ObjectStore

MARGIN = 1_000_000  # offsets
NOTED_EVERY = MARGIN // 4  # a partition that has gone on as far is noted at the next look
NOTED_S = 60.0  # otherwise, and only if something has changed

PartitionEnds = Mapping[UUID, Mapping[int, int]]  # topic id -> partition -> end offset of its log
__all__ = ["ENDS", "MARGIN", "NodeEnds", "PartitionEnds"]


class Older(NamedTuple):
    """What earlier lives of this node noted, and under which keys."""

    newest: Ends | None
    ends: PartitionEnds
    keys: tuple[str, ...]


class NodeEnds:
    """The notes of one node, seen from one life of it.  `last_incarnation` is the life that registered before this one."""

    def __init__(
        self, store: ObjectStore, clock: Clock, *, cluster_id: str, node_id: int, incarnation: UUID, last_incarnation: UUID | None
    ) -> None:
        self._store = store
        self._clock = clock
        self._prefix = ends_prefix(cluster_id, node_id)
        self._key = ends_key(cluster_id, node_id, incarnation)
        self._incarnation = incarnation
        self._last_incarnation = last_incarnation
        self._older: Older | None = None
        self._noted: dict[UUID, dict[int, int]] = {}
        self._noted_at = clock.monotonic() - NOTED_S

    async def older(self) -> Older:
        """What earlier lives noted; read once.

        Raises:
            StoreUnavailable, Corrupt
        """
        if self._older is None:
            self._older = await self._read()
        return self._older

    async def _read(self) -> Older:
        keys = [info.key async for info in self._store.list(self._prefix)]
        keys = [key for key in keys if key != self._key]
        ends: dict[UUID, dict[int, int]] = {}
        newest: Ends | None = None
        for key in keys:
            try:
                note = decode_ends(bytes((await self._store.get(key)).data))
            except NotFound:
                continue
            if newest is None or note.noted_ms > newest.noted_ms:
                newest = note
            is_exact = note.is_final and note.incarnation == self._last_incarnation
            _raise_to(ends, note.ends, 0 if is_exact else MARGIN)
        return Older(newest, ends, tuple(keys))

    async def bound(self, topic_id: UUID, partition: int) -> int:
        """An offset that no earlier life of this node gave out, as far as was noted; 0 where nothing is known."""
        return (await self.older()).ends.get(topic_id, {}).get(partition, 0)

    def is_due(self, gone_on: int) -> bool:
        """Whether it is time for a note; `gone_on`: by how many offsets a log has gone on since the last one, at most."""
        is_late = self._clock.monotonic() - self._noted_at >= NOTED_S
        return gone_on >= NOTED_EVERY or (gone_on > 0 and is_late)

    def gone_on(self, topic_id: UUID, index: int, end: int) -> int:
        """By how many offsets a log has gone on since the last note."""
        return end - self._noted.get(topic_id, {}).get(index, -1)

    async def note(self, ends: PartitionEnds, *, directory_id: str, is_final: bool) -> None:
        """Write how far the logs are.  Of partitions that are not in `ends` what was noted before stays; of topics that are not, nothing.

        Raises:
            StoreUnavailable
        """
        older = await self.older()
        merged = {topic_id: dict(parts) for topic_id, parts in ends.items()}
        for before in (self._noted, older.ends):
            for topic_id, parts in before.items():
                for index, end in parts.items():
                    if topic_id in merged:
                        merged[topic_id].setdefault(index, end)
        note = Ends(
            directory_id=directory_id, incarnation=self._incarnation, is_final=is_final, noted_ms=self._clock.now_ms(), ends=merged
        )  # fmt: skip
        await self._store.put(self._key, encode_ends(note))
        self._noted, self._noted_at = merged, self._clock.monotonic()
        if older.keys:
            await self._store.delete(older.keys)
            self._older = older._replace(keys=())


def _raise_to(ends: dict[UUID, dict[int, int]], noted: PartitionEnds, margin: int) -> None:
    for topic_id, parts in noted.items():
        known = ends.setdefault(topic_id, {})
        for index, end in parts.items():
            known[index] = max(known.get(index, 0), end + margin if end else 0)
