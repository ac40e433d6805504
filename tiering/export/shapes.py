"""Shapes of JSON values: what a value column is to hold, found out value by value.  Pure.

A shape is a kind (bool, int64, double, string, text), a list of one shape, an object of named shapes, or an Arrow type that a schema file
gave.  Shapes widen: int64 beside double is double, and what else has nothing in common is text.  A column of text holds strings as they are,
and numbers, booleans, lists and objects in their JSON spelling.  A number that neither an int64 nor a double says exactly widens nothing.

`widened` is a join on a semilattice: whatever the order of values, blocks, partitions and runs, the shape is the same.  So are its bounds:
an object with more than NESTED_NAMES_MAX names is text; of the names of the values themselves the first NAMES_MAX (by their text) are kept;
of names that differ in case alone the first is kept, for most readers take them for one.

Invariants: widened(widened(s, a), b) == widened(widened(s, b), a); widening never narrows a shape; names are text that a reader can take.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pyarrow as pa

from tiering.export.numbers import Real, double_of

NAMES_MAX = 1000
NESTED_NAMES_MAX = 100
NAME_CHARS_MAX = 255
COLUMNS_MAX = 1000  # leaves of all value columns in a file
LEAVES_MAX = 20_000  # leaves that are kept in mind; with more of them no value becomes columns
INT_MIN, INT_MAX = -(2**63), 2**63 - 1


class Kind(Enum):
    """What needs no more words; the value is its name in a schema file."""

    NOTHING = ""  # only nulls were seen
    BOOL = "bool"
    INT = "int64"
    FLOAT = "double"
    STRING = "string"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    item: Shape


@dataclass(frozen=True, slots=True)
class Given:
    """A type of Arrow's that only a schema file can ask for."""

    type: pa.DataType


@dataclass(frozen=True, slots=True)
class Fields:
    """An object.  `folded`: names without their case, each with the name that stands for it."""

    shapes: Mapping[str, Shape] = field(default_factory=dict)
    folded: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, shapes: Mapping[str, Shape]) -> Fields:
        return cls(dict(shapes), {name.casefold(): name for name in shapes})


Shape = Kind | Items | Given | Fields
NOTHING, TEXT = Kind.NOTHING, Kind.TEXT
_NUMBERS = (Kind.INT, Kind.FLOAT)
_BY_TYPE = {bool: Kind.BOOL, int: Kind.INT, Real: Kind.FLOAT, str: Kind.STRING}


def widened(shape: Shape, value: Any, *, is_top: bool = False) -> Shape:
    """The shape that holds `value` too; the same object if it did before.

    Args:
        is_top: `value` is a whole value; inside of one, an object with too many names is text.
    """
    if value is None or shape is TEXT:
        return shape
    kind = type(value)
    if kind is dict:
        return _with_fields(shape, value, is_top) if shape is NOTHING or isinstance(shape, Fields) else TEXT
    if kind is list:
        return _with_items(shape, value) if shape is NOTHING or isinstance(shape, Items) else TEXT
    if kind is int and not INT_MIN <= value <= INT_MAX:
        return shape
    wanted = _BY_TYPE[kind]
    if shape is wanted or (wanted is Kind.FLOAT and double_of(value) is None):
        return shape
    return _join_kinds(shape, wanted)


def _join_kinds(a: Shape, b: Kind) -> Shape:
    if a is NOTHING:
        return b
    return Kind.FLOAT if a in _NUMBERS and b in _NUMBERS else TEXT


def _with_items(shape: Shape, values: list[Any]) -> Shape:
    item: Shape = shape.item if isinstance(shape, Items) else NOTHING
    before = item
    for value in values:
        item = widened(item, value)
    return shape if item is before and isinstance(shape, Items) else Items(item)


def _with_fields(shape: Shape, value: Mapping[str, Any], is_top: bool) -> Shape:
    fields = shape if isinstance(shape, Fields) else Fields()
    draft: _Draft | None = None
    for name, item in value.items():
        old = fields.shapes.get(name)
        new = widened(NOTHING if old is None else old, item)
        if new is old:
            continue
        draft = draft or _Draft(fields)
        draft.put(name, new)
        if not is_top and len(draft.shapes) > NESTED_NAMES_MAX:
            return TEXT
    return fields if draft is None else draft.fields(fields)


class _Draft:
    """Fields on their way to the next ones: copied once for all names of a value."""

    def __init__(self, fields: Fields) -> None:
        self.shapes = dict(fields.shapes)
        self._folded = dict(fields.folded)
        self._is_changed = False

    def put(self, name: str, shape: Shape) -> None:
        """Take `name`, unless it cannot be a column's or another spelling stands for it."""
        if name not in self.shapes:
            if not _is_name(name):
                return
            fold = name.casefold()
            other = self._folded.get(fold, name)
            if other < name:
                return
            self.shapes.pop(other, None)
            self._folded[fold] = name
        self.shapes[name] = shape
        self._is_changed = True

    def fields(self, before: Fields) -> Fields:
        """What it has become, without names beyond NAMES_MAX (only a whole value has that many)."""
        if not self._is_changed:
            return before
        if len(self.shapes) <= NAMES_MAX:
            return Fields(self.shapes, self._folded)
        kept = Fields.of({name: self.shapes[name] for name in sorted(self.shapes)[:NAMES_MAX]})
        return before if kept == before else kept


def _is_name(name: str) -> bool:
    return 0 < len(name) <= NAME_CHARS_MAX and name.isprintable() and name == name.strip()


# -- columns ------------------------------------------------------------------------------------------------------------------------------


def leaves(shape: Shape) -> int:
    """How many columns a file has for this shape."""
    if isinstance(shape, Items):
        return leaves(shape.item)
    if isinstance(shape, Fields):
        return sum(leaves(part) for part in shape.shapes.values())
    return 1


def settled(shape: Shape) -> Shape | None:
    """What a column for this shape is, members by name; None if only nulls were seen.  What is open becomes text: empty lists are lists of
    it, and objects that never held anything are spelled.
    """
    if isinstance(shape, Items):
        return Items(settled(shape.item) or TEXT)
    if isinstance(shape, Fields):
        return _members(shape) if not is_hollow(shape) else TEXT
    return None if shape is NOTHING else shape


def is_hollow(shape: Shape) -> bool:
    """Whether it is an object that held nothing but nulls."""
    return isinstance(shape, Fields) and all(part is NOTHING for part in shape.shapes.values())


def has_hollow(shape: Shape) -> bool:
    """Whether there is one inside."""
    if isinstance(shape, Items):
        return is_hollow(shape.item) or has_hollow(shape.item)
    return isinstance(shape, Fields) and any(is_hollow(part) or has_hollow(part) for part in shape.shapes.values())


def _members(shape: Fields) -> Fields:
    parts = {name: settled(shape.shapes[name]) for name in sorted(shape.shapes)}
    return Fields.of({name: part for name, part in parts.items() if part is not None})


def columns_of(shape: Shape) -> Fields:
    """The value columns: what is settled, by name, as far as COLUMNS_MAX allows."""
    kept: dict[str, Shape] = {}
    left = COLUMNS_MAX
    for name, part in _members(shape).shapes.items() if isinstance(shape, Fields) else ():
        if leaves(part) <= left:
            kept[name] = part
            left -= leaves(part)
    return Fields.of(kept)


_ARROW = {Kind.BOOL: pa.bool_(), Kind.INT: pa.int64(), Kind.FLOAT: pa.float64(), Kind.STRING: pa.string(), TEXT: pa.string()}


def arrow_type(shape: Shape) -> pa.DataType:
    """Of a settled shape."""
    if isinstance(shape, Items):
        return pa.list_(arrow_type(shape.item))
    if isinstance(shape, Fields):
        return pa.struct([pa.field(name, arrow_type(part)) for name, part in shape.shapes.items()])
    return shape.type if isinstance(shape, Given) else _ARROW[shape]


def has(shape: Shape, wanted: Shape | type) -> bool:
    """Whether `wanted` (a kind, or a class of shapes) is somewhere in it."""
    if shape is wanted or (isinstance(wanted, type) and isinstance(shape, wanted)):
        return True
    if isinstance(shape, Items):
        return has(shape.item, wanted)
    return isinstance(shape, Fields) and any(has(part, wanted) for part in shape.shapes.values())
