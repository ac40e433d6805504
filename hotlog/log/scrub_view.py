"""What the scrub may read of one log, and the damage that it found there.

Invariants: only bytes below the committed end are offered, so that none of them is still being written; what is known to be damaged is never part
of an answer (hotlog.log.damage), nor after a restart: which segments it is in is saved, and the start looks at them (damaged_segments.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from hotlog.log import files
from hotlog.log.damage import Damage
from hotlog.log.epochs import LeaderEpochs
from hotlog.log.marks import Marks
from hotlog.log.scrub import ScrubRange
from hotlog.log.scrub_index import IndexFile
from hotlog.log.segment import Segment, SegmentInfo
from hotlog.log.segments import Segments
from hotlog.log.syncer import Syncer


class ScrubView:
    """A log as a scrub sees it."""

    def __init__(
        self, *, segments: Segments, marks: Marks, syncer: Syncer, epochs: LeaderEpochs, save: Callable[[], Awaitable[None]]
    ) -> None:
        self._segments = segments
        self._marks = marks
        self._syncer = syncer
        self._epochs = epochs
        self._save = save

    def scrub_ranges(self) -> list[ScrubRange]:
        """Every local segment as far as it is readable, oldest first; the index files of those that are closed and on the device."""
        return [self._scrub_range(segment) for segment in self._segments.all if self._marks.readable_bytes(segment) > 0]

    def _scrub_range(self, segment: Segment) -> ScrubRange:
        mark, indexes = self._marks.committed, None
        if segment.is_closed and segment not in self._syncer.rolled and not segment.index_broken:
            indexes = (
                IndexFile(segment.path(files.INDEX), segment.offsets.length),
                IndexFile(segment.path(files.TIME_INDEX), segment.times.length),
            )
        end = mark.offset if segment.base_offset == mark.base else segment.end_offset
        return ScrubRange(
            segment.base_offset,
            end,
            self._marks.readable_bytes(segment),
            segment.log_path,
            self._syncer.config.is_compacted or self._marks.cleaned_end >= 0,
            self._epochs.entries,
            indexes,
        )

    def note_damage(self, base_offset: int, damages: Sequence[Damage], *, is_all: bool) -> list[Damage]:
        """Remember what is damaged of the segment at `base_offset`; return what is new.  On disk after `wait_damage_saved`.

        Unless it `is_all`, what was known to lie behind the last of `damages` stays known.
        """
        segment = self._segments.at(base_offset)
        if segment is None:
            return []
        known, looked_at = segment.damage, damages[-1].end if damages else 0
        segment.damage = (*damages, *(damage for damage in known if damage.position >= looked_at and not is_all))
        return [damage for damage in damages if damage.position not in {before.position for before in known}]

    async def wait_damage_saved(self) -> None:
        """Until a process that comes after this one will look at the damaged segments before it serves them."""
        await self._save()

    def has_segment(self, base_offset: int) -> bool:
        """Whether there is a local segment (still)."""
        return self._segments.at(base_offset) is not None

    def note_index_broken(self, base_offset: int) -> None:
        """Do not believe the index files of a closed segment any more: `tick` makes them anew."""
        segment = self._segments.at(base_offset)
        if segment is not None and segment.is_closed:
            segment.index_broken = True
            self._syncer.wake()

    def damaged_segments(self) -> list[tuple[SegmentInfo, tuple[Damage, ...]]]:
        """Segments that are known to be damaged, oldest first."""
        return [(segment.info(), segment.damage) for segment in self._segments.all if segment.damage]
