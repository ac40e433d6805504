"""Medians, ratios and shares of the roofline, as JSON for programs and as Markdown for people.

Invariants:
- A ratio is always Hotlog's median over Kafka's median of the same run, and says which way is better.
- The raw results are in the JSON, so that every printed figure can be made again.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from tests.bench.inspect_cost import CODECS, LEVELS, RECORD_SIZES
from tests.bench.runner import Result
from tests.bench.settings import BenchSettings, Durability, Workload
from tests.bench.tail import PHASES

# (workload, metric, title, does more mean better, what the issue asks of the ratio)
ROWS: Sequence[tuple[str, str, str, bool, str]] = (
    (Workload.PRODUCE_NONE, "gb_per_s", "produce, librdkafka, no compression, GB/s", True, ">= 1"),
    (Workload.PRODUCE_LZ4, "gb_per_s", "produce, librdkafka, lz4, GB/s", True, ">= 1"),
    (Workload.PRODUCE_WIRE, "gb_per_s", "produce, ready-made frames, GB/s", True, ">= 1"),
    (Workload.FETCH_HOT, "gb_per_s", "fetch hot, librdkafka, GB/s", True, ">= 1"),
    (Workload.FETCH_WIRE, "gb_per_s", "fetch hot, bare protocol, GB/s", True, ">= 1"),
    (Workload.PRODUCE_NONE, "broker_cpu_s_per_gb", "broker CPU, produce (librdkafka), s/GB", False, ""),
    (Workload.PRODUCE_WIRE, "broker_cpu_s_per_gb", "broker CPU, produce (frames), s/GB", False, ""),
    (Workload.FETCH_HOT, "broker_cpu_s_per_gb", "broker CPU, fetch (librdkafka), s/GB", False, ""),
    (Workload.LATENCY, "p50_ms", "latency p50, ms", False, ""),
    (Workload.LATENCY, "p99_ms", "latency p99, ms", False, "<= 1"),
    (Workload.LATENCY, "p999_ms", "latency p99.9, ms", False, ""),
    (Workload.LATENCY, "broker_cpu_s", "broker CPU during the latency run, s", False, ""),
    ("idle", "machine_busy_percent", "machine busy before the round (other work too), %", False, ""),
    ("idle", "rss_mib", "RSS idle, MiB", False, "< 0.33"),
    ("load", "rss_mib", "RSS peak under load, MiB", False, "< 0.33"),
    (Workload.STARTUP, "seconds", "start-up with many partitions, s", False, ""),
    (Workload.STARTUP, "rss_mib", "RSS after that start-up, MiB", False, ""),
)
ROOFLINE_OF = {
    (Workload.PRODUCE_WIRE, Durability.PAGE_CACHE): "produce_page_cache",
    (Workload.PRODUCE_WIRE, Durability.FSYNC): "produce_fsync",
    (Workload.PRODUCE_NONE, Durability.PAGE_CACHE): "produce_page_cache",
    (Workload.PRODUCE_NONE, Durability.FSYNC): "produce_fsync",
    (Workload.FETCH_WIRE, Durability.PAGE_CACHE): "fetch_hot",
    (Workload.FETCH_WIRE, Durability.FSYNC): "fetch_hot",
    (Workload.FETCH_HOT, Durability.PAGE_CACHE): "fetch_hot",
    (Workload.FETCH_HOT, Durability.FSYNC): "fetch_hot",
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


def machine_description(folder: Path) -> dict[str, Any]:
    """What a reader needs to judge the figures: processor, memory, kernel, file system, load at the start."""
    model = next((line for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ":unknown")
    mounts = [part for part in psutil.disk_partitions(all=True) if str(folder).startswith(part.mountpoint)]
    return {
        "processor": model.partition(":")[2].strip(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "file_system": max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "unknown",
        "python": platform.python_version(),
        "load_at_start": os.getloadavg()[0],
    }


def _lines(path: str) -> Iterable[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def medians_of(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """`{"durability/workload/metric": {target: median over the rounds}}`."""
    values: dict[str, dict[str, list[float]]] = {}
    for result in results:
        for metric, value in result.metrics.items():
            name = f"{result.durability}/{result.workload}/{metric}"
            values.setdefault(name, {}).setdefault(result.target, []).append(value)
    return {name: {who: median(found) for who, found in each.items()} for name, each in values.items()}


def ratios_of(medians: dict[str, dict[str, float]]) -> dict[str, float]:
    """Hotlog over Kafka wherever both have a median that is not zero."""
    return {name: each["hotlog"] / each["kafka"] for name, each in medians.items() if "hotlog" in each and each.get("kafka")}


def as_json(
    *,
    machine: dict[str, Any],
    settings: BenchSettings,
    roofline: dict[str, float],
    descriptions: dict[str, str],
    results: Sequence[Result],
) -> dict[str, Any]:
    medians = medians_of(results)
    return {
        "machine": machine,
        "settings": asdict(settings),
        "roofline_gb_per_s": roofline,
        "targets": descriptions,
        "medians": medians,
        "ratios_hotlog_over_kafka": ratios_of(medians),
        "results": [asdict(result) for result in results],
    }


def as_markdown(document: dict[str, Any]) -> str:
    """The tables, one a durability mode, with the machine above and the brokers' settings below."""
    machine, parts = document["machine"], []
    parts.append(
        f"Machine: {machine['cores']} cores of {machine['processor']}, {machine['memory_gib']} GiB, Linux"
        f" {machine['kernel']}, {machine['file_system']}, Python {machine['python']}; client and broker share it."
    )
    roofline = ", ".join(f"{name} {value:.2f}" for name, value in document["roofline_gb_per_s"].items())
    parts.append(f"Roofline of this machine in this run, GB/s: {roofline}.")
    for durability in Durability:
        if rows := _table(document, durability):
            head = "| figure | Kafka | Hotlog | ratio | asked | share of roofline |\n| --- | --- | --- | --- | --- | --- |"
            parts.append(f"### Durability: {durability}\n\n{head}\n" + "\n".join(rows))
    if cold := _cold_lines(document):
        parts.append("### Cold replay\n\n" + cold)
    if tail := _tail_rows(document):
        head = " | ".join(phase.title for phase in PHASES)
        parts.append(f"### The tail beside a replay\n\n| figure | {head} |\n|{' --- |' * (len(PHASES) + 1)}\n" + "\n".join(tail))
    if looks := _inspect_rows(document):
        head = f"| codec | record, bytes | {' | '.join(LEVELS)} |\n|{' --- |' * (len(LEVELS) + 2)}"
        parts.append(f"### A look into produced batches, CPU seconds for a gigabyte of records\n\n{head}\n" + "\n".join(looks))
    parts.append("\n".join(f"- {name}: {text}" for name, text in sorted(document["targets"].items())))
    return "\n\n".join(parts) + "\n"


def _table(document: dict[str, Any], durability: Durability) -> list[str]:
    rows = []
    for workload, metric, title, _, asked in ROWS:
        found = document["medians"].get(f"{durability}/{workload}/{metric}")
        if not found:
            continue
        ratio = document["ratios_hotlog_over_kafka"].get(f"{durability}/{workload}/{metric}")
        share = ""
        limit = (
            document["roofline_gb_per_s"].get(ROOFLINE_OF.get((Workload(workload), durability), ""))
            if (metric == "gb_per_s")
            else None
        )
        if limit:
            share = ", ".join(f"{who} {value / limit:.0%}" for who, value in sorted(found.items()))
        figures = [f"{found[who]:.3g}" if who in found else "–" for who in ("kafka", "hotlog")]
        rows.append(f"| {title} | {figures[0]} | {figures[1]} | {_plain(ratio)} | {asked} | {share} |")
    return rows


def _cold_lines(document: dict[str, Any]) -> str:
    medians = document["medians"]
    prefix = f"{Durability.PAGE_CACHE}/{Workload.COLD_REPLAY}/"
    names = [name for name in medians if name.startswith(prefix)]
    return "\n".join(f"- {name.removeprefix(prefix)}: {medians[name]['hotlog']:.3g}" for name in names)


def _tail_rows(document: dict[str, Any]) -> list[str]:
    """One line a figure, one column a phase; percentiles with their ratio to the tail alone."""
    prefix, medians = f"{Durability.PAGE_CACHE}/{Workload.TAIL_REPLAY}/", document["medians"]

    def cell(phase: str, metric: str) -> str:
        value = medians.get(f"{prefix}{phase}_{metric}", {}).get("hotlog")
        if value is None:
            return "–"
        if metric.endswith("_share"):
            return f"{value:.0%}"
        ratio = medians.get(f"{prefix}{phase}_{metric.removesuffix('_ms')}_over_alone", {}).get("hotlog")
        return f"{value:.3g}" + (f" ({ratio:.1f}x)" if ratio is not None else "")

    rows = [(title, [cell(phase.name, metric) for phase in PHASES]) for metric, title in TAIL_ROWS]
    return [f"| {title} | {' | '.join(cells)} |" for title, cells in rows if set(cells) != {"–"}]


def _inspect_rows(document: dict[str, Any]) -> list[str]:
    prefix, medians, rows = f"{Durability.PAGE_CACHE}/{Workload.INSPECT}/", document["medians"], []
    for codec in CODECS:
        for size in RECORD_SIZES:
            costs = [medians.get(f"{prefix}{codec}_{size}_{level}_s_per_gb", {}).get("hotlog") for level in LEVELS]
            if None not in costs:
                rows.append(f"| {codec} | {size} | {' | '.join(f'{cost:.3g}' for cost in costs)} |")
    return rows


def _plain(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"
