"""The two passes of a cleaning over the files of one log: its dirty part is read for its keys, then runs of segments are written anew.

Blocks: disk threads; a piece at a time (`step`), so that who waits can stop, and hold it to a rate.

Batches without anything out of date are copied as they are.  Of the others the records that remain are written anew, compressed by the codec
they had.  The last batch of a producer stays, emptied, so that a start knows the producer; so does the last batch of what was cleaned, as in
Kafka, and here that of every run: a segment ends where its last batch ends, so whoever reads it comes to where the next one begins.

Invariants: nothing of the log changes here: what is written is `<base>.log.cleaned` and `<base>.txnindex.cleaned`; offsets, order, timestamps,
keys, values and headers of what remains are what they were; a batch that fails its CRC-32C ends the cleaning.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from compaction.clean_transactions import ABORT, COMMIT, OTHER, CleanedTransactions
from hotlog.kernel.errors import Corrupt
from hotlog.kernel.limits import BATCH_HEADER_BYTES, BATCH_OVERHEAD_BYTES
from hotlog.log import files
from hotlog.log.clean_view import ClosedSegment
from hotlog.log.index import AbortedTransaction, encode_txn
from hotlog.log.producers import LastBatch
from hotlog.wire.batch import CODEC_MASK, DELETE_HORIZON_MASK, BatchHeader, header_at, walk
from hotlog.wire.key_map import FORCED, UNCHECKED, KeyMap, Rules, Why, emptied, made, room_for, with_horizon
from hotlog.wire.markers import marker_of
from hotlog.wire.records import compressed, open_batch
from hotlog.world.ports import Buffer, Disk


def opened(header: BatchHeader, batch: memoryview) -> memoryview:
    """The batch without compression.  Raises InvalidRecord, TooLarge."""
    if not header.codec:
        return batch
    plain = open_batch(batch)[1]
    struct.pack_into(">i", plain, 8, len(plain) - BATCH_OVERHEAD_BYTES)
    return plain


def marker_kind(header: BatchHeader, batch: memoryview) -> int | None:
    """What a control batch says; None if it was emptied.  Raises Corrupt."""
    if not header.record_count:
        return None
    marker = marker_of(batch)
    return OTHER if marker is None else COMMIT if marker.is_commit else ABORT


class _Pieces:
    """Whole batches of one file, piece by piece."""

    def __init__(self, disk: Disk, segment: ClosedSegment, piece_bytes: int) -> None:
        self.position = 0
        self._disk = disk
        self._segment = segment
        self._piece = piece_bytes

    @property
    def is_over(self) -> bool:
        return self.position >= self._segment.size

    def read(self) -> memoryview:
        """At least one whole batch.  Raises Corrupt, OSError."""
        left = self._segment.size - self.position
        file = self._disk.open(self._segment.log_path, read_only=True)
        try:
            data = memoryview(file.read_once(self.position, min(self._piece, left)))
            if len(data) >= BATCH_HEADER_BYTES and len(data) < (size := header_at(data).size) <= left:
                data = memoryview(file.read_once(self.position, size))
        finally:
            file.close()
        if len(data) < BATCH_HEADER_BYTES or not 0 < header_at(data).size <= len(data):
            raise self.damage(0, "no whole batch")
        return data

    def damage(self, at: int, what: str) -> Corrupt:
        return Corrupt(f"{self._segment.log_path}: {what} at byte {self.position + at}")


class KeyPass:
    """Notes the keys of the dirty part, [start, end), oldest first, until its end or until the map is full.

    `latest` is the last offset of which the map knows.
    """

    def __init__(
        self, disk: Disk, segments: Sequence[ClosedSegment], start: int, end: int, keys: KeyMap, aborted: Sequence[AbortedTransaction],
        *, piece_bytes: int, transactions: CleanedTransactions | None = None,
    ) -> None:  # fmt: skip
        self.latest = start - 1
        self.is_full = False
        self._disk = disk
        self._segments = [segment for segment in segments if segment.end_offset > start and segment.base_offset < end]
        self._start, self._end = start, end
        self._keys = keys
        self._transactions = transactions or CleanedTransactions()
        self._transactions.expect(aborted)
        self._piece = piece_bytes
        self._at = 0
        self._pieces: _Pieces | None = None

    def step(self) -> int:
        """The next piece: the bytes read, 0 at the end.  Raises Corrupt, InvalidRecord, TooLarge, OSError."""
        while not self.is_full and self._at < len(self._segments):
            segment = self._segments[self._at]
            pieces = self._pieces = self._pieces or _Pieces(self._disk, segment, self._piece)
            if pieces.is_over:
                self._at, self._pieces = self._at + 1, None
                following = self._segments[self._at].base_offset if self._at < len(self._segments) else self._end
                self.latest = max(self.latest, following - 1)  # what is missing before it is known not to be there
                continue
            data = pieces.read()
            pieces.position += self._note(pieces, data)
            return len(data)
        return 0

    def _note(self, pieces: _Pieces, data: memoryview) -> int:
        at = 0
        while True:
            noted = self._keys.note(data[at:], self._start, self.latest)
            at += noted.position
            self.latest = noted.latest
            if noted.why is Why.END:
                return at
            if noted.why is Why.FULL:
                self.is_full = True
                return at
            header = header_at(data, at)
            if noted.why is not Why.OPEN or not self._look_into(header, data[at : at + header.size]):
                raise pieces.damage(at, f"a batch that cannot be read, offset {header.base_offset},")
            if self.is_full:
                return at
            at += header.size

    def _look_into(self, header: BatchHeader, batch: memoryview) -> bool:
        """A batch that is compressed, of a transaction, or ends one; False if it cannot be read."""
        if header.is_control:
            self._transactions.on_marker(header.producer_id, header.last_offset, marker_kind(header, batch))
        elif not self._transactions.on_batch(header.producer_id, header.last_offset, is_transactional=header.is_transactional):
            noted = self._keys.note(opened(header, batch), self._start, self.latest, FORCED | UNCHECKED)
            if noted.why is Why.FULL:
                self.is_full = True
                return True
            if noted.why is not Why.END:
                return False
        if header.last_offset >= self._start:
            self.latest = header.last_offset
        return True


@dataclass(kw_only=True)
class Tally:
    """What the copying passes of a cleaning did."""

    read_bytes: int = 0
    written_bytes: int = 0
    records_seen: int = 0
    records_kept: int = 0


class Sieve(NamedTuple):
    """What of a log remains, over all its runs: by `keys` and `rules` (hotlog.wire.key_map), `last_batches` by producer id.

    `transactions` are told of those that overlap a run before its pass begins.  `tally` counts what the passes did.
    """

    keys: KeyMap
    rules: Rules
    transactions: CleanedTransactions
    last_batches: Mapping[int, LastBatch]
    tally: Tally


class CopyPass:
    """Writes the run of segments `group` anew; `bases` are those of the segments it becomes, `is_changed` whether anything is different.

    Args:
        segment_bytes: a larger run becomes several segments.
    """

    def __init__(
        self,
        disk: Disk,
        directory: str,
        group: Sequence[ClosedSegment],
        sieve: Sieve,
        *,
        segment_bytes: int,
        piece_bytes: int,
    ) -> None:
        self.bases = [group[0].base_offset]
        self.is_changed = len(group) > 1
        self._disk = disk
        self._directory = directory
        self._group = group
        self._keys, self._rules, self._transactions, self._last_batches, self._tally = sieve
        self._segment_bytes = segment_bytes
        self._piece = piece_bytes
        self._out = bytearray(room_for(piece_bytes))
        self._has_index = any(segment.txnindex_path for segment in group)
        self._at = 0
        self._pieces: _Pieces | None = None
        self._size = self._written = 0  # bytes of the segment that is being written, of this step
        self._end = -1  # behind the last batch written
        self._tail: BatchHeader | None = None  # the last batch looked at
        self._is_begun = self._is_over = False
        self._is_at_end = False  # of the run: what is looked at is its last batch

    def paths(self) -> list[str]:
        """What was written, or may have been."""
        suffixes = (files.LOG, files.TXN_INDEX, files.INDEX, files.TIME_INDEX)
        return [files.segment_path(self._directory, base, suffix) + files.CLEANED for base in self.bases for suffix in suffixes]

    def step(self) -> int:
        """The next piece: the bytes read and written, 0 at the end.  Raises Corrupt, InvalidRecord, TooLarge, OSError."""
        self._written = 0
        if not self._is_begun:
            self._begin_segment(self.bases[0])
            self._is_begun = True
        while self._at < len(self._group):
            pieces = self._pieces = self._pieces or _Pieces(self._disk, self._group[self._at], self._piece)
            if pieces.is_over:
                self._at, self._pieces = self._at + 1, None
                continue
            data = pieces.read()
            used = self._sift(pieces, data)
            pieces.position += used
            self._tally.read_bytes += used
            return len(data) + self._written
        if self._is_over:
            return 0
        self._finish()
        self._is_over = True
        return max(self._written, 1)

    def _sift(self, pieces: _Pieces, data: memoryview) -> int:
        at = 0
        while True:
            done = self._keys.sift(data[at:], self._out, self._rules)
            self._tally.records_seen += done.seen
            self._tally.records_kept += done.kept
            self.is_changed = self.is_changed or done.changed > 0
            if done.last >= 0:
                self._tail = header_at(data, at + done.last)
            if done.written:
                self._write(memoryview(self._out)[: done.written], done.end)
            at += done.position
            if done.why is Why.END:
                return at
            if done.why is Why.ROOM and done.position:
                continue
            header = header_at(data, at)
            batch = data[at : at + header.size]
            behind = pieces.position + at + header.size
            self._is_at_end = self._at == len(self._group) - 1 and behind >= self._group[-1].size
            if done.why is Why.ROOM and len(self._out) < room_for(header.size):
                self._out = bytearray(room_for(header.size))
                continue
            if done.why is Why.EMPTY:
                self._drop(header)
            elif done.why is not Why.OPEN or not self._look_into(header, batch):
                raise pieces.damage(at, f"a batch that cannot be read, offset {header.base_offset},")
            self._tail = header
            at += header.size

    # Batches that are not simply copied

    def _drop(self, header: BatchHeader) -> None:
        """Nothing of a batch remains: it goes, or stays without records."""
        self._tally.records_seen += header.record_count
        if self._is_at_end or self._is_last_of_producer(header) or header.next_offset == self._rules.upper:
            self.is_changed = self.is_changed or header.record_count > 0
            self._write(emptied(header), header.next_offset)
        else:
            self.is_changed = True

    def _is_last_of_producer(self, header: BatchHeader) -> bool:
        last = self._last_batches.get(header.producer_id) if header.producer_id >= 0 else None
        if last is None:
            return False
        if last.last_offset >= 0:
            return header.last_offset == last.last_offset
        return header.is_control and header.producer_epoch == last.epoch

    def _look_into(self, header: BatchHeader, batch: memoryview) -> bool:
        """A batch that is compressed, of a transaction, or ends one; False if it cannot be read."""
        if header.is_control:
            self._marker(header, batch)
            return True
        if self._transactions.on_batch(header.producer_id, header.last_offset, is_transactional=header.is_transactional):
            self._drop(header)
            return True
        plain = opened(header, batch)
        out = self._out if len(self._out) >= room_for(len(plain)) else bytearray(room_for(len(plain)))
        done = self._keys.sift(plain, out, self._rules, FORCED | UNCHECKED)
        if done.why is Why.EMPTY:
            self._drop(header)
        elif done.why is not Why.END:
            return False
        else:
            self._tally.records_seen += done.seen
            self._tally.records_kept += done.kept
            self.is_changed = self.is_changed or done.changed > 0
            if not done.changed:
                self._write(batch, done.end)
            elif done.written:
                self._write(_packed(memoryview(out)[: done.written], header.codec), done.end)
        return True

    def _marker(self, header: BatchHeader, batch: memoryview) -> None:
        """It stays as a tombstone does, from when nothing needs it any more."""
        is_done = self._transactions.on_marker(header.producer_id, header.last_offset, marker_kind(header, batch))
        has_horizon = bool(header.attributes & DELETE_HORIZON_MASK)
        if not header.record_count or (is_done and has_horizon and self._rules.now_ms >= header.base_timestamp):
            self._drop(header)
            return
        self._tally.records_seen += header.record_count
        self._tally.records_kept += header.record_count
        if is_done and not has_horizon:
            self.is_changed = True
            self._write(with_horizon(header, batch, self._rules.horizon_ms), header.next_offset)
        else:
            self._write(batch, header.next_offset)

    # Writing

    def _begin_segment(self, base: int) -> None:
        file = self._disk.open(files.segment_path(self._directory, base, files.LOG) + files.CLEANED, create=True)
        try:
            file.truncate(0)
        finally:
            file.close()
        self._size = 0

    def _write(self, data: Buffer, end: int) -> None:
        """Whole batches, the last of which ends at offset `end`; into another segment where they do not go into this one."""
        view, start, behind = memoryview(data), 0, self._end
        if self._size + len(view) > self._segment_bytes:
            for at, header in walk(view):
                here = self._size + at - start
                if here and here + header.size > self._segment_bytes:
                    if at > start:
                        self._append(view[start:at], behind)
                    self._next_segment()
                    start = at
                behind = header.next_offset
        self._append(view[start:], end)

    def _append(self, data: memoryview, end: int) -> None:
        file = self._disk.open(files.segment_path(self._directory, self.bases[-1], files.LOG) + files.CLEANED)
        try:
            file.append([data])
        finally:
            file.close()
        self._size += len(data)
        self._written += len(data)
        self._tally.written_bytes += len(data)
        self._end = end

    def _next_segment(self) -> None:
        self._end_segment()
        self.bases.append(self._end)  # it begins where the one before it ends, whatever is missing between
        self._begin_segment(self.bases[-1])
        self.is_changed = True

    def _end_segment(self) -> None:
        """Write its transaction index, if any of the old segments has one."""
        kept, self._transactions.kept = self._transactions.kept, []
        if not self._has_index:
            return
        path = files.segment_path(self._directory, self.bases[-1], files.TXN_INDEX) + files.CLEANED
        file = self._disk.open(path, create=True)
        try:
            file.truncate(0)
            if kept:
                file.append([b"".join(map(encode_txn, kept))])
        finally:
            file.close()

    def _finish(self) -> None:
        assert self._tail is not None, "a run has a batch"
        if self._end < self._tail.next_offset:
            self._write(emptied(self._tail), self._tail.next_offset)
        self._end_segment()


def _packed(plain: memoryview, codec: int) -> Buffer:
    """One batch that was written without compression, by `codec`."""
    if not codec:
        return plain
    header = header_at(plain)
    return made(
        header._replace(attributes=(header.attributes & ~CODEC_MASK) | codec), compressed(codec, plain[BATCH_HEADER_BYTES:])
    )
