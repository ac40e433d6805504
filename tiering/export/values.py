"""JSON values to columns: a piece of values is one newline-delimited text, parsed by Arrow's own reader where nothing is in doubt.

A value that is a JSON object which the columns hold exactly becomes a row of them and its `value` column is null; any other value (not
JSON, a type that does not fit, a number that a double would change, more columns than there may be, nesting too deep) stays as bytes in
`value`, its columns null.  Whether a value fits does not depend on its neighbours.  Nothing is dropped.  Columns are named as their fields;
a field called like one of the export's own columns gets the prefix "value_".

An export learns the shapes of all its values first, and writes then (`learn_shapes`, `fix`, `add_to`): its files have one schema.

Invariants: row n of the result belongs to value n; a value is in its columns or in `value`, never in neither (no value is in neither);
the native reader sees no text that is deeper than DEPTH_MAX, and never more than a piece, with columns that are known.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from hotlog.kernel.limits import MiB
from tiering.export.columns import BASE_NAMES
from tiering.export.fitting import Misfit, cells
from tiering.export.json_values import NotAnObject, is_candidate, parse
from tiering.export.shapes import (
    COLUMNS_MAX,
    LEAVES_MAX,
    NOTHING,
    TEXT,
    Fields,
    Given,
    Items,
    Kind,
    Shape,
    arrow_type,
    columns_of,
    has,
    has_hollow,
    leaves,
    widened,
)

PIECE_ROWS_MAX = 1024
PIECE_BYTES_MAX = MiB
_REFUSALS = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowKeyError)
_RESERVED = re.compile(rf"(?:value_)*(?:{'|'.join(BASE_NAMES)}|date|hour)", re.IGNORECASE)
# Numbers that a double or a float may change, and the constants that JSON does not have but Arrow reads.
_DOUBT = re.compile(rb"[\[:,\s]-?(?:[0-9.]{16}|[0-9.]+[eE]|NaN|Inf)")
_DOUBT_FLOAT = re.compile(rb"[\[:,\s]-?(?:[0-9.]{7}|[0-9.]+[eE]|NaN|Inf)")


class Parsed(NamedTuple):
    """Value columns by field name (lengths equal), and which rows are not in them."""

    columns: dict[str, pa.Array]
    is_raw: list[bool]


class ValueColumns:
    """The value columns of an export.

    Args:
        shape: what is known of the values; None if nothing.
        is_open: columns are learned, and all fields of a value must be in one; else they are given, and other fields are left out.
    """

    def __init__(self, shape: Shape | None = None, *, is_open: bool) -> None:
        self.shape: Shape = Fields() if shape is None else shape
        self.is_open = is_open
        self._lock = threading.Lock()  # partitions are learned in threads
        self.fix()

    def fix(self) -> None:
        """What was learned makes the columns from now on."""
        self.columns = columns_of(self.shape) if self.is_open else _given_columns(self.shape)
        self.leaves = leaves(self.columns)
        self._reader = _Reader(self.columns, self.shape if self.is_open else self.columns, is_open=self.is_open)
        floats = has(self.columns, Kind.FLOAT), has(self.columns, Given)
        self._doubt = _DOUBT_FLOAT if floats[1] else _DOUBT if floats[0] else None
        self._is_spelled = has(self.shape, TEXT) or has_hollow(self.shape)

    # -- the first pass -----------------------------------------------------------------------------------------------------

    def learn_shapes(self, values: Sequence[bytes | None]) -> None:
        """Widen what is known to hold these values too."""
        if not self.is_open or self.shape is TEXT:
            return
        for piece in _pieces(values):
            with self._lock:
                self._learn_objects([values[row] or b"" for row in piece])

    def _learn_objects(self, objects: list[bytes]) -> None:
        if self._learned_reader().reads(objects):
            return
        shape = self.shape
        for value in objects:
            try:
                shape = widened(shape, parse(value), is_top=True)
            except NotAnObject:
                continue
        self.shape = TEXT if leaves(shape) > LEAVES_MAX else shape

    def _learned_reader(self) -> _Reader:
        if self._reader.open_shape is not self.shape:
            self._reader = _Reader(columns_of(self.shape), self.shape, is_open=True)
        return self._reader

    # -- the second pass ----------------------------------------------------------------------------------------------------

    def add_to(self, table: pa.Table, values: Sequence[bytes | None]) -> pa.Table:
        """The table with columns of its `values` added, and `value` null where they say it all."""
        parsed = self.parse(values)
        raw = pc.if_else(pa.array(parsed.is_raw, pa.bool_()), table.column("value"), pa.scalar(None, pa.binary()))
        index = table.schema.get_field_index("value")
        table = table.set_column(index, table.schema.field(index), raw)
        for name, column in parsed.columns.items():
            table = table.append_column(column_name(name), column)
        return table

    def parse(self, values: Sequence[bytes | None]) -> Parsed:
        """Values to columns."""
        count = len(values)
        is_raw = [value is not None for value in values]
        place: list[int | None] = [None] * count
        tables: list[pa.Table] = []
        held = 0
        if self.columns.shapes:
            for piece in _pieces(values):
                table, good = self._read([values[row] or b"" for row in piece])
                for at, nth in enumerate(good, held):
                    place[piece[nth]] = at
                    is_raw[piece[nth]] = False
                held += len(good)
                tables.append(table)
        schema = self._reader.schema
        whole = pa.concat_tables(tables) if tables else schema.empty_table()
        indices = None if held == count else pa.array(place, pa.int64())
        columns = {}
        for name in schema.names:
            column = whole.column(name).combine_chunks()
            columns[name] = column if indices is None else column.take(indices)
        return Parsed(columns, is_raw)

    def _read(self, objects: list[bytes]) -> tuple[pa.Table, Sequence[int]]:
        """A table of the objects that the columns hold, and which these are."""
        text = _text(objects)
        if text is not None and not self._is_spelled and (self._doubt is None or self._doubt.search(text) is None):
            table = self._reader.read(text, len(objects))
            if table is not None:
                return _without_empty(table)
        rows, good = [], []
        for nth, value in enumerate(objects):
            try:
                rows.append(cells(self.columns, parse(value), is_open=self.is_open))
                good.append(nth)
            except (NotAnObject, Misfit):
                continue
        return self._reader.table(rows), good


class _Reader:
    """Arrow's reader for columns that are known.

    Args:
        open_shape: may also know names of which only nulls were seen: the reader meets them without surprise.
    """

    def __init__(self, columns: Fields, open_shape: Shape, *, is_open: bool) -> None:
        self.open_shape = open_shape
        self.type = arrow_type(columns)
        self.schema = pa.schema(list(self.type))
        self._columns = columns
        self._is_small = leaves(open_shape) <= 4 * COLUMNS_MAX
        known = open_shape.shapes if isinstance(open_shape, Fields) else {}
        expected = [pa.field(name, _open_type(part)) for name, part in known.items() if name in columns.shapes or part is NOTHING]
        self._options = pj.ParseOptions(
            explicit_schema=pa.schema(expected),
            newlines_in_values=True,
            unexpected_field_behavior="error" if is_open else "ignore",
        )

    def reads(self, objects: list[bytes]) -> bool:
        """Whether all objects are of these shapes."""
        text = _text(objects) if self._columns.shapes and self._is_small else None
        return text is not None and self._read(text, len(objects)) is not None

    def read(self, text: bytes, count: int) -> pa.Table | None:
        """The objects of a text as a table of exactly these columns; None if one of them does not fit."""
        table = self._read(text, count)
        if table is None:
            return None
        columns = [_settle(table.column(field.name).combine_chunks(), field.type) for field in self.schema]
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _read(self, text: bytes, count: int) -> pa.Table | None:
        options = pj.ReadOptions(use_threads=False, block_size=len(text) + 1)
        try:
            table = pj.read_json(pa.BufferReader(text), read_options=options, parse_options=self._options)
        except _REFUSALS:
            return None
        return table if len(table) == count else None

    def table(self, rows: list[dict[str, object]]) -> pa.Table:
        return pa.Table.from_arrays(pa.array(rows, self.type).flatten(), schema=self.schema)


def _open_type(shape: Shape) -> pa.DataType:
    """The type for the reader: null where only nulls were seen, so that it takes nothing else there."""
    if isinstance(shape, Fields):
        return pa.struct([pa.field(name, _open_type(part)) for name, part in shape.shapes.items()])
    if isinstance(shape, Items):
        return pa.list_(_open_type(shape.item))
    return pa.null() if shape is NOTHING else arrow_type(shape)


def _given_columns(shape: Shape) -> Fields:
    assert isinstance(shape, Fields)
    return shape


def _settle(column: pa.Array, type_: pa.DataType) -> pa.Array:
    """The column as `type_`: members that are always null are left out."""
    if column.type == type_:
        return column
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), type_)
    if pa.types.is_struct(type_):
        parts = [_settle(column.field(column.type.get_field_index(field.name)), field.type) for field in type_]
        return pa.StructArray.from_arrays(parts, fields=list(type_), mask=column.is_null())
    return pa.ListArray.from_arrays(column.offsets, _settle(column.values, type_.value_type), type=type_, mask=column.is_null())


def _without_empty(table: pa.Table) -> tuple[pa.Table, Sequence[int]]:
    """Without rows that say nothing: they would not be told from a null value."""
    count = len(table)
    if any(column.null_count == 0 for column in table.columns):
        return table, range(count)
    is_empty = reduce(pc.and_, (column.is_null() for column in table.columns))
    if not pc.any(is_empty).as_py():
        return table, range(count)
    return table.filter(pc.invert(is_empty)), [n for n, empty in enumerate(is_empty.to_pylist()) if not empty]


def column_name(field: str) -> str:
    """The column of a field: its own name, unless that is one of the export's (date and hour are directories)."""
    return f"value_{field}" if _RESERVED.fullmatch(field) else field


def _pieces(values: Sequence[bytes | None]) -> Iterator[list[int]]:
    """Rows that look like objects, a piece at a time."""
    piece: list[int] = []
    size = 0
    for row, value in enumerate(values):
        if value is None or not is_candidate(value):
            continue
        piece.append(row)
        size += len(value)
        if len(piece) >= PIECE_ROWS_MAX or size >= PIECE_BYTES_MAX:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _text(objects: Sequence[bytes]) -> bytes | None:
    """One text; None if it is not UTF-8 (Arrow's reader would let it pass)."""
    text = b"\n".join(objects)
    try:
        str(text, "utf-8")
    except UnicodeDecodeError:
        return None
    return text
