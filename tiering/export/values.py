"""JSON values to columns, by Arrow's own reader: a block of values is one newline-delimited text, parsed natively.

A value that is a JSON object of the known columns becomes a row of them and its `value` column is null; any other value (not JSON, a type
that does not fit, text that is not UTF-8) stays as bytes in `value`, its columns null.  Nothing is dropped.  Columns are named as
their fields; a field called like one of the export's own columns gets the prefix "value_".

Invariants: row n of the result belongs to value n; a value is in its columns or in `value`, never in neither (a null value is in neither);
column types only ever widen during an export; the work on one block is bounded by READS_PER_BLOCK_MAX parser calls.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from tiering.export.columns import BASE_NAMES
from tiering.export.value_schema import settle, settled, unify

READS_PER_BLOCK_MAX = 2048
_REFUSALS = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowKeyError)
_RESERVED = re.compile(rf"(?:value_)*(?:{'|'.join(BASE_NAMES)}|date|hour)", re.IGNORECASE)


class Parsed(NamedTuple):
    """Value columns by field name (lengths equal), and which rows are not in them."""

    columns: dict[str, pa.Array]
    is_raw: np.ndarray[tuple[int], np.dtype[np.bool_]]


class ValueColumns:
    """The value columns of an export.  `schema` is what is known so far; `is_open` whether new fields widen it."""

    def __init__(self, schema: pa.Schema | None, *, is_open: bool) -> None:
        self.schema = schema if schema is not None else pa.schema([])
        self.is_open = is_open
        self._lock = threading.Lock()  # partitions are built in threads and widen the same columns

    def add_to(self, table: pa.Table, values: Sequence[bytes | None]) -> pa.Table:
        """The table with columns of its `values` added, and `value` null where they say it all."""
        parsed = self.parse(values)
        raw = pc.if_else(pa.array(parsed.is_raw), table.column("value"), pa.scalar(None, pa.binary()))
        index = table.schema.get_field_index("value")
        table = table.set_column(index, table.schema.field(index), raw)
        for name, column in parsed.columns.items():
            table = table.append_column(column_name(name), column)
        return table

    def parse(self, values: Sequence[bytes | None]) -> Parsed:
        """Values to columns."""
        count = len(values)
        index = [n for n, value in enumerate(values) if value is not None and _is_object(value)]
        is_raw = np.fromiter((value is not None for value in values), np.bool_, count)
        schema, table, good = self._parse_objects([values[n] or b"" for n in index])
        rows = np.array(index, np.int64)[good]
        is_raw[rows] = False
        take = np.full(count, -1, np.int64)
        take[rows] = np.arange(len(rows))
        indices = None if len(rows) == count else pa.array(take, mask=take < 0)
        columns = {}
        for field in schema:
            type_ = settled(field.type)
            if type_ is None:
                continue
            if table is None:
                columns[field.name] = pa.nulls(count, type_)
                continue
            column = settle(table.column(field.name).combine_chunks(), type_)
            columns[field.name] = column if indices is None else column.take(indices)
        return Parsed(columns, is_raw)

    def _parse_objects(self, objects: list[bytes]) -> tuple[pa.Schema, pa.Table | None, list[int]]:
        """The columns, a table of the objects that fit them, and which these are; the block is halved around those that do not."""
        schema = self.schema
        if not objects:
            return schema, None, []
        unexpected = "error" if self.is_open else "ignore"
        whole = _read(objects, schema, unexpected) if len(schema) else None
        if whole is not None:
            return schema, whole, list(range(len(objects)))
        if self.is_open:
            schema = self._widen(_infer(objects, [READS_PER_BLOCK_MAX]))
        if not len(schema):
            return schema, None, []
        tables: list[pa.Table] = []
        good: list[int] = []
        parts, reads = [(0, len(objects))], 0
        while parts and reads < READS_PER_BLOCK_MAX:
            start, end = parts.pop()
            reads += 1
            table = _read(objects[start:end], schema, unexpected)
            if table is not None:
                tables.append(table)
                good.extend(range(start, end))
            elif end - start > 1:
                middle = (start + end) // 2
                parts += [(middle, end), (start, middle)]
        return schema, (pa.concat_tables(tables) if tables else None), good

    def _widen(self, found: pa.Schema | None) -> pa.Schema:
        with self._lock:
            if found is not None:
                self.schema = unify(self.schema, found)
            return self.schema


def column_name(field: str) -> str:
    """The column of a field: its own name, unless that is one of the export's (date and hour are directories)."""
    return f"value_{field}" if _RESERVED.fullmatch(field) else field


def _is_object(value: bytes) -> bool:
    """Looks like one JSON object.  With both ends checked, joined text parses to one row per value or not at all."""
    if value[:1] == b"{" and value[-1:] == b"}":
        return True
    value = value.strip()
    return value[:1] == b"{" and value[-1:] == b"}"


def _text(objects: Sequence[bytes]) -> bytes | None:
    """One text; None if it is not UTF-8 (Arrow's reader would let it pass)."""
    text = b"\n".join(objects)
    try:
        str(text, "utf-8")
    except UnicodeDecodeError:
        return None
    return text


def _read(objects: Sequence[bytes], schema: pa.Schema, unexpected: str) -> pa.Table | None:
    """The objects as a table of exactly `schema`; None if one of them does not fit."""
    text = _text(objects)
    if text is None:
        return None
    try:
        table = pj.read_json(
            pa.BufferReader(text),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(text) + 1),
            parse_options=pj.ParseOptions(explicit_schema=schema, newlines_in_values=True, unexpected_field_behavior=unexpected),
        )
    except _REFUSALS:
        return None
    return table.select(schema.names) if len(table) == len(objects) else None


def _infer(objects: Sequence[bytes], reads_left: list[int]) -> pa.Schema | None:
    """Types of a block; halves are inferred apart where the whole contradicts itself, and widened into one."""
    if reads_left[0] <= 0:
        return None
    reads_left[0] -= 1
    text = _text(objects)
    if text is not None:
        try:
            table = pj.read_json(
                pa.BufferReader(text),
                read_options=pj.ReadOptions(use_threads=False, block_size=len(text) + 1),
                parse_options=pj.ParseOptions(newlines_in_values=True),
            )
            return table.schema
        except _REFUSALS:
            pass
    if len(objects) == 1:
        return None
    middle = len(objects) // 2
    left, right = _infer(objects[:middle], reads_left), _infer(objects[middle:], reads_left)
    if left is None or right is None:
        return left if left is not None else right
    return unify(left, right)
