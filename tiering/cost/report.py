"""What a log costs: the meter and what is stored, times the price book.  Plain data; the command line draws it.

Storage is priced by the month for what is there now.  Requests and traffic are what was seen within a window, as a monthly rate.  A window
shorter than a day is taken for a day's worth, so that the bill has no jump when the day is full.

Invariants: pure; every dollar in a Report has its formula beside it; the totals are sums of its rows; both sides of a comparison have the
same replicas, zones and machines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from hotlog.world.ports import STANDARD
from tiering.cost import formulas
from tiering.cost.book import PriceBook, Provider
from tiering.cost.formulas import MONTH_SECONDS, Amount
from tiering.cost.meter import Line
from tiering.cost.meter import Row as MeterRow

PB = 1e15  # a PB-month is of 10^15 bytes of log, counted once, whatever the provider calls a GB
WINDOW_SECONDS_MIN = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class TopicUsage:
    """One topic: bytes of its log (from log start to end, once), on local disk (one replica), and in the store.

    `produced` and `consumed` are bytes within the window.
    """

    topic: str
    log_bytes: int
    hot_bytes: int
    cold_bytes: Mapping[str, int] = field(default_factory=dict)  # by storage class; "" is the default class
    cold_objects: Mapping[str, int] = field(default_factory=dict)
    produced: int = 0
    consumed: int = 0


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What there is, and what happened: requests within the last `window_s` seconds, traffic within `traffic_window_s` (None: the same)."""

    topics: Sequence[TopicUsage]
    meter: Sequence[MeterRow] = ()
    window_s: float = 0.0
    traffic_window_s: float | None = None

    @property
    def traffic_s(self) -> float:
        return self.window_s if self.traffic_window_s is None else self.traffic_window_s


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """How the cluster is laid out, as far as it costs.  `brokers` 0: machines are left out of the bill."""

    replicas: int = 1
    zones: int = 1
    rack_aware: bool = True
    brokers: float = 0.0
    instance: str = ""
    disk: str = ""
    disk_fill: float = formulas.DISK_FILL
    storage_class: str = ""


class CostRow(NamedTuple):
    """One line of the bill.  `dollars` per month; `spent` what the window itself cost (storage: none)."""

    topic: str
    tier: str  # "hot", "cold", "traffic", "compute"
    purpose: str  # "storage", a purpose of the meter, "replication", "produce", "consume", "brokers"
    dollars: float
    spent: float
    formula: str


class Sums(NamedTuple):
    """Dollars per month of one side: bytes at rest; the same with every request to the store; the same with traffic and machines."""

    storage: float
    storage_and_requests: float
    total: float


def sums_of(rows: Iterable[CostRow]) -> Sums:
    """The three figures of some lines."""
    at_rest = requests = other = 0.0
    for row in rows:
        if row.purpose == "storage":
            at_rest += row.dollars
        elif row.tier == "cold":
            requests += row.dollars
        else:
            other += row.dollars
    return Sums(at_rest, at_rest + requests, at_rest + requests + other)


@dataclass(frozen=True)
class Report:
    """A bill and what it is compared with."""

    provider: str
    title: str
    date: str
    source: str
    log_bytes: float
    rows: tuple[CostRow, ...]
    compared: tuple[CostRow, ...]  # the same log on replicated local disks alone
    notes: tuple[str, ...]

    @property
    def dollars(self) -> Sums:
        """Of this log."""
        return sums_of(self.rows)

    @property
    def compared_dollars(self) -> Sums:
        """Of the same log on replicated local disks alone."""
        return sums_of(self.compared)

    def per_pb(self, dollars: float) -> float | None:
        """$/PB-month of log; None while there is none."""
        return dollars / (self.log_bytes / PB) if self.log_bytes else None

    def by(self, *names: str) -> dict[tuple[str, ...], float]:
        """Dollars per month summed by some of topic, tier and purpose, largest first."""
        sums: dict[tuple[str, ...], float] = defaultdict(float)
        for row in self.rows:
            sums[tuple(str(getattr(row, name)) for name in names)] += row.dollars
        return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))

    def explain(self) -> list[str]:
        """Every line of the bill as a sum."""
        return [f"{row.topic} {row.tier} {row.purpose}: {row.formula} = ${row.dollars:,.4f}/month" for row in self.rows]

    def to_json(self) -> dict[str, Any]:
        """Values that `json.dumps` takes."""
        return {
            **{name: value for name, value in asdict(self).items() if name not in ("rows", "compared")},
            "rows": [row._asdict() for row in self.rows],
            "compared": [row._asdict() for row in self.compared],
            "dollars_month": self.dollars._asdict(),
            "dollars_pb_month": self._per_pb(self.dollars),
            "compared_dollars_month": self.compared_dollars._asdict(),
            "compared_dollars_pb_month": self._per_pb(self.compared_dollars),
        }

    def _per_pb(self, sums: Sums) -> dict[str, float | None]:
        return {name: self.per_pb(value) for name, value in sums._asdict().items()}


def cost_report(usage: Usage, book: PriceBook, provider: str = "", deployment: Deployment | None = None) -> Report:
    """The bill of `usage` at a provider's prices.

    Raises:
        InvalidConfig: a provider, class, disk or instance that the book does not have.
    """
    prices, plan = book.provider(provider), deployment or Deployment()
    traffic = list(_traffic(usage, prices, plan))
    rows = [*_storage(usage, prices, plan), *_requests(usage, prices, plan), *traffic, *_machines(prices, plan)]
    return Report(
        provider=prices.name, title=prices.title, date=prices.date.isoformat(), source=prices.source,
        log_bytes=sum(topic.log_bytes for topic in usage.topics),
        rows=tuple(row for row in rows if row.dollars or row.purpose == "storage"),
        compared=tuple(_disks_only(usage, prices, plan, traffic)),
        notes=tuple(_notes(usage, prices, plan)),
    )  # fmt: skip


def to_month(window_s: float) -> float:
    """How often what happened in a window happens in a month."""
    return MONTH_SECONDS / max(window_s, WINDOW_SECONDS_MIN)


def _storage(usage: Usage, prices: Provider, plan: Deployment) -> Iterable[CostRow]:
    disk = prices.disk(plan.disk)
    in_all: dict[str, float] = defaultdict(float)
    for topic in usage.topics:
        for name, size in topic.cold_bytes.items():
            in_all[name] += size
    for topic in usage.topics:
        hot = formulas.disk_storage(prices, disk, topic.hot_bytes, replicas=plan.replicas, fill=plan.disk_fill)
        yield _row(topic.topic, "hot", "storage", hot)
        for name, size in topic.cold_bytes.items():
            kind = prices.storage_class(name or plan.storage_class)
            cold = formulas.object_storage(prices, kind, size, objects=topic.cold_objects.get(name, 0), all_bytes=in_all[name])
            yield _row(topic.topic, "cold", "storage", cold)


def _requests(usage: Usage, prices: Provider, plan: Deployment) -> Iterable[CostRow]:
    stretch = to_month(usage.window_s)
    amounts: dict[tuple[str, str], list[Amount]] = defaultdict(list)
    moved: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    counts: dict[tuple[str, str, str, str], int] = defaultdict(int)
    for row in usage.meter:
        who = (row.line.topic, row.line.purpose, _class_of(row.line, prices, plan))
        counts[*who, row.line.kind] += row.requests
        moved[who][0] += row.bytes_sent
        moved[who][1] += row.bytes_received
    for (topic, purpose, name, call), count in sorted(counts.items()):
        amounts[topic, purpose].append(formulas.requests(prices.storage_class(name), call, count))
    for (topic, purpose, name), (sent, received) in moved.items():
        amount = formulas.transfer(prices, prices.storage_class(name), sent=sent, received=received)
        if amount.dollars:
            amounts[topic, purpose].append(amount)
    for (topic, purpose), parts in amounts.items():
        yield _row(topic, "cold", purpose, _sum(parts), stretch)


def _class_of(line: Line, prices: Provider, plan: Deployment) -> str:
    """The book's name of a request's storage class; that of the plan where the request named none, or one that the book has not."""
    name = line.storage_class.lower().replace("_", "-")
    return plan.storage_class if line.storage_class == STANDARD or name not in prices.classes else name


def _traffic(usage: Usage, prices: Provider, plan: Deployment) -> Iterable[CostRow]:
    stretch = to_month(usage.traffic_s)
    for topic in usage.topics:
        copied = formulas.replication_traffic(prices, topic.produced, replicas=plan.replicas, zones=plan.zones)
        yield _row(topic.topic, "traffic", "replication", copied, stretch)
        yield _row(topic.topic, "traffic", "produce", formulas.produce_traffic(prices, topic.produced, zones=plan.zones), stretch)
        consume = formulas.consume_traffic(prices, topic.consumed, zones=plan.zones, rack_aware=plan.rack_aware)
        yield _row(topic.topic, "traffic", "consume", consume, stretch)


def _machines(prices: Provider, plan: Deployment) -> Iterable[CostRow]:
    if plan.brokers:
        name = plan.instance or prices.default_instance
        yield _row("-", "compute", "brokers", formulas.compute(prices.instance_hour(plan.instance), plan.brokers, name))


def _disks_only(usage: Usage, prices: Provider, plan: Deployment, traffic: Iterable[CostRow]) -> Iterable[CostRow]:
    """The same log, all of it, on as many replicas in as many zones, on local disks alone."""
    disk = prices.disk(plan.disk)
    for topic in usage.topics:
        amount = formulas.disk_storage(prices, disk, topic.log_bytes, replicas=plan.replicas, fill=plan.disk_fill)
        yield _row(topic.topic, "hot", "storage", amount)
    yield from traffic
    if not disk.node_gb:
        yield from _machines(prices, plan)


def _notes(usage: Usage, prices: Provider, plan: Deployment) -> Iterable[str]:
    yield f"Prices: {prices.title}, list, as of {prices.date.isoformat()}; source: {prices.source}."
    if prices.recalled:
        yield f"Recalled, not re-read from a price page: {', '.join(prices.recalled)}."
    yield (
        f"Both sides: {plan.replicas} {_plural(plan.replicas, 'replica')} in {plan.zones} {_plural(plan.zones, 'zone')}, disks"
        f" ({prices.disk(plan.disk).name}) filled to {plan.disk_fill:.0%}; {_machines_text(plan)}."
    )
    if usage.meter or any(topic.produced or topic.consumed for topic in usage.topics):
        yield f"Requests are those of the last {_span(usage.window_s)}, traffic of the last {_span(usage.traffic_s)}, as a rate per month."
        if min(usage.window_s, usage.traffic_s) < WINDOW_SECONDS_MIN:
            yield "Less than a day was seen: it is taken for a day's worth."
    if plan.zones == 1:
        yield "One zone: no traffic between zones is billed."


def _machines_text(plan: Deployment) -> str:
    return f"{plan.brokers:g} machines" if plan.brokers else "machines are left out"


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


def _span(seconds: float) -> str:
    if seconds >= 48 * 3600:
        return f"{seconds / 86_400:,.1f} days"
    return f"{seconds / 3600:,.1f} h" if seconds >= 2 * 3600 else f"{seconds:,.0f} s"


def _row(topic: str, tier: str, purpose: str, amount: Amount, stretch: float | None = None) -> CostRow:
    if stretch is None:
        return CostRow(topic, tier, purpose, amount.dollars, 0.0, amount.text)
    text = amount.text if stretch == 1.0 else f"({amount.text}) x {stretch:.2f} (to a month)"
    return CostRow(topic, tier, purpose, amount.dollars * stretch, amount.dollars, text)


def _sum(amounts: Sequence[Amount]) -> Amount:
    return Amount(formulas.total(amounts), " + ".join(amount.text for amount in amounts))
