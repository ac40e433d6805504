"""Blocks of rows to finished Parquet files, unit by unit, in memory.  Blocking work, meant for threads; no input or output.

A unit is a set of offset ranges, of one partition or more, whose files become visible together; partitions share its files, so that a
directory gets few of them.  It ends with the block that takes its files to `file_bytes_max`.

Rows wait as tables until PENDING_BYTES_MAX of them are there, and become one row group per file then: an export by day whose rows come
partition by partition has few row groups too.  A file costs memory of its own, whatever is in it: a unit has only so many of them, and ends
within a block if need be.

Invariants: a unit's files hold every committed record of its ranges and no other; all files of an export have one schema; memory is bounded
by file_bytes_max, PENDING_BYTES_MAX (twice while they are sorted), FOOTERS_BYTES_MAX and a block of each thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from hotlog.kernel.limits import KiB, MiB
from hotlog.world.ports import Buffer
from tiering.export.columns import Block
from tiering.export.layout import PartitionBy, bucket_of
from tiering.export.ranges import Ranges, add_range
from tiering.export.values import ValueColumns

FILE_BYTES_MAX = 64 * MiB
PENDING_BYTES_MAX = 32 * MiB
ZSTD_LEVEL = 3
FOOTERS_BYTES_MAX = 32 * MiB  # of the files of a unit
_FOOTER_BYTES, _FOOTER_COLUMN_BYTES = 2 * KiB, 512  # what a file is beside its rows
_WRITER_BYTES, _CHUNK_BYTES = 16 * KiB, KiB  # what an open file takes beside its bytes, and each column of each of its row groups


class FinishedFile(NamedTuple):
    """One Parquet file: which directory it belongs to, and its bytes."""

    bucket: int | None
    data: Buffer
    rows: int


@dataclass
class FinishedUnit:
    """Offsets per partition and the files that hold their records (none where there are no records)."""

    parts: dict[int, Ranges]
    files: list[FinishedFile] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def bytes(self) -> int:
        return sum(len(file.data) for file in self.files)

    @property
    def offsets(self) -> int:
        return sum(end - start for ranges in self.parts.values() for start, end in ranges)


class _OpenFile:
    """A file in memory."""

    def __init__(self, schema: pa.Schema) -> None:
        self.rows = 0
        self._overhead = _WRITER_BYTES
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd", compression_level=ZSTD_LEVEL)

    @property
    def bytes(self) -> int:
        return self._overhead + int(self._sink.tell())

    def write(self, table: pa.Table) -> None:
        """One row group."""
        self._writer.write_table(table, row_group_size=len(table))
        self._overhead += _CHUNK_BYTES * table.num_columns
        self.rows += len(table)

    def finish_file(self, bucket: int | None) -> FinishedFile:
        self._writer.close()
        return FinishedFile(bucket, memoryview(self._sink.getvalue()), self.rows)


class _Pending:
    """Rows that wait, and the directories that they go to."""

    def __init__(self) -> None:
        self.bytes = 0
        self._tables: list[pa.Table] = []
        self._buckets: list[int | None] = []

    def add_table(self, table: pa.Table, buckets: Sequence[int | None]) -> None:
        self._tables.append(table)
        self._buckets += buckets
        self.bytes += table.nbytes

    def sorted(self) -> Iterator[tuple[int | None, pa.Table]]:
        """(bucket, its rows), by bucket."""
        if not self._tables:
            return
        table, buckets = pa.concat_tables(self._tables), self._buckets
        self._tables = []
        if len(set(buckets)) > 1:
            order = sorted(range(len(buckets)), key=lambda row: _sort_key(buckets[row]))
            table = table.take(pa.array(order, pa.int64())).combine_chunks()
            buckets = [buckets[row] for row in order]
        start = 0
        for bucket, rows in groupby(buckets):
            count = sum(1 for _ in rows)
            yield bucket, table.slice(start, count)
            start += count


def _sort_key(bucket: int | None) -> tuple[bool, int]:
    return bucket is None, bucket or 0


class Builder:
    """Builds the units of an export; threads may add blocks side by side.

    Args:
        values: value columns; None keeps values as bytes.
        is_fixed: all blocks are one unit, however large (a pending unit is written again).
    """

    def __init__(
        self,
        *,
        partition_by: PartitionBy,
        values: ValueColumns | None,
        file_bytes_max: int = FILE_BYTES_MAX,
        is_fixed: bool = False,
    ) -> None:
        self._by = partition_by
        self._values = values
        self._file_bytes_max = file_bytes_max
        self._pending_bytes_max = min(PENDING_BYTES_MAX, file_bytes_max)
        self._is_fixed = is_fixed
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._files: dict[int | None, _OpenFile] = {}
        self._parts: dict[int, Ranges] = {}
        self._buckets: set[int | None] = set()
        self._pending = _Pending()

    def add_block(self, block: Block) -> list[FinishedUnit]:
        """Take a block; the units that it ends."""
        table = block.table() if len(block) else None
        if table is not None and self._values is not None:
            table = self._values.add_to(table, block.values)
        with self._lock:
            if table is None:
                self._note(block.partition, block.start, block.end)
                return []
            return self._add_slices(block, table)

    def finish_unit(self) -> FinishedUnit | None:
        """No more blocks come: what is left."""
        with self._lock:
            return self._close()

    def _add_slices(self, block: Block, table: pa.Table) -> list[FinishedUnit]:
        buckets = [bucket_of(time, self._by) for time in block.times]
        finished: list[FinishedUnit | None] = []
        row, start = 0, block.start
        while row < len(buckets):
            stop = self._stop(buckets, row, table.num_columns)
            end = block.offsets[stop] if stop < len(buckets) else block.end
            self._pending.add_table(table.slice(row, stop - row), buckets[row:stop])
            self._note(block.partition, start, end)
            if stop < len(buckets):
                finished.append(self._close())
            elif self._pending.bytes >= self._pending_bytes_max:
                self._write()
                if not self._is_fixed and sum(file.bytes for file in self._files.values()) >= self._file_bytes_max:
                    finished.append(self._close())
            row, start = stop, end
        return [unit for unit in finished if unit is not None]

    def _stop(self, buckets: Sequence[int | None], row: int, columns: int) -> int:
        """Up to where rows from `row` on fit in the files that a unit may have."""
        files_max = max(1, FOOTERS_BYTES_MAX // (_FOOTER_BYTES + _FOOTER_COLUMN_BYTES * columns))
        for stop in range(row, len(buckets)):
            if buckets[stop] in self._buckets:
                continue
            if len(self._buckets) >= files_max and not self._is_fixed and (stop > row or self._parts):
                return stop
            self._buckets.add(buckets[stop])
        return len(buckets)

    def _note(self, partition: int, start: int, end: int) -> None:
        self._parts[partition] = add_range(self._parts.get(partition, ()), start, end)

    def _write(self) -> None:
        """What waits becomes a row group of each file."""
        for bucket, table in self._pending.sorted():
            if bucket not in self._files:
                self._files[bucket] = _OpenFile(table.schema)
            self._files[bucket].write(table)
        self._pending = _Pending()

    def _close(self) -> FinishedUnit | None:
        """The unit ends.  A file that is not open yet is finished before the next one is begun."""
        files: list[FinishedFile] = []
        for bucket, table in self._pending.sorted():
            file = self._files.pop(bucket, None) or _OpenFile(table.schema)
            file.write(table)
            files.append(file.finish_file(bucket))
        files += [file.finish_file(bucket) for bucket, file in self._files.items()]
        parts = {partition: ranges for partition, ranges in self._parts.items() if ranges}
        self._begin()
        return FinishedUnit(parts, sorted(files, key=lambda file: _sort_key(file.bucket))) if parts else None
