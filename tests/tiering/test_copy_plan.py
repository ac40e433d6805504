"""What is copied next, and when: pure, by table."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

import pytest

from hotlog.kernel.age import segment_time_ms
from hotlog.kernel.topic_config import TopicConfig
from tests.log.support import T0
from tests.tiering.support import PID, row
from tiering.manifest.edits import append, blank, mark_deleted
from tiering.manifest.root import Manifest
from tiering.upload.plan import CopyPlan, CopyWait, boundary_problem, covered_until, plan_copy

HOUR = 3_600_000


class Segment(NamedTuple):
    base_offset: int
    end_offset: int
    size: int = 1000
    max_timestamp: int = T0
    first_append_ms: int = T0
    closed_ms: int = T0
    log_path: str = ""
    txnindex_path: str = ""


SEGMENTS = (Segment(0, 10), Segment(10, 20), Segment(20, 30), Segment(30, 35, closed_ms=-1))


def view_to(end: int, *, start: int = 0) -> Manifest:
    return append(blank(PID, "clicks", epoch=0, created_ms=T0), row(start, end, Random(1)), epoch=0)


def config(**overrides: object) -> TopicConfig:
    return TopicConfig.resolve(
        {"retention.ms": "-1", **{name.replace("_", "."): str(value) for name, value in overrides.items()}}
    )


class Behind(NamedTuple):
    oldest: Segment
    segments: int
    size: int
    newer: int


def behind(segments: tuple[Segment, ...], done: int) -> Behind | None:
    """What a log says of its closed segments above `done`."""
    closed = [one for one in segments if one.closed_ms >= 0 and one.end_offset > done and one.size > 0]
    if not closed:
        return None
    newer = sum(one.size for one in segments if one.base_offset >= closed[0].end_offset)
    return Behind(closed[0], len(closed), sum(one.size for one in closed), newer)


def plan(
    view: Manifest | None = None, segments: tuple[Segment, ...] = SEGMENTS, *, now_ms: int = T0, end: int = 35, log_start: int = 0,
    **overrides: object,
) -> CopyPlan | CopyWait:  # fmt: skip
    backlog = behind(segments, covered_until(view, log_start))
    return plan_copy(view, backlog, config(**overrides), readable_end=end, log_start_offset=log_start, now_ms=now_ms)


def test_the_oldest_uncovered_closed_segment_is_next() -> None:
    assert plan() == CopyPlan(SEGMENTS[0], 0, "")
    assert plan(view_to(10)) == CopyPlan(SEGMENTS[1], 10, "")
    assert plan(view_to(20)) == CopyPlan(SEGMENTS[2], 20, "")
    assert plan(view_to(30)) == CopyWait("every closed segment is in the store")
    assert plan(view_to(15)) == CopyPlan(SEGMENTS[1], 15, ""), "the rest of a segment that is partly covered"


def test_nothing_above_the_committed_end_goes() -> None:
    assert plan(end=10) == CopyPlan(SEGMENTS[0], 0, "")
    assert isinstance(plan(end=9), CopyWait)


def test_what_is_below_the_log_start_is_not_copied() -> None:
    assert plan(log_start=10) == CopyPlan(SEGMENTS[1], 10, "")
    assert plan(log_start=12) == CopyPlan(SEGMENTS[1], 10, ""), "its segment is still alive"
    assert plan(view_to(10), log_start=30) == CopyWait("every closed segment is in the store")


def test_gaps_are_named() -> None:
    assert plan(view_to(5), SEGMENTS[1:]) == CopyPlan(SEGMENTS[1], 10, "missing from the local log")
    assert plan(view_to(5), SEGMENTS[1:], log_start=10) == CopyPlan(SEGMENTS[1], 10, "deleted before it was copied")


@pytest.mark.parametrize(
    "overrides",
    [
        {"remote.storage.enable": "false"},
        {"remote.log.copy.disable": "true"},
    ],
)
def test_switched_off(overrides: dict[str, str]) -> None:
    assert plan(**overrides) == CopyWait("copying is switched off for this topic")


@pytest.mark.parametrize(
    ("overrides", "age_ms", "is_due"),
    [
        ({}, 0, True),
        ({"remote_copy_lag_ms": HOUR}, HOUR - 1, False),
        ({"remote_copy_lag_ms": HOUR}, HOUR, True),
        ({"remote_copy_lag_ms": HOUR, "remote_copy_lag_bytes": 3000}, 0, True),  # either: 3,000 newer bytes are there
        ({"remote_copy_lag_ms": HOUR, "remote_copy_lag_bytes": 3001}, 0, False),
        ({"remote_copy_lag_ms": HOUR, "local_retention_bytes": 3000}, 0, True),  # local retention waits for the copy
        ({"remote_copy_lag_ms": -1, "local_retention_ms": HOUR}, HOUR - 1, False),  # -1: as late as local retention allows
        ({"remote_copy_lag_ms": -1, "local_retention_ms": HOUR}, HOUR, True),
        ({"remote_copy_lag_ms": -1}, 0, True),
    ],
)
def test_copy_lag(overrides: dict[str, object], age_ms: int, is_due: bool) -> None:
    """KIP-1241."""
    found = plan(now_ms=T0 + age_ms, **overrides)
    assert isinstance(found, CopyPlan) == is_due, found


@pytest.mark.parametrize(
    ("overrides", "age_ms", "is_copied"),
    [
        ({"retention_ms": HOUR}, HOUR, True),
        ({"retention_ms": HOUR}, HOUR + 1, False),
        ({"retention_ms": -1}, 10**12, True),
        ({"retention_bytes": 3001, "hotlog_untiered_overflow": "drop"}, 0, True),
        ({"retention_bytes": 3000, "hotlog_untiered_overflow": "drop"}, 0, False),  # without it 3,000 bytes are left
        ({"retention_bytes": 3000}, 0, True),  # `block`: retention waits for the copy
        ({"retention_ms": HOUR, "cleanup_policy": ""}, HOUR + 1, True),
    ],
)
def test_what_would_expire_on_arrival_is_not_copied(overrides: dict[str, object], age_ms: int, is_copied: bool) -> None:
    found = plan(now_ms=T0 + age_ms, **overrides)
    assert isinstance(found, CopyPlan) == is_copied, found


def test_a_timestamp_from_the_future_ages_by_the_close() -> None:
    future = (Segment(0, 10, max_timestamp=T0 + 100 * HOUR), SEGMENTS[3])
    assert isinstance(plan(None, future, now_ms=T0 + HOUR + 1, retention_ms=HOUR), CopyWait)


def test_segment_time() -> None:
    assert segment_time_ms("record", max_timestamp=5, closed_ms=9) == 5
    assert segment_time_ms("record", max_timestamp=50, closed_ms=9) == 9
    assert segment_time_ms("record", max_timestamp=-1, closed_ms=9) == 9
    assert segment_time_ms("record", max_timestamp=50, closed_ms=-1) == 50
    assert segment_time_ms("close", max_timestamp=5, closed_ms=9) == 9
    assert segment_time_ms("append", max_timestamp=5, closed_ms=9) == 9


def problem(
    root: Manifest | None, *, epoch: int = 0, revives: bool = False, start: int = 0, local: int = 0, end: int = 35
) -> str:
    return boundary_problem(
        root, leader_epoch=epoch, revives=revives, log_start_offset=start, local_start_offset=local, log_end_offset=end
    )


def test_tiers_that_do_not_fit_together_are_told() -> None:
    assert problem(None) == problem(view_to(10)) == problem(view_to(35)) == ""
    assert "claimed by leader epoch 0" in problem(view_to(10), epoch=-1)
    assert "before the tiered end 36" in problem(view_to(36))
    assert "[0, 5) are not on the local disk" in problem(None, local=5)
    assert problem(view_to(10), local=5) == ""
    gone = mark_deleted(view_to(10), now_ms=T0, not_before_ms=T0)
    assert problem(gone) == "the manifest is marked deleted"
    assert problem(gone, revives=True) == ""
