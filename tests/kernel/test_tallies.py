"""Our own counters and histograms say what prometheus_client's would have said."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest

from hotlog.kernel.tallies import Spreads, Tallies

BUCKETS = (0.0005, 0.001, 0.5, 1, 30)
disable_created_metrics()  # type: ignore[no-untyped-call]


@given(st.lists(st.tuples(st.sampled_from(["a", 'b"\\']), st.integers(0, 2**40))))
def test_a_counter_prints_the_same(steps: list[tuple[str, int]]) -> None:
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    their, our = Counter("c", "What.", ["x"], registry=theirs), Tallies("c", "What.", ["x"], registry=ours)
    for label, amount in steps:
        their.labels(label).inc(amount)
        our.labels(label).inc(amount)
    assert generate_latest(ours) == generate_latest(theirs)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([*BUCKETS, 0.0, 0.25, 2.0, 100.0]))))
def test_a_histogram_prints_the_same(steps: list[tuple[str, float]]) -> None:
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    their = Histogram("h", "What.", ["x"], registry=theirs, buckets=BUCKETS)
    our = Spreads("h", "What.", ["x"], registry=ours, buckets=BUCKETS)
    for label, value in steps:
        their.labels(label).observe(value)
        our.labels(label).observe(value)
    assert generate_latest(ours) == generate_latest(theirs)


def test_values_counted_together_are_as_many_as_counted_one_by_one() -> None:
    registry = CollectorRegistry()
    spreads = Spreads("h", "What.", ["x"], registry=registry, buckets=BUCKETS)
    spreads.labels("together").observe(0.25, 4)
    for _ in range(4):
        spreads.labels("one by one").observe(0.25)
    assert spreads.labels("together").counts == spreads.labels("one by one").counts
    assert spreads.labels("together").sum == spreads.labels("one by one").sum
