"""What a partition answers, over both tiers: values.

Offsets are counts, timestamps ms since 1970.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from hotlog.log.reader import Slice

UNKNOWN_EPOCH = (-1, -1)  # no tier knows of it


class Place(Enum):
    """Where a reader at an offset finds its next records."""

    HOT = "hot"  # in the local log
    AT_END = "at end"  # nowhere yet: nothing that is committed lies there
    COLD = "cold"  # in the store
    OUTSIDE = "outside"  # nowhere: before the log start, or behind the log end


class Found(NamedTuple):
    """A record: its offset, timestamp (ms) and leader epoch."""

    offset: int
    timestamp: int
    leader_epoch: int


class Ranges(NamedTuple):
    """Offsets by tier.  Readable are [start, committed_end): from the store below `local_start`, from the local log from there on."""

    start: int
    stored_end: int  # behind what the store has; -1 if the topic is not tiered
    local_start: int
    committed_end: int
    end_offset: int

    @property
    def is_tiered(self) -> bool:
        """Whether anything readable is in the store."""
        return self.stored_end > self.start


class Cold(NamedTuple):
    """What the store answered: batches, and the aborted transactions among them (producer id, first offset) if that was asked."""

    data: Slice
    aborted: list[tuple[int, int]] | None
