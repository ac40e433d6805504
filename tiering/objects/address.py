"""Where bytes of the cold tier lie: a range of an object.  Pure.

A segment is a whole object of its own, or a part of one that partitions share (a pack).  An object of a partition has a name below the
partition's prefix; the name of a shared one begins with SHARED and lies below the cluster's prefix, and a register of its own counts who
refers to it: a partition may let go of its part, never delete the object.

Invariants: `object` is never empty; 0 <= start < end; the parts of one object do not overlap.
"""

from __future__ import annotations

from typing import NamedTuple

SHARED = "/"


class Address(NamedTuple):
    """Bytes [start, end) of an object; tiering.objects.keys.PartitionKeys makes the key."""

    object: str
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def is_shared(self) -> bool:
        """Whether the object belongs to a register, not to the partition."""
        return self.object.startswith(SHARED)

    def fits(self, object_bytes: int) -> bool:
        """Whether an object of this size is the one meant, as far as the address says: one of the partition ends where its segment ends."""
        return object_bytes >= self.end if self.is_shared else object_bytes == self.end
