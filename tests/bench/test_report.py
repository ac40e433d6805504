"""The arithmetic of the bench: medians over rounds, ratios of medians, shares, batches walked, offsets followed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench.report import as_json, as_markdown, medians_of, ratios_of
from tests.bench.runner import Result
from tests.bench.settings import QUICK, BenchSettings
from tests.bench.tail import Usage
from tests.bench.wire import _walk_batches, record_batch
from tests.bench.workloads import payloads


def result(target: str, number: int, value: float) -> Result:
    return noted("produce-none", {"gb_per_s": value}, target=target, number=number)


def noted(workload: str, metrics: dict[str, float], *, target: str = "hotlog", number: int = 0) -> Result:
    return Result(target=target, durability="page-cache", round=number, workload=workload, metrics=metrics)


def document_of(results: list[Result], **roofline: float) -> dict[str, Any]:
    machine = dict.fromkeys(("cores", "processor", "memory_gib", "kernel", "file_system", "python"), "?")
    return as_json(machine=machine, settings=QUICK, roofline=roofline, descriptions={}, results=results, failures={})


RESULTS = [
    *(result("kafka", number, value) for number, value in enumerate((0.1, 0.5, 0.2))),
    *(result("hotlog", number, value) for number, value in enumerate((0.9, 0.3, 0.4))),
]
NAME = "page-cache/produce-none/gb_per_s"


def test_a_median_is_over_rounds_and_a_ratio_is_of_medians() -> None:
    medians = medians_of(RESULTS)
    assert medians == {NAME: {"kafka": 0.2, "hotlog": 0.4}}
    assert ratios_of(medians, ["kafka", "hotlog"]) == {"hotlog over kafka": {NAME: pytest.approx(2.0)}}


def test_there_is_no_ratio_without_kafka() -> None:
    assert document_of(RESULTS[3:])["ratios"] == {}


def test_the_table_shows_both_the_ratio_and_the_share_of_the_roofline() -> None:
    document = document_of(RESULTS, produce_page_cache=2.0)
    assert [row["metrics"] for row in document["results"]] == [each.metrics for each in RESULTS]
    line = "| produce, librdkafka, no compression, GB/s | 0.2 | 0.4 | 2.00 | >= 1 | hotlog 20%, kafka 10% |"
    assert line in as_markdown(document)


def test_the_tail_has_a_column_a_phase_with_ratios_to_the_tail_alone() -> None:
    found = {"alone_p99_ms": 2.0, "cold_p99_ms": 5.0, "cold_p99_over_alone": 2.5, "cold_replay_gb_per_s": 0.25}
    text = as_markdown(document_of([noted("tail-replay", found | {"cold_broker_cpu_share": 0.5})]))
    assert [line for line in text.splitlines() if line.startswith("| ")][2:] == [
        "| tail latency p99, ms | 2 | 5 (2.5x) | – | – | – | – |",
        "| replay meanwhile, GB/s | – | 0.25 | – | – | – | – |",
        "| CPU: broker | – | 50% | – | – | – | – |",
    ]


def test_levels_of_inspection_are_columns() -> None:
    costs = {"lz4_1024_header_s_per_gb": 0.025, "lz4_1024_decompressed_s_per_gb": 0.25, "lz4_1024_records_s_per_gb": 1.0}
    assert "| lz4 | 1024 | 0.025 | 0.25 | 1 |" in as_markdown(document_of([noted("inspect", costs)])).splitlines()


def test_lag_is_the_bound_that_a_share_of_callbacks_did_not_pass() -> None:
    before = Usage(0.0, 0.0, 0.0, {0.001: 10, 0.01: 10, 1.0: 10, float("inf"): 10})
    after = Usage(3.0, 2.0, 1.0, {0.001: 108, 0.01: 109, 1.0: 110, float("inf"): 110})
    grown = after.since(before)
    assert (grown.broker_cpu_s, grown.store_cpu_s, grown.store_bytes) == (3.0, 2.0, 1.0)
    assert (grown.loop_lag_ms(0.98), grown.loop_lag_ms(0.99), grown.loop_lag_ms(0.999)) == (1.0, 10.0, 1000.0)


def small(target: str, rate: float, *, durability: str = "page-cache", p99_ms: float = 2.0) -> Result:
    metrics = {"answers_per_s": rate, "broker_cpu_us": 30.0, "p50_ms": 0.5, "p99_ms": p99_ms}
    return Result(target=target, durability=durability, round=0, workload="small/produce-100b-8x5", metrics=metrics)


def rows_of(results: list[Result], start: str) -> list[str]:
    return [line for line in as_markdown(document_of(results)).splitlines() if line.startswith(start)]


def test_small_requests_have_a_row_a_case_with_the_rate_and_p99_beside_kafkas() -> None:
    both = [small("kafka", 50_000, p99_ms=4.0), small("hotlog", 60_000), small("hotlog", 30_000, durability="fsync")]
    assert rows_of(both, "| produce one 100 B") == [
        "| produce one 100 B record, 8 x 5 | 50,000, 30 us, 0.5 / 4 ms | 60,000, 30 us, 0.5 / 2 ms | 1.20 | 0.50 |",
        "| produce one 100 B record, 8 x 5 | 30,000, 30 us, 0.5 / 2 ms | – | – | 0.50 |",
    ]


def test_a_ratio_is_told_to_each_other_contender() -> None:
    results = [small("hotlog", 60_000), small("before", 40_000), small("kafka", 50_000)]
    head, row = rows_of(results, "| work"), rows_of(results, "| produce one 100 B")
    assert [title.partition(":")[0] for title in head[0].strip("| ").split(" | ")] == [
        "work, connections x in flight", "Kafka", "before", "Hotlog", "rate to Kafka", "rate to before", "p99 to Kafka", "p99 to before",
    ]  # fmt: skip
    assert row[0].endswith("| 1.20 | 1.50 | 1.00 | 1.00 |")


def test_two_checkouts_have_a_column_each_in_the_table_of_throughput() -> None:
    document = document_of([result("hotlog", 0, 0.6), result("before", 0, 0.4)])
    assert "| produce, librdkafka, no compression, GB/s | 0.4 | 0.6 | 1.50 | >= 1 |  |" in as_markdown(document)
    assert document["ratios"] == {"hotlog over before": {NAME: pytest.approx(1.5)}}


def test_growth_has_a_row_a_size_and_broker_and_what_one_could_not_do_is_said() -> None:
    found = [noted(f"partitions/{size}", {"create_s": 0.5, "descriptors": 3.0 * size}) for size in (10_000, 10)]
    document = document_of([*found, noted("partitions/10", {"create_s": 1.25}, target="kafka")])
    text = as_markdown(document | {"not_measured": {"Kafka, partitions/10000": "TargetFailed: too many"}})
    assert [line for line in text.splitlines() if line.startswith("| 10")] == [
        "| 10 | Kafka | 1.25 | – | – | – | – | – | – | – | – | – |",
        "| 10 | Hotlog | 0.50 | – | – | 30 | – | – | – | – | – | – |",
        "| 10,000 | Hotlog | 0.50 | – | – | 30000 | – | – | – | – | – | – |",
    ]
    assert "- Not measured: Kafka, partitions/10000: TargetFailed: too many" in text


def test_settings_that_share_out_unevenly_are_refused() -> None:
    with pytest.raises(AssertionError, match="same share"):
        BenchSettings(total_bytes=1025)


def test_batches_are_walked_by_their_headers_and_a_torn_last_one_does_not_count() -> None:
    batch = record_batch(payloads(5))
    assert _walk_batches(batch) == (len(batch), 5)
    assert _walk_batches(batch + batch[:-1]) == (len(batch), 5)
    assert _walk_batches(batch[:30]) == (0, -1)
