"""Whether the index files of a closed segment say what its batches say.  Blocks: disk threads.

Every entry must name a batch: the offset index its position and last offset, the time index its last offset and largest timestamp.  Which
batches have entries is not checked: that changes with index.interval.bytes.

Invariants: nothing is written; at most INDEX_BYTES of a file are in memory.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from hotlog.kernel.limits import KiB
from hotlog.log.index import OFFSET_ENTRY, TIME_ENTRY
from hotlog.wire.batch import BatchHeader
from hotlog.world.ports import Disk

INDEX_BYTES = 48 * KiB  # whole entries of both kinds


class IndexFile(NamedTuple):
    """An index file and how long it must be, in bytes."""

    path: str
    length: int


class IndexCheck:
    """Is told the good batches in order."""

    def __init__(self, disk: Disk, base_offset: int, offsets: IndexFile, times: IndexFile) -> None:
        self._base_offset = base_offset
        self._offsets = _Entries(disk, offsets, OFFSET_ENTRY)
        self._times = _Entries(disk, times, TIME_ENTRY)
        self._is_wrong = False

    def compare(self, position: int, header: BatchHeader) -> None:
        """Hold the entries that fall on the batch at byte `position`, or before it and on none, against it."""
        if self._is_wrong:
            return
        last = header.last_offset - self._base_offset
        while (entry := self._offsets.next()) is not None and entry[1] <= position:
            self._is_wrong |= entry != (last, position)
            self._offsets.drop_next()
        while (entry := self._times.next()) is not None and entry[1] <= last:
            self._is_wrong |= entry != (header.max_timestamp, last)
            self._times.drop_next()

    def is_wrong_at_end(self) -> bool:
        """Whether anything disagreed, or entries are left, or a file has not the length that it should."""
        left = self._offsets.next() is not None or self._times.next() is not None
        return self._is_wrong or left or self._offsets.is_broken or self._times.is_broken


class _Entries:
    """The entries of one file, in file order.  `is_broken`: the file is not as long as it should be, or repeats itself."""

    def __init__(self, disk: Disk, index: IndexFile, form: struct.Struct) -> None:
        self.is_broken = False
        self._disk = disk
        self._index = index
        self._form = form
        self._at = 0  # byte of the next piece
        self._piece: list[tuple[int, int]] = []
        self._used = 0  # entries of the piece that were taken
        self._taken = (-1, -1)

    def next(self) -> tuple[int, int] | None:
        """The next entry; it stays the next one until `drop_next`."""
        if self._used == len(self._piece):
            self._piece, self._used = self._read(), 0
        return self._piece[self._used] if self._piece else None

    def drop_next(self) -> None:
        """Go on to the next entry; none may be there twice."""
        taken = self._piece[self._used]
        self.is_broken |= taken == self._taken  # entries ascend
        self._taken = taken
        self._used += 1

    def _read(self) -> list[tuple[int, int]]:
        length = min(INDEX_BYTES, self._index.length - self._at)
        if length <= 0 or self.is_broken:
            return []
        try:
            file = self._disk.open(self._index.path, read_only=True)
        except FileNotFoundError:
            self.is_broken = True
            return []
        try:
            data = file.read_once(self._at, length)
            self.is_broken |= file.size != self._index.length or len(data) != length
        finally:
            file.close()
        self._at += length
        return [] if self.is_broken else list(self._form.iter_unpack(data))
