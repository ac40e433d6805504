"""`python -m tests.bench`: Hotlog, Apache Kafka and other checkouts of Hotlog in turn under the same client, as tables and JSON.

Invariants:
- Whatever ends the run, the results so far are written.
- A target that cannot be had here is named at the top and again in the last lines.
"""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from tests.bench.cold import cold_store
from tests.bench.contenders import HOTLOG, KAFKA, NotACheckout, contenders_of
from tests.bench.load import generator
from tests.bench.report import as_json, as_markdown, machine_description
from tests.bench.rooflines import measure_rooflines
from tests.bench.runner import Runner
from tests.bench.settings import FULL, QUICK, Durability, Workload
from tests.tools.cache import ToolMissing
from tests.tools.kafka_jars import kafka_jars

console = Console(highlight=False, soft_wrap=True)


GENERATOR = "load generator"
DRIVEN = {Workload.SMALL, Workload.PARTITIONS, Workload.LONG_POLL}
LEFT_OUT = {KAFKA: "Apache Kafka", GENERATOR: "small requests, long polls and latency beside many partitions"}
RATED = {Workload.PRODUCE_WIRE, Workload.PRODUCE_NONE, Workload.PRODUCE_LZ4, Workload.FETCH_WIRE, Workload.FETCH_HOT}
TARGET_HELP = "kafka, hotlog (this checkout), or the path of another checkout, also NAME=PATH; kafka and hotlog unless given."


def main(
    quick: Annotated[bool, typer.Option(help="One short round: to see that it runs, not to quote.")] = False,
    rounds: Annotated[int, typer.Option(help="Rounds to run; 0 takes the setting's own.")] = 0,
    target: Annotated[list[str], typer.Option(help=TARGET_HELP)] = [KAFKA, HOTLOG],  # noqa: B006
    durability: Annotated[list[Durability], typer.Option()] = list(Durability),  # noqa: B006
    workload: Annotated[list[Workload], typer.Option()] = list(Workload),  # noqa: B006
    store: Annotated[str, typer.Option(help="Object store of the cold replay; a MinIO is started unless given.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for results.json and results.md.")] = Path("bench-results"),
    scratch: Annotated[Path | None, typer.Option(help="Where the brokers keep their data.")] = None,
    profile: Annotated[Path | None, typer.Option(help="Record Hotlog with py-spy, raw stacks, into this folder.")] = None,
    set_: Annotated[list[str], typer.Option("--set", help="More settings for Hotlog, key=value.")] = [],  # noqa: B006
) -> None:
    """Same client, same workload, all targets in turn: medians, ratios, share of the roofline."""
    settings = QUICK if quick else FULL
    if rounds:
        startup, growth = min(rounds, settings.startup_rounds), min(rounds, settings.growth_rounds)
        settings = replace(settings, rounds=rounds, small_rounds=rounds, startup_rounds=startup, growth_rounds=growth)
    try:
        contenders = contenders_of(target)
    except NotACheckout as why:
        raise typer.BadParameter(str(why)) from why
    missing = _missing(target, workload)
    contenders = tuple(each for each in contenders if each.name not in missing)
    folder = Path(tempfile.mkdtemp(prefix="hotlog-bench-", dir=scratch)).resolve()
    machine = machine_description(folder)
    runner = Runner(
        settings=settings,
        scratch=folder,
        contenders=contenders,
        durabilities=tuple(durability),
        workloads=frozenset(workload),
        say=console.print,
        profile=profile,
        extra=tuple(set_),
        generator=generator() if DRIVEN & set(workload) and GENERATOR not in missing else None,
        failures={LEFT_OUT[name]: why for name, why in missing.items()},
    )
    roofline = measure_rooflines(folder) if set(workload) & RATED else {}
    try:
        with ExitStack() as stack:
            if {Workload.COLD_REPLAY, Workload.TAIL_REPLAY} & set(workload) and any(each.tree for each in contenders):
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
            failures=runner.failures,
        )
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.json").write_text(json.dumps(document, indent=1))
        (out / "results.md").write_text(as_markdown(document))
        console.print(as_markdown(document))


def _missing(targets: list[str], workloads: list[Workload]) -> dict[str, str]:
    """What cannot be had here, and why.  Kafka's jars are fetched, and the load generator compiled, when they are not cached."""
    missing = {}
    for name, is_wanted, get in (
        (KAFKA, KAFKA in targets, kafka_jars),
        (GENERATOR, bool(DRIVEN & set(workloads)), generator),
    ):
        try:
            if is_wanted:
                get()
        except ToolMissing as why:
            missing[name] = str(why)
            console.print(f"Left out: {LEFT_OUT[name]}: {why}")
    return missing


def end_in_order(number: int, frame: object) -> NoReturn:
    """SIGTERM unwinds as Ctrl-C does: brokers end, folders go, and what was measured is written."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end_in_order)
    application = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    application.command()(main)
    application()
