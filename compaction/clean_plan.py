"""What of a compacted log is cleaned next: Kafka's rules (LogCleanerManager, Cleaner.groupSegmentsBySize) as pure functions.

    log start        first dirty offset        first uncleanable offset     end
    | cleaned before | dirty                   | not yet                    |

The dirty part is read for its keys; then everything below it, and itself, is written anew without what is out of date.  Not cleaned yet are the
active segment, what is not committed or belongs to an open transaction, and what is younger than min.compaction.lag.ms.

Invariants: both borders are where segments begin, except that a map of keys that was too small may have stopped a cleaning within a segment;
a log is chosen by its dirty share, or because its oldest dirty record is older than max.compaction.lag.ms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from hotlog.kernel.topic_config import TopicConfig

RELATIVE_OFFSET_MAX = 2**31 - 1  # what an index can say


class Segment(Protocol):
    """What of a closed segment is looked at.  Offsets half open, sizes in bytes, ms."""

    @property
    def base_offset(self) -> int: ...
    @property
    def end_offset(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def max_timestamp(self) -> int: ...


class Indexed(Segment, Protocol):
    """One with its index files."""

    @property
    def offset_index_bytes(self) -> int: ...
    @property
    def time_index_bytes(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Dirt:
    """What there is to clean of one log.

    `start` is the first dirty offset, `end` the first that may not be cleaned; `clean_bytes` of the segments below `start`, `dirty_bytes` of
    those that may be cleaned; `delay_ms` is how much longer than max.compaction.lag.ms a record has waited.
    """

    start: int
    end: int
    clean_bytes: int
    dirty_bytes: int
    delay_ms: int

    @property
    def ratio(self) -> float:
        """Dirty share of what is clean or may be cleaned."""
        total = self.clean_bytes + self.dirty_bytes
        return self.dirty_bytes / total if total else 0.0

    def is_due(self, ratio_min: float) -> bool:
        """Whether it is cleaned now: min.cleanable.dirty.ratio is passed, or max.compaction.lag.ms."""
        return self.dirty_bytes > 0 and (self.delay_ms > 0 or self.ratio > ratio_min)


def first_dirty(cleaned_end: int, *, log_start_offset: int, log_end_offset: int) -> int:
    """Where the dirty part begins; what was noted of another log, or of one that was cut, does not count."""
    return cleaned_end if log_start_offset <= cleaned_end <= log_end_offset else log_start_offset


def plan_dirt(
    segments: Sequence[Segment],
    config: TopicConfig,
    *,
    start: int,
    stable_end: int,
    active_offset: int,
    now_ms: int,
    first_timestamp: Callable[[int], int] = lambda index: -1,
) -> Dirt:
    """The dirt of one log.

    Args:
        segments: the closed ones, oldest first.
        start: `first_dirty`.
        stable_end: the last stable offset.
        active_offset: where the active segment begins.
        first_timestamp: the time of the first batch of a segment by its index, ms, -1 for none; asked where max.compaction.lag.ms is set.
    """
    limit = min(stable_end, active_offset)
    dirty = [index for index, segment in enumerate(segments) if segment.end_offset > start]
    if config.compaction_lag_min_ms > 0:
        young = next((index for index in dirty if segments[index].max_timestamp > now_ms - config.compaction_lag_min_ms), None)
        if young is not None:
            limit = min(limit, segments[young].base_offset)
    end = next((segment.base_offset for segment in segments if segment.end_offset > limit), active_offset)
    end = max(end, start)
    return Dirt(
        start=start,
        end=end,
        clean_bytes=sum(segment.size for segment in segments if segment.base_offset < start),
        dirty_bytes=sum(segment.size for segment in segments if segment.end_offset > start and segment.base_offset < end),
        delay_ms=_delay_ms(dirty, config, now_ms, first_timestamp),
    )


def _delay_ms(dirty: Sequence[int], config: TopicConfig, now_ms: int, first_timestamp: Callable[[int], int]) -> int:
    """By how much the oldest dirty record has passed max.compaction.lag.ms (KIP-354)."""
    until_ms = now_ms - config.compaction_lag_max_ms
    if until_ms <= 0:
        return 0
    times = [time for time in map(first_timestamp, dirty) if time > 0]
    return max(until_ms - min(times), 0) if times else 0


AnySegment = TypeVar("AnySegment", bound=Indexed)


def group_segments(segments: Sequence[AnySegment], *, end: int, segment_bytes: int, index_bytes: int) -> list[list[AnySegment]]:
    """Runs of neighbouring segments that become one each.

    Args:
        segments: what is cleaned, oldest first.
        end: the first offset that may not be cleaned.
        segment_bytes, index_bytes: a segment's and an index's largest size (segment.bytes, segment.index.bytes).
    """
    groups: list[list[AnySegment]] = []
    size = offsets = times = 0
    for number, segment in enumerate(segments):
        following = segments[number + 1].base_offset if number + 1 < len(segments) else end
        fits = (
            bool(groups)
            and size + segment.size <= segment_bytes
            and offsets + segment.offset_index_bytes <= index_bytes
            and times + segment.time_index_bytes <= index_bytes
            and (segment.size == 0 or following - 1 - groups[-1][0].base_offset <= RELATIVE_OFFSET_MAX)
        )
        if not fits:
            groups.append([])
            size = offsets = times = 0
        groups[-1].append(segment)
        size += segment.size
        offsets += segment.offset_index_bytes
        times += segment.time_index_bytes
    return groups
