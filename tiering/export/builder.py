"""Blocks of rows to finished Parquet files, unit by unit, in memory.  Blocking work, meant for threads; no input or output.

A unit is a set of offset ranges, of one partition or more, whose files become visible together; partitions share its files, so that a
directory gets few of them.  It ends with the block that takes its files to `file_bytes_max`.

Rows wait as tables until PENDING_BYTES_MAX of them are there, and become one row group per file then: an export by day whose rows come
partition by partition has few row groups too.

Invariants: a unit's files hold every committed record of its ranges and no other; all files of an export have one schema; memory is bounded
by file_bytes_max, PENDING_BYTES_MAX and a block of each thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from hotlog.kernel.limits import KiB, MiB
from hotlog.world.ports import Buffer
from tiering.export.columns import Block
from tiering.export.layout import PartitionBy, bucket_of
from tiering.export.ranges import Ranges, add
from tiering.export.values import ValueColumns

FILE_BYTES_MAX = 64 * MiB
PENDING_BYTES_MAX = 32 * MiB
ZSTD_LEVEL = 3
_WRITER_BYTES = 16 * KiB  # what an open file takes beside its bytes,
_CHUNK_BYTES = KiB  # and each column of each of its row groups
_PENDING_COLUMN_BYTES = 512  # what a column of a waiting table takes beside its bytes


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
    """A file in memory; its writer is opened with the first row group."""

    def __init__(self) -> None:
        self.rows = 0
        self._sink = pa.BufferOutputStream()
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[pa.Table] = []
        self._overhead = 0

    @property
    def bytes(self) -> int:
        return self._overhead + (self._sink.tell() if self._writer is not None else 0)

    def add(self, table: pa.Table) -> None:
        self._pending.append(table)
        self.rows += len(table)

    def write(self) -> None:
        """What waits becomes a row group."""
        if not self._pending:
            return
        table = pa.concat_tables(self._pending)
        self._pending = []
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._sink, table.schema, compression="zstd", compression_level=ZSTD_LEVEL)
            self._overhead = _WRITER_BYTES
        self._writer.write_table(table, row_group_size=len(table))
        self._overhead += _CHUNK_BYTES * table.num_columns

    def finish(self, bucket: int | None) -> FinishedFile:
        self.write()
        assert self._writer is not None
        self._writer.close()
        return FinishedFile(bucket, memoryview(self._sink.getvalue()), self.rows)


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
        self._pending_bytes = 0

    def add(self, block: Block) -> FinishedUnit | None:
        """Take a block; the unit that it ends, if it does."""
        parts = list(self._tables(block)) if len(block) else []
        with self._lock:
            for bucket, table in parts:
                self._files.setdefault(bucket, _OpenFile()).add(table)
                self._pending_bytes += table.nbytes + _PENDING_COLUMN_BYTES * table.num_columns
            self._parts[block.partition] = add(self._parts.get(block.partition, ()), block.start, block.end)
            if self._pending_bytes < self._pending_bytes_max:
                return None
            for file in self._files.values():
                file.write()
            self._pending_bytes = 0
            is_full = not self._is_fixed and sum(file.bytes for file in self._files.values()) >= self._file_bytes_max
            return self._close() if is_full else None

    def finish(self) -> FinishedUnit | None:
        """No more blocks come: what is left."""
        with self._lock:
            return self._close()

    def _close(self) -> FinishedUnit | None:
        parts = {partition: ranges for partition, ranges in self._parts.items() if ranges}
        files = []
        for bucket in sorted(self._files, key=lambda bucket: (bucket is None, bucket or 0)):
            files.append(self._files.pop(bucket).finish(bucket))
        self._begin()
        return FinishedUnit(parts, files) if parts else None

    def _tables(self, block: Block) -> Iterator[tuple[int | None, pa.Table]]:
        """(bucket, rows of it) of a block."""
        table = block.table()
        if self._values is not None:
            table = self._values.add_to(table, block.values)
        buckets: dict[int | None, list[int]] = {}
        for row, time in enumerate(block.times):
            buckets.setdefault(bucket_of(time, self._by), []).append(row)
        for bucket, rows in buckets.items():
            yield bucket, table if len(buckets) == 1 else table.take(pa.array(rows, pa.int64()))
