"""How far consumer groups are behind, and which tier they read from: what was committed against where the logs begin and end.

Invariants: measured in pieces, by a beat and not by a scrape, which prints what was measured last; only groups whose offsets are kept here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

LOOKED_AT_ONCE = 256  # offsets between two turns of the loop
HOT, COLD = "hot", "cold"


class Ends(NamedTuple):
    """Offsets of a partition: where the local log begins, and the high watermark."""

    local_start: int
    end: int


async def measure(
    groups: Iterable[str],
    offsets_of: Callable[[str], Mapping[tuple[str, int], int]],
    ends_of: Callable[[str, int], Ends | None],
) -> dict[tuple[str, ...], float]:
    """Records that each (group, topic, tier) has not committed yet; a partition counts for the tier that has its next record.

    Args:
        offsets_of: what a group has committed, by (topic, partition).
        ends_of: None for a partition that is not here: it is left out.
    """
    lags: dict[tuple[str, ...], float] = {}
    looked_at = 0
    for group in groups:
        for (topic, partition), offset in list(offsets_of(group).items()):
            looked_at += 1
            if looked_at % LOOKED_AT_ONCE == 0:
                await asyncio.sleep(0)
            ends = ends_of(topic, partition)
            if ends is None:
                continue
            place = (group, topic, COLD if offset < ends.local_start else HOT)
            lags[place] = lags.get(place, 0) + max(0, ends.end - offset)
    return lags
