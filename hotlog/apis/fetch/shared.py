"""What fetches that look in one turn of the loop have found: who asks the same need not look for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotlog.log.reader import Stretch
    from hotlog.partitions.partition import Partition

Shared = dict[Any, Any]
"""By what was asked; it is dropped at the end of the turn.  Whoever changes a log in between is told apart by the ends that stand in the question."""
PLAIN = frozenset((bytes, bytearray, memoryview))
"""Kinds of records that may be sent more than once: a part of a file is closed by who sent it."""


def read_shared(
    shared: Shared, partition: Partition, offset: int, bytes_max: int, *, min_one: bool, committed_only: bool
) -> Stretch | None:
    """`Partition.read_now`, once for all that look in this turn."""
    marks = partition.marks
    key = partition, offset, bytes_max, min_one, committed_only, marks.committed, marks.log_start_offset
    found: Stretch | None = shared.get(key)
    if found is None:
        found = partition.read_now(offset, bytes_max, min_one=min_one, committed_only=committed_only)
        if found is not None and type(found.data) in PLAIN:
            shared[key] = found
    return found
