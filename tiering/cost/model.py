"""The model: a workload and a design in, $/month and $/PB-month out, before anything is built.  It uses the meter's formulas.

Invariants: pure; a Forecast's rows are CostRows, so whatever draws a bill draws a forecast; every assumption is a field with its default.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hotlog.kernel.limits import MiB
from tiering.cost import formulas
from tiering.cost.book import PriceBook, Provider
from tiering.cost.formulas import MONTH_SECONDS, Amount
from tiering.cost.report import CostRow, Report

DAY = 24 * 3600.0
BROKER_INGEST_BYTES_PER_SECOND = 10e9 / 48  # one r6in.8xlarge at RF 3 with three groups, half its baseline network
VCPU_BYTES_PER_SECOND = 10e9 / 105  # zstd-9 over what producers compressed, one core


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What comes in and goes out.  Bytes are as they are stored: after the producer's compression."""

    bytes_per_second: float
    retention_s: float = 7 * DAY
    groups: float = 3.0  # each reads everything once

    @property
    def log_bytes(self) -> float:
        return self.bytes_per_second * self.retention_s

    @property
    def month_bytes(self) -> float:
        return self.bytes_per_second * MONTH_SECONDS


@dataclass(frozen=True, kw_only=True)
class Design:
    """How it is kept.  `hot_s` None: on local disks alone, nothing tiered."""

    hot_s: float | None
    replicas: int = 3
    zones: int = 3
    rack_aware: bool = True
    disk: str = ""
    disk_fill: float = formulas.DISK_FILL
    disk_mb_s: float = 0.0  # throughput each broker's volume is provisioned for, where that is paid for
    storage_class: str = ""
    object_bytes: float = 1024 * MiB
    single_put_bytes_max: float = 64 * MiB
    part_bytes: float = 64 * MiB
    commits_per_object: float = 1.0  # writes of the manifest
    range_bytes: float = 4 * MiB
    cold_read_share: float = 0.10  # of what consumers read
    cold_ratio: float = 1.0  # the cold copy is this many times smaller (re-encoded)
    brokers: float | None = None  # None: as many as the ingest needs
    instance: str = ""


def forecast(workload: Workload, design: Design, book: PriceBook, provider: str = "") -> Report:
    """$/month of `design` under `workload`, beside the same log on replicated local disks alone.

    Raises:
        InvalidConfig: a provider, class, disk or instance that the book does not have.
    """
    prices = book.provider(provider)
    local = Design(
        hot_s=None, replicas=design.replicas, zones=design.zones, rack_aware=design.rack_aware, disk=design.disk,
        disk_fill=design.disk_fill, brokers=design.brokers, instance=design.instance,
    )  # fmt: skip
    return Report(
        provider=prices.name, title=prices.title, date=prices.date.isoformat(), source=prices.source,
        log_bytes=workload.log_bytes, rows=tuple(_rows(workload, design, prices)), compared=tuple(_rows(workload, local, prices)),
        notes=(
            f"Prices: {prices.title}, list, as of {prices.date.isoformat()}; source: {prices.source}.",
            f"Both sides: {design.replicas} replicas in {design.zones} zones, the same machines.",
        ),
    )  # fmt: skip


def _rows(workload: Workload, design: Design, prices: Provider) -> Iterable[CostRow]:
    def row(tier: str, purpose: str, amount: Amount) -> CostRow:
        return CostRow("-", tier, purpose, amount.dollars, 0.0, amount.text)

    disk = prices.disk(design.disk)
    brokers = brokers_for(workload) if design.brokers is None else design.brokers
    tiered = design.hot_s is not None
    hot_bytes = (
        workload.log_bytes if design.hot_s is None else workload.bytes_per_second * min(design.hot_s, workload.retention_s)
    )
    yield row(
        "hot", "storage",
        formulas.disk_storage(
            prices, disk, hot_bytes, replicas=design.replicas, fill=design.disk_fill,
            spindles=brokers if tiered else 0.0, mb_s=design.disk_mb_s,
        ),
    )  # fmt: skip
    if tiered:
        for purpose, amount in _cold(workload, design, prices):
            yield row("cold", purpose, amount)
    produced, consumed = workload.month_bytes, workload.month_bytes * workload.groups
    traffic = formulas.replication_traffic(prices, produced, replicas=design.replicas, zones=design.zones)
    yield row("traffic", "replication", traffic)
    yield row("traffic", "produce", formulas.produce_traffic(prices, produced, zones=design.zones))
    consume = formulas.consume_traffic(prices, consumed, zones=design.zones, rack_aware=design.rack_aware)
    yield row("traffic", "consume", consume)
    if not disk.node_gb:
        name = design.instance or prices.default_instance
        yield row("compute", "brokers", formulas.compute(prices.instance_hour(design.instance), brokers, name))


def _cold(workload: Workload, design: Design, prices: Provider) -> Iterable[tuple[str, Amount]]:
    kind = prices.storage_class(design.storage_class)
    stored, written = workload.log_bytes / design.cold_ratio, workload.month_bytes / design.cold_ratio
    read = workload.month_bytes * workload.groups * design.cold_read_share / design.cold_ratio
    kept_days = workload.retention_s / DAY
    objects = stored / design.object_bytes
    yield "storage", formulas.object_storage(prices, kind, stored, objects=objects, kept_days=kept_days)
    puts = formulas.upload_requests(
        written,
        object_bytes=design.object_bytes,
        single_put_bytes_max=design.single_put_bytes_max,
        part_bytes=design.part_bytes,
        commits_per_object=design.commits_per_object,
    )
    yield "upload", formulas.requests(kind, "put", puts)
    yield "fetch", formulas.requests(kind, "get", read / design.range_bytes)
    moved = formulas.transfer(prices, kind, sent=written, received=read)
    if moved.dollars:
        yield "retrieval", moved
    if design.cold_ratio > 1:
        cores = workload.bytes_per_second / VCPU_BYTES_PER_SECOND
        yield "compaction", formulas.compute(prices.vcpu_hour, cores, "vCPU")


def brokers_for(workload: Workload) -> float:
    """Brokers that the ingest needs, at least one."""
    return max(1.0, -(-workload.bytes_per_second // BROKER_INGEST_BYTES_PER_SECOND))
