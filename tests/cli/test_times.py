"""The grammar of --from and --until, and what a place is in a partition."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hotlog.cli.times import OFFSET_MAX, parse_position, time_text
from hotlog.kernel.errors import Invalid, OutOfRange
from tiering.replay.places import AtOffset, AtTime, FromEnd, Place, check_start, offset_of

NOW_MS = int(datetime(2013, 2, 1, 12, 30, tzinfo=UTC).timestamp() * 1000)
MIDNIGHT_MS = int(datetime(2013, 2, 1, tzinfo=UTC).timestamp() * 1000)
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


@pytest.mark.parametrize(
    ("word", "place"),
    [
        ("12345", AtOffset(12345)),
        ("0", AtOffset(0)),
        ("offset:1359676800000", AtOffset(1_359_676_800_000)),
        ("earliest", AtOffset(0)),
        ("latest", FromEnd(0)),
        ("-100", FromEnd(100)),
        ("@1359676800000", AtTime(MIDNIGHT_MS)),
        ("@0", AtTime(0)),
        ("2013-02-01", AtTime(MIDNIGHT_MS)),
        ("2013-02-01T02:00:00+02:00", AtTime(MIDNIGHT_MS)),
        ("2013-02-01T00:00:00.001Z", AtTime(MIDNIGHT_MS + 1)),
        ("now", AtTime(NOW_MS)),
        ("today", AtTime(MIDNIGHT_MS)),
        ("yesterday", AtTime(MIDNIGHT_MS - DAY_MS)),
        ("-2h", AtTime(NOW_MS - 2 * HOUR_MS)),
        ("-1d12h", AtTime(NOW_MS - 36 * HOUR_MS)),
        ("-90m", AtTime(NOW_MS - 90 * 60_000)),
        ("-1500ms", AtTime(NOW_MS - 1500)),
        ("-99999w", AtTime(0)),
    ],
)
def test_every_word_names_its_place(word: str, place: Place) -> None:
    assert parse_position(word, NOW_MS) == place


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("1359676800000", "@1359676800000 (2013-02-01T00:00:00.000Z)"),
        (str(OFFSET_MAX + 1), str(OFFSET_MAX)),
        ("-" + "9" * 40, str(OFFSET_MAX)),
        ("@" + "9" * 5000, str(OFFSET_MAX)),
        ("yesterday-ish", "yesterday"),
        ("+2h", "-2h"),
        ("-2y", "-2h"),
        ("", "allowed is"),
        ("2013-13-01", "2013-02-01"),
        ("٣", "12345"),
    ],
)
def test_other_words_are_refused_with_what_is_allowed(word: str, hint: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_position(word)
    assert hint in str(refused.value)


@given(st.text(max_size=30))
@example("-" + "9" * 5000 + "w")
@example("0001-01-01T00:00:00+23:59")
def test_no_word_ends_in_another_error(word: str) -> None:
    with contextlib.suppress(Invalid):
        assert parse_position(word) is not None


@given(st.integers(-1, OFFSET_MAX))
def test_every_stored_time_can_be_shown(timestamp_ms: int) -> None:
    assert time_text(timestamp_ms)


async def test_places_are_offsets_of_a_partition() -> None:
    async def at_time(timestamp_ms: int) -> int:
        return timestamp_ms // 10

    async def of(place: Place) -> int:
        return await offset_of(place, 7, end=50, at_time=at_time)

    assert [await of(p) for p in (None, AtOffset(9), AtTime(120), FromEnd(0), FromEnd(20), FromEnd(99))] == [7, 9, 12, 50, 30, 0]


def test_a_start_that_no_partition_has_reached_is_refused() -> None:
    check_start("t", AtOffset(5), {0: 5, 1: 2})
    check_start("t", AtTime(10**15), {0: 0})
    check_start("t", FromEnd(10**9), {0: 0})
    with pytest.raises(OutOfRange, match="offset 6 is past the end of t: partition 0 ends at 5, partition 1 ends at 2"):
        check_start("t", AtOffset(6), {0: 5, 1: 2})
