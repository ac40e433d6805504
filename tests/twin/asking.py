"""Requests from plain words: nested dicts to the structures of one version.

    build(Key.CREATE_TOPICS, 7, topics=[dict(name="t", num_partitions=1, replication_factor=1)], timeout=60_000)

Invariants: a field that only other versions have is left out, one that no version has is an error; what is not given is the default, or
says nothing (0, "", null, no elements); times are ms.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from datetime import timedelta
from functools import cache
from typing import Any

from hotlog.wire import apis


def build(key: int, version: int, /, **fields: Any) -> Any:
    """The request."""
    return _structure(apis.request_type(key, version), fields)


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _structure(kind: type[Any], fields: dict[str, Any]) -> Any:
    hints = _hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}
    values = {name: apis.zero(field, hints[name]) for name, field in known.items() if field.default is dataclasses.MISSING}
    for name, value in fields.items():
        if name in known:
            values[name] = _value(known[name], hints[name], value)
        else:
            assert name in _fields_ever(kind.__api_key__), (
                f"no request of API {kind.__api_key__} has a field {name} in any version"
            )
    return kind(**values)


@cache
def _fields_ever(key: int) -> frozenset[str]:
    """Fields of all structures in all versions of a request."""
    found: set[str] = set()
    for version in apis.versions_known(key):
        for kind in vars(sys.modules[apis.request_type(key, version).__module__]).values():
            if dataclasses.is_dataclass(kind) and hasattr(kind, "__api_key__"):
                found.update(field.name for field in dataclasses.fields(kind))
    return frozenset(found)


def _value(field: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = [part for part in typing.get_args(hint) if part is not type(None)]
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        is_structure = dataclasses.is_dataclass(inner)
        return tuple(_structure(inner, each) if is_structure else each for each in value)  # type: ignore[arg-type]
    if dataclasses.is_dataclass(hint):
        return _structure(hint, value)  # type: ignore[arg-type]
    if field.metadata.get("kafka_type", "").startswith("timedelta"):
        return timedelta(milliseconds=value)
    return value
