"""Questions about a tiered range that are answered from manifest, footers and at most one batch: times, epochs, aborted transactions.

Answers equal what a full local log would answer: the first record with a timestamp >= T is looked for in the first row whose maximum
reaches T, from the batch that the footer's time index names, record by record in one batch only.

Invariants: no answer lies below the log start; a row is searched only if its maximum says that it has the answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from hotlog.kernel.errors import Corrupt
from hotlog.kernel.limits import BATCH_HEADER_BYTES, KiB
from hotlog.wire.batch import BatchHeader, header_at
from hotlog.wire.records import decode_batch
from tiering.history import History
from tiering.manifest import Entry, find_max_timestamp
from tiering.segment_object import Footer, parse_leader_epochs

Window = Callable[[History, Entry, Footer, int, int], Awaitable[memoryview]]
_SCAN_BYTES = 64 * KiB
Found = tuple[int, int, int]  # offset, timestamp, leader epoch


class Lookup:
    """Look-ups in one history; `window(history, row, footer, position, size)` gives log bytes."""

    def __init__(self, history: History, window: Window) -> None:
        self._history = history
        self._window = window

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
            position, header = await self._batch_from(
                row, footer, position, lambda header: header.max_timestamp >= timestamp_ms and header.last_offset >= start
            )
            if header is None:
                return None
            for record in decode_batch(await self._exactly(row, footer, position, header.size)):
                if record.offset >= start and record.timestamp >= timestamp_ms:
                    return record.offset, record.timestamp, header.leader_epoch
            position += header.size
        return None

    async def offset_of_max_timestamp(self) -> Found | None:
        """The first record that has the largest timestamp of all that is tiered."""
        found = find_max_timestamp(self._history.manifest)
        if found is None:
            return None
        if isinstance(found, Entry):
            row: Entry | None = found
        else:
            start = max(self._history.start_offset, found.start_offset)
            row = (await self._history.page(found)).row_reaching(found.totals.max_timestamp, start_offset=start)
        if row is None:
            return None
        footer = await self._history.footer(row)
        wanted = row.max_timestamp_offset
        position, header = await self._batch_from(
            row, footer, footer.position_for(wanted), lambda header: header.last_offset >= wanted
        )
        if header is None:
            raise Corrupt(f"{row.name}: no batch reaches offset {wanted}, where the manifest has its largest timestamp")
        for record in decode_batch(await self._exactly(row, footer, position, header.size)):
            if record.timestamp == header.max_timestamp:
                return record.offset, record.timestamp, header.leader_epoch
        return header.base_offset, header.max_timestamp, header.leader_epoch

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
        for ref in history.manifest.archive:
            if ref.end_offset > start and ref.totals.aborted:
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
