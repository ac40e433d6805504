"""When the active segment closes.  Pure.

Kafka's rule (LogSegment.shouldRoll): before an append that would pass segment.bytes, or by time, or with a full index, or when the
new offset no longer fits in 31 bits above the base.  Time is measured in the data: the incoming largest timestamp against the first
batch's largest timestamp; only batches without a timestamp make it wall time since the segment was made.

A log without traffic would never close its segment by that rule and so never reach the cold tier, therefore `plan_idle_roll` closes
it by wall time since its first append (Kafka has no such rule; segment.ms bounds it all the same).  `hotlog topic roll` closes it at once:
it sets hotlog.segment.roll.before.ms to now, and whatever was begun before that instant has had its time.

Invariants: an empty segment never rolls by time or size.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from hotlog.log.index import RELATIVE_OFFSET_MAX


class Roll(Enum):
    NOT_YET = 0
    FULL = 1
    OLD = 2
    INDEX_FULL = 3
    OFFSET_OVERFLOW = 4


class Tail(NamedTuple):
    """What the decision needs of the active segment.  `first_timestamp` -1: none; ms and bytes."""

    base_offset: int
    size: int
    first_timestamp: int
    created_ms: int
    offset_entries: int
    time_entries: int


class Bounds(NamedTuple):
    """What a segment may hold.  `segment_ms` has the jitter taken off."""

    segment_bytes: int
    segment_ms: int
    offset_entries_max: int
    time_entries_max: int


def plan_roll(tail: Tail, bounds: Bounds, *, append_bytes: int, append_timestamp: int, last_offset: int, now_ms: int) -> Roll:
    """Whether to roll before appending."""
    segment_bytes, segment_ms, offset_entries_max, time_entries_max = bounds
    if last_offset - tail.base_offset > RELATIVE_OFFSET_MAX:
        return Roll.OFFSET_OVERFLOW
    if tail.size == 0:
        return Roll.NOT_YET
    if tail.size > segment_bytes - append_bytes:
        return Roll.FULL
    waited = append_timestamp - tail.first_timestamp if tail.first_timestamp >= 0 else now_ms - tail.created_ms
    if waited > segment_ms:
        return Roll.OLD
    if tail.offset_entries >= offset_entries_max or tail.time_entries >= time_entries_max - 1:
        return Roll.INDEX_FULL
    return Roll.NOT_YET


def plan_idle_roll(*, size: int, first_append_ms: int, now_ms: int, segment_ms: int, roll_before_ms: int = -1) -> Roll:
    """Whether a tick closes the segment by wall time since its first append, or because that lies before `roll_before_ms`."""
    is_due = now_ms - first_append_ms > segment_ms or first_append_ms < roll_before_ms <= now_ms
    return Roll.OLD if size > 0 and is_due else Roll.NOT_YET
