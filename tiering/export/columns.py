"""Records to Arrow columns, a block of rows at a time.  Pure: bytes in, tables out.

Columns: partition int32, offset int64, timestamp (UTC, ms; null for a record that has none), key binary, value binary, headers list of
(key string, value binary).

Invariants: rows are in offset order; control batches and records of aborted transactions give no rows; a block ends with the record that
takes it to BLOCK_ROWS_MAX or BLOCK_BYTES_MAX, wherever in a batch that is; bytes are counted as memory holds them (keys, headers, columns).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain

import pyarrow as pa

from hotlog.kernel.limits import MiB
from hotlog.wire import records
from hotlog.wire.batch import walk
from hotlog.wire.records import Headers, Record
from tiering.objects.batch_runs import has_rows
from tiering.replay.direct import Run

BLOCK_ROWS_MAX = 64 * 1024
BLOCK_BYTES_MAX = 32 * MiB
ROW_BYTES = 250  # what a row takes beside its key and value
HEADER_BYTES = 250  # what a header takes beside its value
CELL_BYTES = 16  # what a value column takes in a row
NO_TIMESTAMP = -1

HEADERS_TYPE = pa.list_(pa.struct([pa.field("key", pa.string()), pa.field("value", pa.binary())]))
BASE_SCHEMA = pa.schema([
    pa.field("partition", pa.int32(), nullable=False),
    pa.field("offset", pa.int64(), nullable=False),
    pa.field("timestamp", pa.timestamp("ms", tz="UTC")),
    pa.field("key", pa.binary()),
    pa.field("value", pa.binary()),
    pa.field("headers", HEADERS_TYPE, nullable=False),
])  # fmt: skip
BASE_NAMES = tuple(BASE_SCHEMA.names)


class Block:
    """The rows of offsets [start, end) of one partition.

    Args:
        row_bytes: what a row takes beside key, value and headers.
    """

    def __init__(self, partition: int, start: int, row_bytes: int = ROW_BYTES) -> None:
        self.partition = partition
        self.start = self.end = start
        self.offsets: list[int] = []
        self.times: list[int] = []
        self.values: list[bytes | None] = []
        self._keys: list[bytes | None] = []
        self._headers: list[Headers] = []
        self._row_bytes = row_bytes
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def is_full(self) -> bool:
        return self._bytes >= BLOCK_BYTES_MAX or len(self.offsets) >= BLOCK_ROWS_MAX

    def add_record(self, record: Record) -> None:
        key, value, headers = record.key, record.value, record.headers
        self.offsets.append(record.offset)
        self.times.append(record.timestamp)
        self._keys.append(key)
        self.values.append(value)
        self._headers.append(headers)
        self.end = record.offset + 1
        self._bytes += self._row_bytes + (len(key) if key else 0) + (len(value) if value else 0)
        if headers:
            self._bytes += sum(HEADER_BYTES + len(name) + len(part or b"") for name, part in headers)

    def table(self) -> pa.Table:
        """The rows as a table of BASE_SCHEMA."""
        times = [None if time == NO_TIMESTAMP else time for time in self.times] if NO_TIMESTAMP in self.times else self.times
        return pa.Table.from_arrays(
            [
                pa.repeat(pa.scalar(self.partition, pa.int32()), len(self)),
                pa.array(self.offsets, pa.int64()),
                pa.array(times, pa.int64()).cast(BASE_SCHEMA.field(2).type),
                pa.array(self._keys, pa.binary()),
                pa.array(self.values, pa.binary()),
                headers_array(self._headers),
            ],
            schema=BASE_SCHEMA,
        )


class Rows:
    """One partition's range [start, end) on its way to blocks.

    Args:
        aborted: (producer id, first offset, last offset) of aborted transactions, inclusive.
        records_start: records below were deleted meanwhile, though a batch may still have them.
        columns: how many value columns a row will have.
    """

    def __init__(
        self,
        partition: int,
        start: int,
        end: int,
        *,
        aborted: Sequence[tuple[int, int, int]],
        records_start: int = 0,
        columns: int = 0,
    ) -> None:
        self._aborted = aborted
        self._start, self._end = max(start, records_start), end
        self._row_bytes = ROW_BYTES + CELL_BYTES * columns
        self._block = Block(partition, start, self._row_bytes)

    def blocks_of(self, run: Run) -> Iterator[Block]:
        """Take the next run; the blocks it fills.

        Raises:
            InvalidRecord, TooLarge: a batch that does not decode within limits.
        """
        start, end = self._start, self._end
        for position, header in walk(run.data):
            if has_rows(header, self._aborted):
                for record in records.each_record(run.data[position : position + header.size]):
                    if start <= record.offset < end:
                        self._block.add_record(record)
                        if self._block.is_full:
                            yield self._next(record.offset + 1)
            self._block.end = max(self._block.end, min(header.next_offset, end))

    def last_block(self) -> Block:
        """No more runs come: the last block goes to the end of the range."""
        return self._next(self._end)

    def _next(self, end: int) -> Block:
        block, self._block = self._block, Block(self._block.partition, end, self._row_bytes)
        block.end = end
        return block


def headers_array(headers: Sequence[Headers]) -> pa.Array:
    """Header lists as one Arrow array; rows mostly have none, so the flat parts are built once."""
    offsets = pa.array([0, *accumulate(map(len, headers))], pa.int32())
    flat = list(chain.from_iterable(headers))
    values = pa.StructArray.from_arrays(
        [pa.array([records.name_text(key) for key, _ in flat], pa.string()), pa.array([value for _, value in flat], pa.binary())],
        fields=list(HEADERS_TYPE.value_type),
    )
    return pa.ListArray.from_arrays(offsets, values, type=HEADERS_TYPE)
