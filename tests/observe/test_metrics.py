"""What a scrape has: what it should, and nothing of what is no more."""

from __future__ import annotations

from prometheus_client import generate_latest

from hotlog import __version__
from hotlog.kernel.metrics import Metrics


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
