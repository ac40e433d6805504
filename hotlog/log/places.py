"""Where reads of one log will probably begin: the byte of the batch that holds an offset, without the index and without a search.

Noted are where a read ended, since its reader goes on there, where a read that was looked up began, and where the committed end was before it
moved last, since whoever waits at the end waits for what begins there.

Invariants: a place is of the segments as they are now: any change to which they are (roll, drop, replacement, truncation) forgets all places; it
is a hint: its reader checks that the batch there holds the offset.
"""

from __future__ import annotations

from hotlog.kernel.limits import BATCH_HEADER_BYTES, BATCH_OVERHEAD_BYTES
from hotlog.log.file_part import FilePart
from hotlog.log.marks import Marks
from hotlog.log.segment import Segment
from hotlog.log.segment_reader import SHORT_HEADER
from hotlog.log.segments import Segments
from hotlog.world.ports import Buffer

PLACES_MAX = 8  # of one log: there may be ten thousand
WALKED_MAX = 16  # batches of an answer; behind more of them the index is as near

Place = tuple[Segment, int]  # and the byte at which the batch begins


class Places:
    """The places of one log, by offset, oldest first."""

    __slots__ = ("_marks", "_segments", "by_offset", "known")

    def __init__(self, segments: Segments, marks: Marks) -> None:
        self._segments = segments
        self._marks = marks
        self.known: tuple[Segment, ...] | None = None  # the segments that the places are of
        self.by_offset: dict[int, Place] = {}  # bounded by PLACES_MAX; of `known`

    def of(self, offset: int) -> Place | None:
        """Where the batch that holds `offset` probably begins."""
        segments = self._segments.all
        if self.known is not segments:
            self.known = segments
            self.by_offset.clear()
        place = self.by_offset.get(offset)
        if place is None:
            before = self._marks.committed_before
            if before[0] == offset and before[1] == segments[-1].base_offset:
                return segments[-1], before[2]
        return place

    def found(self, offset: int, segments: tuple[Segment, ...], place: Place, data: Buffer | FilePart) -> None:
        """Somebody who had these segments looked `offset` up: its batch begins at `place`, and `data` was read there."""
        if segments is self.known:
            self._note(offset, place)
            if not isinstance(data, FilePart):
                self.read(*place, data)

    def _note(self, offset: int, place: Place) -> None:
        places = self.by_offset
        if len(places) >= PLACES_MAX and offset not in places:
            del places[next(iter(places))]
        places[offset] = place

    def read(self, segment: Segment, position: int, data: Buffer) -> None:
        """`data` was read from `position` on, where a batch begins: the reader goes on behind the last whole one."""
        at, size, last = 0, len(data), -1
        for _ in range(WALKED_MAX):
            if at + BATCH_HEADER_BYTES > size:
                break
            first, length, delta = SHORT_HEADER.unpack_from(data, at)
            behind = at + length + BATCH_OVERHEAD_BYTES
            if length <= 0 or behind > size:
                break
            at, last = behind, first + delta
        else:
            return
        if last >= 0:
            self._note(last + 1, (segment, position + at))
