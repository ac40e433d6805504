"""Places in a topic, as `--from` and `--until` name them; pure.  The words for them: hotlog/cli/times.py.

Invariants: a place means the same in every reader (a client through the broker, a direct replay, an export); None is what the reader has by
default: the first offset for a start, the end for an end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from hotlog.kernel.errors import OutOfRange


class AtOffset(NamedTuple):
    """An offset, per partition the same."""

    offset: int


class AtTime(NamedTuple):
    """Where a consumer would stand that seeks to this time (ms since the epoch): the first offset whose timestamp is not before it."""

    timestamp_ms: int


class FromEnd(NamedTuple):
    """So many offsets before the end of each partition; 0 is the end itself."""

    records: int


Place = AtOffset | AtTime | FromEnd | None
EARLIEST, LATEST = AtOffset(0), FromEnd(0)


async def offset_of(place: Place, default: int, *, end: int, at_time: Callable[[int], Awaitable[int]]) -> int:
    """The offset of a place in one partition that ends at `end`; not clamped to what the partition has."""
    match place:
        case AtOffset(offset):
            return offset
        case AtTime(timestamp_ms):
            return await at_time(timestamp_ms)
        case FromEnd(records):
            return max(end - records, 0)
        case None:
            return default


def check_start(topic: str, start: Place, ends: Mapping[int, int]) -> None:
    """Refuse to start at an offset that no partition has reached: a reader would find nothing, and nobody would know why.

    Args:
        ends: the end offset of each partition (exclusive: a start there is the next record to come).
    Raises:
        OutOfRange: with the ends.
    """
    if isinstance(start, AtOffset) and ends and start.offset > max(ends.values()):
        some = ", ".join(f"partition {index} ends at {end}" for index, end in sorted(ends.items())[:4])
        more = f" (and {len(ends) - 4} more partitions)" if len(ends) > 4 else ""
        raise OutOfRange(f"offset {start.offset} is past the end of {topic}: {some}{more}")
