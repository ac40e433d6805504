"""Archive pages: immutable Parquet objects that hold older rows of a manifest.  Built and parsed here only; pure.

One row per segment or hole, ascending by offset, one column per field of Entry, zstd.  DuckDB and pandas read them as they are.
Lookups work on the columns; a row becomes an Entry only when asked for, so a page costs no Python object for each of its rows.

Invariants: rows are disjoint, ascending and without gaps from the page's start to its end (asserted on build, raised on parse); the
reference to it carries the page's size and CRC-32C, and a page that does not match it is Corrupt.  pyarrow is imported where a page is
parsed, not before, and a broker parses in a thread: it takes half a second to import and holds about 50 MiB, and a broker whose
manifests are short never needs it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

from crc32c import crc32c

from hotlog.kernel.errors import Corrupt
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.versions import StoredFormat
from hotlog.world.ports import Buffer
from tiering.manifest.invariants import span_problem
from tiering.manifest.root import NO_TIMESTAMP, Entry, PageRef, Totals, totals_of
from tiering.objects.address import Address
from tiering.objects.keys import segment_name


def _from_version_1(table: Any) -> Any:
    """Every segment was an object of its own."""
    import pyarrow as pa

    count = table.num_rows
    table = table.append_column("object", pa.array([""] * count, pa.string()))
    table = table.append_column("object_start", pa.array([0] * count, pa.int64()))
    return table.append_column("object_end", table.column("size"))


FORMAT: StoredFormat[Any] = StoredFormat("archive page", 2, {1: _from_version_1})  # of Arrow tables


@cache
def _schema() -> Any:
    import pyarrow as pa

    return pa.schema([
        ("base_offset", pa.int64()), ("end_offset", pa.int64()), ("epoch", pa.int32()), ("nonce", pa.string()), ("object", pa.string()),
        ("object_start", pa.int64()), ("object_end", pa.int64()), ("size", pa.int64()), ("log_bytes", pa.int64()), ("records", pa.int64()), ("min_timestamp", pa.int64()), ("max_timestamp", pa.int64()),
        ("max_timestamp_offset", pa.int64()), ("appended_ms", pa.int64()), ("closed_ms", pa.int64()), ("created_ms", pa.int64()),
        ("epochs", pa.list_(pa.struct([("epoch", pa.int32()), ("start_offset", pa.int64())]))), ("aborted", pa.int64()),
        ("storage_class", pa.string()), ("crc", pa.int64()), ("hole", pa.string()), ("prefix_max_timestamp", pa.int64()),
    ])  # fmt: skip


_FIELDS = Entry._fields
_ADDRESS_FIELDS = ("base_offset", "epoch", "nonce", "object", "object_start", "object_end", "hole")
_DERIVED = ("size", "prefix_max_timestamp")


class Page:
    """Rows of a parsed page.  `start_offset` and `end_offset` are those of the whole file."""

    def __init__(self, table: Any) -> None:
        self._table = table.combine_chunks()
        self._bases: list[int] = self._table.column("base_offset").to_pylist()
        self._ends: list[int] = self._table.column("end_offset").to_pylist()
        self._prefix_max: list[int] = self._table.column("prefix_max_timestamp").to_pylist()
        self._arrays: list[Any] = [self._table.column(name).combine_chunks() for name in _FIELDS]

    def __len__(self) -> int:
        return len(self._bases)

    @property
    def start_offset(self) -> int:
        return self._bases[0]

    @property
    def end_offset(self) -> int:
        return self._ends[-1]

    @property
    def memory_bytes(self) -> int:
        """Roughly what keeping it costs, for a cache's budget."""
        return int(self._table.nbytes) + 200 * len(self)

    def row(self, index: int) -> Entry:
        row = Entry._make(array[index].as_py() for array in self._arrays)
        return row._replace(epochs=tuple((pair["epoch"], pair["start_offset"]) for pair in row.epochs))  # type: ignore[call-overload]

    def rows(self, first: int = 0, last: int | None = None) -> tuple[Entry, ...]:
        """Rows by index, half open."""
        part = self._table.slice(first, (len(self) if last is None else last) - first)
        columns = (_epochs(part) if name == "epochs" else part.column(name).to_pylist() for name in _FIELDS)
        return tuple(map(Entry._make, zip(*columns, strict=True)))

    def rows_between(self, start: int, end: int) -> tuple[Entry, ...]:
        """Rows that begin inside [start, end)."""
        return self.rows(bisect_left(self._bases, start), bisect_left(self._bases, end))

    def rows_from(self, offset: int, count: int) -> tuple[Entry, ...]:
        """At most `count` rows, from the one that covers or follows `offset`."""
        first = bisect_right(self._ends, offset)
        return self.rows(first, min(first + count, len(self)))

    def row_covering(self, offset: int) -> Entry:
        """The row (or hole) that has `offset`, which must lie inside the page."""
        assert self.start_offset <= offset < self.end_offset, (self.start_offset, offset, self.end_offset)
        return self.row(bisect_right(self._bases, offset) - 1)

    def row_reaching(self, timestamp_ms: int, *, start_offset: int = 0) -> Entry | None:
        """The first row with a timestamp >= `timestamp_ms` that reaches above `start_offset`; None if there is none."""
        first = bisect_right(self._ends, start_offset)
        index = max(first, bisect_left(self._prefix_max, timestamp_ms))
        while index < len(self):  # rows below the start may have hidden the answer: their maxima are in the prefix too
            row = self.row(index)
            if not row.hole and row.max_timestamp >= timestamp_ms:
                return row
            index += 1
        return None

    def totals(self, start: int, end: int) -> Totals:
        """Sums over the rows that begin inside [start, end); by column, since a merged page has many rows."""
        import pyarrow.compute as pc

        part = self._part(start, end)
        real = part.filter(pc.equal(part.column("hole"), ""))
        sums = [pc.sum(part.column(name)).as_py() or 0 for name in ("size", "log_bytes", "records", "aborted")]
        low, high = pc.min(real.column("min_timestamp")).as_py(), pc.max(part.column("max_timestamp")).as_py()
        return Totals(
            part.num_rows, sums[0], sums[1], sums[2], NO_TIMESTAMP if low is None else low, NO_TIMESTAMP if high is None else high,
            sums[3], part.num_rows - real.num_rows,
        )  # fmt: skip

    def addresses_between(self, start: int, end: int) -> list[Address]:
        """Where the rows that begin inside [start, end) have their bytes; by column, since a merged page has many rows."""
        part = self._part(start, end)
        columns = (part.column(name).to_pylist() for name in _ADDRESS_FIELDS)
        return [
            Address(name or segment_name(base, epoch, nonce), first, last)
            for base, epoch, nonce, name, first, last, reason in zip(*columns, strict=True)
            if not reason
        ]

    def _part(self, start: int, end: int) -> Any:
        first = bisect_left(self._bases, start)
        return self._table.slice(first, bisect_left(self._bases, end) - first)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.rows())


def _epochs(part: Any) -> list[tuple[tuple[int, int], ...]]:
    """The list column as tuples: by its two flat columns, since a dict for each pair costs more than all other columns."""
    found: list[tuple[tuple[int, int], ...]] = []
    for chunk in part.column("epochs").chunks:
        ends, pairs = chunk.offsets.to_pylist(), chunk.values
        flat = list(zip(pairs.field(0).to_pylist(), pairs.field(1).to_pylist(), strict=True))
        found += [tuple(flat[start:end]) for start, end in pairwise(ends)]
    return found


def build_page(pid: PartitionId, rows: Sequence[Entry]) -> bytes:
    """Parquet bytes of a page."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert rows, "a page has rows"
    assert not span_problem([(row.base_offset, row.end_offset) for row in rows]), "rows of a page follow each other"
    columns: dict[str, list[Any]] = {name: [row[index] for row in rows] for index, name in enumerate(_FIELDS)}
    columns["epochs"] = [[{"epoch": epoch, "start_offset": start} for epoch, start in row.epochs] for row in rows]
    columns["size"] = [row.size for row in rows]
    columns["prefix_max_timestamp"] = list(accumulate((row.max_timestamp for row in rows), max))
    schema = _schema().with_metadata(
        {
            "hotlog.version": str(FORMAT.version), "hotlog.topic_id": str(pid.topic_id), "hotlog.partition": str(pid.partition),
            "hotlog.start_offset": str(rows[0].base_offset), "hotlog.end_offset": str(rows[-1].end_offset),
        }
    )  # fmt: skip
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd")
    return bytes(sink.getvalue())


def parse_page(data: Buffer, pid: PartitionId, ref: PageRef | None = None) -> Page:
    """Rows of a page, checked against its reference.

    Raises:
        Corrupt: wrong size or CRC-32C, not Parquet, another partition's page, or rows that do not follow each other.
        UnknownVersion: a newer release wrote it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = f"archive page {ref.name if ref else '(unnamed)'} of {pid}"
    if ref is not None and (len(data) != ref.size or crc32c(data) != ref.crc):
        raise Corrupt(
            f"{where}: {len(data)} bytes with CRC-32C {crc32c(data):08x}, the manifest says {ref.size} and {ref.crc:08x}"
        )
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        meta = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        version, owner = int(meta["hotlog.version"]), (meta["hotlog.topic_id"], int(meta["hotlog.partition"]))
        if owner != (str(pid.topic_id), pid.partition):
            raise Corrupt(f"{where}: it is of partition {owner}; {pid} is expected")
        page = Page(FORMAT.upgraded(version, table, where).select([*_FIELDS, *_DERIVED]))
    except (pa.ArrowException, KeyError, ValueError, OSError) as failure:
        raise Corrupt(f"{where} does not parse: {failure}") from None
    problem = span_problem(list(zip(page._bases, page._ends, strict=True))) or ("no rows" if not len(page) else None)
    if not problem and ref is not None and (page.start_offset, page.end_offset) != (ref.file_start, ref.end_offset):
        problem = f"rows cover [{page.start_offset}, {page.end_offset})"
    if problem:
        raise Corrupt(f"{where}: {problem}")
    return page


def page_ref(rows: Sequence[Entry], body: bytes, *, nonce: str, level: int) -> PageRef:
    """The reference to a page just built."""
    return PageRef(
        rows[0].base_offset, rows[0].base_offset, rows[-1].end_offset, nonce, level, len(body), crc32c(body), totals_of(rows)
    )
