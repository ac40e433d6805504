"""Medians, ratios and shares of the roofline, as JSON for programs and as Markdown for people.

Invariants:
- A ratio is always this checkout's median over another contender's median of the same run.
- The raw results are in the JSON, so that every printed figure can be made again.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from tests.bench.contenders import HOTLOG
from tests.bench.runner import Result
from tests.bench.settings import BenchSettings, Durability, Workload
from tests.bench.tables import (
    cold_table,
    columns_of,
    compaction_table,
    grown_table,
    inspect_tables,
    small_table,
    tail_tables,
    throughput_table,
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


def ratios_of(medians: dict[str, dict[str, float]], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """`{"hotlog over kafka": {...}}`: the last of `names` over each other, wherever both have a median that is not zero."""
    return {
        f"{names[-1]} over {other}": {
            name: each[names[-1]] / each[other] for name, each in medians.items() if names[-1] in each and each.get(other)
        }
        for other in names[:-1]
    }


def as_json(
    *,
    machine: dict[str, Any],
    settings: BenchSettings,
    roofline: dict[str, float],
    descriptions: dict[str, str],
    results: Sequence[Result],
    failures: dict[str, str],
) -> dict[str, Any]:
    medians, columns = medians_of(results), columns_of(each.target for each in results)
    return {
        "machine": machine,
        "settings": asdict(settings),
        "roofline_gb_per_s": roofline,
        "targets": descriptions,
        "medians": medians,
        "columns": columns,
        "ratios": ratios_of(medians, columns),
        "not_measured": failures,
        "results": [asdict(result) for result in results],
    }


def as_markdown(document: dict[str, Any]) -> str:
    """The tables, with the machine above, and the brokers' settings and what could not be measured below."""
    machine, parts = document["machine"], []
    parts.append(
        f"Machine: {machine['cores']} cores of {machine['processor']}, {machine['memory_gib']} GiB, Linux"
        f" {machine['kernel']}, {machine['file_system']}, Python {machine['python']}; client and broker share it."
    )
    if document["roofline_gb_per_s"]:
        roofline = ", ".join(f"{name} {value:.2f}" for name, value in document["roofline_gb_per_s"].items())
        parts.append(f"Roofline of this machine in this run, GB/s: {roofline}.")
    parts += [f"### {title}\n\n{table}" for title, table in _tables(document) if table]
    parts.append("\n".join(f"- {name}: {text}" for name, text in sorted(document["targets"].items())))
    if document["not_measured"]:
        parts.append("\n".join(f"- Not measured: {what}: {why}" for what, why in document["not_measured"].items()))
    return "\n\n".join(parts) + "\n"


def _tables(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for durability in Durability:
        yield f"Durability: {durability}", throughput_table(document, durability)
    for durability in Durability:
        yield f"Small requests and wide fetches: {durability}", small_table(document, durability)
    for workload, title in GROWTH_TITLES.items():
        yield title, grown_table(document, workload)
    yield "Log compaction with one thread", compaction_table(document)
    yield "Cold replay", cold_table(document)
    for name, table in tail_tables(document).items():
        yield f"The tail beside a replay{_of(name)}", table
    for name, table in inspect_tables(document).items():
        yield f"A look into produced batches, CPU seconds for a gigabyte of records{_of(name)}", table


def _of(name: str) -> str:
    return "" if name == HOTLOG else f": {name}"


GROWTH_TITLES = {
    Workload.PARTITIONS: "Beside many partitions",
    Workload.SESSIONS: "One new record in a fetch session",
    Workload.LONG_POLL: "Many consumers that wait at one partition",
}
