"""hotlog demo: the main job end to end, on a year of real events, in under two minutes.

A broker in a process of its own, a real Kafka client, a directory as object store: load, tier, drop the local copies, replay three months,
export, ask DuckDB, show the bill.

Invariants: works in its own data directory (a second run starts from a clean one); the broker outlives the story unless --once; every
number shown was read from the broker, the bucket or the Parquet files.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple

import typer
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewTopic, OffsetSpec

from hotlog.cli.client import ClientError, admin, answered, producer
from hotlog.cli.demo_data import load
from hotlog.cli.output import byte_progress, console, count_progress, show_rows, size_text
from hotlog.cli.times import parse_position
from hotlog.kernel.errors import HotlogError, Invalid

app = typer.Typer(add_completion=False)

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
    with hours as (
        select json_extract_string(value, '$.origin') as origin, json_extract_string(value, '$.time_hour') as hour,
               cast(json_extract(value, '$.precip') as double) as rain
        from read_parquet('{weather}/**/*.parquet', hive_partitioning = false)
    ), departures as (
        select json_extract_string(value, '$.origin') as origin, json_extract_string(value, '$.time_hour') as hour,
               cast(json_extract(value, '$.dep_delay') as double) as delay
        from read_parquet('{flights}/**/*.parquet', hive_partitioning = false)
    )
    select case when rain > 0 then 'rain' else 'dry' end as weather, count(*) as flights, round(avg(delay), 1) as minutes_late,
           round(100 * avg((delay > 30)::int), 1) as over_half_an_hour_pct
    from departures join hours using (origin, hour) where delay is not null and rain is not null group by 1 order by 1
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
            process.wait(30)


def _ready(process: subprocess.Popen[str], output: IO[str], data_dir: Path) -> str:
    for line in output:
        if line.startswith("hotlog ready on "):
            threading.Thread(target=lambda: [None for _ in output], daemon=True).start()
            return line.split()[-1]
    raise HotlogError(f"the broker did not start (exit code {process.wait()}): {(data_dir / 'broker.log').read_text()[-600:]}")


def _create(broker: Broker, topic: str, partitions: int) -> None:
    wanted = NewTopic(topic, num_partitions=partitions, replication_factor=1, config=TOPIC_CONFIG)
    client = admin(broker.bootstrap)
    answered(lambda: client.create_topics([wanted])[topic].result(30))


def _load(broker: Broker, topic: str) -> None:
    events = load(topic)
    client = producer(broker.bootstrap, {"batch.size": 262_144, "linger.ms": 50})
    failures: list[str] = []

    def done(error: Any, message: Any) -> None:
        if error is not None:
            failures.append(error.str())

    with count_progress() as bars:
        bar = bars.add_task(f"  {topic}", total=events.count, note="records")
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
        left = client.flush(60)
        bars.update(bar, completed=events.count)
    if left or failures:
        raise ClientError(f"{left + len(failures)} records were not acknowledged: {failures[:1]}")
    console.print(f"  {topic}: {events.count:,} records acknowledged")


def _offsets(client: Any, topic: str, spec: Any) -> list[int]:
    places = {TopicPartition(topic, index): spec for index in range(TOPICS[topic])}
    futures = client.list_offsets(places, request_timeout=10)
    return [answered(lambda place=place: futures[place].result(10)).offset for place in places]  # type: ignore[misc]


def _wait_until_tiered(broker: Broker, *, seconds_max: float = 60) -> None:
    """Until every partition's earliest local offset (-4) has moved up to its latest tiered one (-5) + 1, twice the same."""
    client = admin(broker.bootstrap)
    total = sum(TOPICS.values())
    with count_progress() as bars:
        bar = bars.add_task("  partitions settled", total=total, note="")
        deadline, before = time.monotonic() + seconds_max, None
        while time.monotonic() < deadline:
            local = [offset for topic in TOPICS for offset in _offsets(client, topic, OffsetSpec.for_timestamp(-4))]
            tiered = [offset + 1 for topic in TOPICS for offset in _offsets(client, topic, OffsetSpec.for_timestamp(-5))]
            settled = sum(at > 0 and at == end for at, end in zip(local, tiered, strict=True))
            bars.update(bar, completed=settled)
            if settled == total and before == local:
                return
            before = local
            time.sleep(0.5)
    raise HotlogError(f"not everything was tiered after {seconds_max:.0f} s: local starts {local}, tiered ends {tiered}")


def _stay(broker: Broker) -> None:
    console.print("\nThe broker is still running.  Try next, in another terminal:\n")
    for line in (
        f"  hotlog consume flights -b {broker.bootstrap} --from 2013-12-24 -n 5 --json",
        f"  hotlog manifest verify flights --store {broker.store}",
        f"  curl -s http://{broker.http}/metrics | grep remotelogsize",
    ):
        console.print(line, style="cyan", highlight=False)
    console.print("\nCtrl-C ends it.")
    try:
        broker.process.wait()
    except KeyboardInterrupt:
        console.print("stopped")
