"""Walks a request by its kio schema before kio reads it, allocating nothing.

kio's native reader reserves memory for as many elements as an array says it has; a 30-byte request that says 2^31 - 1 aborts the
process.  A walk that finds every length inside the frame first makes that impossible (docs/faults.md, row 36).

Invariants: a body that passes has every string, byte field, array and tagged field inside it; cost is one step per run of fixed-size
fields; nothing is decoded here.
"""

from __future__ import annotations

import dataclasses
import struct
import types
import typing
from collections.abc import Callable
from typing import Any

from hotlog.kernel.errors import Invalid

Step = Callable[[memoryview, int, int], int]  # (data, position, end) -> position after the field

_FIXED = {
    "int8": 1, "uint8": 1, "bool": 1, "int16": 2, "uint16": 2, "error_code": 2, "int32": 4, "uint32": 4, "timedelta_i32": 4,
    "int64": 8, "uint64": 8, "timedelta_i64": 8, "datetime_i64": 8, "float64": 8, "uuid": 16,
}  # fmt: skip
_SHORT = struct.Struct(">h")
_INT = struct.Struct(">i")
_VARINT_BYTES_MAX = 5
UNKNOWN_TAGS_MAX = 32


def _short_of(data: memoryview, position: int, end: int, need: int) -> Invalid:
    return Invalid(f"request is malformed: {need} bytes expected at byte {position}, {end - position} are left")


def varint(data: bytes | memoryview, position: int, end: int) -> tuple[int, int]:
    """An unsigned varint of at most 32 bits and the position after it.

    Raises:
        Invalid: it is longer, or cut off at `end`.
    """
    value = shift = 0
    for at in range(position, min(position + _VARINT_BYTES_MAX, end)):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > 0xFFFFFFFF:
                break
            return value, at + 1
        shift += 7
    raise Invalid(f"request is malformed: bad varint at byte {position}")


def uvarint(value: int) -> bytes:
    """An unsigned varint."""
    if value < 0x80:
        return value.to_bytes(1, "big")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _fixed(size: int) -> Step:
    def step(data: memoryview, position: int, end: int) -> int:
        if position + size > end:
            raise _short_of(data, position, end, size)
        return position + size

    return step


def _legacy(length: struct.Struct, nullable: bool) -> Step:
    """A string (16-bit length) or bytes (32-bit length) before flexible versions; -1 is null."""
    width, lowest = length.size, -1 if nullable else 0

    def step(data: memoryview, position: int, end: int) -> int:
        if position + width > end:
            raise _short_of(data, position, end, width)
        size = length.unpack_from(data, position)[0]
        position += width
        if size < lowest or position + size > end:
            raise _short_of(data, position, end, size)
        return position + size if size > 0 else position

    return step


def _compact(nullable: bool) -> Step:
    """A compact string or bytes: length + 1 as a varint; 0 is null."""

    def step(data: memoryview, position: int, end: int) -> int:
        size, position = varint(data, position, end)
        if size == 0 and not nullable:
            raise Invalid(f"request is malformed: null at byte {position} where none is allowed")
        if position + size - 1 > end:
            raise _short_of(data, position, end, size - 1)
        return position + size - 1 if size else position

    return step


def _array(element: Step, size_min: int, flexible: bool, fixed: bool) -> Step:
    def step(data: memoryview, position: int, end: int) -> int:
        if flexible:
            count, position = varint(data, position, end)
            count -= 1
        else:
            if position + 4 > end:
                raise _short_of(data, position, end, 4)
            count = _INT.unpack_from(data, position)[0]
            position += 4
        if count < -1 or count * size_min > end - position:
            raise Invalid(f"request is malformed: array of {count} elements in {end - position} bytes")
        if fixed:
            return position + max(count, 0) * size_min
        for _ in range(count):
            position = element(data, position, end)
        return position

    return step


def _nullable_struct(inner: Step) -> Step:
    """KIP-893: a sign byte, then the structure unless it is negative."""

    def step(data: memoryview, position: int, end: int) -> int:
        if position >= end:
            raise _short_of(data, position, end, 1)
        return position + 1 if data[position] > 0x7F else inner(data, position + 1, end)

    return step


class UnknownTag(Exception):
    """A tagged field that the schema does not know: the section's count lies at [start, fields), the field at [tag, end)."""

    def __init__(self, count: int, start: int, fields: int, tag: int, end: int) -> None:
        super().__init__(f"unknown tagged field at byte {tag}")
        self.count, self.start, self.fields, self.tag, self.end = count, start, fields, tag, end


def _tags(known: dict[int, Step]) -> Step:
    def step(data: memoryview, position: int, end: int) -> int:
        start = position
        count, position = varint(data, position, end)
        fields = position
        for _ in range(count):
            field = position
            tag, position = varint(data, position, end)
            size, position = varint(data, position, end)
            if position + size > end:
                raise _short_of(data, position, end, size)
            if tag not in known:
                raise UnknownTag(count, start, fields, field, position + size)
            if known[tag](data, position, position + size) != position + size:
                raise Invalid(f"request is malformed: tagged field {tag} at byte {position} is not {size} bytes long")
            position += size
        return position

    return step


def walked(step: Step, data: memoryview, position: int) -> tuple[memoryview, int]:
    """`data` and the position of the body, walked; a copy where tagged fields had to be left out that the schema does not know.

    A client newer than the schema may send such fields in any flexible version (KIP-482); kio's reader fails on them.

    Raises:
        Invalid: a length that cannot be, or more unknown fields than a client could have reason to send.
    """
    for _ in range(UNKNOWN_TAGS_MAX):
        try:
            step(data, position, len(data))
        except UnknownTag as found:
            count = uvarint(found.count - 1)
            data = memoryview(b"".join((data[position : found.start], count, data[found.fields : found.tag], data[found.end :])))
            position = 0
        else:
            return data, position
    raise Invalid(f"request is malformed: more than {UNKNOWN_TAGS_MAX} unknown tagged fields")


def step_for(entity: type[Any]) -> Step:
    """The walk over one kio entity (compile once, keep it)."""
    return _compile(entity)[0]


def _compile(entity: type[Any]) -> tuple[Step, int, bool]:
    """(step, least size in bytes, size is fixed)."""
    steps: list[Step] = []
    tags: dict[int, Step] = {}
    run = total = 0
    all_fixed = not entity.__flexible__
    hints = typing.get_type_hints(entity)
    for field in dataclasses.fields(entity):
        is_tag = "tag" in field.metadata
        step, size, fixed = _compile_field(field, hints[field.name], entity.__flexible__, is_tag)
        if is_tag:
            tags[field.metadata["tag"]] = step
            continue
        total += size
        all_fixed = all_fixed and fixed
        if fixed:
            run += size
            continue
        if run:
            steps.append(_fixed(run))
            run = 0
        steps.append(step)
    if run:
        steps.append(_fixed(run))
    if entity.__flexible__:
        steps.append(_tags(tags))
        total += 1
    return _chain(steps), total, all_fixed


def _chain(steps: list[Step]) -> Step:
    if len(steps) == 1:
        return steps[0]

    def step(data: memoryview, position: int, end: int) -> int:
        for each in steps:
            position = each(data, position, end)
        return position

    return step


def _compile_field(field: dataclasses.Field[Any], hint: Any, flexible: bool, is_tag: bool) -> tuple[Step, int, bool]:
    nullable = False
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        nullable = True
        (hint,) = [part for part in typing.get_args(hint) if part is not type(None)]
    if typing.get_origin(hint) is tuple:
        inner, size, fixed = _compile_value(field, typing.get_args(hint)[0], flexible, False)
        return _array(inner, max(size, 1), flexible, fixed), 1 if flexible else 4, False
    return _compile_value(field, hint, flexible, nullable and not is_tag)


def _compile_value(field: dataclasses.Field[Any], hint: Any, flexible: bool, nullable: bool) -> tuple[Step, int, bool]:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = [part for part in typing.get_args(hint) if part is not type(None)]
    if dataclasses.is_dataclass(hint):
        step, size, fixed = _compile(hint)  # type: ignore[arg-type]
        return (_nullable_struct(step), 1, False) if nullable else (step, size, fixed)
    kind = field.metadata["kafka_type"]
    if kind in _FIXED:
        return _fixed(_FIXED[kind]), _FIXED[kind], True
    assert kind in ("string", "bytes", "records"), kind
    if flexible:
        return _compact(nullable), 1, False
    length = _SHORT if kind == "string" else _INT
    return _legacy(length, nullable), length.size, False
