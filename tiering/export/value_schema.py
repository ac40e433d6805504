"""Types of inferred value columns: as text people can write, and how two inferences become one.  Pure.

The text is JSON: {"column": type, ...} where a type is an Arrow name ("int64", "double", "string", "bool", "timestamp[s]",
"timestamp[ms, tz=UTC]", "date32" ...), {"field": type, ...} for an object, or [type] for an array.  `--schema FILE` takes the same text that
an export with `--schema auto` keeps at its destination.

Invariants: parse(print(schema)) == schema for what JSON inference makes; `unify` is widening only: a column never loses values it had.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pyarrow as pa

from hotlog.kernel.errors import Invalid

_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns)(?:, ?tz=([^\]]+))?\]")
_UNITS = ("s", "ms", "us", "ns")


def parse_schema(text: str, where: str) -> pa.Schema:
    """Columns from text.

    Raises:
        Invalid: naming the column and type that is not known.
    """
    try:
        fields = json.loads(text)
    except ValueError as failure:
        raise Invalid(f"schema {where} is not JSON: {failure}") from None
    if not isinstance(fields, dict) or not fields:
        raise Invalid(f'schema {where} must be a JSON object of columns, such as {{"delay": "double", "carrier": "string"}}')
    return pa.schema([pa.field(name, _parse(type_, f"column {name!r} of schema {where}")) for name, type_ in fields.items()])


def print_schema(schema: pa.Schema) -> str:
    return json.dumps({field.name: _print(field.type) for field in schema}, indent=1)


def _parse(given: Any, where: str) -> pa.DataType:
    if isinstance(given, dict):
        return pa.struct([pa.field(name, _parse(type_, f"{where}.{name}")) for name, type_ in given.items()])
    if isinstance(given, list) and len(given) == 1:
        return pa.list_(_parse(given[0], f"{where}[]"))
    if isinstance(given, str):
        match = _TIMESTAMP.fullmatch(given)
        if match:
            return pa.timestamp(match[1], tz=match[2])
        try:
            return pa.type_for_alias(given)
        except ValueError:
            pass
    raise Invalid(f'{where} has type {given!r}; expected an Arrow type name, {{"field": type}} or [type]')


def _print(type_: pa.DataType) -> Any:
    if pa.types.is_struct(type_):
        return {field.name: _print(field.type) for field in type_}
    if pa.types.is_list(type_):
        return [_print(type_.value_type)]
    return str(type_)


def settled(type_: pa.DataType) -> pa.DataType | None:
    """The type without what inference left open (only nulls seen, empty objects); None if nothing is left."""
    if pa.types.is_null(type_):
        return None
    if pa.types.is_struct(type_):
        inner = [(field.name, settled(field.type)) for field in type_]
        kept = [pa.field(name, part) for name, part in inner if part is not None]
        return pa.struct(kept) if kept else None
    if pa.types.is_list(type_):
        item = settled(type_.value_type)
        return None if item is None else pa.list_(item)
    return type_


def settle(column: pa.Array, type_: pa.DataType) -> pa.Array:
    """The column as `type_`, which is `settled(column.type)`: open parts are nulls and are left out."""
    if column.type == type_:
        return column
    if pa.types.is_struct(type_):
        parts = [settle(column.field(column.type.get_field_index(field.name)), field.type) for field in type_]
        return pa.StructArray.from_arrays(parts, fields=list(type_), mask=column.is_null())
    if pa.types.is_list(type_):
        return pa.ListArray.from_arrays(
            column.offsets, settle(column.values, type_.value_type), type=type_, mask=column.is_null()
        )
    return column.cast(type_)


def unify(old: pa.Schema, new: pa.Schema) -> pa.Schema:
    """Columns of both; where types differ the wider one, and the old one where no JSON text could satisfy both."""
    by_name = {field.name: field.type for field in old}
    for field in new:
        by_name[field.name] = _wider(by_name[field.name], field.type) if field.name in by_name else field.type
    return pa.schema([pa.field(name, type_) for name, type_ in by_name.items()])


def _wider(old: pa.DataType, new: pa.DataType) -> pa.DataType:
    if old == new or pa.types.is_null(new):
        return old
    if pa.types.is_null(old):
        return new
    if pa.types.is_integer(old) and pa.types.is_floating(new):
        return new
    if pa.types.is_timestamp(old) and pa.types.is_string(new):
        return new
    if pa.types.is_timestamp(old) and pa.types.is_timestamp(new) and old.tz == new.tz:
        return max(old, new, key=lambda type_: _UNITS.index(type_.unit))
    if pa.types.is_struct(old) and pa.types.is_struct(new):
        merged = unify(pa.schema(list(old)), pa.schema(list(new)))
        return pa.struct(list(merged))
    if pa.types.is_list(old) and pa.types.is_list(new):
        return pa.list_(_wider(old.value_type, new.value_type))
    return old
