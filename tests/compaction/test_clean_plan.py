"""Which part of a log is cleaned, which log first, and what becomes one segment."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from compaction.clean_plan import RELATIVE_OFFSET_MAX, Dirt, first_dirty, group_segments, plan_dirt
from hotlog.kernel.configdef import LONG_MAX
from tests.log.support import config

NOW = 1_000_000


class Piece(NamedTuple):
    base_offset: int
    end_offset: int
    size: int = 100
    max_timestamp: int = 0
    offset_index_bytes: int = 8
    time_index_bytes: int = 12


SEGMENTS = [Piece(0, 10, 300), Piece(10, 20, 200, 500), Piece(20, 40, 100, NOW - 5)]
COMPACT = config(cleanup_policy="compact")


def plan(start: int = 0, stable_end: int = 50, *, topic: object = COMPACT, times: dict[int, int] | None = None) -> Dirt:
    return plan_dirt(
        SEGMENTS, topic, start=start, stable_end=stable_end, active_offset=40, now_ms=NOW,
        first_timestamp=lambda index: (times or {}).get(index, -1),
    )  # type: ignore[arg-type]  # fmt: skip


def test_everything_below_the_active_segment_is_dirty_at_first() -> None:
    assert plan() == Dirt(start=0, end=40, clean_bytes=0, dirty_bytes=600, delay_ms=0)
    assert plan().ratio == 1.0


def test_the_ratio_is_of_what_is_clean_or_may_be_cleaned() -> None:
    dirt = plan(20)
    assert (dirt.clean_bytes, dirt.dirty_bytes, dirt.ratio) == (500, 100, 100 / 600)
    assert not dirt.is_due(0.5) and dirt.is_due(0.1) and not dirt.is_due(100 / 600)
    assert plan(40) == Dirt(start=40, end=40, clean_bytes=600, dirty_bytes=0, delay_ms=0)
    assert not plan(40).is_due(0.0)


def test_the_segment_that_an_open_transaction_is_in_is_not_cleaned() -> None:
    assert plan(stable_end=19).end == 10
    assert plan(stable_end=20).end == 20
    assert plan(stable_end=5).end == 0 and plan(stable_end=5).dirty_bytes == 0
    assert plan(20, stable_end=5).end == 20, "never before what was cleaned"


def test_what_is_young_is_not_cleaned_nor_what_follows_it() -> None:
    assert plan(topic=config(cleanup_policy="compact", min_compaction_lag_ms=10)).end == 20
    assert plan(topic=config(cleanup_policy="compact", min_compaction_lag_ms=5)).end == 40
    assert plan(topic=config(cleanup_policy="compact", min_compaction_lag_ms=NOW)).end == 10
    assert plan(20, topic=config(cleanup_policy="compact", min_compaction_lag_ms=NOW - 400)).end == 20


def test_a_record_that_waits_for_longer_than_the_longest_lag_makes_it_due() -> None:
    topic = config(cleanup_policy="compact", max_compaction_lag_ms=1000, min_cleanable_dirty_ratio=1)
    late = plan(10, topic=topic, times={1: NOW - 1500, 2: NOW - 1200})
    assert (late.delay_ms, late.is_due(1.0)) == (500, True)
    assert plan(10, topic=topic, times={1: NOW - 1000}).delay_ms == 0
    assert plan(10, topic=topic).delay_ms == 0, "no timestamps, no age"
    assert not plan(40, topic=topic, times={0: 1}).is_due(1.0)
    assert topic.segment_ms == 1000 and COMPACT.segment_ms > 1000, "segments roll by then"
    assert COMPACT.compaction_lag_max_ms == LONG_MAX


def test_where_the_dirty_part_begins() -> None:
    assert first_dirty(-1, log_start_offset=0, log_end_offset=9) == 0
    assert first_dirty(5, log_start_offset=0, log_end_offset=9) == 5
    assert first_dirty(5, log_start_offset=7, log_end_offset=9) == 7
    assert first_dirty(50, log_start_offset=7, log_end_offset=9) == 7, "another log's word"


def bases(groups: list[list[Piece]]) -> list[list[int]]:
    return [[piece.base_offset for piece in group] for group in groups]


def test_neighbours_become_one_up_to_the_size_of_a_segment() -> None:
    pieces = [Piece(0, 10, 40), Piece(10, 20, 40), Piece(20, 30, 40), Piece(30, 40, 120)]
    assert bases(group_segments(pieces, end=40, segment_bytes=100, index_bytes=1000)) == [[0, 10], [20], [30]]
    assert bases(group_segments(pieces, end=40, segment_bytes=1000, index_bytes=1000)) == [[0, 10, 20, 30]]
    assert bases(group_segments(pieces, end=40, segment_bytes=1000, index_bytes=30)) == [[0, 10], [20, 30]], "time indexes"
    wide = [piece._replace(time_index_bytes=0) for piece in pieces]
    assert bases(group_segments(wide, end=40, segment_bytes=1000, index_bytes=24)) == [[0, 10, 20], [30]]
    assert group_segments([], end=0, segment_bytes=1, index_bytes=1) == []


def test_no_segment_spans_more_offsets_than_an_index_can_say() -> None:
    far = RELATIVE_OFFSET_MAX
    pieces = [Piece(0, 10), Piece(10, far), Piece(far, far + 10)]
    assert bases(group_segments(pieces, end=far + 1, segment_bytes=1000, index_bytes=1000)) == [[0, 10, far]]
    assert bases(group_segments(pieces, end=far + 2, segment_bytes=1000, index_bytes=1000)) == [[0, 10], [far]]


@given(
    sizes=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 40), st.integers(0, 40)), max_size=12),
    most=st.integers(1, 200), index=st.integers(1, 60),
)  # fmt: skip
def test_every_segment_is_in_one_group_and_no_group_is_too_large(
    sizes: list[tuple[int, int, int]], most: int, index: int
) -> None:
    pieces = [Piece(10 * n, 10 * n + 10, size, 0, *indexes) for n, (size, *indexes) in enumerate(sizes)]
    groups = group_segments(pieces, end=10 * len(pieces), segment_bytes=most, index_bytes=index)
    assert [piece for group in groups for piece in group] == pieces
    for group in groups:
        if len(group) > 1:
            assert sum(piece.size for piece in group) <= most
            assert sum(piece.offset_index_bytes for piece in group) <= index
            assert sum(piece.time_index_bytes for piece in group) <= index
