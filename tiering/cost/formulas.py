"""Every dollar in Hotlog comes from one of these formulas, which the meter's bill and the model's forecast share.

Each returns an Amount: dollars, and the sum as one would write it down, so that `explain` needs no second source.  Bytes are bytes; GB is
what the provider calls a GB.

Invariants: pure; an Amount's text holds the numbers its dollars were made of.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tiering.cost.book import DiskPrice, Provider, StorageClass

MONTH_HOURS = 730.0
MONTH_SECONDS = MONTH_HOURS * 3600
DISK_FILL = 0.70  # how full one dares to run a disk that must take a failed neighbour's share
CLASS_A = frozenset({"put", "list", "create_upload", "put_part", "complete_upload", "list_uploads"})
CLASS_B = frozenset({"get", "head"})  # deletes and aborts are free


class Amount(NamedTuple):
    """Dollars (per month where the formula says so) and how they came about."""

    dollars: float
    text: str


def total(amounts: Iterable[Amount]) -> float:
    return sum(amount.dollars for amount in amounts)


def object_storage(
    provider: Provider,
    kind: StorageClass,
    size: float,
    *,
    objects: float = 0.0,
    all_bytes: float | None = None,
    kept_days: float | None = None,
) -> Amount:
    """$/month for `size` bytes in `objects` objects.

    Steps are the account's: `all_bytes` (default `size`) are stored in all, and each byte pays the average.  An object kept for fewer
    days (`kept_days`) than the class's minimum pays as if it were kept that long.
    """
    billed = max(size, objects * kind.minimum_bytes)
    gb = billed / provider.gb_bytes
    price = average_price(kind, max(all_bytes or 0.0, billed) / provider.gb_bytes)
    stretch = max(1.0, kind.minimum_days / kept_days) if kept_days else 1.0
    text = f"{gb:,.3f} GB x ${price:.5f}/GB-month ({kind.name})"
    if billed > size:
        text += f" (billed as {kind.minimum_bytes:,.0f} bytes an object)"
    if stretch > 1:
        text += f" x {kind.minimum_days:g}/{kept_days:g} days (minimum)"
    return Amount(gb * price * stretch, text)


def average_price(kind: StorageClass, gb: float) -> float:
    """$/GB-month over all steps when `gb` are stored."""
    if gb <= 0:
        return kind.storage[0][1]
    dollars, rest = 0.0, gb
    for size, price in kind.storage:
        here = rest if size == 0 else min(rest, size)
        dollars += here * price
        rest -= here
    return dollars / gb


def requests(kind: StorageClass, call: str, count: float) -> Amount:
    """$ for `count` requests of one kind (tiering.cost.meter.Kind)."""
    price = kind.put_1k if call in CLASS_A else kind.get_1k if call in CLASS_B else 0.0
    return Amount(count / 1000 * price, f"{count:,.0f} {call} / 1,000 x ${price:g}")


def transfer(provider: Provider, kind: StorageClass, *, sent: float, received: float) -> Amount:
    """$ for bytes written to and read from a class that charges for them (retrieval)."""
    read_gb, write_gb = received / provider.gb_bytes, sent / provider.gb_bytes
    return Amount(
        read_gb * kind.retrieval_gb + write_gb * kind.write_gb,
        f"{read_gb:,.3f} GB read x ${kind.retrieval_gb:g} + {write_gb:,.3f} GB written x ${kind.write_gb:g}",
    )


def disk_storage(
    provider: Provider,
    disk: DiskPrice,
    size: float,
    *,
    replicas: float,
    fill: float = DISK_FILL,
    spindles: float = 0.0,
    mb_s: float = 0.0,
) -> Amount:
    """$/month for `size` bytes of log on local disks, `replicas` times, filled to `fill`.

    `spindles` volumes, each provisioned for `mb_s`, pay for throughput above what is free.  Disks that come as nodes are counted in
    nodes (not rounded: clusters are large, or shared).
    """
    gb = size * replicas / fill / provider.gb_bytes
    if disk.node_gb:
        nodes = gb / disk.node_gb
        return Amount(
            nodes * disk.node_hour * MONTH_HOURS,
            f"{size / provider.gb_bytes:,.3f} GB x {replicas:g} / {fill:g} / {disk.node_gb:,.0f} GB = {nodes:,.2f} nodes"
            f" x ${disk.node_hour:g}/h x {MONTH_HOURS:g} h ({disk.name})",
        )
    paid_mb_s = spindles * max(0.0, mb_s - disk.throughput_free_mb_s)
    text = f"{size / provider.gb_bytes:,.3f} GB x {replicas:g} / {fill:g} x ${disk.gb_month:g}/GB-month ({disk.name})"
    if paid_mb_s:
        text += f" + {paid_mb_s:,.0f} MB/s x ${disk.throughput_mb_s:g}"
    return Amount(gb * disk.gb_month + paid_mb_s * disk.throughput_mb_s, text)


def replication_traffic(provider: Provider, produced: float, *, replicas: float, zones: int) -> Amount:
    """$ for copying `produced` bytes to the other replicas, one zone each (up to the zones there are)."""
    copies = min(replicas, zones) - 1
    return _moved(provider, produced, copies, f"{copies:g} copies")


def produce_traffic(provider: Provider, produced: float, *, zones: int) -> Amount:
    """$ for producers whose leader sits in another zone: (zones - 1) / zones of the bytes."""
    return _moved(provider, produced, (zones - 1) / zones, f"{zones - 1}/{zones} from another zone")


def consume_traffic(provider: Provider, consumed: float, *, zones: int, rack_aware: bool) -> Amount:
    """$ for consumers that fetch from another zone; none when they fetch from the nearest replica (KIP-392)."""
    if rack_aware:
        return Amount(0.0, "0: consumers fetch from their own zone (KIP-392)")
    return _moved(provider, consumed, (zones - 1) / zones, f"{zones - 1}/{zones} to another zone")


def _moved(provider: Provider, size: float, share: float, named: str) -> Amount:
    gb = size / provider.gb_bytes
    return Amount(gb * share * provider.cross_zone_gb, f"{gb:,.3f} GB x {named} x ${provider.cross_zone_gb:g}")


def compute(hour: float, machines: float, name: str) -> Amount:
    """$/month for machines."""
    return Amount(machines * hour * MONTH_HOURS, f"{machines:,.1f} {name} x ${hour:g}/h x {MONTH_HOURS:g} h")


def upload_requests(
    size: float, *, object_bytes: float, single_put_bytes_max: float, part_bytes: float, commits_per_object: float = 0.0
) -> float:
    """Class A requests that `size` bytes of log cost on their way to the store, in objects of `object_bytes`.

    One PUT up to the threshold; above it one request to begin, one a part, one to complete (tiering.store.s3_upload).  Beside them the
    writes of the manifest: `commits_per_object`.
    """
    objects = size / object_bytes
    if object_bytes <= single_put_bytes_max:
        return objects * (1 + commits_per_object)
    return objects * (2 + -(-object_bytes // part_bytes) + commits_per_object)
