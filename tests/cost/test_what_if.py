"""What another policy would cost: steady states on both sides, made by one function."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlog.kernel.errors import Invalid, InvalidConfig
from tiering.cost import Report, cost_report, load_book
from tiering.cost import formulas as f
from tiering.cost.meter import Line, Row
from tiering.cost.what_if import TopicShape, changed, check_keys, rate_of, steady

HOUR_MS, GiB, MiB = 3_600_000, 2**30, 2**20
SHAPE = TopicShape(topic="clicks", partitions=4, bytes_per_second=10 * MiB, log_bytes=500 * GiB)
POLICY = {"retention.ms": str(30 * 24 * HOUR_MS), "local.retention.ms": str(24 * HOUR_MS), "segment.bytes": str(256 * MiB)}


def bill(shape: TopicShape, **changes: str) -> Report:
    config = changed(POLICY, {key.replace("_", "."): value for key, value in changes.items()})
    return cost_report(steady(shape, config), load_book())


def test_an_hour_of_hot_data_costs_an_hour_of_disk() -> None:
    day, hour = bill(SHAPE), bill(SHAPE, local_retention_ms=str(HOUR_MS))
    kept = {row.tier: row.dollars for row in hour.rows if row.purpose == "storage"}
    assert kept["hot"] == pytest.approx(10 * MiB * 3600 / GiB / 0.7 * 0.08, rel=1e-6)
    assert day.by("tier")["hot",] == pytest.approx(24 * kept["hot"])
    assert day.by("purpose")["upload",] == hour.by("purpose")["upload",], "only the disk is another"
    assert day.log_bytes == hour.log_bytes == pytest.approx(10 * MiB * 30 * 24 * 3600)


def test_half_the_retention_costs_half_the_bucket() -> None:
    month, half = bill(SHAPE), bill(SHAPE, retention_ms=str(15 * 24 * HOUR_MS))
    opened = 4 * 256 * MiB  # the open segments are not in the bucket
    size = {r: next(row.dollars for row in r.rows if (row.tier, row.purpose) == ("cold", "storage")) for r in (month, half)}
    assert size[half] / size[month] == pytest.approx((half.log_bytes - opened) / (month.log_bytes - opened))


def test_small_segments_cost_requests() -> None:
    big, small = bill(SHAPE, segment_bytes=str(64 * MiB)), bill(SHAPE, segment_bytes=str(16 * MiB))
    assert small.by("purpose")["upload",] == pytest.approx(4 * big.by("purpose")["upload",], rel=0.01)
    slow = bill(replace(SHAPE, bytes_per_second=4 * 1024), segment_ms=str(HOUR_MS))
    puts = 4 * f.MONTH_HOURS * 2  # each of four partitions closes one an hour: an object and a commit
    assert slow.by("purpose")["upload",] == pytest.approx(puts / 1000 * 0.005, rel=0.01)


def test_without_the_store_everything_is_on_disks() -> None:
    local = bill(SHAPE, remote_storage_enable="false")
    assert {row.tier for row in local.rows if row.dollars} == {"hot"}
    assert local.dollars.storage == pytest.approx(local.compared_dollars.storage)


def test_unlimited_retention_prices_what_is_there() -> None:
    assert bill(SHAPE, retention_ms="-1").log_bytes == SHAPE.log_bytes
    assert bill(SHAPE, retention_bytes=str(GiB)).log_bytes == 4 * GiB, "retention.bytes is of a partition"


def test_readers_stay_and_their_rate_is_by_the_month() -> None:
    seen = [
        Row(Line("2026-11", "clicks", "fetch", "get", "ok"), 1000, 0, GiB),
        Row(Line("2026-11", "other", "fetch", "get", "ok"), 9, 0, 9),
    ]
    usage = steady(SHAPE, changed(POLICY, {}), seen, 10 * 24 * 3600.0)
    assert [(row.line.topic, row.line.purpose) for row in usage.meter] == [("clicks", "upload"), ("clicks", "fetch")]
    assert usage.meter[1].requests == pytest.approx(1000 * f.MONTH_HOURS / 240, abs=1)


@given(
    rate=st.floats(1, 1e9), local=st.integers(-2, 10**12), total=st.just(-1) | st.integers(-1, 10**12), log=st.integers(0, 10**15),
    partitions=st.integers(1, 1000), segment=st.integers(MiB, 2**31 - 1),
)  # fmt: skip
def test_the_local_tier_is_never_more_than_the_log(
    rate: float, local: int, total: int, log: int, partitions: int, segment: int
) -> None:
    shape = TopicShape(topic="t", partitions=partitions, bytes_per_second=rate, log_bytes=log)
    try:
        config = changed({}, {"local.retention.ms": str(local), "retention.ms": str(total), "segment.bytes": str(segment)})
    except InvalidConfig:
        return
    topic = steady(shape, config).topics[0]
    assert 0 <= topic.hot_bytes <= topic.log_bytes
    assert 0 <= topic.cold_bytes[""] <= topic.log_bytes


def test_a_rate_comes_from_the_records_times_else_from_the_traffic() -> None:
    assert rate_of(7200, 0, 2 * HOUR_MS, 99, 86_400) == 1
    assert rate_of(7200, 0, 1000, 864_000, 86_400) == 10
    with pytest.raises(Invalid, match="--rate"):
        rate_of(7200, 0, 1000, 99, 60)
    with pytest.raises(Invalid, match="--rate"):
        rate_of(0, -1, -1, 0, 0)


def test_keys_that_change_no_bill_are_refused() -> None:
    check_keys(["local.retention.ms"])
    with pytest.raises(Invalid, match=r"flush\.ms.*allowed are"):
        check_keys(["flush.ms"])
