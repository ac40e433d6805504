"""The local segments of one log, oldest first, the active one last.

Invariants: `all` is a tuple that is swapped as a whole and never empty, so that a reader in a thread keeps what it has seen; base offsets
ascend, and a segment ends where the next one begins (in a compacted log at or before it); each knows the bytes before it, so that a sum over
any run of closed ones costs the same however many they are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from hotlog.log.index import AbortedTransaction
from hotlog.log.segment import Segment, SegmentInfo

BASE_OFFSET = attrgetter("base_offset")


class Backlog(NamedTuple):
    """The closed segments that end above an offset: the oldest, how many they are, their bytes, and all bytes of log behind the oldest."""

    oldest: SegmentInfo
    segments: int
    size: int
    newer: int


class Segments:
    """The tuple and its swaps."""

    __slots__ = ("all", "have_txn")

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.all: tuple[Segment, ...] = tuple(segments)
        self.have_txn = False  # one of them has aborted transactions, whose records may lie in those before it
        self._count_from(1)
        self._look_for_txn()

    def _look_for_txn(self) -> None:
        self.have_txn = any(segment.has_txn for segment in self.all)

    def has_aborted(self) -> bool:
        """Whether any transaction was aborted here."""
        return self.have_txn

    def note_aborted(self, entry: AbortedTransaction) -> None:
        """A marker in the active segment has aborted a transaction."""
        self.all[-1].note_aborted(entry)
        self.have_txn = True

    @property
    def active(self) -> Segment:
        return self.all[-1]

    @property
    def size(self) -> int:
        """Bytes of all log files."""
        first, last = self.all[0], self.all[-1]
        return last.before + last.size - first.before

    def closed_above(self, offset: int) -> Backlog | None:
        """The closed segments that hold anything at or above `offset`; None if there are none.  As cheap for many as for one."""
        segments, index = self.all, self.index_of(offset)
        last = len(segments) - 1
        while index < last and (segments[index].end_offset <= offset or not segments[index].size):
            index += 1
        if index == last:
            return None
        first = segments[index]
        size = segments[last].before - first.before
        return Backlog(first.closed_info or first.info(), last - index, size, size - first.size + segments[last].size)

    def infos(self) -> tuple[SegmentInfo, ...]:
        """What others see of them."""
        return tuple([segment.closed_info or segment.info() for segment in self.all])

    def at(self, base_offset: int) -> Segment | None:
        """The segment with that base offset."""
        segment = self.all[self.index_of(base_offset)]
        return segment if segment.base_offset == base_offset else None

    def index_of(self, offset: int) -> int:
        """Number of the last segment that begins at or below `offset`, 0 if none does."""
        return max(bisect_right(self.all, offset, key=BASE_OFFSET) - 1, 0)

    # -- swaps

    def _count_from(self, index: int) -> None:
        for before, segment in zip(self.all[index - 1 :], self.all[index:], strict=False):
            segment.before = before.before + before.size

    def add(self, fresh: Segment) -> None:
        """`fresh` is the active one from now on."""
        last = self.all[-1]
        fresh.before = last.before + last.size
        self.all = (*self.all, fresh)

    def drop_oldest(self, count: int) -> None:
        assert 0 <= count < len(self.all), "the active one stays"
        self.all = self.all[count:]
        self._look_for_txn()

    def end_with(self, count: int, last: Segment) -> None:
        """Only the oldest `count` remain, and behind them `last`, which is the active one from now on."""
        self.all = (*self.all[:count], last)
        self._count_from(len(self.all) - 1 if count else 1)
        self._look_for_txn()

    def replace(self, old: Sequence[Segment], new: Sequence[Segment]) -> None:
        """`new` stand where the run `old` stood.

        Raises:
            ValueError: `old` is not a run of closed segments.
        """
        first = self.all.index(old[0])
        if self.all[first : first + len(old)] != tuple(old) or first + len(old) >= len(self.all):
            raise ValueError("only a run of closed segments can be replaced")
        self.all = (*self.all[:first], *new, *self.all[first + len(old) :])
        self._count_from(max(first, 1))
        self._look_for_txn()
