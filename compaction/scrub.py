"""What of a log is scrubbed, and what becomes of segments that are found damaged.  Pure.

A damaged closed segment that the store has whole leaves the local disk, with what is older than it: the store's copy is read from then on
(docs/decisions/0013-a-damaged-segment-is-left-to-the-store.md).  Before that the store must have answered with the damaged records.

Invariants: a repair drops nothing that the store has not committed, and nothing unless the store has the local log from its start on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hotlog.log.scrub import ScrubRange


class Hurt(NamedTuple):
    """A local segment, and the offsets [start, end) of it that are damaged, ascending."""

    end_offset: int
    is_closed: bool
    damaged: Sequence[tuple[int, int]]


class Stored(NamedTuple):
    """What the store has committed: the offsets [start, end)."""

    start_offset: int
    end_offset: int


class Repair(NamedTuple):
    """Drop local segments that end at or below `drop_offset`, once the store has answered for the offsets in `proofs`."""

    drop_offset: int
    proofs: tuple[int, ...]


def plan_ranges(ranges: Sequence[ScrubRange], log_start_offset: int) -> list[ScrubRange]:
    """What is worth a look: what somebody may still read."""
    return [want for want in ranges if want.end_offset > log_start_offset]


def plan_repair(hurt: Sequence[Hurt], stored: Stored | None, *, log_start_offset: int, local_start_offset: int) -> Repair | None:
    """How the damaged segments of one partition are made good; None if they cannot be.

    Args:
        hurt: the damaged ones, ascending.
        stored: None if the partition has no cold tier, or it is not known what is in it.
    """
    if stored is None or stored.start_offset > max(log_start_offset, local_start_offset):
        return None
    spare = [segment for segment in hurt if segment.is_closed and segment.end_offset <= stored.end_offset]
    if not spare:
        return None
    proofs: set[int] = set()
    for segment in spare:
        alive = [max(start, log_start_offset) for start, end in segment.damaged if end > max(start, log_start_offset)]
        proofs.update(alive[:1] + alive[-1:])
    return Repair(spare[-1].end_offset, tuple(sorted(proofs)))
