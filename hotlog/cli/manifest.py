"""hotlog manifest: what the bucket says it holds of a topic, and the proof.

Invariants: reads only; works without a broker; `verify` exits with 4 when anything is missing or damaged.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from hotlog.cli.bucket import open_bucket, run
from hotlog.cli.options import STORE_DEFAULT, Json, StoreUrl, Topic
from hotlog.cli.output import console, count_progress, show_json, show_rows, size_text
from hotlog.cli.times import time_text
from hotlog.kernel.errors import Corrupt, NotFound
from tiering.manifest.root import Manifest
from tiering.manifest.verify import Report, describe_manifest, load_manifest, verify_partition

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Show and verify what the bucket holds of a topic.")


async def _manifests(url: str, topic: str) -> list[tuple[int, Manifest | None]]:
    async with open_bucket(url) as bucket:
        found: list[tuple[int, Manifest | None]] = []
        for pid in bucket.partitions(topic):
            try:
                found.append((pid.partition, await load_manifest(bucket.store, bucket.cluster_id, pid)))
            except NotFound:
                found.append((pid.partition, None))
        return found


@app.command()
def show(topic: Topic, json: Json = False, store: StoreUrl = STORE_DEFAULT) -> None:
    """What each partition's manifest says: offsets, objects, bytes, times."""
    found = run(lambda: _manifests(store, topic))
    if json:
        show_json([describe_manifest(manifest) for _, manifest in found if manifest is not None])
        return
    columns = ["partition", "start", "end", "objects", "bytes", "records", "from", "to", "pages", "garbage", "generation"]
    show_rows(columns, [_row(index, manifest) for index, manifest in found], title=topic, numeric=columns)


def _row(index: int, manifest: Manifest | None) -> list[Any]:
    if manifest is None:
        return [index, *["-"] * 10]
    totals = manifest.totals
    return [
        index, manifest.readable_start_offset, manifest.end_offset, totals.rows - totals.holes, size_text(totals.object_bytes),
        totals.records, time_text(totals.min_timestamp), time_text(totals.max_timestamp), len(manifest.archive),
        len(manifest.garbage) + len(manifest.garbage_ranges), manifest.generation,
    ]  # fmt: skip


@app.command()
def verify(
    topic: Topic,
    shallow: Annotated[bool, typer.Option("--shallow", help="Sizes, footers and identities only; not every byte.")] = False,
    json: Json = False,
    store: StoreUrl = STORE_DEFAULT,
) -> None:
    """Walk every partition's manifest and prove every object: there, whole, its own, every batch's CRC."""

    async def work() -> list[Report]:
        async with open_bucket(store) as bucket:
            reports = []
            with count_progress() as bars:
                for pid in bucket.partitions(topic):
                    bar = bars.add_task(f"partition {pid.partition}", total=None, note="objects")

                    def progress(done: int, total: int, bar: Any = bar) -> None:
                        bars.update(bar, completed=done, total=total)

                    view = bucket.store.bind(topic=topic)
                    reports.append(await verify_partition(view, bucket.cluster_id, pid, deep=not shallow, progress=progress))
            return reports

    reports = [report for report in run(work) if not _is_empty(report)]
    if json:
        show_json([_plain(report) for report in reports])
    else:
        columns = ["partition", "objects", "bytes proven", "batches", "records", "holes", "unreferenced", "problems"]
        show_rows(columns, [_verdict(report) for report in reports], title=topic, numeric=columns)
        for report in reports:
            for problem in report.problems:
                console.print(
                    f"{problem.kind}: {problem.key} [{problem.start_offset}, {problem.end_offset}): {problem.detail}",
                    markup=False,
                )
    bad = sum(len(report.problems) for report in reports)
    if bad:
        raise Corrupt(f"{bad} problem(s) in {topic}; what is damaged is not served")
    if not json:
        console.print("sound" if reports else "nothing is tiered yet")


def _is_empty(report: Report) -> bool:
    """A partition of which nothing was ever tiered has no manifest; that is not a fault."""
    return report.generation < 0 and report.objects == 0 and all(p.kind == "no-manifest" for p in report.problems)


def _verdict(report: Report) -> list[Any]:
    return [
        report.pid.partition, report.objects, size_text(report.log_bytes_proven), report.batches, report.records,
        len(report.holes), len(report.unreferenced), len(report.problems),
    ]  # fmt: skip


def _plain(report: Report) -> dict[str, Any]:
    return asdict(report) | {"pid": str(report.pid), "is_sound": report.is_sound}
