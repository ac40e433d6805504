"""TIME|OFFSET arguments: one parser for replay, export, consume.

Invariants: a bare whole number is an offset; everything else is a time and is taken as UTC where it names no zone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from hotlog.kernel.errors import Invalid


class Position(NamedTuple):
    """Where in a log: exactly one of the two is set.  `timestamp_ms` is ms since the Unix epoch."""

    offset: int | None = None
    timestamp_ms: int | None = None


def parse_position(text: str) -> Position:
    """`12345` -> an offset; `2013-02-01`, `2013-02-01T06:00:00+02:00` -> a time (UTC unless it says otherwise).

    Raises:
        Invalid: neither.
    """
    if text.lstrip("-").isdigit():
        offset = int(text)
        if offset < 0:
            raise Invalid(f"{text!r} is not an offset; offsets start at 0")
        return Position(offset=offset)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Invalid(f"{text!r} is neither an offset (12345) nor a time (2013-02-01, 2013-02-01T06:00:00Z)") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return Position(timestamp_ms=int(moment.timestamp() * 1000))


def time_text(timestamp_ms: int) -> str:
    """ms since the epoch as ISO 8601 in UTC; `-` for none."""
    if timestamp_ms < 0:
        return "-"
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{timestamp_ms % 1000:03d}Z"
