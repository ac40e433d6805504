"""What an object key may look like, for every form of store.

Invariants: a key accepted here never leaves the store's root on any form (no empty, "." or ".." element, no NUL, no backslash), and
means the same object on a directory as on S3.
"""

from __future__ import annotations

import re

from hotlog.kernel.errors import Invalid

KEY_BYTES_MAX = 900  # S3 allows 1,024 with the prefix
ELEMENT_BYTES_MAX = 255  # of a file name
RESERVED = ".hotlog-store"  # the directory form keeps its lock and unfinished writes there

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")


def check_key(key: str) -> str:
    """Return `key` if every form of store takes it.

    Raises:
        Invalid: naming the key and the rule.
    """
    if not key or len(key.encode("utf-8", "surrogatepass")) > KEY_BYTES_MAX:
        raise Invalid(f"object key {key[:80]!r} has {len(key)} characters; 1 to {KEY_BYTES_MAX} bytes are allowed")
    elements = key.split("/")
    if elements[0] == RESERVED:
        raise Invalid(f"object key {key!r} starts with {RESERVED!r}, which the store keeps for itself")
    for element in elements:
        if element in ("", ".", ".."):
            raise Invalid(f"object key {key!r} has an element {element!r}; it must be a plain relative path")
        if len(element.encode("utf-8", "surrogatepass")) > ELEMENT_BYTES_MAX:
            raise Invalid(f"object key {key!r} has an element above {ELEMENT_BYTES_MAX} bytes")
    if _FORBIDDEN.search(key):
        raise Invalid(f"object key {key!r} holds a control character, a backslash or half a surrogate pair")
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` if it can start a key ("" starts all)."""
    if prefix:
        check_key(prefix.rstrip("/") or "/")
        if prefix.endswith("//"):
            raise Invalid(f"key prefix {prefix!r} ends with an empty element")
    return prefix


def check_range(key: str, start: int, end: int | None) -> None:
    """Raise Invalid unless [start, end) is a range that has bytes."""
    if start < 0 or (end is not None and end <= start):
        raise Invalid(f"range [{start}, {end}) of object {key} is empty or negative; 0 <= start < end is allowed")
