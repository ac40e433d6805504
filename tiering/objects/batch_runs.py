"""Whole batches out of a window of log bytes, by their length fields.  Pure.

Invariants: costs per batch (with landmarks: per index entry), never per record; nothing is copied; a batch whose offsets leave the bounds or go back is Corrupt.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hotlog.kernel.errors import Corrupt
from hotlog.kernel.limits import BATCH_HEADER_BYTES, BATCH_OVERHEAD_BYTES
from hotlog.wire.batch import CONTROL_MASK, BatchHeader

_SHORT = struct.Struct(">qi11xi")  # base offset, length, (leader epoch, magic, crc, attributes), last offset delta
_INDEX_ENTRY = struct.Struct(">ii")  # relative offset, byte position of its batch: Kafka's offset index
_LENGTH_MIN = BATCH_HEADER_BYTES - BATCH_OVERHEAD_BYTES
assert _SHORT.size == 27


class Taken(NamedTuple):
    """Bytes [start, end) of the window are whole batches; the next batch begins at byte `end`, at `next_offset` or later.

    Skipped batches may end beyond the window: then start == end > its length.  `needed` is how long the window must be to show more than it does; 0 when the budget or `until` ended the run.
    """

    start: int
    end: int
    next_offset: int
    needed: int

    @property
    def size(self) -> int:
        return self.end - self.start


OFFSET_MAX = 2**63 - 1


def whole_batches(
    window: memoryview,
    offset: int,
    bytes_max: int,
    *,
    min_one: bool,
    within: range,
    where: str,
    until: int = OFFSET_MAX,
    landmark: Callable[[int], int] | None = None,
) -> Taken:
    """Whole batches from the one that holds `offset` (or the first after it), at most `bytes_max` bytes, one at least if `min_one`,
    none that begins at or above offset `until`.

    The window begins at a batch; the offsets of all its batches lie `within` a range.  `landmark(position)` is a batch's position at or
    before `position` of the window (negative: none known): with it small batches in between are not looked at.

    Raises:
        Corrupt: a header that cannot be; `where` names the object.
    """
    at, start, length_all = 0, -1, len(window)
    next_offset, low, high = offset, within.start, within.stop
    while at + BATCH_HEADER_BYTES <= length_all:
        base, length, delta = _SHORT.unpack_from(window, at)
        last, size = base + delta, length + BATCH_OVERHEAD_BYTES
        if length < _LENGTH_MIN or delta < 0 or base < low or last >= high:
            raise Corrupt(
                f"{where}: batch at offset {base} with {delta + 1} offsets and length {length}; [{low}, {high}) is expected"
            )
        low = last + 1
        if last < offset:
            at += size
            continue
        if start < 0:
            start = at
        is_first = at == start
        if base >= until:
            return Taken(start, at, next_offset, 0)
        if at + size - start > bytes_max and not (is_first and min_one):
            return Taken(start, at, next_offset, 0)
        if at + size > length_all:
            return Taken(start, at, next_offset, at + size)
        at += size
        next_offset = low
        if is_first and landmark is not None:
            known = landmark(min(start + bytes_max, length_all - BATCH_HEADER_BYTES))
            if known > at:
                at = known
                next_offset = _SHORT.unpack_from(window, at)[0]
    return Taken(at if start < 0 else start, at, next_offset, at + BATCH_HEADER_BYTES)


def landmarks(offset_index: memoryview, position: int) -> Callable[[int], int]:
    """For `whole_batches`: batches that an object's offset index knows, for a window that begins at byte `position` of the object."""

    def at_or_before(limit: int) -> int:
        low, high = 0, len(offset_index) // _INDEX_ENTRY.size
        while low < high:  # first entry beyond
            middle = (low + high) // 2
            if _INDEX_ENTRY.unpack_from(offset_index, middle * _INDEX_ENTRY.size)[1] <= position + limit:
                low = middle + 1
            else:
                high = middle
        return _INDEX_ENTRY.unpack_from(offset_index, (low - 1) * _INDEX_ENTRY.size)[1] - position if low else -1

    return at_or_before


def has_rows(header: BatchHeader, aborted: Sequence[tuple[int, int, int]]) -> bool:
    """Whether a batch holds committed records.  `aborted`: (producer id, first offset, last offset), inclusive."""
    if header.attributes & CONTROL_MASK:
        return False
    if not header.is_transactional:
        return True
    return not any(producer == header.producer_id and first <= header.base_offset <= last for producer, first, last in aborted)
