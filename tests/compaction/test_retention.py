"""The retention planner: properties over any log and any border between the tiers, and the cases that hurt others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compaction.retention import Cold, Local, Piece, Plan, age_reference_ms, plan_retention
from hotlog.kernel.limits import GiB
from hotlog.kernel.topic_config import TopicConfig

NOW = 1_700_000_000_000
DAY = 86_400_000
KB = 1000


def config(**values: Any) -> TopicConfig:
    return TopicConfig.resolve({name.replace("_", "."): str(value) for name, value in values.items()})


def log_of(ages_ms: list[int], *, size: int = KB, active: bool = True) -> list[Piece]:
    """Ten offsets a piece, the given ages of the largest timestamp, the last one still open."""
    pieces = [Piece(i * 10, i * 10 + 10, size, NOW - age, NOW - max(age, 0)) for i, age in enumerate(ages_ms)]
    if active and pieces:
        pieces[-1] = pieces[-1]._replace(closed_ms=-1)
    return pieces


def split(pieces: list[Piece], tiered: int, local_from: int) -> tuple[Cold, Local]:
    """The same log with its first `tiered` pieces committed and the local disk holding those from `local_from` on."""
    end = pieces[tiered - 1].end_offset if tiered else pieces[0].base_offset
    cold = Cold(pieces[0].base_offset, end, sum(piece.size for piece in pieces[:tiered]), pieces[:tiered])
    return cold, Local(pieces[local_from:], pieces[-1].end_offset)


def plan(
    cold: Cold | None,
    local: Local | None,
    topic: TopicConfig,
    *,
    start: int = 0,
    tiered: bool = True,
    now: int = NOW,
) -> Plan:
    return plan_retention(cold, local, topic, now_ms=now, log_start_offset=start, is_tiered=tiered)


@st.composite
def logs(draw: st.DrawFn) -> list[Piece]:
    pieces, offset, closed = [], draw(st.integers(0, 1000)), NOW - 20 * DAY
    for _ in range(draw(st.integers(1, 12))):
        count, size = draw(st.integers(1, 50)), draw(st.integers(1, 5000))
        closed += draw(st.integers(1, 2 * DAY))
        stamp = draw(st.one_of(st.just(-1), st.integers(closed - 30 * DAY, closed + 400 * DAY)))
        pieces.append(Piece(offset, offset + count, size, stamp, closed))
        offset += count
    pieces[-1] = pieces[-1]._replace(closed_ms=-1)
    return pieces


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Piece], int, int, TopicConfig]:
    pieces = draw(logs())
    tiered = draw(st.integers(0, len(pieces) - 1))
    total_ms = draw(st.one_of(st.just(-1), st.integers(0, 40 * DAY)))
    total_bytes = draw(st.one_of(st.just(-1), st.integers(0, 40_000)))
    topic = config(
        retention_ms=total_ms,
        retention_bytes=total_bytes,
        local_retention_ms=-2 if total_ms == -1 else draw(st.integers(0, total_ms)),
        local_retention_bytes=-2 if total_bytes == -1 else draw(st.integers(0, total_bytes)),
        hotlog_retention_clock=draw(st.sampled_from(["record", "append", "close"])),
        hotlog_untiered_overflow="drop",
    )
    return pieces, tiered, draw(st.integers(0, tiered)), topic


@given(worlds())
def test_what_is_left_is_never_below_retention_bytes_nor_younger_than_retention_ms(world: Any) -> None:
    pieces, tiered, local_from, topic = world
    cold, local = split(pieces, tiered, local_from)
    got = plan(cold, local, topic, start=pieces[0].base_offset)
    gone = [piece for piece in pieces if piece.end_offset <= got.log_start_offset]
    left = sum(piece.size for piece in pieces) - sum(piece.size for piece in gone)
    for piece in gone:
        reference = age_reference_ms(piece, topic.retention_clock)
        expired = topic.retention_ms >= 0 and reference is not None and NOW - reference > topic.retention_ms
        assert expired or (topic.retention_bytes >= 0 and left >= topic.retention_bytes)
    assert got.log_start_offset in {pieces[0].base_offset, *(piece.end_offset for piece in pieces)}


OLD_BEHIND_LARGE = [Piece(0, 1, 1, -1, NOW - 20 * DAY + 1), Piece(1, 2, 1, NOW - 50 * DAY + 2, -1)]


@given(worlds())
@example((OLD_BEHIND_LARGE, 0, 0, config(retention_ms=20 * DAY - 1, retention_bytes=0, hotlog_untiered_overflow="drop")))
def test_what_retention_condemns_goes_at_once(world: Any) -> None:
    """The other half: the oldest piece left is inside retention by time, and dropping it would go below retention.bytes."""
    pieces, tiered, local_from, topic = world
    cold, local = split(pieces, tiered, local_from)
    got = plan(cold, local, topic, start=pieces[0].base_offset)
    kept = [piece for piece in pieces if piece.end_offset > got.log_start_offset]
    if kept:
        reference = age_reference_ms(kept[0], topic.retention_clock)
        assert topic.retention_ms < 0 or reference is None or NOW - reference <= topic.retention_ms
        if topic.retention_bytes >= 0 and kept[0].closed_ms >= 0:
            assert sum(piece.size for piece in kept) - kept[0].size < topic.retention_bytes


@given(worlds(), st.data())
def test_the_answer_does_not_depend_on_where_the_tiers_meet(world: Any, data: st.DataObject) -> None:
    pieces, tiered, local_from, topic = world
    start = pieces[0].base_offset
    here = plan(*split(pieces, tiered, local_from), topic, start=start)
    other_tiered = data.draw(st.integers(0, len(pieces) - 1))
    there = plan(*split(pieces, other_tiered, data.draw(st.integers(0, other_tiered))), topic, start=start)
    alone = plan(None, Local(pieces, pieces[-1].end_offset), topic, start=start, tiered=False)
    assert here.log_start_offset == there.log_start_offset == alone.log_start_offset


@given(worlds())
def test_local_data_goes_only_when_committed_or_below_the_log_start(world: Any) -> None:
    pieces, tiered, local_from, topic = world
    cold, local = split(pieces, tiered, local_from)
    got = plan(cold, local, topic, start=pieces[0].base_offset)
    assert got.local_drop_offset <= max(cold.end_offset, got.log_start_offset)
    assert got.local_drop_offset in {local.segments[0].base_offset, *(piece.end_offset for piece in local.segments)}
    freed = [piece for piece in local.segments if piece.end_offset <= got.local_drop_offset]
    assert got.local_bytes == sum(piece.size for piece in freed)
    assert got.dropped_bytes == sum(piece.size for piece in freed if piece.end_offset > cold.end_offset)


@given(worlds(), st.data())
def test_a_part_of_the_old_entries_is_enough_to_go_on(world: Any, data: st.DataObject) -> None:
    """Bounded ticks: with only some of the oldest entries the plan goes less far, and repeating it ends at the same place."""
    pieces, tiered, local_from, topic = world
    cold, local = split(pieces, tiered, local_from)
    whole = plan(cold, local, topic, start=pieces[0].base_offset).log_start_offset
    count = data.draw(st.integers(1, 4))
    start = pieces[0].base_offset
    for _ in range(len(pieces) + 1):
        live = [piece for piece in cold.oldest if piece.end_offset > start]
        now = Cold(max(cold.start_offset, start), cold.end_offset, sum(piece.size for piece in live), live[:count])
        start = plan(
            now, Local([p for p in local.segments if p.end_offset > start], local.high_watermark), topic, start=start
        ).log_start_offset
        assert start <= whole
    assert start == whole


@given(worlds())
def test_an_unknown_border_changes_nothing(world: Any) -> None:
    pieces, _, local_from, topic = world
    local = Local(pieces[local_from:], pieces[-1].end_offset)
    got = plan(None, local, topic, start=pieces[0].base_offset)
    assert (got.log_start_offset, got.local_drop_offset) == (pieces[0].base_offset, local.segments[0].base_offset)
    assert not got.roll
    assert "unknown" in got.reason


@given(worlds())
def test_a_worker_with_only_the_bucket_goes_no_further_than_a_broker(world: Any) -> None:
    pieces, tiered, local_from, topic = world
    cold, local = split(pieces, tiered, local_from)
    alone = plan(cold, None, topic, start=pieces[0].base_offset)
    assert alone.log_start_offset <= max(
        plan(cold, local, topic, start=pieces[0].base_offset).log_start_offset, cold.start_offset
    )
    assert alone.log_start_offset <= max(cold.end_offset, pieces[0].base_offset)


@given(worlds(), st.data())
def test_nothing_above_the_high_watermark_goes_and_the_start_never_goes_back(world: Any, data: st.DataObject) -> None:
    pieces, tiered, local_from, topic = world
    cold, local = split(pieces, tiered, local_from)
    watermark = data.draw(st.integers(cold.end_offset, pieces[-1].end_offset))
    start = data.draw(st.integers(pieces[0].base_offset, watermark))
    got = plan(cold, Local(local.segments, watermark), topic, start=start)
    assert start <= got.log_start_offset <= watermark


def test_bytes_in_both_tiers_count_once() -> None:
    """KAFKA-20732: all ten pieces are in both tiers; ten are allowed, so nothing goes."""
    pieces = log_of([DAY] * 11)
    cold, local = split(pieces, 10, 0)
    assert plan(cold, local, config(retention_bytes=11 * KB, retention_ms=-1, local_retention_ms=-2)).log_start_offset == 0
    assert plan(cold, local, config(retention_bytes=10 * KB, retention_ms=-1, local_retention_ms=-2)).log_start_offset == 10


def test_a_local_segment_across_the_border_counts_for_nothing_and_hides_nothing() -> None:
    cold = Cold(0, 25, 2500, [Piece(0, 10, 1000, NOW - DAY, NOW - DAY), Piece(10, 25, 1500, NOW - DAY, NOW - DAY)])
    straddler = Piece(20, 30, 1000, NOW, NOW)
    local = Local([straddler, Piece(30, 40, 1000, NOW, -1)], 40)
    assert plan(cold, local, config(retention_bytes=2500, retention_ms=-1)).log_start_offset == 10
    assert plan(cold, local, config(retention_bytes=2600, retention_ms=-1)).log_start_offset == 0
    by_time = plan(cold, local, config(retention_ms=DAY // 2))
    assert by_time.log_start_offset == 25


def test_a_future_timestamp_pins_no_closed_piece() -> None:
    """KAFKA-20609."""
    pieces = [Piece(0, 10, KB, NOW + 1000 * DAY, NOW - 3 * DAY), Piece(10, 20, KB, NOW, -1)]
    assert plan(None, Local(pieces, 20), config(retention_ms=2 * DAY), tiered=False).log_start_offset == 10
    assert plan(None, Local(pieces, 20), config(retention_ms=4 * DAY), tiered=False).log_start_offset == 0


@pytest.mark.parametrize(("clock", "start"), [("record", 10), ("append", 0), ("close", 0)])
def test_the_clock_is_the_topics_choice(clock: str, start: int) -> None:
    """Old events loaded today: old by their own time, new by the time they came."""
    pieces = [Piece(0, 10, KB, NOW - 400 * DAY, NOW - DAY), Piece(10, 20, KB, NOW, -1)]
    topic = config(retention_ms=30 * DAY, hotlog_retention_clock=clock)
    assert plan(None, Local(pieces, 20), topic, tiered=False).log_start_offset == start


def test_an_idle_log_expires_to_its_end() -> None:
    got = plan(None, Local(log_of([9 * DAY, 8 * DAY]), 20), config(retention_ms=7 * DAY), tiered=False)
    assert (got.roll, got.log_start_offset, got.local_drop_offset) == (True, 20, 20)
    young = plan(None, Local(log_of([9 * DAY, 6 * DAY]), 20), config(retention_ms=7 * DAY), tiered=False)
    assert (young.roll, young.log_start_offset) == (False, 10)


def test_time_retention_takes_data_that_was_never_copied() -> None:
    """KAFKA-19952: a stalled store does not keep what the topic let go."""
    pieces = log_of([9 * DAY, 8 * DAY, DAY])
    cold, local = split(pieces, 0, 0)
    got = plan(cold, local, config(retention_ms=7 * DAY))
    assert (got.log_start_offset, got.local_drop_offset, got.dropped_bytes, got.blocks_appends) == (20, 20, 2 * KB, False)


def test_size_retention_of_uncopied_data_blocks_or_drops_as_the_topic_says() -> None:
    pieces = log_of([DAY] * 6)
    cold, local = split(pieces, 2, 2)
    limits = {"retention_bytes": 2 * KB, "retention_ms": -1}
    block = plan(cold, local, config(**limits))
    assert (block.log_start_offset, block.blocks_appends, block.dropped_bytes) == (20, True, 0)
    drop = plan(cold, local, config(**limits, hotlog_untiered_overflow="drop"))
    assert (drop.log_start_offset, drop.blocks_appends, drop.dropped_bytes) == (40, False, 2 * KB)
    fresh = log_of([1000] * 6)
    well = plan(*split(fresh, 2, 2), config(**limits))
    assert (well.log_start_offset, well.blocks_appends) == (40, False)


def test_local_retention_keeps_what_is_not_committed() -> None:
    pieces = log_of([5 * DAY] * 6)
    cold, local = split(pieces, 3, 0)
    topic = config(retention_ms=30 * DAY, local_retention_ms=DAY)
    got = plan(cold, local, topic)
    assert (got.log_start_offset, got.local_drop_offset, got.local_bytes) == (0, 30, 3 * KB)
    by_size = plan(cold, local, config(retention_ms=-1, retention_bytes=100 * KB, local_retention_bytes=4 * KB))
    assert by_size.local_drop_offset == 20


def test_records_without_a_timestamp_age_from_the_close_of_their_segment() -> None:
    """As in Kafka from the last modification of its file; what is still written to does not age."""
    closed, active = Piece(0, 10, KB, -1, NOW - 6 * DAY), Piece(10, 20, KB, -1, -1)
    topic = config(retention_ms=7 * DAY)
    assert plan(None, Local([closed, active], 20), topic, tiered=False).log_start_offset == 0
    older = closed._replace(closed_ms=NOW - 8 * DAY)
    assert plan(None, Local([older, active], 20), topic, tiered=False).log_start_offset == 10
    assert plan(Cold(0, 10, KB, [closed]), None, topic).log_start_offset == 0
    assert plan(Cold(0, 10, KB, [older]), None, topic).log_start_offset == 10


def test_a_compacted_topic_loses_nothing_by_age_but_what_was_deleted() -> None:
    topic = config(cleanup_policy="compact", retention_ms=1)
    pieces = log_of([9 * DAY] * 3)
    assert plan(None, Local(pieces, 30), topic, tiered=False).log_start_offset == 0
    deleted = plan(None, Local(pieces, 30), topic, start=15, tiered=False)
    assert (deleted.log_start_offset, deleted.local_drop_offset) == (15, 10)


def test_a_hole_goes_with_what_is_behind_it_and_stops_nothing() -> None:
    old, gap = Piece(0, 10, KB, NOW - 9 * DAY, NOW - 9 * DAY), Piece(10, 20, 0, -1, NOW, is_hole=True)
    next_old, young = Piece(20, 30, KB, NOW - 8 * DAY, NOW - 8 * DAY), Piece(30, 40, KB, NOW, NOW)
    cold = Cold(0, 40, 3 * KB, [old, gap, next_old, young])
    assert plan(cold, None, config(retention_ms=7 * DAY)).log_start_offset == 30
    cold = Cold(0, 40, 2 * KB, [old, gap, young])
    assert plan(cold, None, config(retention_ms=7 * DAY)).log_start_offset == 10


def test_a_plan_says_what_it_frees_and_costs() -> None:
    pieces = log_of([9 * DAY] * 2500 + [0, 0])
    cold, local = split(pieces, 2501, 2499)
    got = plan(cold, local, config(retention_ms=7 * DAY))
    assert (got.cold_entries, got.cold_bytes, got.requests) == (2500, 2500 * KB, 2 + 3)
    assert got.local_bytes == KB
    assert plan(cold, local, config(retention_ms=-1)).requests == 0


def test_a_piece_goes_only_when_it_is_older_than_retention_to_the_millisecond() -> None:
    pieces = [Piece(0, 10, KB, NOW - DAY, NOW), Piece(10, 20, KB, NOW, -1)]
    for retention_ms, start in ((DAY - 1, 10), (DAY, 0), (DAY + 1, 0)):
        assert plan(None, Local(pieces, 20), config(retention_ms=retention_ms), tiered=False).log_start_offset == start


def test_entries_that_were_not_looked_at_are_never_jumped_over() -> None:
    old, young = NOW - 9 * DAY, NOW - DAY
    cold = Cold(0, 30, 3 * KB, [Piece(0, 10, KB, old, old)])  # [10, 30) is in a page that was not read: it is young
    local = Local([Piece(30, 40, KB, old, old), Piece(40, 50, KB, young, -1)], 50)
    assert plan(cold, local, config(retention_ms=7 * DAY)).log_start_offset == 10
    assert plan(cold, local, config(retention_ms=-1, retention_bytes=0)).log_start_offset == 10


def test_a_mistyped_retention_takes_a_quarter_of_a_large_log_in_a_round() -> None:
    """Fault 39: there is time to see it; the log is followed to the end all the same, round by round."""
    left, rounds = log_of([100 * DAY] * 40, size=GiB), 0
    while left:
        cold, local = split(left, len(left) - 1, len(left) - 1)
        made = plan(cold, local, config(retention_ms=1, local_retention_ms=1), start=left[0].base_offset)
        gone = [piece for piece in left if piece.end_offset <= made.log_start_offset]
        assert 0 < sum(piece.size for piece in gone) <= max(GiB, sum(piece.size for piece in left) // 4)
        assert made.is_slowed == (gone != left)
        left = left[len(gone) :]
        rounds += 1
    assert rounds > 5


@given(worlds())
def test_nothing_of_a_topic_that_is_only_compacted_is_deleted_in_either_tier(
    world: tuple[list[Piece], int, int, TopicConfig],
) -> None:
    """Whatever retention says: the newest value of a key may be its oldest record.  A local copy of what the store has may go."""
    pieces, tiered, local_from, topic = world
    policy = {"cleanup.policy": "compact", "remote.storage.enable": "true"}
    compacted = TopicConfig.resolve({**topic.overrides, **policy})
    cold, local = split(pieces, tiered, local_from)
    found = plan(cold, local, compacted, start=pieces[0].base_offset)
    assert (found.log_start_offset, found.cold_entries, found.dropped_bytes) == (pieces[0].base_offset, 0, 0)
    assert found.local_drop_offset <= max(cold.end_offset, local.segments[0].base_offset)
    assert not found.blocks_appends
    assert not found.roll
    assert plan(cold, None, compacted, start=pieces[0].base_offset).cold_entries == 0
