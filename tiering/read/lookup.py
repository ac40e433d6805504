"""Questions about a tiered range that are answered from manifest, footers and at most one batch: times, epochs, aborted transactions.

Answers equal what a full local log would answer: the first record with a timestamp >= T is looked for in the first row whose maximum
reaches T, from the batch that the footer's time index names, record by record in one batch only.

Invariants: no answer lies below the log start; a row is searched only if its maximum says that it has the answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from hotlog.kernel.errors import Corrupt
from hotlog.kernel.limits import BATCH_HEADER_BYTES, KiB
from hotlog.wire.batch import BatchHeader, header_at
from hotlog.wire.records import Record
from tiering.manifest.root import Entry, PageRef
from tiering.manifest.tree import index_of, leaf_reaching
from tiering.objects.segment import Footer, parse_leader_epochs
from tiering.read.history import History

Window = Callable[[History, Entry, Footer, int, int], Awaitable[memoryview]]
Decode = Callable[[memoryview], Awaitable[list[Record]]]  # off the event loop of a broker: a batch may hold a gigabyte
_SCAN_BYTES = 64 * KiB
Found = tuple[int, int, int]  # offset, timestamp, leader epoch


class Lookup:
    """Look-ups in one history; `window(history, row, footer, position, size)` gives log bytes, `decode` the records of a batch."""

    def __init__(self, history: History, window: Window, decode: Decode) -> None:
        self._history = history
        self._window = window
        self._decode = decode

    async def offset_for_timestamp(self, timestamp_ms: int) -> Found | None:
        """The first record with a timestamp >= `timestamp_ms`."""
        start = self._history.start_offset
        while True:
            row = await self._history.row_reaching(timestamp_ms, start)
            if row is None:
                return None
            found = await self._in_row(row, timestamp_ms, start)
            if found is not None:
                return found
            start = row.end_offset  # its maximum lies below the log start

    async def _in_row(self, row: Entry, timestamp_ms: int, start: int) -> Found | None:
        footer = await self._history.footer(row)
        position = footer.position_for(max(footer.offset_before_timestamp(timestamp_ms), start))
        while position < row.log_bytes:
            position, header = await self._batch_from(row, footer, position, _reaches(start, timestamp_ms - 1))
            if header is None:
                return None
            for record in await self._decode(await self._exactly(row, footer, position, header.size)):
                if record.offset >= start and record.timestamp >= timestamp_ms:
                    return record.offset, record.timestamp, header.leader_epoch
            position += header.size
        return None

    async def offset_of_max_timestamp(self) -> Found | None:
        """The first record that has the largest timestamp of all that is tiered above the log start."""
        start = self._history.start_offset
        if start >= self._history.end_offset:
            return None
        first = await self._history.row_at(start)
        cut = None
        if not first.is_hole and first.base_offset < start:  # its recorded maximum may lie below the log start
            cut, start = await self._max_in_cut_row(first, start), first.end_offset
        row = await self._row_of_max(start)
        if row is None or (cut is not None and cut[1] >= row.max_timestamp):
            return cut
        footer = await self._history.footer(row)
        wanted = row.max_timestamp_offset
        position, header = await self._batch_from(
            row, footer, footer.position_for(wanted), lambda header: header.last_offset >= wanted
        )
        found = None if header is None else await self._max_in_batch(row, footer, position, header, row.base_offset)
        if found is None:
            raise Corrupt(f"{row.name}: no record at offset {wanted}, where the manifest has its largest timestamp")
        return found

    async def _row_of_max(self, start: int) -> Entry | None:
        """The first row with the largest timestamp among those that begin at or above `start`."""
        history, best_ref, best_row, largest = self._history, None, None, -1
        async for ref in self._parts_from(history.manifest.archive, start):
            if ref.start_offset >= start:
                if ref.totals.max_timestamp > largest:
                    best_ref, best_row, largest = ref, None, ref.totals.max_timestamp
                continue
            for row in (await history.page(ref)).rows_between(start, ref.end_offset):
                if row.max_timestamp > largest:
                    best_ref, best_row, largest = None, row, row.max_timestamp
        for row in history.manifest.rows_after(start):
            if not row.is_hole and row.max_timestamp > largest:
                best_ref, best_row, largest = None, row, row.max_timestamp
        if best_ref is None:
            return best_row
        leaf = await leaf_reaching(history.node, best_ref, largest, best_ref.start_offset)
        assert leaf is not None, f"{best_ref.name} has its largest timestamp in a page"
        return (await history.page(leaf)).row_reaching(largest, start_offset=leaf.start_offset)

    async def _parts_from(self, refs: Iterable[PageRef], start: int) -> AsyncIterator[PageRef]:
        """Pages with records that reach above `start`, undivided but for the index pages that `start` lies in."""
        for ref in refs:
            if ref.end_offset <= start or not ref.totals.records:
                continue
            if ref.height and ref.start_offset < start:
                below = (await index_of(self._history.node, ref)).refs_between(start, ref.end_offset)
                async for part in self._parts_from(below, start):
                    yield part
            else:
                yield ref

    async def _max_in_cut_row(self, row: Entry, start: int) -> Found | None:
        """The same inside a row whose beginning was deleted: header by header."""
        footer = await self._history.footer(row)
        position, best = footer.position_for(start), None
        while position < row.log_bytes:
            floor = -1 if best is None else best[1]
            position, header = await self._batch_from(row, footer, position, _reaches(start, floor))
            if header is None:
                break
            found = await self._max_in_batch(row, footer, position, header, start)
            if found is not None and found[1] > floor:
                best = found
            position += header.size
        return best

    async def _max_in_batch(self, row: Entry, footer: Footer, position: int, header: BatchHeader, start: int) -> Found | None:
        records = await self._decode(await self._exactly(row, footer, position, header.size))
        best = max((record for record in records if record.offset >= start), key=lambda record: record.timestamp, default=None)
        return None if best is None else (best.offset, best.timestamp, header.leader_epoch)

    async def end_offset_for_epoch(self, epoch: int) -> tuple[int, int]:
        """(largest known epoch <= `epoch`, first offset after it); (-1, -1) if `epoch` is newer than all that is tiered."""
        lineage = await self._lineage()
        if not lineage or epoch > lineage[-1][0] or epoch < 0:
            return -1, -1
        floor = epoch
        for known, start in lineage:
            if known > epoch:
                return floor, start
            floor = known
        return floor, self._history.end_offset

    async def newest_epoch(self) -> int:
        """The leader epoch of the newest tiered record; -1 if nothing is tiered."""
        lineage = await self._lineage()
        return lineage[-1][0] if lineage else -1

    async def _lineage(self) -> tuple[tuple[int, int], ...]:
        """(epoch, first offset), ascending: the newest footer has the whole line up to its end."""
        offset = self._history.end_offset
        while offset > self._history.start_offset:
            row = await self._history.row_at(offset - 1)
            if not row.is_hole:
                return parse_leader_epochs((await self._history.footer(row)).leader_epochs) or row.epochs
            offset = row.base_offset
        return ()

    async def aborted_transactions(self, start: int, end: int) -> list[tuple[int, int]]:
        """(producer id, first offset) of aborted transactions with data in [start, end).

        A transaction is listed with the segment that holds its end marker, so rows after `end` are looked at until one says that
        everything below `end` is decided; rows and pages without aborted transactions cost nothing (KIP-1058).
        """
        rows = await self.aborted_rows(start, end)
        return [(producer, first) for producer, first, _ in rows]

    async def aborted_rows(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """The same as (producer id, first offset, last offset), inclusive."""
        if self._history.manifest.totals.aborted == 0:
            return []
        result: list[tuple[int, int, int]] = []
        async for row in self._rows_with_aborted(start):
            for aborted in (await self._history.footer(row)).aborted:
                if aborted.last_offset >= start and aborted.first_offset < end:
                    result.append((aborted.producer_id, aborted.first_offset, aborted.last_offset))
                if aborted.last_stable_offset >= end:
                    return sorted(result, key=lambda item: item[1])
        return sorted(result, key=lambda item: item[1])

    async def _rows_with_aborted(self, start: int) -> AsyncIterator[Entry]:
        history = self._history
        async for ref in history.leaves(start, history.end_offset, wanted=lambda ref: ref.totals.aborted > 0):
            for row in (await history.page(ref)).rows_between(ref.start_offset, ref.end_offset):
                if row.aborted and row.end_offset > start:
                    yield row
        for row in history.manifest.rows_after(start):
            if row.aborted:
                yield row

    # -- batches --------------------------------------------------------------------------------------------------------

    async def _batch_from(
        self, row: Entry, footer: Footer, position: int, is_wanted: Callable[[BatchHeader], bool]
    ) -> tuple[int, BatchHeader | None]:
        """(position, header) of the first wanted batch at or after `position`; None at the row's end."""
        window, base = memoryview(b""), position
        while position < row.log_bytes:
            at = position - base
            if at + BATCH_HEADER_BYTES > len(window):
                window, base, at = await self._window(self._history, row, footer, position, _SCAN_BYTES), position, 0
            header = header_at(window, at)
            if is_wanted(header):
                return position, header
            if header.length <= 0:
                raise Corrupt(f"{row.name}: batch at byte {position} says length {header.length}")
            position += header.size
        return position, None

    async def _exactly(self, row: Entry, footer: Footer, position: int, size: int) -> memoryview:
        if position + size > row.log_bytes:
            raise Corrupt(f"{row.name}: the batch at byte {position} says {size} bytes; the log part ends at {row.log_bytes}")
        return await self._window(self._history, row, footer, position, size)


def _reaches(start: int, floor: int) -> Callable[[BatchHeader], bool]:
    """Batches of records (not transaction markers) at or above `start` with a timestamp above `floor`."""
    return lambda header: header.last_offset >= start and header.max_timestamp > floor and not header.is_control
