"""hotlog replay: a stretch of history to a topic, a file or standard output; through the broker, or straight from the bucket.

Invariants: [from, until): the record at `until` is not part of it; order is kept within a partition; records produced to a topic keep key,
value, headers and timestamp.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple

import typer
from confluent_kafka import KafkaError, TopicPartition

from hotlog.cli.bucket import open_bucket, run
from hotlog.cli.client import WAIT_SECONDS, ClientError, admin, answered, consumer, producer, record_of
from hotlog.cli.consume import start_places
from hotlog.cli.options import BOOTSTRAP_DEFAULT, STORE_DEFAULT, Bootstrap, Json, StoreUrl
from hotlog.cli.output import count_progress, say, show_json, size_text
from hotlog.cli.times import parse_position, place
from hotlog.kernel.errors import Invalid, NotFound
from hotlog.wire.records import Record
from hotlog.world.posix import PosixDisk
from tiering.direct import Progress
from tiering.replay import Sink, direct_replay
from tiering.replay_sinks import JsonLinesSink, RawLogSink, RecordSink, json_line

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
    topic: Annotated[str, typer.Argument(metavar="TOPIC")],
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME|OFFSET", help="First record. Times are UTC: 2013-02-01.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME|OFFSET", help="First record that is not part of it.")
    ] = None,
    direct: Annotated[bool, typer.Option("--direct", help="Read the bucket, without a broker.")] = False,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="TOPIC|FILE|DIR/|-",
            help="A topic that exists, a file (./name or *.jsonl), a directory of raw logs (with --direct), - for stdout.",
        ),
    ] = "-",
    json: Json = False,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
    store: StoreUrl = STORE_DEFAULT,
) -> None:
    """Replay history.  Example: hotlog replay clicks --from 2026-02-01 --until 2026-05-01 --direct --to history.jsonl"""
    if to.endswith("/") and not direct:
        raise Invalid(f"--to {to!r} is a directory of raw logs; that needs --direct")
    with Target(to, bootstrap) as target:
        done = (
            run(lambda: replay_direct(store, topic, start, until, target.sink(topic)))
            if direct
            else replay_through_broker(bootstrap, topic, start, until, target.give)
        )
    if json:
        show_json(done._asdict())
    else:
        say(done.words())


class Target:
    """Where records go: standard output, a file (its name has a slash, or ends with .json or .jsonl), a directory of raw logs (it ends with a
    slash; direct replays only), or a topic that exists.
    """

    def __init__(self, to: str, bootstrap: str) -> None:
        self._to = to
        self._client: Any = None
        self._stream: IO[str] | None = None
        self._failures: list[str] = []
        self._turn = asyncio.Lock()  # partitions come side by side, a stream takes one at a time
        if to == "-":
            self._stream = sys.stdout
        elif not to.endswith("/") and ("/" in to or to.endswith((".jsonl", ".json"))):
            self._stream = self._open(to)
        elif not to.endswith("/"):
            if to not in answered(lambda: admin(bootstrap).list_topics(timeout=WAIT_SECONDS)).topics:
                raise NotFound(f"topic {to!r} does not exist on {bootstrap}; a file is written with a slash: ./{to}")
            self._client = producer(bootstrap)

    @staticmethod
    def _open(to: str) -> IO[str]:
        return Path(to).open("w", encoding="utf-8")

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._client is not None:
            left = self._client.flush(120)
            if (left or self._failures) and failure[0] is None:
                raise ClientError(
                    f"{left + len(self._failures)} records were not acknowledged by {self._to}: {self._failures[:1]}"
                )
        elif self._stream is not None:
            self._stream.flush()
            if self._stream is not sys.stdout:
                self._stream.close()

    def sink(self, topic: str) -> Sink:
        """For a direct replay: lines are made, and raw batches written, without going over `give`."""
        if self._to.endswith("/"):
            return RawLogSink(PosixDisk(), self._to.rstrip("/"), topic)
        if self._stream is not None:
            return JsonLinesSink(self._write)
        return RecordSink(self._hand_on)

    async def _write(self, lines: bytes) -> None:
        assert self._stream is not None
        async with self._turn:
            await asyncio.to_thread(self._stream.write, lines.decode())

    async def _hand_on(self, partition: int, records: list[Record]) -> None:
        async with self._turn:
            await asyncio.to_thread(self.give, partition, records)

    def give(self, partition: int, records: Sequence[Record]) -> None:
        if self._stream is not None:
            self._stream.writelines(json_line(partition, record) for record in records)
            return
        for record in records:
            self._produce(record)

    def _produce(self, record: Record) -> None:
        fields: dict[str, Any] = {"value": record.value, "key": record.key, "timestamp": record.timestamp}
        if record.headers:
            fields["headers"] = list(record.headers)
        while True:
            try:
                self._client.produce(self._to, on_delivery=self._delivered, **fields)
                self._client.poll(0)
                return
            except BufferError:
                self._client.poll(0.1)

    def _delivered(self, error: Any, message: Any) -> None:
        if error is not None:
            self._failures.append(error.str())


async def replay_direct(url: str, topic: str, start: str | None, until: str | None, sink: Any) -> Done:
    """Straight from the bucket into `sink` (tiering.replay_sinks)."""
    async with open_bucket(url) as bucket:
        image = bucket.topic(topic)
        with count_progress() as bars:
            bar = bars.add_task(f"replay {topic}", total=None, note="")

            def show(at: Progress) -> None:
                rate = at.bytes / 1e6 / max(at.seconds, 1e-9)
                bars.update(bar, completed=at.offsets, total=at.offsets_total, note=f"{rate:,.0f} MB/s, {at.requests} requests")

            done = await direct_replay(
                bucket.store,
                topic=topic,
                cluster_id=bucket.cluster_id,
                topic_id=image.topic_id,
                partitions=range(len(image.partitions)),
                sink=sink,
                clock=bucket.world.clock,
                entropy=bucket.world.entropy,
                start=place(start),
                until=place(until),
                progress=show,
            )
        if isinstance(sink, RawLogSink):
            await sink.close()
        return Done(getattr(sink, "records", 0) or done.offsets, done.bytes, done.requests, done.seconds)


def replay_through_broker(bootstrap: str, topic: str, start: str | None, until: str | None, give: Give | None) -> Done:
    """As any consumer would: seek, read, stop at the offsets that `until` names."""
    import time

    client = consumer(bootstrap, {"enable.partition.eof": True})
    begun, count, size = time.monotonic(), 0, 0
    try:
        places = start_places(client, topic, start or "earliest", None)
        ends = _ends(client, topic, [place.partition for place in places], until)
        client.assign(places)
        open_ends = {place.partition for place in places if ends[place.partition] != 0}
        with count_progress() as bars:
            bar = bars.add_task(f"replay {topic}", total=None, note="")
            while open_ends:
                batches: dict[int, list[Record]] = {}
                for message in client.consume(10_000, 0.5):
                    _sort(message, ends, open_ends, batches)
                for partition, records in batches.items():
                    count += len(records)
                    size += sum(len(record.value or b"") + len(record.key or b"") for record in records)
                    if give is not None:
                        give(partition, records)
                bars.update(bar, completed=count, note=f"{size / 1e6 / max(time.monotonic() - begun, 1e-9):,.0f} MB/s")
    finally:
        client.close()
    return Done(count, size, 0, time.monotonic() - begun)


def _sort(message: Any, ends: dict[int, int], open_ends: set[int], batches: dict[int, list[Record]]) -> None:
    """File one message under its partition, or note that its partition is done."""
    error, partition = message.error(), message.partition()
    if error is not None:
        if error.code() != KafkaError._PARTITION_EOF:
            raise ClientError(f"{error.name()}: {error.str()}")
        open_ends.discard(partition)
    elif message.offset() >= ends[partition] >= 0:
        open_ends.discard(partition)
    elif partition in open_ends:
        batches.setdefault(partition, []).append(record_of(message))


def _ends(client: Any, topic: str, partitions: list[int], until: str | None) -> dict[int, int]:
    """First offset per partition that is not wanted; -1: to the end."""
    if until is None:
        return dict.fromkeys(partitions, -1)
    position = parse_position(until)
    if position.offset is not None:
        return dict.fromkeys(partitions, position.offset)
    wanted = [TopicPartition(topic, partition, position.timestamp_ms or 0) for partition in partitions]
    found = answered(lambda: client.offsets_for_times(wanted, timeout=WAIT_SECONDS))
    return {place.partition: place.offset if place.offset >= 0 else -1 for place in found}
