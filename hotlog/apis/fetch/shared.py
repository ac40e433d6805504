"""What fetches that look in one turn of the loop have found: who asks the same need not look for it."""

from typing import Any

Shared = dict[Any, Any]
"""By what was asked; it is dropped at the end of the turn.  Whoever changes a log in between is told apart by the ends that stand in the question."""
PLAIN = frozenset((bytes, bytearray, memoryview))
"""Kinds of records that may be sent more than once: a part of a file is closed by who sent it."""
