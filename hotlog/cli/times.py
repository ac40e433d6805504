"""The words for places in a topic: one grammar for --from and --until in every verb.

PLACES says them all.

Invariants: a bare whole number is an offset; one that can only be ms since the epoch is refused with the word for it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import partial

from hotlog.kernel.errors import Invalid
from tiering.replay.places import EARLIEST, LATEST, AtOffset, AtTime, FromEnd, Place

PLACES = {
    "12345": "an offset, the same in each partition; `offset:12345` however large it is",
    "-100": "so many records before the end of each partition",
    "2013-02-01, 2013-02-01T06:00:00+02:00": "a time (ISO 8601; UTC where it names no zone): the first record that is not before it",
    "@1359676800000": "a time in ms since the epoch",
    "-2h, -1d12h": "a time so long ago (units w, d, h, m, s, ms)",
    "now, today, yesterday": "a time; days begin at midnight UTC",
    "earliest, latest": "the first offset, the end",
}
OFFSET_MAX = 2**63 - 1
EPOCH_MS_MIN = 10**12  # 2001-09-09; a partition that takes a million records a second is there after eleven days
FORMS = "an offset (12345), -N records from the end, a time (2013-02-01, 2013-02-01T06:00:00Z, @EPOCH-MS, -2h), or one of " + (
    "earliest, latest, now, today, yesterday"
)
_UNIT_MS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_AGO = re.compile(r"-((?:\d{1,15}(?:ms|[wdhms]))+)", re.ASCII)
_PART = re.compile(r"(\d+)(ms|[wdhms])")


def parse_position(text: str, now_ms: int | None = None) -> Place:
    """A word of the grammar above as a place; never None.

    Args:
        now_ms: what `now`, `yesterday` and `-2h` are told from; the machine's clock if not given.
    Raises:
        Invalid: none of these, with what is allowed.
    """
    word = text.strip()
    if word == "earliest":
        return EARLIEST
    if word == "latest":
        return LATEST
    for pattern, meaning in (
        (r"offset:(\d+)", _offset),
        (r"(\d+)", _offset_not_time),
        (r"-(\d+)", lambda digits: FromEnd(_fitting(digits))),
        (r"@(\d+)", lambda digits: AtTime(_fitting(digits))),
    ):
        if (match := re.fullmatch(pattern, word, re.ASCII)) is not None:
            return meaning(match[1])
    return AtTime(_moment(word, now_ms))


def place(text: str | None) -> Place:
    """A --from or --until; None where it was not given."""
    return None if text is None else parse_position(text)


def _fitting(digits: str) -> int:
    number = int(digits) if len(digits) <= 19 else OFFSET_MAX + 1
    if number > OFFSET_MAX:
        raise Invalid(f"{digits[:40]} is more than {OFFSET_MAX}, the largest offset or time there can be")
    return number


def _offset(digits: str) -> Place:
    return AtOffset(_fitting(digits))


def _offset_not_time(digits: str) -> Place:
    number = _fitting(digits)
    if number >= EPOCH_MS_MIN:
        raise Invalid(
            f"{digits} as an offset is hardly meant; a time in ms since the epoch is written @{digits} ({time_text(number)}),"
            f" the offset offset:{digits}"
        )
    return AtOffset(number)


def _moment(word: str, now_ms: int | None) -> int:
    """A time in ms since the epoch."""
    now = datetime.now(UTC) if now_ms is None else datetime.fromtimestamp(now_ms / 1000, UTC)
    midnight = partial(now.replace, hour=0, minute=0, second=0, microsecond=0)
    if word == "now":
        return _ms(now)
    if word in ("today", "yesterday"):
        return _ms(midnight() - timedelta(days=word == "yesterday"))
    if (ago := _AGO.fullmatch(word)) is not None:
        return max(_ms(now) - sum(int(count) * _UNIT_MS[unit] for count, unit in _PART.findall(ago[1])), 0)
    try:
        moment = datetime.fromisoformat(word)
        return _ms(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise Invalid(f"{word[:80]!r} is no place in a topic; allowed is {FORMS}") from None


def _ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def parse_span_ms(text: str) -> int:
    """`10m`, `1d12h` in ms.

    Raises:
        Invalid
    """
    if _AGO.fullmatch(f"-{text.strip()}") is None:
        raise Invalid(f"{text[:80]!r} is no span of time; allowed are numbers with w, d, h, m, s, ms: 10m, 1d12h")
    return sum(int(count) * _UNIT_MS[unit] for count, unit in _PART.findall(text))


def time_text(timestamp_ms: int) -> str:
    """ms since the epoch as ISO 8601 in UTC; `-` for none; `@ms` for a time that no calendar has."""
    if timestamp_ms < 0:
        return "-"
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=timestamp_ms)
    except OverflowError:
        return f"@{timestamp_ms}"
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{timestamp_ms % 1000:03d}Z"
