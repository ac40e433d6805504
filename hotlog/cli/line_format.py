"""What a record looks like on standard output: values as they are, JSON, or kcat's format strings.

Invariants: bytes go out as they came, whatever they are; a format is checked before the first record is read.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

from hotlog.kernel.errors import Invalid
from hotlog.wire.records import name_bytes

Formatter = Callable[[Any], bytes]
HeadersOf = Callable[[Any], list[tuple[str, bytes | None]]]
_NULL_LENGTH = -1
_TOKEN = re.compile(r"%(.)|\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)|([^%\\]+)|([%\\])", re.DOTALL)
_PLAIN_ESCAPES = {"n": b"\n", "r": b"\r", "t": b"\t", "\\": b"\\"}


def _length(data: bytes | None) -> int:
    return _NULL_LENGTH if data is None else len(data)


def _printed(headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    return b",".join(name_bytes(name) + b"=" + (b"NULL" if value is None else value) for name, value in headers)


# kcat's letters (kcat -h): the %R of older versions is the length in 4 bytes, big endian.
_FIELDS: dict[str, Formatter] = {
    "s": lambda m: m.value() or b"",
    "S": lambda m: b"%d" % _length(m.value()),
    "R": lambda m: struct.pack(">i", _length(m.value())),
    "k": lambda m: m.key() or b"",
    "K": lambda m: b"%d" % _length(m.key()),
    "t": lambda m: m.topic().encode(),
    "p": lambda m: b"%d" % m.partition(),
    "o": lambda m: b"%d" % m.offset(),
    "T": lambda m: b"%d" % m.timestamp()[1],
    "%": lambda m: b"%",
}


def parse_format(text: str, headers_of: HeadersOf) -> Formatter:
    """A format string of kcat -f: %s value, %S its length (-1: null), %R in 4 bytes, %k key, %K its length, %t topic, %p partition,
    %o offset, %T timestamp (ms), %h headers (a=1,b=2); \\n, \\r, \\t, \\xHH, \\NNN.

    Raises:
        Invalid: a letter that means nothing.
    """
    fields = {**_FIELDS, "h": lambda message: _printed(headers_of(message))}
    parts: list[Formatter] = []
    for match in _TOKEN.finditer(text):
        field, escape, plain, _ = match.groups()
        if field is not None and field in fields:
            parts.append(fields[field])
        elif escape is not None and (byte := _escaped(escape)) is not None:
            parts.append(lambda _, byte=byte: byte)  # type: ignore[misc]
        elif plain is not None:
            literal = plain.encode("utf-8", "surrogateescape")
            parts.append(lambda _, literal=literal: literal)  # type: ignore[misc]
        else:
            raise Invalid(
                f"--format {text!r}: {match[0]!r} means nothing; allowed are %{' %'.join(fields)} and \\n \\r \\t \\xHH"
            )
    return lambda message: b"".join(part(message) for part in parts)


def _escaped(text: str) -> bytes | None:
    if text in _PLAIN_ESCAPES:
        return _PLAIN_ESCAPES[text]
    if text[0] == "x" and len(text) > 1:
        return bytes([int(text[1:], 16)])
    return bytes([int(text, 8) & 0xFF]) if text.isdigit() and text.isascii() else None


def text_format(key_separator: str | None, headers_of: HeadersOf | None) -> Formatter:
    """The value and a line feed; before it, if they are wanted, headers and a tab, key and separator."""
    separator = (key_separator or "").encode("utf-8", "surrogateescape")

    def formatted(message: Any) -> bytes:
        headers = _printed(headers_of(message)) + b"\t" if headers_of is not None else b""
        key = (message.key() or b"") + separator if key_separator is not None else b""
        return headers + key + (message.value() or b"") + b"\n"

    return formatted
