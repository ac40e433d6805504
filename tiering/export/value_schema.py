"""Shapes of value columns as text that people can write.  Pure.

The text is JSON: {"column": shape, ...} where a shape is a type ("int64", "double", "string", "bool", "text"; in a schema file also Arrow's
"int32", "float", "timestamp[ms, tz=UTC]", "date32" ...), {"field": shape, ...} for an object, or [shape] for a list.  `--schema FILE` takes the
same text that an export with `--schema auto` keeps at its destination.  In a kept text null is
where only nulls were seen, and "text" alone says that no value becomes columns.

Invariants: parse_kept(print_shape(shape)) == shape, for what was learned.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pyarrow as pa
import pyarrow.json as pj

from hotlog.kernel.errors import Invalid
from tiering.export.shapes import NOTHING, TEXT, Fields, Given, Items, Kind, Shape, columns_of, has

_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns)(?:, ?tz=([^\]]+))?\]")
_KINDS = {kind.value: kind for kind in Kind if kind is not NOTHING}
_KINDS |= {"float64": Kind.FLOAT, "str": Kind.STRING, "utf8": Kind.STRING, "boolean": Kind.BOOL}


def parse_schema(text: str, where: str) -> Fields:
    """Columns from a schema file.

    Raises:
        Invalid: naming the column and type that is not known.
    """
    shape = _parse(_json(text, where), f"schema {where}", "")
    if has(shape, NOTHING):  # somebody's kept text
        shape = columns_of(shape)
    if not isinstance(shape, Fields) or not shape.shapes:
        raise Invalid(f'schema {where} must be a JSON object of columns, such as {{"delay": "double", "carrier": "string"}}')
    if len(shape.folded) < len(shape.shapes):
        raise Invalid(f"schema {where} has two columns that differ in case only: most readers take them for one")
    return shape


def parse_kept(text: str, where: str) -> Shape:
    """A shape that print_shape made, or that an earlier release kept (what it took for times is text here)."""
    return _plain(_parse(_json(text, where), f"schema {where}", ""))


def print_shape(shape: Shape) -> str:
    """The shape as text; null where only nulls were seen."""
    return json.dumps(_print(shape), indent=1)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as failure:
        raise Invalid(f"schema {where} is not JSON: {failure}") from None


def _parse(given: Any, where: str, column: str) -> Shape:
    if given is None:
        return NOTHING
    if isinstance(given, dict):
        return Fields.of({name: _parse(part, where, f"{column}.{name}".lstrip(".")) for name, part in given.items()})
    if isinstance(given, list) and len(given) == 1:
        return Items(_parse(given[0], where, f"{column}[]"))
    if isinstance(given, str) and given in _KINDS:
        return _KINDS[given]
    type_ = _arrow(given) if isinstance(given, str) else None
    if type_ is None:
        of = f"column {column!r} of {where}" if column else where
        raise Invalid(f'{of} has type {given!r}; expected an Arrow type name that JSON can fill, {{"field": type}} or [type]')
    return Given(type_)


def _arrow(name: str) -> pa.DataType | None:
    """A type that Arrow's JSON reader fills."""
    match = _TIMESTAMP.fullmatch(name)
    try:
        type_ = pa.timestamp(match[1], tz=match[2]) if match else pa.type_for_alias(name)
        options = pj.ParseOptions(explicit_schema=pa.schema([("v", type_)]))
        pj.read_json(pa.BufferReader(b'{"v":null}'), parse_options=options)
    except (ValueError, pa.ArrowException):
        return None
    return None if pa.types.is_null(type_) else type_


def _print(shape: Shape) -> Any:
    if isinstance(shape, Fields):
        return {name: _print(shape.shapes[name]) for name in sorted(shape.shapes)}
    if isinstance(shape, Items):
        return [_print(shape.item)]
    if isinstance(shape, Given):
        return str(shape.type)
    return None if shape is NOTHING else shape.value


def _plain(shape: Shape) -> Shape:
    if isinstance(shape, Fields):
        return Fields.of({name: _plain(part) for name, part in shape.shapes.items()})
    if isinstance(shape, Items):
        return Items(_plain(shape.item))
    return (
        Kind.STRING
        if isinstance(shape, Given) and pa.types.is_timestamp(shape.type)
        else (TEXT if isinstance(shape, Given) else shape)
    )
