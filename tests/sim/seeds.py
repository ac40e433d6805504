"""Which seeds a run tells, and how much of each.

HOTLOG_SIM_SEEDS is how many (`20`: seeds 0 to 19) or which (`20:60`: seeds 20 to 59).  The first WHOLE_SEEDS seeds tell every story in
full.  A later one tells small stories of its own: less of the same, with as many troubles in it, so that hundreds of them can be told.

Invariants: what a seed tells depends on the seed alone, not on which others run.
"""

from __future__ import annotations

import os

WHOLE_SEEDS = 20


def seeds_of(text: str) -> range:
    """The seeds that `text` names: `N` or `FROM:TO`, the end exclusive.

    Raises:
        ValueError: it names none.
    """
    start, colon, end = text.rpartition(":")
    seeds = range(int(start) if colon else 0, int(end))
    if not seeds or seeds.start < 0:
        raise ValueError(f"HOTLOG_SIM_SEEDS={text!r} names no seeds; a number, or FROM:TO")
    return seeds


def is_whole(seed: int) -> bool:
    """Whether `seed` tells its stories in full."""
    return seed < WHOLE_SEEDS


SEEDS = seeds_of(os.environ.get("HOTLOG_SIM_SEEDS", "1"))
