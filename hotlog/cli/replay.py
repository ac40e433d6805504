"""hotlog replay: a stretch of history to a topic, a file or standard output; through the broker, or straight from the bucket.

Invariants: [from, until): the record at `until` is not part of it; it ends at the latest where the topic ended when it began; order is kept
within a partition; records produced to a topic keep key, value, headers and timestamp.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import typer

from hotlog.cli.bucket import open_bucket, run
from hotlog.cli.client import consumer, record_of
from hotlog.cli.complete import BOOTSTRAP_DEFAULT
from hotlog.cli.exact_headers import ExactHeaders
from hotlog.cli.options import (
    STORE_DEFAULT,
    Bootstrap,
    ClientPairs,
    From,
    Json,
    StoreUrl,
    Tail,
    Topic,
    Until,
    client_pairs,
)
from hotlog.cli.output import count_progress, say, show_json, size_text
from hotlog.cli.reading import Reading, stretches
from hotlog.cli.replay_target import Target
from hotlog.cli.tail import left_out
from hotlog.cli.times import place
from hotlog.kernel.errors import Invalid
from hotlog.wire.records import Record
from tiering.replay.direct import Progress
from tiering.replay.sinks import RawLogSink
from tiering.replay.topic import ReplayRequest, direct_replay

app = typer.Typer(add_completion=False)
Give = Callable[[int, Sequence[Record]], None]


class Done(NamedTuple):
    """What a replay moved."""

    records: int
    bytes: int
    requests: int
    seconds: float

    def words(self) -> str:
        rate = self.bytes / 1e6 / max(self.seconds, 1e-9)
        requests = f" in {self.requests:,} requests" if self.requests else ""
        return f"{self.records:,} records, {size_text(self.bytes)}{requests}, {self.seconds:.1f} s, {rate:,.0f} MB/s"


@app.command()
def replay(
    topic: Topic,
    start: From = None,
    until: Until = None,
    direct: Annotated[bool, typer.Option("--direct", help="Read the bucket, without a broker.")] = False,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="TOPIC|FILE|DIR/|-",
            help="A topic that exists, a file (./name or *.jsonl), a directory of raw logs (with --direct), - for stdout.",
        ),
    ] = "-",
    tail: Tail = None,
    json: Json = False,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
    client: ClientPairs = None,
    store: StoreUrl = STORE_DEFAULT,
) -> None:
    """Replay history.  Example: hotlog replay clicks --from 2026-02-01 --until 2026-05-01 --direct --to history.jsonl"""
    if to.endswith("/") and not direct:
        raise Invalid(f"--to {to!r} is a directory of raw logs; that needs --direct")
    place(start), place(until)  # a mistyped place is told before anything is opened
    extra = client_pairs(client)
    with Target(to, bootstrap, extra) as target:
        done = (
            run(lambda: replay_direct(store, topic, start, until, target.sink(topic), bootstrap=bootstrap, tail=tail))
            if direct
            else replay_through_broker(bootstrap, topic, start, until, target.give, extra=extra)
        )
    if json:
        show_json(done._asdict())
    else:
        say(done.words())


async def replay_direct(
    url: str, topic: str, start: str | None, until: str | None, sink: Any, *, bootstrap: str, tail: bool | None = None
) -> Done:
    """Straight from the bucket into `sink` (tiering.replay.sinks); open segments through the broker (`tail`: hotlog.cli.tail.open_tails)."""
    async with open_bucket(url) as bucket:
        image = bucket.topic(topic)
        tails = await asyncio.to_thread(bucket.tails, bootstrap, topic, tail)
        with count_progress() as bars:
            bar = bars.add_task(f"replay {topic}", total=None, note="")

            def show(at: Progress) -> None:
                rate = at.bytes / 1e6 / max(at.seconds, 1e-9)
                bars.update(bar, completed=at.offsets, total=at.offsets_total, note=f"{rate:,.0f} MB/s, {at.requests} requests")

            request = ReplayRequest(
                topic=topic,
                topic_id=image.topic_id,
                cluster_id=bucket.cluster_id,
                partitions=range(len(image.partitions)),
                start=place(start),
                until=place(until),
            )
            clock, entropy = bucket.world.clock, bucket.world.entropy
            done = await direct_replay(
                bucket.store, request, sink, clock=clock, entropy=entropy, tails=tails.parts, progress=show
            )
        if isinstance(sink, RawLogSink):
            await sink.close()
        if until is None:
            for line in left_out(topic, done.ends, tails):
                say(line)
        return Done(getattr(sink, "records", 0) or done.offsets, done.bytes, done.requests, done.seconds)


def replay_through_broker(
    bootstrap: str,
    topic: str,
    start: str | None,
    until: str | None,
    give: Give | None,
    *,
    extra: Mapping[str, Any] | None = None,
) -> Done:
    """As any consumer would: seek, read, stop at the offsets that `until` names, or that were the latest when it began."""
    client, headers_of = consumer(bootstrap, extra), ExactHeaders(bootstrap)
    begun, count, size = time.monotonic(), 0, 0
    try:
        plan = stretches(client, topic, place(start), place(until))
        reading = Reading(client, plan)
        reading.assign(plan)
        with count_progress() as bars:
            total = sum(stretch.end - stretch.start for stretch in plan if stretch.end is not None and not stretch.is_empty)
            bar = bars.add_task(f"replay {topic}", total=total, note="")
            for messages in reading.batches():
                batches: dict[int, list[Record]] = {}
                for message in messages:
                    batches.setdefault(message.partition(), []).append(record_of(message, headers_of))
                for partition, records in batches.items():
                    count += len(records)
                    size += sum(len(record.value or b"") + len(record.key or b"") for record in records)
                    if give is not None:
                        give(partition, records)
                bars.update(bar, completed=count, note=f"{size / 1e6 / max(time.monotonic() - begun, 1e-9):,.0f} MB/s")
    finally:
        client.close()
    return Done(count, size, 0, time.monotonic() - begun)
