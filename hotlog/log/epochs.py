"""Leader epochs of one partition: which epoch began at which offset (KIP-101, KIP-279).  Pure.

Invariants: epochs strictly ascend, start offsets ascend; no entry starts beyond the log's end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

NONE = (-1, -1)


class LeaderEpochs:
    """Entries (epoch, start offset), as in leader-epoch-checkpoint."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Iterable[tuple[int, int]] = ()) -> None:
        self._entries: list[tuple[int, int]] = list(entries)

    @property
    def entries(self) -> tuple[tuple[int, int], ...]:
        return tuple(self._entries)

    @property
    def latest(self) -> int:
        """The newest epoch, -1 if there is none."""
        return self._entries[-1][0] if self._entries else -1

    def assign(self, epoch: int, start_offset: int) -> bool:
        """Note that `epoch` begins at `start_offset`; whether that was news.  An older or known epoch is ignored.

        Entries at or beyond `start_offset` never got a record and go, as in LeaderEpochFileCache.
        """
        if epoch < 0 or (self._entries and epoch <= self._entries[-1][0]):
            return False
        while self._entries and self._entries[-1][1] >= start_offset:
            self._entries.pop()
        self._entries.append((epoch, start_offset))
        return True

    def end_offset_for(self, epoch: int, log_end: int) -> tuple[int, int]:
        """(largest known epoch <= `epoch`, the offset where it ends); (-1, -1) if unknown (OffsetForLeaderEpoch)."""
        if epoch < 0 or not self._entries:
            return NONE
        if epoch == self.latest:
            return epoch, log_end
        if epoch > self.latest:
            return NONE
        above = bisect_right(self._entries, epoch, key=lambda entry: entry[0])
        if above == 0:
            return epoch, self._entries[0][1]  # older than all we know: ends where our first begins
        return self._entries[above - 1][0], self._entries[above][1]

    def epoch_at(self, offset: int) -> int:
        """The epoch that wrote `offset`, -1 if unknown."""
        above = bisect_right(self._entries, offset, key=lambda entry: entry[1])
        return self._entries[above - 1][0] if above else -1

    def truncate_end(self, end_offset: int) -> bool:
        """Forget epochs that begin at or beyond `end_offset`; whether any went."""
        before = len(self._entries)
        while self._entries and self._entries[-1][1] >= end_offset:
            self._entries.pop()
        return len(self._entries) != before

    def truncate_start(self, start_offset: int) -> bool:
        """Forget epochs that ended at or before `start_offset`; the one that holds it now begins there."""
        above = bisect_right(self._entries, start_offset, key=lambda entry: entry[1])
        if above == 0 or (above == 1 and self._entries[0][1] == start_offset):
            return False
        self._entries[:above] = [(self._entries[above - 1][0], start_offset)]
        return True

    def up_to(self, end_offset: int) -> tuple[tuple[int, int], ...]:
        """Entries that begin below `end_offset`: what belongs to a segment's footer."""
        return tuple(entry for entry in self._entries if entry[1] < end_offset)
