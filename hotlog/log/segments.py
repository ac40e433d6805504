"""The local segments of one log, oldest first, the active one last.

Invariants: `all` is a tuple that is swapped as a whole and never empty, so that a reader in a thread keeps what it has seen; base offsets
ascend, and a segment ends where the next one begins (in a compacted log at or before it).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter

from hotlog.log.segment import Segment, SegmentInfo

BASE_OFFSET = attrgetter("base_offset")


class Segments:
    """The tuple and its swaps."""

    __slots__ = ("all",)

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.all: tuple[Segment, ...] = tuple(segments)

    @property
    def active(self) -> Segment:
        return self.all[-1]

    @property
    def size(self) -> int:
        """Bytes of all log files."""
        return sum(segment.size for segment in self.all)

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

    def add(self, fresh: Segment) -> None:
        """`fresh` is the active one from now on."""
        self.all = (*self.all, fresh)

    def drop_oldest(self, count: int) -> None:
        assert 0 <= count < len(self.all), "the active one stays"
        self.all = self.all[count:]

    def end_with(self, count: int, last: Segment) -> None:
        """Only the oldest `count` remain, and behind them `last`, which is the active one from now on."""
        self.all = (*self.all[:count], last)

    def replace(self, old: Sequence[Segment], new: Sequence[Segment]) -> None:
        """`new` stand where the run `old` stood.

        Raises:
            ValueError: `old` is not a run of closed segments.
        """
        first = self.all.index(old[0])
        if self.all[first : first + len(old)] != tuple(old) or first + len(old) >= len(self.all):
            raise ValueError("only a run of closed segments can be replaced")
        self.all = (*self.all[:first], *new, *self.all[first + len(old) :])
