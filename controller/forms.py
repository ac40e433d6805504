"""Frozen values as JSON values and back, by the annotations of their fields: metadata records, changes and what is answered to them.

An object for a dataclass or NamedTuple, a list for a tuple, an object for a mapping with text keys, text for a UUID, the value of an Enum.

Invariants: pure; `parser(kind)(form(value)) == value` for every value of the annotated types; a field that is missing, unknown or of another
type is Malformed, and nothing is converted (true is no number); an unknown type of a Family, or a newer version, is refused by name, never skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Protocol, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from hotlog.kernel.errors import Corrupt, UnknownVersion
from hotlog.kernel.versions import StoredFormat, Upgrade

Json = dict[str, Any]
Parser = Callable[[Any], Any]


class Malformed(ValueError):
    """JSON values that are not those of the wanted type."""


class Versioned(Protocol):
    """A value whose class says its type and version."""

    @property
    def TYPE(self) -> str: ...

    @property
    def VERSION(self) -> int: ...


class Family:
    """Types of values that may stand in one place, each with a name and a version: `{"type": ..., "version": ..., its fields}`.

    `upgrades`: for a type's name, version -> what makes the fields of the next version of it (hotlog.kernel.versions).
    """

    def __init__(self, noun: str, types: Mapping[str, Any], upgrades: Mapping[str, Mapping[int, Upgrade[Json]]]) -> None:
        assert upgrades.keys() <= types.keys(), f"{noun}: upgrades of {sorted(upgrades.keys() - types.keys())}"
        self._noun = noun
        self._types = types
        self._formats = {
            name: StoredFormat(f"{noun} {name}", kind.VERSION, upgrades.get(name, {})) for name, kind in types.items()
        }

    def form(self, value: Versioned) -> Json:
        """The value as JSON values."""
        body: Json = {"type": value.TYPE, "version": value.VERSION}
        body.update(form(value))
        return body

    def parse(self, body: Any) -> Any:
        """The value that `form` made these JSON values of, now or in the version before.

        Raises:
            UnknownVersion: a type or a version that only a newer program can know.  Corrupt: a missing, extra or ill-typed field.
        """
        if not isinstance(body, dict):
            raise Corrupt(f"{self._noun} is a {type(body).__name__}, not an object")
        given = {name: value for name, value in body.items() if name not in ("type", "version")}
        name, version = str(body.get("type")), body.get("version")
        if type(version) is not int or version < 1:
            raise Corrupt(f"{self._noun} {name} has version {version!r}")
        stored = self._formats.get(name)
        if stored is None:
            raise UnknownVersion(f"{self._noun} of type {name!r} is not known to this program: a newer one wrote it")
        try:
            return parser(self._types[name])(stored.upgraded(version, given))
        except (Malformed, KeyError) as problem:
            raise Corrupt(f"{self._noun} {name} (version {version}) cannot be read: {problem}") from None


def form(value: Any) -> Any:
    """`value` as JSON values."""
    kind: Any = type(value)  # a cache wants hashable keys, which to the checker a type with unhashable values is not
    if kind in _SCALARS:
        return value
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    names = _field_names(kind)
    if names is not None:
        return {name: form(getattr(value, name)) for name in names}
    if isinstance(value, tuple):
        return [form(part) for part in value]
    if isinstance(value, Mapping):
        return {key: form(part) for key, part in value.items()}
    return value


@cache
def _field_names(kind: Any) -> tuple[str, ...] | None:
    """The fields of a dataclass or NamedTuple; None for any other type."""
    if is_dataclass(kind):
        return tuple(field.name for field in fields(kind))
    named: tuple[str, ...] | None = getattr(kind, "_fields", None)
    return named


def parser(kind: Any) -> Parser:
    """What makes a value of the annotation `kind` of JSON values.

    Raises:
        Malformed: from the parser, naming what is wrong.
    """
    return _parser(kind)


@cache
def _parser(kind: Any) -> Parser:
    if kind in _SCALARS:
        return _scalar(kind)
    if kind is UUID:
        return _uuid
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _optional(inner)
    if origin is tuple:
        return _tuple(inner)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(inner)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum(kind)
    if isinstance(kind, type) and _field_names(kind) is not None:
        return _object(kind)
    raise AssertionError(f"no form is known for {kind!r}")


_SCALARS = {int: "an integer", str: "a string", bool: "true or false"}


def _scalar(kind: type) -> Parser:
    words = _SCALARS[kind]

    def parse(value: Any) -> Any:
        if type(value) is not kind:
            raise Malformed(f"{value!r} is not {words}")
        return value

    return parse


def _uuid(value: Any) -> UUID:
    if not isinstance(value, str):
        raise Malformed(f"{value!r} is not a UUID")
    try:
        return UUID(value)
    except ValueError:
        raise Malformed(f"{value!r} is not a UUID") from None


def _optional(kinds: tuple[Any, ...]) -> Parser:
    (kind,) = (kind for kind in kinds if kind is not NoneType)  # a union of two types could not be told apart
    parse_given = parser(kind)
    return lambda value: None if value is None else parse_given(value)


def _tuple(kinds: tuple[Any, ...]) -> Parser:
    repeated = parser(kinds[0]) if len(kinds) == 2 and kinds[1] is Ellipsis else None
    each = () if repeated is not None else tuple(parser(kind) for kind in kinds)

    def parse(value: Any) -> Any:
        if not isinstance(value, list):
            raise Malformed(f"{value!r} is not a list")
        if repeated is not None:
            return tuple([repeated(part) for part in value])
        if len(value) != len(each):
            raise Malformed(f"{value!r} has {len(value)} parts; {len(each)} are expected")
        return tuple(part_parser(part) for part_parser, part in zip(each, value, strict=True))

    return parse


def _mapping(kinds: tuple[Any, ...]) -> Parser:
    key, parse_part = kinds[0], parser(kinds[1])
    assert key is str, "JSON has text keys only"

    def parse(value: Any) -> Any:
        if not isinstance(value, dict):
            raise Malformed(f"{value!r} is not an object")
        return {name: parse_part(part) for name, part in value.items()}

    return parse


def _enum(kind: type[Enum]) -> Parser:
    def parse(value: Any) -> Enum:
        try:
            return kind(value)
        except ValueError:
            raise Malformed(f"{value!r} is no {kind.__name__}") from None

    return parse


def _object(kind: Any) -> Parser:
    hints = get_type_hints(kind)
    parsers = {name: parser(hints[name]) for name in _field_names(kind) or ()}

    def parse(value: Any) -> Any:
        if not isinstance(value, dict):
            raise Malformed(f"{value!r} is not an object")
        if value.keys() != parsers.keys():
            raise Malformed(f"it has fields {sorted(value)}; expected {sorted(parsers)}")
        return kind(**{name: parsers[name](part) for name, part in value.items()})

    return parse
