"""Random kio entities and record batches, for differential tests.

Invariants: an entity that is drawn can be written by kio and read back equal.
"""

from __future__ import annotations

import dataclasses
import io
import types
import typing
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from kio.schema.errors import ErrorCode
from kio.serial import entity_reader, entity_writer

_INTS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
_UINTS = {"uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def entities(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Entities of one kio type."""
    hints = typing.get_type_hints(kind)
    fields = {field.name: _field(field, hints[field.name]) for field in dataclasses.fields(kind)}
    return st.builds(kind, **fields)


def _field(field: dataclasses.Field[Any], hint: Any) -> st.SearchStrategy[Any]:
    is_tag = "tag" in field.metadata
    nullable = typing.get_origin(hint) in (types.UnionType, typing.Union)
    if nullable:
        (hint,) = [part for part in typing.get_args(hint) if part is not type(None)]
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        values = st.lists(_value(field, inner), max_size=3).map(tuple)
    else:
        values = _value(field, hint)
    return st.none() | values if nullable and not is_tag and field.metadata.get("kafka_type") != "uuid" else values


def _value(field: dataclasses.Field[Any], hint: Any) -> st.SearchStrategy[Any]:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = [part for part in typing.get_args(hint) if part is not type(None)]
    if dataclasses.is_dataclass(hint):
        return entities(hint)  # type: ignore[arg-type]
    kind = field.metadata["kafka_type"]
    if kind in _INTS:
        bits = _INTS[kind]
        return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if kind in _UINTS:
        return st.integers(0, 2 ** _UINTS[kind] - 1)
    simple: dict[str, st.SearchStrategy[Any]] = {
        "string": st.text(max_size=8),
        "bytes": st.binary(max_size=16),
        "records": st.binary(max_size=200),
        "bool": st.booleans(),
        "uuid": st.uuids(),
        "float64": st.floats(allow_nan=False, allow_infinity=False),
        "error_code": st.sampled_from(list(ErrorCode)),
        "timedelta_i32": st.integers(0, 2**31 - 1).map(lambda ms: timedelta(milliseconds=ms)),
        "timedelta_i64": st.integers(0, 2**40).map(lambda ms: timedelta(milliseconds=ms)),
        "datetime_i64": st.integers(0, 2**40).map(lambda ms: _EPOCH + timedelta(milliseconds=ms)),
    }
    return simple[kind]


def written(entity: Any) -> bytes:
    """kio's bytes for an entity."""
    with io.BytesIO() as buffer:
        entity_writer(type(entity))(buffer, entity)
        return buffer.getvalue()


def read(kind: type[Any], data: bytes, position: int = 0) -> Any:
    """kio's entity from bytes that must be used up."""
    entity, size = entity_reader(kind)(data, position)
    assert position + size == len(data)
    return entity
