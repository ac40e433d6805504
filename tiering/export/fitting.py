"""Whether a column holds a value exactly.  Pure.

Invariants: a cell that comes out of here says the value itself, digit for digit; what it could not say raises Misfit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.json as pj

from tiering.export.json_values import reads_as_json, spelled
from tiering.export.numbers import Real, double_of, float_of
from tiering.export.shapes import INT_MAX, INT_MIN, Fields, Given, Items, Kind, Shape

_REFUSALS = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowKeyError)


class Misfit(ValueError):
    """The columns cannot say this value exactly."""


def cells(fields: Fields, value: dict[str, Any], *, is_open: bool) -> dict[str, Any]:
    """The cells of a whole value, by name.

    Args:
        is_open: every field must be in a column; else fields without one are left out.
    Raises:
        Misfit: the value stays as it is; also when its cells would not tell it from no value.
    """
    found = _object(fields, value, is_open)
    if all(cell is None for cell in found.values()):
        raise Misfit
    return found


def _cell(shape: Shape, value: Any, is_open: bool) -> Any:
    if value is None:
        return None
    if isinstance(shape, Kind):
        return _KINDS[shape](value)
    if isinstance(shape, Given):
        return _given(shape.type, value)
    if isinstance(shape, Items):
        if type(value) is not list:
            raise Misfit
        return [_cell(shape.item, item, is_open) for item in value]
    if type(value) is not dict:
        raise Misfit
    return _object(shape, value, is_open)


def _object(fields: Fields, value: dict[str, Any], is_open: bool) -> dict[str, Any]:
    shapes = fields.shapes
    found = dict.fromkeys(shapes)
    for name, item in value.items():
        shape = shapes.get(name)
        if shape is not None:
            found[name] = _cell(shape, item, is_open)
        elif is_open and item is not None:
            raise Misfit
    return found


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise Misfit
    return value


def _int(value: Any) -> int:
    if type(value) is not int or not INT_MIN <= value <= INT_MAX:
        raise Misfit
    return value


def _float(value: Any) -> float:
    return _number(value, double_of)


def _number(value: Any, exact: Callable[[str], float | None]) -> float:
    number = exact(str(value)) if type(value) in (int, Real) else None
    if number is None:
        raise Misfit
    return number


def _string(value: Any) -> str:
    if type(value) is not str or not _is_utf8(value):
        raise Misfit
    return value


def _text(value: Any) -> str:
    """Strings as they are, unless they would be taken for the spelling of something else."""
    text = value if type(value) is str else spelled(value)
    if not _is_utf8(text) or (type(value) is str and reads_as_json(value)):
        raise Misfit
    return text


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _nothing(value: Any) -> Any:
    raise Misfit


_KINDS: dict[Kind, Callable[[Any], Any]] = {
    Kind.NOTHING: _nothing, Kind.BOOL: _bool, Kind.INT: _int, Kind.FLOAT: _float, Kind.STRING: _string, Kind.TEXT: _text,
}  # fmt: skip


def _given(type_: pa.DataType, value: Any) -> Any:
    if pa.types.is_floating(type_):
        return _number(value, float_of)
    if pa.types.is_integer(type_):
        if type(value) is not int:
            raise Misfit
        return _scalar(type_, value)
    if type(value) is Real or not isinstance(value, str | int):
        raise Misfit
    return _read_one(type_, spelled(value))


def _scalar(type_: pa.DataType, value: int) -> int:
    try:
        pa.scalar(value, type_)
    except (*_REFUSALS, OverflowError):
        raise Misfit from None
    return value


@lru_cache(maxsize=4096)
def _read_one(type_: pa.DataType, text: str) -> Any:
    """What Arrow's own reader makes of it; of dates, which it does not read from text, a cast."""
    if pa.types.is_date(type_):
        try:
            return pa.scalar(text.strip('"'), pa.string()).cast(type_).as_py()
        except _REFUSALS:
            raise Misfit from None
    try:
        table = pj.read_json(
            pa.BufferReader(f'{{"v":{text}}}'.encode()),
            parse_options=pj.ParseOptions(explicit_schema=pa.schema([("v", type_)]), unexpected_field_behavior="error"),
        )
    except _REFUSALS:
        raise Misfit from None
    cell = table.column(0)[0]
    return cell.value if pa.types.is_timestamp(type_) else cell.as_py()
