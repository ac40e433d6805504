"""Runs of batches to finished Parquet files, unit by unit, in memory.  Blocking work, meant for a thread; no input or output.

A unit is a range of offsets whose files become visible together.  It ends when its files reach `file_bytes_max`, when it would open too
many directories at once, or when the columns change; always at the end of a batch.

Invariants: units follow each other without gap from the first offset given to the last; a unit's files hold every committed record of its
range and no other; all files of a unit have one schema; memory is bounded by file_bytes_max, one block and the run at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from hotlog.kernel.limits import MiB
from hotlog.wire.batch import walk
from hotlog.world.ports import Buffer
from tiering.batch_runs import has_rows
from tiering.direct import Run
from tiering.export.columns import Block, by_bucket
from tiering.export.values import ValueColumns

FILE_BYTES_MAX = 64 * MiB
BUCKETS_MAX = 64
ZSTD_LEVEL = 3


class ColumnsChanged(Exception):
    """A unit whose end is fixed met new columns half way: build it again from its start, the columns are known now."""


class FinishedFile(NamedTuple):
    """One Parquet file: which directory it belongs to, and its bytes."""

    bucket: int
    data: Buffer
    rows: int


@dataclass
class FinishedUnit:
    """Offsets [start, end) and the files that hold their records (none where there are no records)."""

    start: int
    end: int
    files: list[FinishedFile] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def bytes(self) -> int:
        return sum(len(file.data) for file in self.files)


class _OpenFile:
    def __init__(self, schema: pa.Schema) -> None:
        self.sink = pa.BufferOutputStream()
        self.rows = 0
        self._writer = pq.ParquetWriter(self.sink, schema, compression="zstd", compression_level=ZSTD_LEVEL)

    def add(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=len(table))
        self.rows += len(table)

    def finish(self, bucket: int) -> FinishedFile:
        self._writer.close()
        return FinishedFile(bucket, memoryview(self.sink.getvalue()), self.rows)


class Builder:
    """Builds the units of one partition's range [start, end).

    Args:
        aborted: (producer id, first offset, last offset) of aborted transactions, inclusive.
        values: value columns, shared by the partitions of an export; None keeps values as bytes.
        is_fixed: the whole range is one unit, however large (a pending unit is written again).
        records_start: records below were deleted meanwhile, though a batch may still have them.
    """

    def __init__(
        self,
        partition: int,
        start: int,
        end: int,
        *,
        bucket_ms: int,
        aborted: Sequence[tuple[int, int, int]],
        values: ValueColumns | None,
        file_bytes_max: int = FILE_BYTES_MAX,
        is_fixed: bool = False,
        records_start: int = 0,
    ) -> None:
        self._partition = partition
        self._range = (start, end)
        self._records_start = max(start, records_start)
        self._bucket_ms = bucket_ms
        self._aborted = aborted
        self._values = values
        self._file_bytes_max = file_bytes_max
        self._is_fixed = is_fixed
        self._unit_start = start
        self._seen = start  # all offsets below are in finished units, open files or the block
        self._files: dict[int, _OpenFile] = {}
        self._schema: pa.Schema | None = None
        self._block = Block(partition)
        self._finished: list[FinishedUnit] = []

    def add(self, run: Run) -> list[FinishedUnit]:
        """Take the next run; return the units it completes.

        Raises:
            InvalidRecord, TooLarge: a batch that does not decode within limits.
            ColumnsChanged: see there.
        """
        start, end = self._records_start, self._range[1]
        for position, header in walk(run.data):
            if has_rows(header, self._aborted):
                self._block.add(run.data[position : position + header.size], header, start, end)
            self._block.end_offset = min(header.next_offset, end)
            if self._block.is_full:
                self._flush()
        return self._handed_over()

    def finish(self) -> list[FinishedUnit]:
        """No more runs come: everything up to the end of the range is done."""
        self._flush()
        self._close_unit(self._range[1])
        return self._handed_over()

    def _handed_over(self) -> list[FinishedUnit]:
        finished, self._finished = self._finished, []
        return finished

    def _flush(self) -> None:
        """Write the block out as one row group per directory."""
        block, self._block = self._block, Block(self._partition)
        if block.end_offset < 0:
            return
        if len(block):
            table = block.table()
            if self._values is not None:
                table = self._values.add_to(table, block.values())
            self._write(table)
        self._seen = block.end_offset
        if not self._is_fixed and sum(file.sink.tell() for file in self._files.values()) >= self._file_bytes_max:
            self._close_unit(self._seen)

    def _write(self, table: pa.Table) -> None:
        if self._schema is not None and table.schema != self._schema:
            if self._is_fixed:
                raise ColumnsChanged
            self._close_unit(self._seen)
        parts = list(by_bucket(table, self._bucket_ms))
        if not self._is_fixed and self._files and len({bucket for bucket, _ in parts} | set(self._files)) > BUCKETS_MAX:
            self._close_unit(self._seen)
        self._schema = table.schema
        for bucket, part in parts:
            if bucket not in self._files:
                self._files[bucket] = _OpenFile(self._schema)
            self._files[bucket].add(part)

    def _close_unit(self, end: int) -> None:
        """What is open is complete up to `end`."""
        if end > self._unit_start:
            files = [file.finish(bucket) for bucket, file in sorted(self._files.items())]
            self._finished.append(FinishedUnit(self._unit_start, end, files))
        self._unit_start = self._seen = end
        self._files = {}
        self._schema = None
