"""Parts of a segment whose bytes are known to have changed, and the way around them.  Pure.

Invariants: nothing of a damaged part is ever part of an answer; what lies before and behind it is found without believing its headers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hotlog.kernel.errors import DamagedRecords


class Damage(NamedTuple):
    """Bytes [position, end) of a segment's file, which hold or should hold the offsets [offset, end_offset); `reason` in words."""

    position: int
    end: int
    offset: int
    end_offset: int
    reason: str

    def error(self, path: str) -> DamagedRecords:
        """What a reader is told."""
        return DamagedRecords(
            f"{path}: offsets [{self.offset}, {self.end_offset}) at bytes [{self.position}, {self.end}): {self.reason}"
        )


class Sound(NamedTuple):
    """Bytes [start, limit) around an offset that are not known to be damaged; `ahead` is the damage that begins at `limit`, if any."""

    start: int
    limit: int
    ahead: Damage | None


def sound_part(path: str, damages: Sequence[Damage], offset: int, limit: int) -> Sound:
    """The sound bytes below `limit` in which `offset`, or what follows it, is to be looked for.

    Args:
        damages: ascending and apart.
    Raises:
        DamagedRecords: `offset` lies in a damaged part.
    """
    start = 0
    for damage in damages:
        if offset >= damage.end_offset:
            start = damage.end
        elif offset >= damage.offset:
            raise damage.error(path)
        else:
            return Sound(start, min(limit, damage.position), damage if damage.position < limit else None)
    return Sound(start, limit, None)
