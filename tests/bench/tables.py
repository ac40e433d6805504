"""The tables of a bench run, from its document (report.py), as Markdown.

Invariants:
- Columns are the contenders of the run: Kafka first, this checkout last; a ratio is always of the last to another.
- What was not measured is a dash, never left to be guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tests.bench.compaction import CASES as COMPACTION_CASES
from tests.bench.contenders import HOTLOG, KAFKA, Contender
from tests.bench.inspect_cost import CODECS, LEVELS, RECORD_SIZES
from tests.bench.settings import Durability, Workload
from tests.bench.small import CASES
from tests.bench.tail import PHASES

# (workload, metric, title, what the issue asks of the ratio)
ROWS: Sequence[tuple[str, str, str, str]] = (
    (Workload.PRODUCE_NONE, "gb_per_s", "produce, librdkafka, no compression, GB/s", ">= 1"),
    (Workload.PRODUCE_LZ4, "gb_per_s", "produce, librdkafka, lz4, GB/s", ">= 1"),
    (Workload.PRODUCE_WIRE, "gb_per_s", "produce, ready-made frames, GB/s", ">= 1"),
    (Workload.FETCH_HOT, "gb_per_s", "fetch hot, librdkafka, GB/s", ">= 1"),
    (Workload.FETCH_WIRE, "gb_per_s", "fetch hot, bare protocol, GB/s", ">= 1"),
    (Workload.PRODUCE_NONE, "broker_cpu_s_per_gb", "broker CPU, produce (librdkafka), s/GB", ""),
    (Workload.PRODUCE_WIRE, "broker_cpu_s_per_gb", "broker CPU, produce (frames), s/GB", ""),
    (Workload.FETCH_HOT, "broker_cpu_s_per_gb", "broker CPU, fetch (librdkafka), s/GB", ""),
    (Workload.LATENCY, "p50_ms", "latency p50, ms", ""),
    (Workload.LATENCY, "p99_ms", "latency p99, ms", "<= 1"),
    (Workload.LATENCY, "p999_ms", "latency p99.9, ms", ""),
    (Workload.LATENCY, "broker_cpu_s", "broker CPU during the latency run, s", ""),
    ("idle", "machine_busy_percent", "machine busy before the round (other work too), %", ""),
    ("idle", "rss_mib", "RSS idle, MiB", "< 0.33"),
    ("load", "rss_mib", "RSS peak under load, MiB", "< 0.33"),
    (Workload.STARTUP, "seconds", "start-up with many partitions, s", ""),
    (Workload.STARTUP, "rss_mib", "RSS after that start-up, MiB", ""),
)
PRODUCES, FETCHES = (Workload.PRODUCE_WIRE, Workload.PRODUCE_NONE), (Workload.FETCH_WIRE, Workload.FETCH_HOT)
ROOFLINE_OF: dict[tuple[str, str], str] = {
    **{(each, Durability.PAGE_CACHE): "produce_page_cache" for each in PRODUCES},
    **{(each, Durability.FSYNC): "produce_fsync" for each in PRODUCES},
    **{(each, durability): "fetch_hot" for each in FETCHES for durability in Durability},
}
TAIL_ROWS = (
    ("p50_ms", "tail latency p50, ms"),
    ("p99_ms", "tail latency p99, ms"),
    ("p999_ms", "tail latency p99.9, ms"),
    ("max_ms", "tail latency, longest, ms"),
    ("replay_gb_per_s", "replay meanwhile, GB/s"),
    ("store_gb_per_s", "of it from the store, GB/s"),
    ("loop_lag_p99_ms", "broker's loop late, p99, ms at most"),
    ("loop_lag_p999_ms", "broker's loop late, p99.9, ms at most"),
    ("broker_cpu_share", "CPU: broker"),
    ("store_cpu_share", "CPU: object store"),
    ("tail_clients_cpu_share", "CPU: the tail's clients"),
    ("replay_client_cpu_share", "CPU: the replaying client"),
    ("other_cpu_share", "CPU: the kernel for them, and anybody else"),
    ("machine_busy_share", "CPU: whole machine"),
)
# What is measured once a size: (metric, title, how it is written).
GROWN = {
    Workload.PARTITIONS: (
        "partitions",
        (
            ("create_s", "create, s", ".2f"),
            ("idle_cpu_percent", "idle CPU, % of a core", ".1f"),
            ("rss_mib", "RSS, MiB", ".0f"),
            ("descriptors", "descriptors", ".0f"),
            ("stop_s", "stop, s", ".2f"),
            ("ready_after_stop_s", "ready after stop, s", ".2f"),
            ("ready_after_kill_s", "ready after kill, s", ".2f"),
            ("produce_p50_ms", "produce p50, ms", ".2f"),
            ("produce_p99_ms", "produce p99, ms", ".2f"),
            ("produce_cpu_us", "CPU a produce, us", ".0f"),
        ),
    ),
    Workload.SESSIONS: (
        "partitions of the session",
        (
            ("fetch_cpu_us", "CPU a fetch, us", ".0f"),
            ("produce_cpu_us", "CPU a produce alone, us", ".0f"),
            ("round_ms", "produce and fetch, ms", ".2f"),
        ),
    ),
    Workload.LONG_POLL: (
        "consumers",
        (
            ("delivery_cpu_us", "CPU a delivery, us", ".1f"),
            ("deliveries_per_s", "deliveries/s", ",.0f"),
            ("delivered_share", "records delivered in time", ".0%"),
            ("p50_ms", "p50, ms", ".1f"),
            ("p99_ms", "p99, ms", ".1f"),
            ("broker_cpu_share", "broker, cores", ".2f"),
            ("rss_mib", "RSS, MiB", ".0f"),
        ),
    ),
}


def columns_of(names: Iterable[str]) -> list[str]:
    """Each name once, as columns are ordered: Kafka, other checkouts as they were given, this one."""
    return sorted(dict.fromkeys(names), key=lambda name: (name == HOTLOG, name != KAFKA))


def title_of(name: str) -> str:
    return Contender(name=name).title


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _head(*cells: str) -> str:
    return f"{_row(*cells)}\n|{' --- |' * len(cells)}"


def throughput_table(document: dict[str, Any], durability: Durability) -> str:
    names = _measured(document, [f"{durability}/{workload}/{metric}" for workload, metric, *_ in ROWS])
    rows = []
    for workload, metric, title, asked in ROWS:
        found = document["medians"].get(f"{durability}/{workload}/{metric}")
        if not found:
            continue
        share = ""
        roofline = ROOFLINE_OF.get((workload, durability), "")
        limit = document["roofline_gb_per_s"].get(roofline) if metric == "gb_per_s" else None
        if limit:
            share = ", ".join(f"{who} {value / limit:.0%}" for who, value in sorted(found.items()))
        figures = [f"{found[who]:.3g}" if who in found else "–" for who in names]
        rows.append(_row(title, *figures, *_ratios(found, names), asked, share))
    if not rows:
        return ""
    return (
        _head("figure", *map(title_of, names), *_ratio_titles(names, "ratio"), "asked", "share of roofline")
        + "\n"
        + "\n".join(rows)
    )


def _measured(document: dict[str, Any], keys: Sequence[str]) -> list[str]:
    found = {who for key in keys for who in document["medians"].get(key, {})}
    return [name for name in document["columns"] if name in found]


def _ratios(found: dict[str, float], names: Sequence[str]) -> list[str]:
    """Of the last column to each before it."""
    ours = found.get(names[-1])
    return [f"{ours / other:.2f}" if ours is not None and (other := found.get(name)) else "–" for name in names[:-1]] or ["–"]


def _ratio_titles(names: Sequence[str], title: str) -> list[str]:
    others = names[:-1]
    return [title] if len(others) < 2 else [f"{title} to {title_of(name)}" for name in others]


def small_table(document: dict[str, Any], durability: Durability) -> str:
    """One row a case: rate, CPU, p50 and p99 of each contender, and what the last is to the others."""
    medians = document["medians"]

    def key(case_name: str, metric: str, mode: Durability = durability) -> str:
        return f"{mode}/{Workload.SMALL}/{case_name}/{metric}"

    names = _measured(document, [key(case.name, "answers_per_s") for case in CASES])
    rows = []
    for case in CASES:
        rates, p99s = medians.get(key(case.name, "answers_per_s"), {}), medians.get(key(case.name, "p99_ms"), {})
        if not rates:
            continue
        cells = [_small_cell({each: medians[key(case.name, each)].get(name) for each in SMALL_METRICS}) for name in names]
        other_mode = medians.get(key(case.name, "answers_per_s", Durability.PAGE_CACHE), {}).get(names[-1])
        more = []
        if durability is Durability.FSYNC:
            ours = rates.get(names[-1])
            more = [f"{ours / other_mode:.2f}" if ours and other_mode else "–"]
        rows.append(_row(case.label, *cells, *_ratios(rates, names), *_ratios(p99s, names), *more))
    if not rows:
        return ""
    titles = [f"{title_of(name)}: answers/s, CPU, p50 / p99" for name in names]
    last = ["rate, fsync to page-cache"] if durability is Durability.FSYNC else []
    head = _head("work, connections x in flight", *titles, *_ratio_titles(names, "rate"), *_ratio_titles(names, "p99"), *last)
    return head + "\n" + "\n".join(rows)


SMALL_METRICS = ("answers_per_s", "broker_cpu_us", "p50_ms", "p99_ms")


def _small_cell(found: dict[str, float | None]) -> str:
    rate, cpu, p50, p99 = (found[each] for each in SMALL_METRICS)
    if rate is None or cpu is None or p50 is None or p99 is None:
        return "–"
    return f"{float(f'{rate:.3g}'):,.0f}, {cpu:,.0f} us, {p50:.3g} / {p99:.3g} ms"


def grown_table(document: dict[str, Any], workload: Workload) -> str:
    """One row a size and contender."""
    size_title, figures = GROWN[workload]
    prefix, medians = f"{Durability.PAGE_CACHE}/{workload}/", document["medians"]
    sizes = sorted({int(name.removeprefix(prefix).partition("/")[0]) for name in medians if name.startswith(prefix)})
    rows = []
    for size in sizes:
        for name in _measured(document, [f"{prefix}{size}/{metric}" for metric, *_ in figures]):
            found = [(medians.get(f"{prefix}{size}/{metric}", {}).get(name), form) for metric, _, form in figures]
            rows.append(
                _row(f"{size:,}", title_of(name), *("–" if value is None else format(value, form) for value, form in found))
            )
    return _head(size_title, "broker", *(title for _, title, _ in figures)) + "\n" + "\n".join(rows) if rows else ""


def compaction_table(document: dict[str, Any]) -> str:
    """One row a kind of log: MB/s and CPU of each contender, and what the last is to the others."""
    prefix, medians = f"{Durability.PAGE_CACHE}/{Workload.COMPACTION}/", document["medians"]
    names = _measured(document, [f"{prefix}{case.name}/mb_per_s" for case in COMPACTION_CASES])
    rows = []
    for case in COMPACTION_CASES:
        rates, cpu = (medians.get(f"{prefix}{case.name}/{metric}", {}) for metric in ("mb_per_s", "broker_cpu_s_per_gb"))
        if rates:
            cells = [f"{rates[name]:,.0f} MB/s, {cpu[name]:.2f} s/GB" if name in rates else "–" for name in names]
            rows.append(_row(case.title, *cells, *_ratios(rates, names)))
    titles = [f"{title_of(name)}: dirty log, CPU" for name in names]
    return _head("log", *titles, *_ratio_titles(names, "rate")) + "\n" + "\n".join(rows) if rows else ""


def cold_table(document: dict[str, Any]) -> str:
    prefix, medians = f"{Durability.PAGE_CACHE}/{Workload.COLD_REPLAY}/", document["medians"]
    keys = [name for name in medians if name.startswith(prefix)]
    names = _measured(document, keys)
    rows = [
        _row(key.removeprefix(prefix), *(f"{medians[key][name]:.3g}" if name in medians[key] else "–" for name in names))
        for key in keys
    ]
    return _head("figure", *map(title_of, names)) + "\n" + "\n".join(rows) if rows else ""


def tail_tables(document: dict[str, Any]) -> dict[str, str]:
    """`{contender: table}`: one line a figure, one column a phase; percentiles with their ratio to the tail alone."""
    prefix, medians = f"{Durability.PAGE_CACHE}/{Workload.TAIL_REPLAY}/", document["medians"]

    def cell(name: str, phase: str, metric: str) -> str:
        value = medians.get(f"{prefix}{phase}_{metric}", {}).get(name)
        if value is None:
            return "–"
        if metric.endswith("_share"):
            return f"{value:.0%}"
        ratio = medians.get(f"{prefix}{phase}_{metric.removesuffix('_ms')}_over_alone", {}).get(name)
        return f"{value:.3g}" + (f" ({ratio:.1f}x)" if ratio is not None else "")

    tables = {}
    for name in _measured(document, [key for key in medians if key.startswith(prefix)]):
        rows = [(title, [cell(name, phase.name, metric) for phase in PHASES]) for metric, title in TAIL_ROWS]
        lines = [_row(title, *cells) for title, cells in rows if set(cells) != {"–"}]
        tables[name] = _head("figure", *(phase.title for phase in PHASES)) + "\n" + "\n".join(lines)
    return tables


def inspect_tables(document: dict[str, Any]) -> dict[str, str]:
    """`{contender: table}`."""
    prefix, medians, tables = f"{Durability.PAGE_CACHE}/{Workload.INSPECT}/", document["medians"], {}
    for name in _measured(document, [key for key in medians if key.startswith(prefix)]):
        rows = []
        for codec in CODECS:
            for size in RECORD_SIZES:
                costs = [medians.get(f"{prefix}{codec}_{size}_{level}_s_per_gb", {}).get(name) for level in LEVELS]
                if None not in costs:
                    rows.append(_row(codec, str(size), *(f"{cost:.3g}" for cost in costs)))
        tables[name] = _head("codec", "record, bytes", *LEVELS) + "\n" + "\n".join(rows)
    return tables
