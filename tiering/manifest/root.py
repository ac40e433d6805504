"""The root manifest of one partition as frozen values, and how an offset or a timestamp is found in it.  Pure.

A row (`Entry`) is a segment and where its bytes lie, or a recorded hole with its reason.  The newest rows are inline; older ones lie in immutable archive
pages (tiering.manifest.archive), which the root knows by reference with their totals.  References are many in their turn: index pages
(tiering.manifest.index) hold those of a run of pages.  Both merge like an LSM tree (PAGE_FANOUT of a level become one of the next) and both
are bounded, so the root stays small whatever the history, and whatever is looked for is in the root or at the end of one way down the tree:
of two pages up to some millions of rows.

Rows below `log_start_offset` are dead: no reader may be served from them, and they become garbage as fast as the root has room.

Invariants: tiering.manifest.invariants has them; what is here only reads.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple
from uuid import UUID

from hotlog.kernel.ids import PartitionId
from tiering.objects.address import Address
from tiering.objects.keys import page_name, segment_name

NO_TIMESTAMP = -1
ENTRIES_MAX = 192  # inline rows at which the oldest SPILL_ENTRIES go to an archive page
ENTRIES_HARD_MAX = 224  # appends are refused above: spill first
SPILL_ENTRIES = 128
PAGE_FANOUT = 8
PAGES_PER_LEVEL_MAX = 2 * PAGE_FANOUT
PAGE_LEVEL_MAX = 1  # pages of rows have levels up to it, index pages those above
PAGE_ROWS_MAX = SPILL_ENTRIES * PAGE_FANOUT**PAGE_LEVEL_MAX
INDEX_LEVELS = 3  # of one height: then index pages get an index of their own
INDEX_REFS_MAX = PAGE_FANOUT**INDEX_LEVELS
EPOCHS_PER_ENTRY_MAX = 16
GARBAGE_OBJECTS_MAX = 192
GARBAGE_RANGES_MAX = 96
GARBAGE_BUCKET_MS = 60 * 60 * 1000  # neighbouring doomed ranges whose times lie in one bucket become one


class Entry(NamedTuple):
    """A row: one segment, or a hole (`hole` is the reason; then sizes and records are 0).

    Offsets are half open, sizes bytes, times ms since the epoch.  The row's bytes are [`object_start`, `object_end`) of `object`: log, then
    footer.  An empty `object` is one of the row's own, whose name is made of base offset, `epoch` and `nonce` (which the footer has too).
    `max_timestamp_offset` is the last offset of the first batch that has the largest timestamp.  `epochs` are (leader epoch, first offset here) of the batches inside,
    the EPOCHS_PER_ENTRY_MAX newest of them (the footer has all).  `aborted` counts the footer's aborted transactions.  `crc` is the
    CRC-32C of the log bytes.  `appended_ms` and `closed_ms` are the local segment's first append and close: retention clocks.
    """

    base_offset: int
    end_offset: int
    epoch: int
    nonce: str
    object: str
    object_start: int
    object_end: int
    log_bytes: int
    records: int
    min_timestamp: int
    max_timestamp: int
    max_timestamp_offset: int
    appended_ms: int
    closed_ms: int
    created_ms: int
    epochs: tuple[tuple[int, int], ...]
    aborted: int
    storage_class: str
    crc: int
    hole: str = ""

    @property
    def is_hole(self) -> bool:
        return bool(self.hole)

    @property
    def name(self) -> str:
        """Name of the object that has the row's bytes (tiering.objects.keys.PartitionKeys.object makes the key)."""
        assert not self.hole, "a hole has no object"
        return self.object or segment_name(self.base_offset, self.epoch, self.nonce)

    @property
    def address(self) -> Address:
        """Where the row's bytes are."""
        return Address(self.name, self.object_start, self.object_end)

    @property
    def size(self) -> int:
        """Bytes of log and footer."""
        return self.object_end - self.object_start

    @property
    def footer_position(self) -> int:
        """Byte of the object where the footer begins; it ends at `object_end`."""
        return self.object_start + self.log_bytes


def hole(start_offset: int, end_offset: int, reason: str, *, epoch: int, created_ms: int) -> Entry:
    """The row of offsets that are known to be in no tier."""
    assert reason, "a hole has a reason"
    return Entry(
        base_offset=start_offset, end_offset=end_offset, epoch=epoch, nonce="", object="", object_start=0, object_end=0, log_bytes=0, records=0,
        min_timestamp=NO_TIMESTAMP, max_timestamp=NO_TIMESTAMP, max_timestamp_offset=-1, appended_ms=created_ms,
        closed_ms=created_ms, created_ms=created_ms, epochs=(), aborted=0, storage_class="", crc=0, hole=reason[:200],
    )  # fmt: skip


class Totals(NamedTuple):
    """Sums over rows.  `rows` counts holes too; timestamps are NO_TIMESTAMP where no row has records."""

    rows: int = 0
    object_bytes: int = 0
    log_bytes: int = 0
    records: int = 0
    min_timestamp: int = NO_TIMESTAMP
    max_timestamp: int = NO_TIMESTAMP
    aborted: int = 0
    holes: int = 0


NOTHING = Totals()


def totals_of(rows: Iterable[Entry]) -> Totals:
    """Sums over rows."""
    return join_totals(
        Totals(1, row.size, row.log_bytes, row.records, row.min_timestamp, row.max_timestamp, row.aborted, int(row.is_hole))
        for row in rows
    )


def join_totals(parts: Iterable[Totals]) -> Totals:
    """Sum of sums."""
    rows = objects = log = records = aborted = holes = 0
    low, high = None, NO_TIMESTAMP
    for part in parts:
        rows += part.rows
        objects += part.object_bytes
        log += part.log_bytes
        records += part.records
        aborted += part.aborted
        holes += part.holes
        high = max(high, part.max_timestamp)
        if part.rows > part.holes:
            low = part.min_timestamp if low is None else min(low, part.min_timestamp)
    return Totals(rows, objects, log, records, NO_TIMESTAMP if low is None else low, high, aborted, holes)


class PageRef(NamedTuple):
    """An archive page: rows [start_offset, end_offset) of it are live here (its file begins at `file_start`); totals are of those.

    `size` and `crc` are of the page object's bytes.  `height` is 0 for a page of rows, else the number of pages on the way down from it
    to one.  What is live of an index page begins where a page below it begins.
    """

    file_start: int
    start_offset: int
    end_offset: int
    nonce: str
    level: int
    size: int
    crc: int
    totals: Totals
    height: int = 0

    @property
    def name(self) -> str:
        return page_name(self.file_start, self.end_offset, self.nonce, is_index=self.height > 0)


class GarbageObject(NamedTuple):
    """An object (or part of a shared one) that nothing here refers to any more: once `not_before_ms` has passed, let go of it, clear this."""

    name: str
    size: int
    not_before_ms: int
    object_start: int = 0

    @property
    def address(self) -> Address:
        return Address(self.name, self.object_start, self.object_start + self.size)


def doomed(row: Entry, not_before_ms: int) -> GarbageObject:
    """A row's bytes as garbage."""
    return GarbageObject(row.name, row.size, not_before_ms, row.object_start)


class GarbageRange(NamedTuple):
    """The objects of rows [start_offset, end_offset) of an archive page, doomed together.

    Of an index page: also the pages below it in that range, which are listed in its place when their time has come.
    """

    page: PageRef
    start_offset: int
    end_offset: int
    not_before_ms: int


Garbage = GarbageObject | GarbageRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The root.  `topic` is a hint for people; ids decide.  `end_offset` is -1 until something was tiered.  Below `cleaned_end` log compaction has
    been (0: nowhere)."""

    topic_id: UUID
    partition: int
    topic: str
    epoch: int
    generation: int = 0
    nonces: tuple[str, ...] = ()
    created_ms: int = 0
    deleted_ms: int = -1
    log_start_offset: int = 0
    end_offset: int = -1
    totals: Totals = NOTHING
    entries: tuple[Entry, ...] = ()
    archive: tuple[PageRef, ...] = ()
    garbage: tuple[GarbageObject, ...] = ()
    garbage_ranges: tuple[GarbageRange, ...] = ()
    cleaned_end: int = 0

    @property
    def pid(self) -> PartitionId:
        return PartitionId(self.topic_id, self.partition)

    @property
    def start_offset(self) -> int:
        """First offset that a row covers; `end_offset` when there is no row."""
        if self.archive:
            return self.archive[0].start_offset
        return self.entries[0].base_offset if self.entries else self.end_offset

    @property
    def inline_start_offset(self) -> int:
        """First offset of the inline rows; below it rows are in pages."""
        return self.entries[0].base_offset if self.entries else self.end_offset

    @property
    def readable_start_offset(self) -> int:
        """First offset that readers may be served from here; `end_offset` when nothing is."""
        return min(max(self.start_offset, self.log_start_offset), self.end_offset)

    @property
    def is_deleted(self) -> bool:
        return self.deleted_ms >= 0

    @property
    def has_dead_rows(self) -> bool:
        """Whether `advance_start` (also to the same offset) may find rows to doom, room permitting."""
        if self.archive:
            return self.archive[0].start_offset < self.log_start_offset
        return bool(self.entries) and self.entries[0].end_offset <= self.log_start_offset

    def rows_after(self, offset: int) -> tuple[Entry, ...]:
        """Inline rows whose end is above `offset`."""
        return self.entries[bisect_right(self.entries, offset, key=_end) :]


def _base(row: Entry) -> int:
    return row.base_offset


def _end(row: Entry) -> int:
    return row.end_offset


def find_offset(manifest: Manifest, offset: int) -> Entry | PageRef | None:
    """The row that covers `offset` (a hole too), or the one page with that row in or below it; None outside [start, end)."""
    if not manifest.start_offset <= offset < manifest.end_offset:
        return None
    if offset >= manifest.inline_start_offset:
        return manifest.entries[bisect_right(manifest.entries, offset, key=_base) - 1]
    return manifest.archive[bisect_right(manifest.archive, offset, key=lambda ref: ref.start_offset) - 1]


def find_timestamp(manifest: Manifest, timestamp_ms: int) -> Entry | PageRef | None:
    """The first row that reaches above the log start and has a timestamp >= `timestamp_ms`, or the one page that may have that row.

    Linear over references and inline rows, which are few by construction: this is the search over prefix maxima.
    """
    start = manifest.log_start_offset
    for ref in manifest.archive:
        if ref.end_offset > start and ref.totals.max_timestamp >= timestamp_ms and ref.totals.records:
            return ref
    for row in manifest.entries:
        if row.end_offset > start and not row.hole and row.max_timestamp >= timestamp_ms:
            return row
    return None


def sealed(manifest: Manifest) -> Manifest:
    """The same with `totals` set from rows and pages: every edit ends here."""
    parts = [ref.totals for ref in manifest.archive]
    return replace(manifest, totals=join_totals([*parts, totals_of(manifest.entries)]))


def parts_in_use(m: Manifest) -> set[tuple[str, int]]:
    """(object, first byte) of all that the root itself refers to: inline rows, pages, pages that doomed ranges still need."""
    pages = {ref.name for ref in m.archive} | {part.page.name for part in m.garbage_ranges}
    return {(row.name, row.object_start) for row in m.entries if not row.hole} | {(name, 0) for name in pages}
