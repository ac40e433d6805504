"""hotlog export: a topic's history as Parquet, from the bucket (and, with --data-dir, the closed local segments); what only a broker has comes
from there, where one answers, and is named where none does.

Invariants: a second run adds only what is new; a killed one leaves no half file visible and is finished by the next.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hotlog.cli.bucket import Bucket, open_bucket, open_world, run
from hotlog.cli.complete import BOOTSTRAP_DEFAULT
from hotlog.cli.options import STORE_DEFAULT, Bootstrap, From, Json, StoreUrl, Tail, Topic, Until
from hotlog.cli.output import count_progress, say, show_json, size_text
from hotlog.cli.tail import left_out
from hotlog.cli.times import place
from hotlog.kernel.errors import Invalid
from hotlog.kernel.ids import TopicPartition
from tiering.export.job import ExportProgress, ExportRequest, export_topic
from tiering.export.value_schema import parse_schema
from tiering.replay.local_segments import LocalSegments

app = typer.Typer(add_completion=False)


class By(StrEnum):
    """--partition-by"""

    day = "day"
    hour = "hour"
    none = "none"


@app.command()
def export(
    topic: Topic,
    to: Annotated[str, typer.Option("--to", metavar="DIR|s3://…", help="Where the Parquet files go.")],
    start: From = None,
    until: Until = None,
    partition_by: Annotated[By, typer.Option("--partition-by", help="Hive-style directories by event time.")] = By.none,
    schema: Annotated[
        str | None,
        typer.Option("--schema", metavar="auto|FILE", help="JSON values as columns: inferred, or as a JSON file says."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", help="A broker's data dir on this machine: its closed segments too."),
    ] = None,
    tail: Tail = None,
    json: Json = False,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
    store: StoreUrl = STORE_DEFAULT,
) -> None:
    """Export a topic as Parquet.  Example: hotlog export clicks --to ./lake --partition-by day --schema auto"""
    options = ExportOptions(
        topic=topic, to=to, start=start, until=until, partition_by=partition_by.value, schema=schema, data_dir=data_dir, tail=tail
    )
    done, left = run(lambda: export_to(store, bootstrap, options))
    if json:
        show_json(asdict(done) | {"left_out": left})
    elif any(done.ends.values()):
        say(words(done))
    if until is None:
        for line in left:
            say(line)


def words(done: ExportProgress) -> str:
    """One line about an export."""
    return (
        f"{done.rows:,} rows in {done.files} file(s), {size_text(done.bytes_written)}, from {size_text(done.read.bytes)}"
        f" in {done.read.requests} requests, {done.seconds:.1f} s"
    )


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What an export was asked for; each as the option of this name."""

    topic: str
    to: str
    start: str | None = None
    until: str | None = None
    partition_by: Any = "none"
    schema: str | None = None
    data_dir: Path | None = None
    tail: bool | None = None


async def export_to(store: str, bootstrap: str, options: ExportOptions) -> tuple[ExportProgress, list[str]]:
    """Export; the totals of this run, and what is to be said about what it could not read."""
    topic, data_dir = options.topic, options.data_dir
    async with open_bucket(store) as bucket, open_world(_target_url(options.to)) as (target, _, _, _):
        image = bucket.topic(topic)
        tails = await asyncio.to_thread(bucket.tails, bootstrap, topic, options.tail)
        request = ExportRequest(
            topic=topic,
            topic_id=image.topic_id,
            cluster_id=bucket.cluster_id,
            partitions=range(len(image.partitions)),
            start=place(options.start),
            until=place(options.until),
            partition_by=options.partition_by,
            schema=_schema(options.schema),
            data_dir=str(data_dir / "log") if data_dir else None,
        )
        with count_progress() as bars:
            bar = bars.add_task(f"export {topic}", total=None, note="")

            def show(at: ExportProgress) -> None:
                bars.update(
                    bar, completed=at.offsets, total=at.offsets_total, note=f"{at.files} files, {size_text(at.bytes_written)}"
                )

            done = await export_topic(
                source=bucket.store.bind(topic=topic, purpose="export"),
                target=target.store,
                request=request,
                clock=bucket.world.clock,
                entropy=bucket.world.entropy,
                disk=bucket.world.disk,
                tails=tails.parts,
                progress=show,
            )
            if tails.ends is None and request.data_dir is not None:
                tails = tails._replace(ends=await _ends_on_disk(bucket, request, request.data_dir))
            return done, left_out(topic, done.ends, tails)


async def _ends_on_disk(bucket: Bucket, request: ExportRequest, data_dir: str) -> dict[int, int]:
    """Where the partitions end in a data directory: without a broker that is all one can know."""
    return {
        index: await LocalSegments.end_on_disk(
            bucket.world.disk, data_dir, TopicPartition(request.topic, index), request.topic_id
        )
        for index in request.partitions
    }


def _target_url(to: str) -> str:
    return to if "://" in to else Path(to).resolve().as_uri()


def _schema(text: str | None) -> Any:
    if text is None or text == "auto":
        return text
    try:
        return parse_schema(Path(text).read_text(encoding="utf-8"), text)
    except OSError as wrong:
        raise Invalid(f"--schema {text!r} is neither `auto` nor a file that can be read: {wrong}") from None
