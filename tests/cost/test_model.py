"""The model reproduces the costed designs of our planning figures (10 GB/s in, three groups, RF 3, 7 days, AWS list prices)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hotlog.kernel.limits import KiB, MiB
from tiering.cost import Design, PriceBook, Workload, forecast, load_book
from tiering.cost import formulas as f
from tiering.cost.book import Provider

HOUR = 3600
SEED = Workload(bytes_per_second=10e9)
COLD = {"object_bytes": 16 * MiB, "commits_per_object": 0.0, "disk_mb_s": 1000.0}


@pytest.fixture
def book() -> PriceBook:
    """AWS, with GB of 10^9 bytes as the planning figures count (AWS itself bills 2^30: 0.931 of these)."""
    aws = replace(load_book().provider("aws-us-east-1"), gb_bytes=1e9)
    return PriceBook(aws.name, {aws.name: aws})


@pytest.fixture
def aws(book: PriceBook) -> Provider:
    return book.provider()


@pytest.mark.parametrize(
    ("name", "design", "total_k", "per_pb_k", "kept_per_pb_k"),
    [
        ("A1 gp3 only, naive fetch", Design(hot_s=None, rack_aware=False), 4624, 765, 343),
        ("A2 gp3 only, rack-aware", Design(hot_s=None), 3573, 591, 343),
        ("A3 NVMe", Design(hot_s=None, disk="is4gen-nvme"), 4309, 713, 481),
        ("A3 HDD", Design(hot_s=None, disk="d3en-hdd"), 1757, 291, 59),
        ("B4 tiered, 4 h hot", Design(hot_s=4 * HOUR, **COLD), 1687, 279, 31),
        ("B24 tiered, 24 h hot", Design(hot_s=24 * HOUR, **COLD), 1933, 320, 72),
        ("C4 = B4, cold 4x smaller", Design(hot_s=4 * HOUR, cold_ratio=4, **COLD), 1588, 263, 15),
        ("C24", Design(hot_s=24 * HOUR, cold_ratio=4, **COLD), 1835, 303, 55),
    ],
)  # fmt: skip
def test_the_designs_cost_what_the_plan_says(
    book: PriceBook, name: str, design: Design, total_k: int, per_pb_k: int, kept_per_pb_k: int
) -> None:
    bill = forecast(SEED, design, book)
    assert round(bill.dollars.total / 1e3) == total_k, name
    assert round((bill.per_pb(bill.dollars.total) or 0) / 1e3) == per_pb_k
    assert round((bill.per_pb(bill.dollars.storage_and_requests) or 0) / 1e3) == kept_per_pb_k


def test_what_dominates(book: PriceBook) -> None:
    """Tiering removes some 90 % of storage; then traffic between zones is 83 % of what is left."""
    disks, tiered = forecast(SEED, Design(hot_s=None), book), forecast(SEED, Design(hot_s=4 * HOUR, **COLD), book)
    assert 1 - tiered.dollars.storage_and_requests / disks.dollars.storage_and_requests == pytest.approx(0.91, abs=0.01)
    traffic = sum(row.dollars for row in tiered.rows if row.tier == "traffic")
    assert traffic / tiered.dollars.total == pytest.approx(0.83, abs=0.005)
    assert next(row.dollars for row in tiered.rows if (row.tier, row.purpose) == ("cold", "storage")) == pytest.approx(
        128e3, rel=0.005
    )


def test_a_tiered_forecast_is_compared_with_disks_alone(book: PriceBook) -> None:
    disks, tiered = forecast(SEED, Design(hot_s=None), book), forecast(SEED, Design(hot_s=4 * HOUR, **COLD), book)
    assert tiered.compared_dollars == disks.dollars


@pytest.mark.parametrize(
    ("part", "k_dollars"), [(512 * KiB, 250), (1 * MiB, 125), (4 * MiB, 31), (8 * MiB, 16), (16 * MiB, 7.8), (64 * MiB, 2.0)]
)
def test_puts_by_object_size(aws: Provider, part: int, k_dollars: float) -> None:
    puts = f.upload_requests(SEED.month_bytes, object_bytes=part, single_put_bytes_max=64 * MiB, part_bytes=64 * MiB)
    assert f.requests(aws.storage_class("standard"), "put", puts).dollars / 1e3 == pytest.approx(k_dollars, rel=0.025)


@pytest.mark.parametrize(("name", "per_tb"), [("standard-ia", 12.3), ("glacier-ir", 11.8)])
def test_minimum_durations_make_cheap_classes_dear_for_a_week(aws: Provider, name: str, per_tb: float) -> None:
    kept = f.object_storage(aws, aws.storage_class(name), 1e12, kept_days=7)
    assert kept.dollars * 7 / (f.MONTH_HOURS / 24) == pytest.approx(per_tb, abs=0.05)
    assert "minimum" in kept.text


def test_uploads_through_a_nat_gateway(aws: Provider) -> None:
    assert SEED.month_bytes / aws.gb_bytes * aws.nat_gb == pytest.approx(1.18e6, rel=0.01)


def test_every_design_explains_itself(book: PriceBook) -> None:
    bill = forecast(SEED, Design(hot_s=4 * HOUR, **COLD), book)
    lines = "\n".join(bill.explain())
    assert "6,048,000.000 GB x $0.02109/GB-month (standard)" in lines
    assert "144,000.000 GB x 3 / 0.7 x $0.08/GB-month (gp3)" in lines
    assert "26,280,000.000 GB x 2 copies x $0.02" in lines
    assert "48.0 r6in.8xlarge x $2.7893/h x 730 h" in lines


@pytest.mark.parametrize("provider", ["aws-us-east-1", "gcp-us-central1", "azure-westus", "minio-own-disks"])
def test_tiering_pays_at_every_provider(provider: str) -> None:
    workload = Workload(bytes_per_second=50e6, retention_s=365 * 24 * HOUR, groups=2)
    bill = forecast(workload, Design(hot_s=24 * HOUR), load_book(), provider)
    assert 0 < bill.dollars.storage_and_requests < bill.compared_dollars.storage_and_requests / 3
    assert bill.dollars.total == pytest.approx(sum(row.dollars for row in bill.rows))


@pytest.mark.parametrize(
    ("object_bytes", "commits", "requests"),
    [(32 * MiB, 0.0, 1), (32 * MiB, 1.0, 2), (128 * MiB, 0.0, 2 + 2), (128 * MiB, 1.0, 2 + 2 + 1), (130 * MiB, 2.0, 2 + 3 + 2)],
)
def test_an_objects_requests_are_its_parts_and_its_commits(object_bytes: int, commits: float, requests: int) -> None:
    sent = f.upload_requests(
        10 * object_bytes,
        object_bytes=object_bytes,
        single_put_bytes_max=64 * MiB,
        part_bytes=64 * MiB,
        commits_per_object=commits,
    )
    assert sent == 10 * requests
