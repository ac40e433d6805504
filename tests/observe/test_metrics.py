"""What a scrape has: what it should, and nothing of what is no more."""

from __future__ import annotations

from prometheus_client import generate_latest

from hotlog import __version__
from hotlog.kernel.metrics import Metrics
from hotlog.observe.group_lag import LOOKED_AT_ONCE, Ends, measure
from tests.tools.steps import Steps, count_steps


def text_of(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def test_a_scrape_names_the_build_and_the_process_and_tells_no_birthdays() -> None:
    metrics = Metrics()
    metrics.build.info({"version": __version__})
    metrics.requests.labels("Produce").inc()
    metrics.request_seconds.labels("Produce").observe(0.1)
    text = text_of(metrics)
    assert f'hotlog_build_info{{version="{__version__}"}} 1.0' in text
    assert "process_resident_memory_bytes" in text
    assert "process_open_fds" in text
    assert "_created" not in text


def test_series_of_deleted_topics_go_and_others_stay() -> None:
    metrics = Metrics()
    for topic in ("kept", "gone", "gone too"):
        metrics.bytes_in.labels(topic).inc()
        metrics.log_size_bytes.labels(topic).set(1)
        for purpose in ("copy", "manifest"):
            metrics.store_requests.labels(topic, purpose, "put", "ok").inc()
            metrics.store_bytes.labels(topic, purpose, "put").inc(5)
    metrics.store_requests.labels("", "meta", "get", "ok").inc()
    before = text_of(metrics)
    metrics.forget_topics({"gone", "gone too", "never there"})
    assert [line for line in text_of(metrics).splitlines() if "gone" in line] == []
    kept = [line for line in before.splitlines() if 'topic="kept"' in line or 'topic=""' in line]
    assert kept
    assert [line for line in text_of(metrics).splitlines() if 'topic="kept"' in line or 'topic=""' in line] == kept


async def test_a_groups_lag_is_told_by_the_tier_it_reads_from() -> None:
    committed = {
        "replays": {("clicks", 0): 100, ("clicks", 1): 900},
        "follows": {("clicks", 0): 1000, ("clicks", 1): 990, ("gone", 0): 5},
        "ahead": {("clicks", 0): 2000},
    }
    ends = {("clicks", 0): Ends(500, 1000), ("clicks", 1): Ends(500, 1000)}
    metrics = Metrics()
    metrics.group_lag.rows = await measure(committed, committed.__getitem__, lambda *place: ends.get(place))
    assert [line for line in text_of(metrics).splitlines() if line.startswith("hotlog_group_lag{")] == [
        'hotlog_group_lag{group="replays",tier="cold",topic="clicks"} 900.0',
        'hotlog_group_lag{group="replays",tier="hot",topic="clicks"} 100.0',
        'hotlog_group_lag{group="follows",tier="hot",topic="clicks"} 10.0',
        'hotlog_group_lag{group="ahead",tier="hot",topic="clicks"} 0.0',
    ]


async def test_lags_of_many_groups_are_measured_in_pieces() -> None:
    async def steps(count: int) -> Steps:
        groups = [f"g{number}" for number in range(count)]
        return await count_steps(measure(groups, lambda _: {("t", 0): 1}, lambda *_: Ends(0, 5)))

    few, many = await steps(LOOKED_AT_ONCE * 2), await steps(LOOKED_AT_ONCE * 20)
    assert many.total > 5 * few.total
    assert many.most < 2 * few.most
