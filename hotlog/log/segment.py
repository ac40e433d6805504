"""One segment in memory: sizes, times and the index entries that are not in the files yet.  No I/O here.

Index entries follow Kafka's rule (LogSegment.append): before a batch is counted, if more than index.interval.bytes were counted since
the last entry, (last offset, position) of this batch goes to the offset index and the largest timestamp so far to the time index.

Invariants: `size` is the bytes of whole batches; an index is its file's first `length` bytes, then `pending`, swapped as one pair, so
that a reader in a thread never sees half a change; entries ascend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hotlog.log import files
from hotlog.log.damage import Damage
from hotlog.log.index import OFFSET_BYTES, OFFSET_ENTRY, TIME_BYTES, TIME_ENTRY, AbortedTransaction, encode_txn
from hotlog.wire.batch import BatchHeader


class IndexPart(NamedTuple):
    """An index file's bytes written so far, and the entries still in memory."""

    length: int
    pending: bytearray

    @property
    def total(self) -> int:
        return self.length + len(self.pending)


class SegmentInfo(NamedTuple):
    """A closed or active local segment as tiering and retention see it.

    Offsets half open; sizes in bytes; times in ms since the epoch, `closed_ms` -1 while active.  After a restart `first_append_ms`
    and `closed_ms` come from file times (never earlier than they were).
    """

    base_offset: int
    end_offset: int
    size: int
    max_timestamp: int
    max_timestamp_offset: int
    first_append_ms: int
    closed_ms: int
    log_path: str

    @property
    def txnindex_path(self) -> str:
        """May not exist."""
        return self.log_path.removesuffix(files.LOG) + files.TXN_INDEX


class Segment:
    """State of one segment."""

    __slots__ = (
        "base_offset", "before", "closed_info", "closed_ms", "created_ms", "damage", "directory", "end_offset", "first_append_ms", "first_timestamp",
        "index_broken", "last_time", "log_path", "max_timestamp", "max_timestamp_offset", "offsets", "since_index", "size", "times", "transactions",
    )  # fmt: skip

    def __init__(self, directory: str, base_offset: int, *, created_ms: int) -> None:
        self.directory = directory
        self.base_offset = base_offset
        self.end_offset = base_offset
        self.log_path = files.segment_path(directory, base_offset, files.LOG)
        self.size = 0
        self.before = 0  # bytes of the segments before it, from some point on: kept by hotlog.log.segments
        self.closed_info: SegmentInfo | None = None  # made once; nothing of it changes any more
        self.created_ms = created_ms
        self.first_append_ms = created_ms
        self.closed_ms = -1
        self.first_timestamp = -1
        self.max_timestamp = -1
        self.max_timestamp_offset = -1
        self.last_time = -1  # largest timestamp in the time index
        self.since_index = 0
        self.offsets = IndexPart(0, bytearray())
        self.times = IndexPart(0, bytearray())
        self.transactions = IndexPart(0, bytearray())  # the aborted ones whose markers lie here
        self.index_broken = False
        self.damage: tuple[Damage, ...] = ()  # what a scrub found, ascending

    def path(self, suffix: str) -> str:
        return files.segment_path(self.directory, self.base_offset, suffix)

    @property
    def has_txn(self) -> bool:
        """Whether a transaction was aborted here."""
        return self.transactions.total > 0

    def note_aborted(self, entry: AbortedTransaction) -> None:
        """A marker here has aborted a transaction."""
        self.transactions.pending.extend(encode_txn(entry))

    @property
    def is_closed(self) -> bool:
        return self.closed_ms >= 0

    @property
    def offset_entries(self) -> int:
        return self.offsets.total // OFFSET_BYTES

    @property
    def time_entries(self) -> int:
        return self.times.total // TIME_BYTES

    def note(self, headers: Sequence[BatchHeader], interval_bytes: int) -> None:
        """Count batches that were written at the end; make index entries as they fall due."""
        position = self.size
        since = self.since_index
        for header in headers:
            if position == 0:
                self.first_timestamp = header.max_timestamp
            if header.max_timestamp > self.max_timestamp and header.record_count:  # an emptied one has no time any more
                self.max_timestamp = header.max_timestamp
                self.max_timestamp_offset = header.last_offset
            if since > interval_bytes:
                self.offsets.pending.extend(OFFSET_ENTRY.pack(header.last_offset - self.base_offset, position))
                self.note_time()
                since = 0
            size = header.length + 12
            position += size
            since += size
        self.since_index = since
        self.size = position
        self.end_offset = headers[-1].next_offset

    def note_one(self, size: int, last_offset: int, max_timestamp: int, interval_bytes: int) -> bool:
        """`note` of one batch by what it needs of it; whether an index entry was made."""
        position, is_due = self.size, self.since_index > interval_bytes
        if position == 0:
            self.first_timestamp = max_timestamp
        if max_timestamp > self.max_timestamp:
            self.max_timestamp = max_timestamp
            self.max_timestamp_offset = last_offset
        if is_due:
            self.offsets.pending.extend(OFFSET_ENTRY.pack(last_offset - self.base_offset, position))
            self.note_time()
            self.since_index = size
        else:
            self.since_index += size
        self.size = position + size
        self.end_offset = last_offset + 1
        return is_due

    def note_time(self) -> None:
        """Put the largest timestamp so far into the time index if it is larger than what is there."""
        if self.max_timestamp > self.last_time:
            self.times.pending.extend(TIME_ENTRY.pack(self.max_timestamp, self.max_timestamp_offset - self.base_offset))
            self.last_time = self.max_timestamp

    def forget_indexes(self) -> None:
        """Start the indexes anew (recovery)."""
        self.offsets = IndexPart(0, bytearray())
        self.times = IndexPart(0, bytearray())
        self.transactions = IndexPart(0, bytearray())
        self.since_index = 0
        self.max_timestamp = self.max_timestamp_offset = self.last_time = self.first_timestamp = -1

    def info(self) -> SegmentInfo:
        made = SegmentInfo(
            self.base_offset, self.end_offset, self.size, self.max_timestamp, self.max_timestamp_offset, self.first_append_ms,
            self.closed_ms, self.log_path,
        )  # fmt: skip
        if self.closed_ms >= 0:
            self.closed_info = made
        return made
