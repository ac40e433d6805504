"""Record batches to Arrow columns, a block of rows at a time.  Pure: bytes in, tables out.

Columns: partition int32, offset int64, timestamp (UTC, ms), key binary, value binary, headers list of (key string, value binary).

Invariants: rows are in offset order; control batches and records of aborted transactions give no rows; a block is bounded by
BLOCK_ROWS_MAX and BLOCK_BYTES_MAX before the last batch is added (batches are never split here).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
import pyarrow as pa

from hotlog.kernel.limits import MiB
from hotlog.wire import records
from hotlog.wire.batch import BatchHeader

BLOCK_ROWS_MAX = 64 * 1024
BLOCK_BYTES_MAX = 32 * MiB

HEADERS_TYPE = pa.list_(pa.struct([pa.field("key", pa.string()), pa.field("value", pa.binary())]))
BASE_SCHEMA = pa.schema([
    pa.field("partition", pa.int32(), nullable=False),
    pa.field("offset", pa.int64(), nullable=False),
    pa.field("timestamp", pa.timestamp("ms", tz="UTC"), nullable=False),
    pa.field("key", pa.binary()),
    pa.field("value", pa.binary()),
    pa.field("headers", HEADERS_TYPE, nullable=False),
])  # fmt: skip
BASE_NAMES = tuple(BASE_SCHEMA.names)


class Block:
    """Rows of one partition on their way to a table."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.end_offset = -1  # all offsets below have been seen (exported or rightly left out)
        self._rows: list[Any] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def is_full(self) -> bool:
        return len(self._rows) >= BLOCK_ROWS_MAX or self._bytes >= BLOCK_BYTES_MAX

    def add(self, data: memoryview, header: BatchHeader, start: int, end: int) -> None:
        """Take the records of one whole batch that lie in [start, end).

        Raises:
            InvalidRecord: the batch does not decode.
        """
        decoded = records.decode_batch(data)
        if header.base_offset < start or header.next_offset > end:
            decoded = [record for record in decoded if start <= record.offset < end]
        self._rows.extend(decoded)
        # What counts for memory is what came out: keys and values are copies.
        self._bytes += max(header.size, sum(len(record.value or b"") for record in decoded))
        self.end_offset = min(header.next_offset, end)

    def values(self) -> list[bytes | None]:
        return [row.value for row in self._rows]

    def table(self) -> pa.Table:
        """The rows as a table of BASE_SCHEMA."""
        rows = self._rows
        return pa.Table.from_arrays(
            [
                pa.array(np.full(len(rows), self.partition, np.int32)),
                pa.array(np.fromiter((row.offset for row in rows), np.int64, len(rows))),
                pa.array(np.fromiter((row.timestamp for row in rows), np.int64, len(rows))).cast(BASE_SCHEMA.field(2).type),
                pa.array([row.key for row in rows], pa.binary()),
                pa.array([row.value for row in rows], pa.binary()),
                headers_array([row.headers for row in rows]),
            ],
            schema=BASE_SCHEMA,
        )


def headers_array(headers: Sequence[Sequence[tuple[str, bytes | None]]]) -> pa.Array:
    """Header lists as one Arrow array; rows mostly have none, so the flat parts are built once."""
    offsets = pa.array([0, *accumulate(map(len, headers))], pa.int32())
    flat = list(chain.from_iterable(headers))
    values = pa.StructArray.from_arrays(
        [pa.array([records.name_text(key) for key, _ in flat], pa.string()), pa.array([value for _, value in flat], pa.binary())],
        fields=list(HEADERS_TYPE.value_type),
    )
    return pa.ListArray.from_arrays(offsets, values, type=HEADERS_TYPE)


def by_bucket(table: pa.Table, bucket_ms: int) -> Iterator[tuple[int, pa.Table]]:
    """(bucket, rows of it) in order of bucket; one bucket 0 when `bucket_ms` is 0."""
    if bucket_ms == 0 or len(table) == 0:
        yield 0, table
        return
    times = table.column("timestamp").cast(pa.int64()).to_numpy()
    buckets = np.floor_divide(times, bucket_ms)
    if buckets[0] == buckets[-1] and (buckets == buckets[0]).all():
        yield int(buckets[0]), table
        return
    for bucket in np.unique(buckets):
        yield int(bucket), table.filter(pa.array(buckets == bucket))
