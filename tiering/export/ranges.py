"""Sets of offsets as disjoint half-open ranges: what an export has done, and what is left of a request.  Pure.

Invariants: ranges are ascending, never empty, never touching (neighbours are merged); add and subtract are exact on offsets.
"""

from __future__ import annotations

from collections.abc import Iterable

Range = tuple[int, int]
Ranges = tuple[Range, ...]


def normal(ranges: Iterable[Range]) -> Ranges:
    """Sorted, merged, without empty ones."""
    result: list[Range] = []
    for start, end in sorted(ranges):
        if start >= end:
            continue
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return tuple(result)


def add_range(ranges: Ranges, start: int, end: int) -> Ranges:
    """With [start, end) as well."""
    return normal([*ranges, (start, end)])


def missing(done: Ranges, start: int, end: int) -> Ranges:
    """What of [start, end) is not in `done`, ascending."""
    result: list[Range] = []
    for done_start, done_end in done:
        if done_end <= start:
            continue
        if done_start >= end:
            break
        if start < done_start:
            result.append((start, done_start))
        start = max(start, done_end)
    if start < end:
        result.append((start, end))
    return tuple(result)
