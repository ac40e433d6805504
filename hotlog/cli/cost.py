"""hotlog cost: dollars per month and per PB-month, by topic and tier, from what is stored and what the meter saw.

Invariants: prices come from a dated book; every dollar has a formula (--explain); lines that cost nothing are counted, not shown; nothing is
written.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hotlog.cli.cost_usage import Place, shape_of, usage_of
from hotlog.cli.options import STORE_DEFAULT, Json, StoreUrl, parse_pairs
from hotlog.cli.output import console, show_json, show_rows
from hotlog.kernel.errors import Invalid
from tiering.cost.book import PriceBook, load_book
from tiering.cost.model import Design, Workload, forecast
from tiering.cost.report import CostRow, Deployment, Report, cost_report
from tiering.cost.what_if import changed, check_keys, steady

app = typer.Typer(add_completion=False)
_DATA_DIR = Path("hotlog-data")


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
    topic: Annotated[str, typer.Option("--topic", "-t", metavar="TOPIC", help="Only this topic.")] = "",
    what_if: Annotated[
        list[str] | None,
        typer.Option("--what-if", metavar="KEY=VALUE", help="With --topic: its bill under another policy; may be repeated."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", metavar="MB/S", help="With --what-if: how fast the topic grows.  [default: as measured]"),
    ] = None,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="Copies of the hot log to price, on both sides.")] = 1,
    zones: Annotated[
        int, typer.Option("--zones", min=1, help="Zones they are spread over, on both sides; more than one pays for traffic.")
    ] = 1,
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
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the lines as CSV for spreadsheets.")] = False,
    json: Json = False,
) -> None:
    """What the logs cost, and what they would cost on replicated local disks alone.

    Example: hotlog cost --topic clicks --what-if local.retention.ms=3600000
    """
    prices, place, plan = read_book(book), Place(store, data_dir, http), Deployment(replicas=replicas, zones=zones)
    if what_if:
        if not topic:
            raise Invalid("--what-if asks about one topic: name it with --topic")
        pairs = parse_pairs(what_if, "--what-if")
        now, then = compare(place, topic, pairs, prices, provider, plan, None if rate is None else rate * 1e6)
        _print_two(
            now, then, ", ".join(f"{key}={value}" for key, value in pairs.items()), as_csv=as_csv, json=json, explain=explain
        )
        return
    if forecast_rate is not None:
        workload = Workload(bytes_per_second=forecast_rate * 1e6, retention_s=days * 86_400, groups=groups)
        report = forecast(workload, Design(hot_s=hot_hours * 3600), prices, provider)
    else:
        report = bill(place, prices, provider, plan, topic)
    if json:
        show_json(report.to_json())
    elif as_csv:
        _show_csv(CostRow._fields, report.rows)
    else:
        show(report, explain=explain)


def read_book(path: Path | None) -> PriceBook:
    """The shipped book, with a file laid over it.  Raises Invalid, InvalidConfig."""
    try:
        return load_book(path.read_text(encoding="utf-8") if path else None)
    except OSError as wrong:
        raise Invalid(f"price book {str(path)!r} cannot be read: {wrong}") from None


def bill(place: Place, prices: PriceBook, provider: str = "", plan: Deployment | None = None, topic: str = "") -> Report:
    """The bill of one broker's logs, or of one of them."""
    return cost_report(usage_of(place, topic), prices, provider, plan)


def compare(
    place: Place, topic: str, changes: dict[str, str], prices: PriceBook, provider: str, plan: Deployment, rate: float | None
) -> tuple[Report, Report]:
    """The topic's monthly bill once its retention is full: as it is configured, and with `changes`.  `rate` is bytes per second.

    Raises:
        Invalid: a key that no price depends on, or nothing tells the topic's rate.  InvalidConfig: a bad value.
    """
    check_keys(changes)
    usage = usage_of(place, topic)
    image, shape = shape_of(place, usage, rate)
    sides = [changed(image.configs, {}), changed(image.configs, changes)]
    now, then = (cost_report(steady(shape, side, usage.meter, usage.window_s), prices, provider, plan) for side in sides)
    return now, then


def money(dollars: float) -> str:
    """Dollars with as many digits as the sum deserves."""
    if 0 < abs(dollars) < 1e-6:
        return "<$0.000001"
    sign = "-" if dollars < 0 else ""
    return f"{sign}${abs(dollars):,.2f}" if abs(dollars) >= 1 or dollars == 0 else f"{sign}${abs(dollars):.6f}"


def _per_pb(report: Report, dollars: float) -> str:
    rate = report.per_pb(dollars)
    return "-" if rate is None else f"${rate:,.0f}"


def show(report: Report, *, explain: bool = False) -> None:
    """The bill as tables."""
    lines = report.by("topic", "tier", "purpose")
    rows: list[list[Any]] = [[*names, money(dollars)] for names, dollars in lines.items() if dollars]
    show_rows(["topic", "tier", "purpose", "per month"], rows, title=f"{report.title} ({report.date})", numeric=["per month"])
    console.print()
    show_sums(report)
    free = len(lines) - len(rows)
    if free:
        console.print(f"  {free} {'line that costs' if free == 1 else 'lines that cost'} nothing not shown.")
    _show_rest(report, explain=explain)


def _show_rest(report: Report, *, explain: bool) -> None:
    for note in report.notes:
        console.print(f"  {note}", markup=False)
    if explain:
        console.print()
        for line in report.explain():
            console.print(f"  {line}", markup=False)


def show_sums(report: Report) -> None:
    """Per month and per PB-month, beside the same log on local disks alone."""
    sums = [
        [f"{who}, {name}", money(dollars), _per_pb(report, dollars)]
        for who, side in (("this log", report.dollars), ("local disks alone", report.compared_dollars))
        for name, dollars in zip(("storage only", "storage and requests", "total"), side, strict=True)
    ]
    show_rows(["", "per month", "per PB-month"], sums, numeric=["per month", "per PB-month"])


def _show_csv(columns: tuple[str, ...], rows: Any) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(columns)
    out.writerows(rows)


def _print_two(now: Report, then: Report, words: str, *, as_csv: bool, json: bool, explain: bool) -> None:
    """The two bills of a what-if beside each other."""
    if json:
        show_json({"now": now.to_json(), "what_if": then.to_json(), "changes": words})
        return
    before, after = now.by("tier", "purpose"), then.by("tier", "purpose")
    shown: list[tuple[str, str, float, float, float]] = []
    for names in dict.fromkeys([*before, *after]):
        a, b = before.get(names, 0.0), after.get(names, 0.0)
        if a or b:
            shown.append((names[0], names[1], a, b, b - a))
    if as_csv:
        _show_csv(("tier", "purpose", "now", "what_if", "difference"), shown)
        return
    shown.append(("total", "", now.dollars.total, then.dollars.total, then.dollars.total - now.dollars.total))
    columns = ["per month once the retention is full", "", "as configured", words, "difference"]
    show_rows(columns, [[*line[:2], *map(money, line[2:])] for line in shown], numeric=columns[2:])
    console.print()
    _show_rest(then, explain=explain)
