"""Looks at every byte of a segment: headers, CRC-32C, offsets, leader epochs; then whether the index files agree with the batches.

A batch is judged by what it says of itself and by what must be: it begins where the one before ended, at the next offset (in a compacted log
at a later one), and its CRC-32C holds.  Base offset and leader epoch lie outside the CRC; the epoch is compared with the leader epoch
checkpoint, and with its neighbours, which tells which of the two is wrong.

Invariants: nothing is written; a step reads at most PIECE_BYTES once (more only to find the way on behind damage) and holds no batch in
memory; damage ends where the next batch begins that proves itself, or at the end.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from typing import NamedTuple

from crc32c import crc32c

from hotlog.kernel.limits import BATCH_HEADER_BYTES, KiB, MiB
from hotlog.log.damage import Damage
from hotlog.log.recovery import is_plausible
from hotlog.log.scan import Stop, find_valid
from hotlog.log.scrub_index import IndexCheck, IndexFile
from hotlog.wire.batch import ATTRIBUTES_OFFSET, BatchHeader, crc_ok, header_at
from hotlog.world.ports import Disk, File

PIECE_BYTES = 1 * MiB
PIECE_BYTES_MIN = 16 * KiB
PIECE_BATCHES = 256  # a piece is sized for about this many: walking them holds the interpreter lock for half a millisecond
DAMAGES_MAX = 64  # in one segment; with more of them the rest of the segment is one damage


class ScrubRange(NamedTuple):
    """What to look at: `size` bytes of a segment's file, which hold the offsets [base_offset, end_offset).

    `epochs` are (epoch, first offset) as in the leader epoch checkpoint.  `indexes` are the offset and the time index of a closed segment.
    """

    base_offset: int
    end_offset: int
    size: int
    path: str
    has_gaps: bool
    epochs: tuple[tuple[int, int], ...]
    indexes: tuple[IndexFile, IndexFile] | None


class SegmentScrub:
    """Walks one ScrubRange, a piece per `step`.  Blocking; call off the event loop.

    `batches` counts the good ones, `damages` grow as they are found, ascending.  At the end `is_index_wrong` says whether an index entry or file disagrees with the batches
    (not judged where there is damage), and `is_epochs_wrong` whether the leader epoch checkpoint does.
    """

    def __init__(self, disk: Disk, want: ScrubRange) -> None:
        self.want = want
        self.batches = 0
        self.damages: list[Damage] = []
        self.is_index_wrong = False
        self.is_epochs_wrong = False
        self._disk = disk
        self._piece = PIECE_BYTES_MIN
        self._at = 0  # next byte to read
        self._next_offset = want.base_offset
        self._header: BatchHeader | None = None  # of the batch that is being walked
        self._start = self._left = self._crc = 0
        self._epoch = -1  # of the last good batch
        self._odd: tuple[int, BatchHeader] | None = None  # the last good batch, if its epoch is another than the checkpoint says
        self._index = IndexCheck(disk, want.base_offset, *want.indexes) if want.indexes is not None else None

    def step(self) -> int:
        """Look at the next piece; its bytes, 0 at the end.

        Raises:
            FileNotFoundError: the segment was dropped.
            OSError: the disk does not answer; a piece that it cannot read (EIO) is damage.
        """
        size = self.want.size
        if self._at >= size:
            self._finish()
            return 0
        file = self._disk.open(self.want.path, read_only=True)
        try:
            before = self._at
            try:
                data = memoryview(file.read_once(before, min(self._piece, size - before)))
                self._walk(file, data)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                self._note_rest(f"the disk cannot read it: {error.strerror}")
            return max(self._at - before, 1)
        finally:
            file.close()

    # Batches

    def _walk(self, file: File, data: memoryview) -> None:
        used = count = 0
        while count < PIECE_BATCHES:
            if self._header is None:
                head = data[used : used + BATCH_HEADER_BYTES]
                if len(head) < BATCH_HEADER_BYTES:
                    break
                header = header_at(head)
                reason = self._misfit(header, self.want.size - self._at - used)
                if reason:
                    self._skip(file, self._at + used, header, reason)
                    return
                self._header, self._start, self._left = header, self._at + used, header.size - BATCH_HEADER_BYTES
                self._crc = crc32c(head[ATTRIBUTES_OFFSET:])
                used += BATCH_HEADER_BYTES
            part = data[used : used + self._left]
            self._crc = crc32c(part, self._crc)
            self._left -= len(part)
            used += len(part)
            if self._left:
                break
            header, self._header = self._header, None
            if self._crc != header.crc:
                self._skip(file, self._start, header, "the batch fails its CRC-32C")
                return
            if not self._accept(self._start, header):
                self._skip(file, self._start, header, f"base offset {header.base_offset}; {self._next_offset} is expected")
                return
            count += 1
        self._at += used
        if not used:
            self._note_rest(f"{len(data)} bytes are too few for a batch" if data else "the file ends there")
        self._piece = PIECE_BYTES if count == 0 else min(max(used * PIECE_BATCHES // count, PIECE_BYTES_MIN), PIECE_BYTES)

    def _misfit(self, header: BatchHeader, room: int) -> str:
        """Why this cannot be the next batch's header; "" if it can.  A wrong base offset is judged when the CRC is known."""
        if header.magic != 2:
            return f"magic {header.magic}; only 2 is known"
        if not BATCH_HEADER_BYTES <= header.size <= room:
            return f"the batch says {header.size} bytes; {room} are left"
        return ""

    def _accept(self, position: int, header: BatchHeader) -> bool:
        """Take a batch whose CRC holds; False if its offsets do not follow."""
        follows = header.base_offset == self._next_offset or (self.want.has_gaps and header.base_offset > self._next_offset)
        if not follows or header.last_offset_delta < 0 or header.next_offset > self.want.end_offset:
            return False
        self._judge_odd(header.leader_epoch)
        expected = self._expected_epoch(header.base_offset)
        if expected >= 0 and header.leader_epoch != expected:
            if header.leader_epoch == self._epoch:
                self.is_epochs_wrong = True
            else:
                self._odd = position, header
        self._epoch, self._next_offset = header.leader_epoch, header.next_offset
        self.batches += 1
        if self._index is not None:
            self._index.compare(position, header)
        return True

    def _expected_epoch(self, offset: int) -> int:
        """The checkpoint's epoch of `offset`, -1 where it says none."""
        above = bisect_right(self.want.epochs, offset, key=lambda entry: entry[1])
        return self.want.epochs[above - 1][0] if above else -1

    def _judge_odd(self, following: int) -> None:
        """A batch whose epoch the checkpoint does not have: two in a row are right, a single one is not."""
        if self._odd is None:
            return
        (position, header), self._odd = self._odd, None
        if header.leader_epoch == following:
            self.is_epochs_wrong = True
        else:
            expected = self._expected_epoch(header.base_offset)
            reason = f"leader epoch {header.leader_epoch}; {expected} is expected"
            self._add(Damage(position, position + header.size, header.base_offset, header.next_offset, reason))

    # The way on

    def _skip(self, file: File, position: int, header: BatchHeader, reason: str) -> None:
        """Note that the batch at `position` is damaged, and go on where the next one proves itself."""
        self._judge_odd(-1)
        self._header, self._left, self._epoch = None, 0, -1
        end, end_offset = self._following(file, position, header)
        self._add(Damage(position, end, self._next_offset, end_offset, reason))
        self._at, self._next_offset = end, end_offset
        if len(self.damages) >= DAMAGES_MAX:
            self._note_rest(f"{DAMAGES_MAX} damages before it")

    def _following(self, file: File, position: int, header: BatchHeader) -> tuple[int, int]:
        """(byte, offset) of the next good batch behind the bad one at `position`, or the end."""
        size, end_offset = self.want.size, self.want.end_offset
        behind = position + header.size
        if header.size >= BATCH_HEADER_BYTES and behind == size:
            return size, end_offset
        if header.size >= BATCH_HEADER_BYTES and behind < size:
            found = self._proven(file, behind)
            if found is not None:
                return behind, found.base_offset
        at = find_valid(file, Stop(position, self._next_offset, ""), max(self._expected_epoch(self._next_offset), 0))
        found = self._proven(file, at) if 0 <= at < size else None
        return (at, found.base_offset) if found is not None else (size, end_offset)

    def _proven(self, file: File, position: int) -> BatchHeader | None:
        head = file.read_once(position, BATCH_HEADER_BYTES)
        if len(head) < BATCH_HEADER_BYTES:
            return None
        header = header_at(head)
        if not is_plausible(header, self._next_offset, self.want.size - position) or header.next_offset > self.want.end_offset:
            return None
        return header if crc_ok(memoryview(file.read_once(position, header.size))) else None

    def _note_rest(self, reason: str) -> None:
        """From the batch that is being walked, or from here, to the end."""
        position = self._at if self._header is None else self._start
        self._add(Damage(position, self.want.size, self._next_offset, self.want.end_offset, reason))
        self._header, self._left = None, 0
        self._at, self._next_offset = self.want.size, self.want.end_offset

    def _add(self, damage: Damage) -> None:
        """Keep `damage`; what touches the one before becomes one with it."""
        if self.damages and self.damages[-1].end >= damage.position:
            last = self.damages.pop()
            damage = Damage(last.position, damage.end, last.offset, damage.end_offset, last.reason)
        self.damages.append(damage)

    # The end

    def _finish(self) -> None:
        if self._odd is not None and self.batches == 1:
            self._odd, self.is_epochs_wrong = None, True  # without a neighbour nobody can tell
        self._judge_odd(-1)
        if self._next_offset != self.want.end_offset and not self.want.has_gaps:
            self._note_rest(f"the batches end at offset {self._next_offset}, the segment at {self.want.end_offset}")
        if self._index is not None and not self.damages:
            self.is_index_wrong = self._index.is_wrong_at_end()
