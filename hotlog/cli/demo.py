"""hotlog demo: the main job end to end, on a year of real events, in under two minutes.

A broker in a process of its own, a real Kafka client, a directory as object store: load, tier, drop the local copies, replay three months,
export, ask DuckDB, show the bill.

Invariants: works in its own data directory (a second run starts from a clean one); the broker outlives the story unless --once; every
number shown was read from the broker, the bucket or the Parquet files.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple

import typer
from confluent_kafka.admin import NewTopic

from hotlog.cli.bucket import Bucket, open_bucket, run
from hotlog.cli.client import WAIT_SECONDS, ClientError, admin, answered, producer
from hotlog.cli.cost import bill, show_sums
from hotlog.cli.cost import show as show_bill
from hotlog.cli.cost_usage import Place
from hotlog.cli.demo_data import check_installed, load
from hotlog.cli.export import ExportOptions, export_to, words
from hotlog.cli.output import console, count_progress, show_rows, size_text
from hotlog.cli.raw import EARLIEST_LOCAL, LATEST, LATEST_TIERED, tier_borders
from hotlog.cli.replay import replay_direct, replay_through_broker
from hotlog.kernel.errors import HotlogError, Invalid, NotFound
from hotlog.kernel.ids import PartitionId
from hotlog.wire.records import Record
from tiering.cost.book import load_book
from tiering.cost.model import Design, Workload, forecast
from tiering.manifest.root import NOTHING, Totals
from tiering.manifest.verify import load_manifest
from tiering.replay.sinks import RecordSink

app = typer.Typer(add_completion=False)

STOP_SECONDS_MAX = 300
MONTH_MS = 30 * 24 * 60 * 60 * 1000
TOPICS = {"flights": 6, "weather": 3}
# History has no end here; the local copy may go as soon as it is in the bucket; a segment is at most a month of events or 512 KiB.
TOPIC_CONFIG = {
    "retention.ms": "-1", "local.retention.ms": "1000", "segment.ms": str(MONTH_MS), "segment.bytes": str(512 * 1024),
    "file.delete.delay.ms": "1000",
}  # fmt: skip
BROKER_CONFIG = {"remote.log.manager.task.interval.ms": "1000", "log.retention.check.interval.ms": "1000"}
REPLAY = ("2013-02-01", "2013-05-01")
QUESTION = """
    select case when precip > 0 then 'rain' else 'dry' end as weather, count(*) as flights, round(avg(dep_delay), 1) as minutes_late,
           round(100 * avg((dep_delay > 30)::int), 1) as over_half_an_hour_pct
    from read_parquet('{flights}/*.parquet') join read_parquet('{weather}/*.parquet') as hours using (origin, time_hour)
    where dep_delay is not null and precip is not null group by 1 order by 1
"""


class Broker(NamedTuple):
    """The broker process and its addresses."""

    process: subprocess.Popen[str]
    bootstrap: str
    http: str
    store: str


@app.command()
def demo(
    data_dir: Annotated[
        Path, typer.Option("--data-dir", metavar="DIR", help="Where the demo lives; emptied at the start.")
    ] = Path("hotlog-data/demo"),
    once: Annotated[bool, typer.Option("--once", help="End the broker when the story is told.")] = False,
) -> None:
    """A year of real events: load, tier, drop the local copies, replay, export, ask, and the bill."""
    started = time.monotonic()
    check_installed()
    _prepare(data_dir)
    with _broker(data_dir) as broker:
        _step("1", f"A broker runs on {broker.bootstrap}, its object store is {broker.store}")
        for topic, partitions in TOPICS.items():
            _create(broker, topic, partitions)
        _step("2", "Load a year of events through a Kafka client (librdkafka, zstd, event times as timestamps)")
        for topic in TOPICS:
            _load(broker, topic)
        _step("3", "Closed segments move to the object store; then their local copies are dropped")
        _wait_until_tiered(broker)
        _show_tiers(broker)
        _step("4", f"Replay {REPLAY[0]} to {REPLAY[1]} from the cold tier, through the broker and straight from the bucket")
        _replay(broker)
        lake = data_dir / "lake"
        _step("5", f"Export both topics to Parquet in {lake}")
        _export(broker, lake)
        _step("6", "Do flights leave later when it rains?  DuckDB reads the Parquet")
        _ask(lake)
        _step("7", "What it costs")
        _cost(broker, data_dir)
        console.print(f"\nTold in {time.monotonic() - started:.0f} s.")
        if not once:
            _stay(broker)


def _prepare(data_dir: Path) -> None:
    marker = data_dir / ".hotlog-demo"
    if data_dir.exists() and any(data_dir.iterdir()) and not marker.exists():
        raise Invalid(f"--data-dir {str(data_dir)!r} is not empty and was not made by the demo; choose another")
    shutil.rmtree(data_dir, ignore_errors=True)
    data_dir.mkdir(parents=True)
    marker.touch()


def _step(number: str, text: str) -> None:
    console.print(f"\n[bold cyan]{number}[/bold cyan] [bold]{text}[/bold]" if console.is_terminal else f"\n{number} {text}")


def _port(preferred: int) -> int:
    """`preferred` if it is free, else any."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise HotlogError("no free port on 127.0.0.1")


@contextmanager
def _broker(data_dir: Path) -> Iterator[Broker]:
    http = f"127.0.0.1:{_port(9644)}"
    command = [
        sys.executable,
        "-m",
        "hotlog",
        "serve",
        "--data-dir",
        str(data_dir),
        "--listen",
        f"127.0.0.1:{_port(9092)}",
        "--http",
        http,
    ]
    for key, value in BROKER_CONFIG.items():
        command += ["--set", f"{key}={value}"]
    with (data_dir / "broker.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            yield Broker(process, _ready(process, process.stdout, data_dir), http, (data_dir.resolve() / "store").as_uri())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_SECONDS_MAX)


def _ready(process: subprocess.Popen[str], output: IO[str], data_dir: Path) -> str:
    for line in output:
        if line.startswith("hotlog ready on "):
            threading.Thread(target=lambda: [None for _ in output], daemon=True).start()
            return line.split()[-1]
    raise HotlogError(f"the broker did not start (exit code {process.wait()}): {(data_dir / 'broker.log').read_text()[-600:]}")


def _create(broker: Broker, topic: str, partitions: int) -> None:
    wanted = NewTopic(topic, num_partitions=partitions, replication_factor=1, config=TOPIC_CONFIG)
    client = admin(broker.bootstrap)
    answered(lambda: client.create_topics([wanted])[topic].result(WAIT_SECONDS))


def _load(broker: Broker, topic: str) -> None:
    events = load(topic)
    client = producer(broker.bootstrap, {"batch.size": 262_144, "linger.ms": 50})
    failures: list[str] = []

    def done(error: Any, message: Any) -> None:
        if error is not None:
            failures.append(error.str())

    with count_progress() as bars:
        bar = bars.add_task(f"  {topic}", total=events.total, note="records")
        for number, event in enumerate(events.rows, 1):
            while True:
                try:
                    client.produce(topic, event.value, event.key, timestamp=event.timestamp_ms, on_delivery=done)
                    break
                except BufferError:
                    client.poll(0.1)
            if number % 5000 == 0:
                client.poll(0)
                bars.update(bar, completed=number)
        left = client.flush()  # librdkafka gives up on each record after message.timeout.ms
        bars.update(bar, completed=events.total)
    if left or failures:
        raise ClientError(f"{left + len(failures)} records were not acknowledged: {failures[:1]}")
    console.print(f"  {topic}: {events.total:,} records acknowledged")


def _wait_until_tiered(broker: Broker, *, still_seconds_max: float = 60) -> None:
    """Until in every partition the first local offset follows the last tiered one, and nothing moves any more."""
    total = sum(TOPICS.values())
    with count_progress() as bars:
        bar = bars.add_task("  partitions settled", total=total, note="")
        moved_at, before = time.monotonic(), ([0], [0])
        while True:
            local, latest = _borders(broker, EARLIEST_LOCAL), _borders(broker, LATEST)
            tiered = [last + 1 for last in _borders(broker, LATEST_TIERED)]
            settled = sum(at == end and (at > 0 or last == 0) for at, end, last in zip(local, tiered, latest, strict=True))
            bars.update(bar, completed=settled)
            if before != (local, tiered):
                moved_at, before = time.monotonic(), (local, tiered)
            elif settled == total:
                return
            elif time.monotonic() - moved_at > still_seconds_max:
                raise HotlogError(f"nothing was tiered for {still_seconds_max:.0f} s: local starts {local}, tiered ends {tiered}")
            time.sleep(0.7)


def _borders(broker: Broker, which: int) -> list[int]:
    found = (tier_borders(broker.bootstrap, topic, list(range(count)), which) for topic, count in TOPICS.items())
    return [offset for borders in found for _, offset in sorted(borders.items())]


def _show_tiers(broker: Broker) -> None:
    run(lambda: _tiers(broker))


def _hot_bytes(broker: Broker) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{broker.http}/metrics", timeout=WAIT_SECONDS) as answer:
        scraped = answer.read().decode()
    return {match[1]: float(match[2]) for match in re.finditer(r'^kafka_log_size_bytes\{topic="([^"]+)"\} (\S+)$', scraped, re.M)}


async def _totals(bucket: Bucket, pid: PartitionId) -> Totals:
    try:
        return (await load_manifest(bucket.store, bucket.cluster_id, pid)).totals
    except NotFound:  # a partition that no key fell into
        return NOTHING


async def _tiers(broker: Broker) -> None:
    """Per topic: what is on the local disk, and what its manifests say is in the store."""
    hot = await asyncio.to_thread(_hot_bytes, broker)
    rows = []
    async with open_bucket(broker.store) as bucket:
        for topic in TOPICS:
            totals = [await _totals(bucket, pid) for pid in bucket.partitions(topic)]
            objects, size = sum(t.rows for t in totals), sum(t.object_bytes for t in totals)
            rows.append(
                [topic, len(totals), size_text(hot[topic]), size_text(size), objects, f"{sum(t.records for t in totals):,}"]
            )
    columns = ["topic", "partitions", "hot (local disk)", "cold (object store)", "cold objects", "cold records"]
    show_rows(columns, rows, numeric=columns[1:])


def _replay(broker: Broker) -> None:
    through = replay_through_broker(broker.bootstrap, "flights", *REPLAY, None)
    console.print(f"  through the broker: {through.words()}")
    direct = run(lambda: replay_direct(broker.store, "flights", *REPLAY, RecordSink(_nothing), bootstrap=broker.bootstrap))
    console.print(f"  from the bucket:    {direct.words()}")
    if through.records != direct.records:
        raise HotlogError(
            f"the two replays differ: {through.records} records through the broker, {direct.records} from the bucket"
        )


async def _nothing(partition: int, records: Sequence[Record]) -> None:
    """The demo only counts."""


def _export(broker: Broker, lake: Path) -> None:
    for topic in TOPICS:
        options = ExportOptions(topic=topic, to=str(lake / topic), schema="auto")
        done, _ = run(lambda options=options: export_to(broker.store, broker.bootstrap, options))  # type: ignore[misc]
        console.print(f"  {topic}: {words(done)}")
        ends = sum(tier_borders(broker.bootstrap, topic, list(range(TOPICS[topic])), LATEST).values())
        if done.rows != ends:
            raise HotlogError(f"{ends} records of {topic} were acknowledged, {done.rows} exported")


def _ask(lake: Path) -> None:
    import duckdb

    with duckdb.connect() as session:
        answer = session.sql(QUESTION.format(flights=lake / "flights", weather=lake / "weather"))
        show_rows(answer.columns, answer.fetchall(), numeric=answer.columns[1:])


def _stay(broker: Broker) -> None:
    console.print("\nThe broker is still running.  Try next, in another terminal:\n")
    name = "hotlog" if shutil.which("hotlog") else sys.argv[0]
    for line in (
        f"  {name} consume flights -b {broker.bootstrap} --from 2013-12-24 -n 5 --json",
        f"  {name} manifest verify flights --store {broker.store}",
        f"  curl -s http://{broker.http}/metrics | grep remotelogsize",
    ):
        console.print(line, style="cyan", highlight=False)
    console.print("\nCtrl-C ends it.")
    try:
        broker.process.wait()
    except KeyboardInterrupt:
        console.print("stopped")


def _cost(broker: Broker, data_dir: Path) -> None:
    prices = load_book()
    show_bill(bill(Place(broker.store, data_dir, broker.http), prices))
    console.print("\n  A log this small pays for requests.  The same design at 100 MB/s, kept for a year, four hours of it hot:")
    show_sums(forecast(Workload(bytes_per_second=100e6, retention_s=365 * 86_400), Design(hot_s=4 * 3600), prices))
