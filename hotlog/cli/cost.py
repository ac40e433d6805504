"""hotlog cost: dollars per month and per PB-month, by topic and tier, from what is stored and what the meter saw.

Invariants: bytes come from the manifests and the data directory, requests from the meter, prices from a dated book; every dollar has a formula
(--explain); nothing is asked of a broker but its metrics, and only if it answers.
"""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hotlog.cli.bucket import Bucket, open_bucket, run
from hotlog.cli.options import STORE_DEFAULT, Json, StoreUrl
from hotlog.cli.output import console, show_json, show_rows
from hotlog.kernel.errors import Invalid, NotFound
from hotlog.kernel.ids import PartitionId
from hotlog.log.files import parse_partition_directory
from tiering.cost.book import PriceBook, load_book
from tiering.cost.meter import Row as MeterRow
from tiering.cost.meter import decode
from tiering.cost.model import Design, Workload, forecast
from tiering.cost.report import Deployment, Report, TopicUsage, Usage, cost_report
from tiering.manifest import NOTHING, Totals
from tiering.verify import load_manifest

app = typer.Typer(add_completion=False)
Segment = tuple[int, int]
_DATA_DIR = Path("hotlog-data")
_TRAFFIC = re.compile(r'^kafka_server_brokertopicmetrics_bytes(in|out)_total\{topic="([^"]+)"\} (\S+)$', re.M)


@app.command()
def cost(
    data_dir: Annotated[
        Path, typer.Option("--data-dir", metavar="DIR", help="The broker's data dir: hot bytes and the meter.")
    ] = _DATA_DIR,
    store: StoreUrl = STORE_DEFAULT,
    provider: Annotated[
        str,
        typer.Option("--provider", help="aws-us-east-1, gcp-us-central1, azure-westus, minio-own-disks, or one of your book."),
    ] = "",
    book: Annotated[Path | None, typer.Option("--book", metavar="FILE", help="TOML laid over the shipped price book.")] = None,
    replicas: Annotated[int, typer.Option("--replicas", help="Copies of the hot log to price.")] = 1,
    zones: Annotated[int, typer.Option("--zones", help="Zones they are spread over; more than one pays for traffic.")] = 1,
    http: Annotated[
        str, typer.Option("--http", metavar="HOST:PORT", help="Metrics of the broker, for its traffic.")
    ] = "127.0.0.1:9644",
    explain: Annotated[bool, typer.Option("--explain", help="Show every line's formula.")] = False,
    forecast_rate: Annotated[
        float | None,
        typer.Option("--forecast", metavar="MB/S", help="Price this rate of produced bytes instead of what is there."),
    ] = None,
    days: Annotated[float, typer.Option("--days", help="With --forecast: total retention.")] = 7.0,
    hot_hours: Annotated[float, typer.Option("--hot-hours", help="With --forecast: local retention.")] = 4.0,
    groups: Annotated[float, typer.Option("--groups", help="With --forecast: consumer groups that read everything once.")] = 3.0,
    json: Json = False,
) -> None:
    """What the logs cost, and what they would cost on replicated local disks alone.

    Example: hotlog cost --forecast 100 --days 365 --hot-hours 4
    """
    prices = _book(book)
    if forecast_rate is not None:
        workload = Workload(bytes_per_second=forecast_rate * 1e6, retention_s=days * 86_400, groups=groups)
        report = forecast(workload, Design(hot_s=hot_hours * 3600), prices, provider)
    else:
        report = bill(store, data_dir, http, prices, provider, Deployment(replicas=replicas, zones=zones))
    if json:
        show_json(report.to_json())
    else:
        show(report, explain=explain)


def _book(path: Path | None) -> PriceBook:
    try:
        return load_book(path.read_text(encoding="utf-8") if path else None)
    except OSError as wrong:
        raise Invalid(f"price book {str(path)!r} cannot be read: {wrong}") from None


def bill(store: str, data_dir: Path, http: str, prices: PriceBook, provider: str = "", plan: Deployment | None = None) -> Report:
    """The bill of one broker's logs."""
    url = store or (data_dir.resolve() / "store").as_uri()
    return cost_report(run(lambda: _usage(url, data_dir, http)), prices, provider, plan)


async def _usage(url: str, data_dir: Path, http: str) -> Usage:
    hot = _hot_segments(data_dir)
    traffic = _traffic(http)
    async with open_bucket(url) as bucket:
        topics = [await _topic(bucket, name, hot.get(name, {}), traffic.get(name, {})) for name in sorted(bucket.image.topics)]
        now_ms = bucket.world.clock.now_ms()
    since_ms, rows = _meter(data_dir, now_ms)
    return Usage(topics=[t for t in topics if not t.topic.startswith("__")], meter=rows, window_s=(now_ms - since_ms) / 1000)


async def _topic(bucket: Bucket, name: str, hot: Mapping[int, Sequence[Segment]], traffic: dict[str, float]) -> TopicUsage:
    """Each byte of the log counts once: what the manifest covers, and the local segments above it."""
    cold = objects = log = 0
    for pid in bucket.partitions(name):
        totals, end_offset = await _cold(bucket, pid)
        cold, objects = cold + totals.object_bytes, objects + totals.rows - totals.holes
        log += totals.log_bytes + sum(size for base, size in hot.get(pid.partition, ()) if base >= end_offset)
    return TopicUsage(
        topic=name,
        log_bytes=log,
        hot_bytes=sum(size for segments in hot.values() for _, size in segments),
        cold_bytes={"": cold},
        cold_objects={"": objects},
        produced=int(traffic.get("in", 0)),
        consumed=int(traffic.get("out", 0)),
    )


async def _cold(bucket: Bucket, pid: PartitionId) -> tuple[Totals, int]:
    try:
        manifest = await load_manifest(bucket.store, bucket.cluster_id, pid)
    except NotFound:
        return NOTHING, 0
    return manifest.totals, manifest.end_offset


def _hot_segments(data_dir: Path) -> dict[str, dict[int, list[Segment]]]:
    """(base offset, bytes) of the log files in the data directory, by topic and partition."""
    found: dict[str, dict[int, list[Segment]]] = {}
    for folder in (data_dir / "log").glob("*-*"):
        place = parse_partition_directory(folder.name)
        if place is not None and folder.is_dir():
            segments = [(int(file.stem), file.stat().st_size) for file in folder.glob("*.log")]
            found.setdefault(place.topic, {})[place.partition] = segments
    return found


def _meter(data_dir: Path, now_ms: int) -> tuple[int, tuple[MeterRow, ...]]:
    path = data_dir / "meter.json"
    return decode(path.read_bytes(), str(path)) if path.exists() else (now_ms, ())


def _traffic(http: str) -> dict[str, dict[str, float]]:
    """Bytes in and out by topic since the broker started; empty if it does not answer."""
    try:
        with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, OSError):
        return {}
    found: dict[str, dict[str, float]] = {}
    for way, topic, value in _TRAFFIC.findall(text):
        found.setdefault(topic, {})[way] = float(value)
    return found


def money(dollars: float) -> str:
    """Dollars with as many digits as the sum deserves."""
    return f"${dollars:,.2f}" if dollars >= 1 or dollars == 0 else f"${dollars:.6f}"


def _per_pb(report: Report, dollars: float) -> str:
    rate = report.per_pb(dollars)
    return "-" if rate is None else f"${rate:,.0f}"


def show(report: Report, *, explain: bool = False) -> None:
    """The bill as tables."""
    rows: list[list[Any]] = [
        [topic, tier, purpose, money(dollars)]
        for (topic, tier, purpose), dollars in report.by("topic", "tier", "purpose").items()
    ]
    show_rows(["topic", "tier", "purpose", "per month"], rows, title=f"{report.title} ({report.date})", numeric=["per month"])
    console.print()
    show_sums(report)
    for note in report.notes:
        console.print(f"  {note}", markup=False)
    if explain:
        console.print()
        for line in report.explain():
            console.print(f"  {line}", markup=False)


def show_sums(report: Report) -> None:
    """Per month and per PB-month, beside the same log on replicated disks."""
    sums = [
        ["this log, storage only", money(report.storage_dollars), _per_pb(report, report.storage_dollars)],
        ["this log, total", money(report.total_dollars), _per_pb(report, report.total_dollars)],
        [
            "replicated disks alone, storage only",
            money(report.compared_storage_dollars),
            _per_pb(report, report.compared_storage_dollars),
        ],
        ["replicated disks alone, total", money(report.compared_total_dollars), _per_pb(report, report.compared_total_dollars)],
    ]
    show_rows(["", "per month", "per PB-month"], sums, numeric=["per month", "per PB-month"])
