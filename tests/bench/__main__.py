"""`python -m tests.bench`: Hotlog and Apache Kafka in turn under the same client, as tables and JSON.

Invariants:
- Whatever ends the run, the results so far are written.
- A target that cannot be had here is named at the top and again in the last lines.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tests.bench.cold import cold_store
from tests.bench.report import as_json, as_markdown, machine_description
from tests.bench.rooflines import measure_rooflines
from tests.bench.runner import Runner
from tests.bench.settings import FULL, QUICK, Durability, Workload
from tests.tools.cache import ToolMissing
from tests.tools.kafka_jars import kafka_jars

console = Console(highlight=False, soft_wrap=True)


def main(
    quick: Annotated[bool, typer.Option(help="One short round: to see that it runs, not to quote.")] = False,
    rounds: Annotated[int, typer.Option(help="Rounds to run; 0 takes the setting's own.")] = 0,
    target: Annotated[list[str], typer.Option(help="kafka or hotlog; both unless given.")] = ["kafka", "hotlog"],  # noqa: B006
    durability: Annotated[list[Durability], typer.Option()] = list(Durability),  # noqa: B006
    workload: Annotated[list[Workload], typer.Option()] = list(Workload),  # noqa: B006
    store: Annotated[str, typer.Option(help="Object store of the cold replay; a MinIO is started unless given.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for results.json and results.md.")] = Path("bench-results"),
    scratch: Annotated[Path | None, typer.Option(help="Where the brokers keep their data.")] = None,
    profile: Annotated[Path | None, typer.Option(help="Record Hotlog with py-spy, raw stacks, into this folder.")] = None,
    set_: Annotated[list[str], typer.Option("--set", help="More settings for Hotlog, key=value.")] = [],  # noqa: B006
) -> None:
    """Same client, same workload, both brokers in turn: medians, ratios, share of the roofline."""
    settings = QUICK if quick else FULL
    if rounds:
        settings = replace(settings, rounds=rounds, startup_rounds=min(rounds, settings.startup_rounds))
    missing = _missing_kafka(target)
    targets = tuple(each for each in target if not (missing and each == "kafka"))
    folder = Path(tempfile.mkdtemp(prefix="hotlog-bench-", dir=scratch))
    machine = machine_description(folder)
    runner = Runner(
        settings=settings,
        scratch=folder,
        targets=targets,
        durabilities=tuple(durability),
        workloads=frozenset(workload),
        say=console.print,
        profile=profile,
        extra=tuple(set_),
    )
    roofline = measure_rooflines(folder)
    try:
        with ExitStack() as stack:
            if {Workload.COLD_REPLAY, Workload.TAIL_REPLAY} & set(workload) and "hotlog" in targets:
                runner.store = stack.enter_context(cold_store(store, folder / "minio"))
            runner.run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        document = as_json(
            machine=machine,
            settings=settings,
            roofline=roofline,
            descriptions=runner.descriptions,
            results=runner.results,
        )
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.json").write_text(json.dumps(document, indent=1))
        (out / "results.md").write_text(as_markdown(document))
        console.print(as_markdown(document))
        if missing:
            console.print(f"Not measured: Apache Kafka ({missing})")


def _missing_kafka(targets: list[str]) -> str:
    """Why Kafka cannot be measured here, or an empty string. Fetches its jars when they are not cached."""
    if "kafka" not in targets:
        return ""
    try:
        kafka_jars()
    except ToolMissing as why:
        console.print(f"Apache Kafka is left out: {why}")
        return str(why)
    return ""


if __name__ == "__main__":
    application = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    application.command()(main)
    application()
