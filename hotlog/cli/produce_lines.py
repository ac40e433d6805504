"""A line as a record to send; pure.

Invariants: what a line says is either sent as it says or refused with the reason: no field is guessed, none dropped silently.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hotlog.kernel.errors import Invalid

Fields = dict[str, Any]
Parse = Callable[[bytes], Fields]
# What `consume --json` prints; topic and offset are where a record came from and say nothing about where it goes.
_KNOWN = ("key", "value", "timestamp", "headers", "partition", "offset", "topic")
_INT32_MAX, _INT64_MAX = 2**31 - 1, 2**63 - 1


class BadLine(Invalid):
    """A line that is no record."""


def text_parser(separator: str | None) -> Parse:
    """The line is the value, or key, separator and value.

    Raises:
        Invalid: an empty separator.
    """
    if separator == "":
        raise Invalid("--key-separator is empty; give the text between key and value")
    mark = (separator or "").encode("utf-8", "surrogateescape")

    def parse(line: bytes) -> Fields:
        line = line[:-1] if line.endswith(b"\n") else line
        line = line[:-1] if line.endswith(b"\r") else line
        if not mark:
            return {"value": line}
        key, found, value = line.partition(mark)
        if not found:
            raise BadLine(f"no key separator {separator!r} in it")
        return {"key": key, "value": value}

    return parse


def parse_json(line: bytes) -> Fields:
    """{"key":…, "value":…, "timestamp":ms, "headers":{…} or [[name, value], …], "partition":n}; value null is a tombstone.

    Raises:
        BadLine: no such object, with what is wrong.
    """
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as wrong:
        raise BadLine(f"not JSON: {wrong}" if isinstance(wrong, ValueError) else "nested too deeply") from None
    if not isinstance(given, dict):
        raise BadLine(f"not a JSON object but {json.dumps(given)[:40]}")
    if strange := [name for name in given if name not in _KNOWN]:
        raise BadLine(f"unknown field {strange[0][:40]!r}; allowed are {', '.join(_KNOWN)}")
    if "value" not in given:
        raise BadLine('no "value" in it (null is a tombstone)')
    fields: Fields = {"value": _bytes("value", given["value"])}
    if given.get("key") is not None:
        fields["key"] = _bytes("key", given["key"])
    if given.get("timestamp") is not None:
        fields["timestamp"] = _whole("timestamp", given["timestamp"], -1, _INT64_MAX)
    if given.get("partition") is not None:
        fields["partition"] = _whole("partition", given["partition"], 0, _INT32_MAX)
    if given.get("headers"):
        fields["headers"] = [(_name(name), _bytes("header", value)) for name, value in _pairs(given["headers"])]
    return fields


def parse_headers(pairs: Sequence[str] | None) -> list[tuple[str, bytes]]:
    """-H NAME=VALUE."""
    found = []
    for pair in pairs or ():
        name, mark, value = pair.partition("=")
        if not mark or not name:
            raise Invalid(f"--header {pair!r} is not NAME=VALUE")
        found.append((_name(name), value.encode("utf-8", "surrogateescape")))
    return found


def size_of(fields: Mapping[str, Any]) -> int:
    """Bytes of key, value and headers."""
    parts = [fields.get("key"), fields.get("value"), *(part for _, part in fields.get("headers", ()))]
    return sum(len(part) for part in parts if part is not None)


def _pairs(headers: Any) -> list[tuple[Any, Any]]:
    """Headers as an object, or as a list of pairs where names repeat (as `consume --json` prints them)."""
    if isinstance(headers, dict):
        return list(headers.items())
    if isinstance(headers, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in headers):
        return [(name, value) for name, value in headers]
    raise BadLine('"headers" is neither an object nor a list of [name, value]')


def _name(name: Any) -> str:
    if not isinstance(name, str) or "\0" in name:
        raise BadLine(f"header name {name!r} is not a text without NUL")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BadLine(f"header name {name!r} is not UTF-8") from None
    return name


def _whole(what: str, value: Any, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BadLine(f'"{what}" is {json.dumps(value)[:40]}; a whole number from {least} to {most} is allowed')
    return value


def _bytes(what: str, value: Any) -> bytes | None:
    """A text in UTF-8, {"base64": …} decoded, null, and anything else as JSON."""
    if value is None:
        return None
    try:
        if isinstance(value, dict) and set(value) == {"base64"} and isinstance(value["base64"], str):
            return base64.b64decode(value["base64"], validate=True)
        return (value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)).encode()
    except binascii.Error as wrong:
        raise BadLine(f'"{what}" is not base64: {wrong}') from None
    except UnicodeEncodeError:
        raise BadLine(f'"{what}" holds half a surrogate pair, which UTF-8 has no bytes for') from None
