"""Values that are JSON objects, opened strictly: what two readers could take for two things is not taken at all.  Pure.

Refused: text that is not UTF-8, half a surrogate pair, a name twice in one object, NaN and Infinity, nesting beyond DEPTH_MAX (no parser,
native or not, sees deeper text).

Invariants: a number with a fraction or an exponent comes as it was spelled (Real); whole numbers are exact, however large.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tiering.export.numbers import Real

DEPTH_MAX = 32  # objects and lists, the outermost included; Parquet readers give up somewhere above 40 lists
_TOKENS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]', re.DOTALL)
_REFUSALS = (ValueError, RecursionError)


class NotAnObject(ValueError):
    """The value is no JSON object that could become columns."""


def is_candidate(value: bytes) -> bool:
    """Whether it looks like one JSON object that is not too deep.  Cheap; with both ends checked, joined text is one row per value or none."""
    if value[:1] != b"{" or value[-1:] != b"}":
        value = value.strip()
        if value[:1] != b"{" or value[-1:] != b"}":
            return False
    return value.count(b"{") + value.count(b"[") <= DEPTH_MAX or not is_deep(value)


def is_deep(value: bytes) -> bool:
    """Whether objects and lists nest beyond DEPTH_MAX."""
    depth = 0
    for token in _TOKENS.finditer(value):
        mark = value[token.start()]
        if mark in b"[{":
            depth += 1
            if depth > DEPTH_MAX:
                return True
        elif mark in b"]}":
            depth -= 1
    return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise NotAnObject("a name is there twice")
    return result


def _refuse(constant: str) -> Any:
    raise NotAnObject(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=Real, parse_constant=_refuse)


def parse(value: bytes) -> dict[str, Any]:
    """The object.  For candidates only.

    Raises:
        NotAnObject: see the head of this file.
    """
    try:
        found = _DECODER.decode(str(value, "utf-8"))
    except _REFUSALS as wrong:
        raise NotAnObject(str(wrong)) from None
    if not isinstance(found, dict):
        raise NotAnObject("not an object")
    return found


def spelled(value: Any) -> str:
    """A number, boolean, list or object as JSON; numbers with a fraction as they were spelled."""
    if type(value) is Real:
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_quoted(name)}:{spelled(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(spelled, value)) + "]"
    return _quoted(value)


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def reads_as_json(text: str) -> bool:
    """Whether a string looks like what `spelled` makes of something that is no string."""
    if text[:1] not in _SPELLED_STARTS:
        return False
    try:
        found = json.loads(text)
    except _REFUSALS:
        return False
    return found is not None and not isinstance(found, str)


_SPELLED_STARTS = (*"-0123456789tf[{",)
