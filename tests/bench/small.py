"""Small requests and wide fetches: what most real clients send, over ready-made frames (`--workload small`).

Invariants:
- Nothing is counted before every partition took a record: brokers list leaders before their logs are there.
- Nothing expires under the measurement, though the records' timestamps are old.
- What is read is read before anything more is written to it; the cases that fill the page cache come last.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.bench.frames import commit_frame, end_offsets, fetch_many, insist, join_alone, metadata_frame, produce_many
from tests.bench.load import Load, run_load
from tests.bench.settings import BenchSettings, Durability
from tests.bench.targets import Target
from tests.bench.wire import Connection, check_produced, record_batch
from tests.bench.workloads import payloads

KEPT = {"remote.storage.enable": "false", "retention.ms": "-1"}
WRITTEN, READ, WIDE = "written", "read", "wide"
PARTITIONS, WIDE_PARTITIONS = 16, 1_000
SPAN = 100  # partitions of one wide request
READ_BATCHES, WIDE_BATCHES = 64, 3
FETCH_BYTES = 4_096
GROUPS = 64
# A JVM compiles while these run, before the first case: they change nothing that a case reads.
FIRST_PASS = ("fetch-4kb-64x1", "fetch-100p-16x1", "produce-100b-8x5")
FIRST_PASS_COUNTED_S = 0.2


def _batches(count: int, records: int, size: int) -> list[bytes]:
    values = payloads(count * records, size)
    return [record_batch(values[number * records : (number + 1) * records]) for number in range(count)]


def _produced(batches: list[bytes]) -> list[bytes]:
    """One frame a partition of `written`."""
    return [produce_many([(WRITTEN, number, batches[number % len(batches)])]) for number in range(PARTITIONS)]


def _over_all(target: Target) -> list[bytes]:
    batches = _batches(8, 1, 1024)
    return [produce_many([(WIDE, number, batches[number % 8])]) for number in range(WIDE_PARTITIONS)]


def _spans() -> list[range]:
    return [range(start, start + SPAN) for start in range(0, WIDE_PARTITIONS, SPAN)]


def _to_each(target: Target) -> list[bytes]:
    batches = _batches(8, 1, 1024)
    return [produce_many([(WIDE, number, batches[number % 8]) for number in span]) for span in _spans()]


def _hot(target: Target) -> list[bytes]:
    places = [(number % PARTITIONS, number % (READ_BATCHES - 4)) for number in range(64)]
    return [fetch_many({READ: {partition: offset}}, partition_bytes=FETCH_BYTES) for partition, offset in places]


def _filled(target: Target) -> list[bytes]:
    return [fetch_many({WIDE: dict.fromkeys(span, 0)}, partition_bytes=FETCH_BYTES) for span in _spans()]


def _quiet(target: Target) -> list[bytes]:
    return [fetch_many({WIDE: dict.fromkeys(span, WIDE_BATCHES)}, wait_ms=0, bytes_min=0) for span in _spans()]


def _heartbeats(target: Target) -> list[bytes]:
    with closing(Connection(target.bootstrap)) as connection:
        return [join_alone(connection, f"beating-{number}") for number in range(GROUPS)]


def _commits(target: Target) -> list[bytes]:
    with closing(Connection(target.bootstrap)) as connection:
        join_alone(connection, "commits")  # the broker makes its topic of offsets when the first group comes
    return [commit_frame(f"committing-{number}", WRITTEN, number % PARTITIONS, 1) for number in range(GROUPS)]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row.  `turn` orders what is run: readers, then writers, then the large; `is_written`: durability matters."""

    name: str
    title: str
    frames: Callable[[Target], list[bytes]]
    connections: int
    in_flight: int = 1
    own: int = 1
    partitions: int | None = None
    records: int | None = None
    turn: int = 0
    is_written: bool = False

    @property
    def label(self) -> str:
        return f"{self.title}, {self.connections} x {self.in_flight}"


def _writes(
    name: str, title: str, frames: Callable[[Target], list[bytes]], connections: int, in_flight: int, turn: int = 1
) -> Case:
    return Case(
        name=name,
        title=title,
        frames=frames,
        connections=connections,
        in_flight=in_flight,
        partitions=1,
        turn=turn,
        is_written=True,
    )


_ONE = "produce one 100 B record"
CASES = (
    _writes("produce-100b-8x5", _ONE, lambda _: _produced(_batches(8, 1, 100)), 8, 5),
    _writes("produce-100b-64x1", _ONE, lambda _: _produced(_batches(8, 1, 100)), 64, 1),
    Case(
        name="produce-1kb-1000p-64x1", title="produce one 1 KB record over 1,000 partitions", frames=_over_all,
        connections=64, own=16, partitions=1, turn=1, is_written=True,
    ),
    Case(
        name="produce-to-100p-8x2", title="produce a 1 KB batch to each of 100 partitions", frames=_to_each,
        connections=8, in_flight=2, partitions=SPAN, turn=2, is_written=True,
    ),
    _writes("produce-16kb-8x5", "produce 16 KB batches of 100 B", lambda _: _produced(_batches(8, 150, 100)), 8, 5, 3),
    _writes("produce-100kb-8x5", "produce 100 KB batches of 1 KB", lambda _: _produced(_batches(4, 96, 1024)), 8, 5, 4),
    Case(name="fetch-4kb-64x1", title="fetch 4 KB of 1 KB batches", frames=_hot, connections=64, partitions=1, records=1),
    Case(
        name="fetch-100p-16x1", title="fetch three batches from each of 100 partitions", frames=_filled,
        connections=16, partitions=SPAN, records=SPAN,
    ),
    Case(
        name="fetch-100p-quiet-16x1", title="fetch at the end of 100 quiet partitions, min bytes 0", frames=_quiet,
        connections=16, partitions=SPAN, records=0,
    ),
    Case(
        name="metadata-16x1", title="metadata of one topic", frames=lambda _: [metadata_frame(WRITTEN)],
        connections=16, partitions=PARTITIONS,
    ),
    Case(name="heartbeat-64x1", title="heartbeat", frames=_heartbeats, connections=64, partitions=0),
    Case(
        name="offset-commit-64x1", title="offset commit of one partition", frames=_commits, connections=64, partitions=1,
        turn=1, is_written=True,
    ),
)  # fmt: skip


def prepare(target: Target) -> None:
    """Topics, something to read in them, and every partition led. Raises Refused where one will not take a record."""
    for topic, partitions in ((WRITTEN, PARTITIONS), (READ, PARTITIONS), (WIDE, WIDE_PARTITIONS)):
        target.create_topic(topic, partitions, KEPT)
    batches = _batches(8, 1, 1024)
    frames = [produce_many([(WRITTEN, number, batches[0]) for number in range(PARTITIONS)])]
    frames += [produce_many([(READ, number, batches[0]) for number in range(PARTITIONS)])] * READ_BATCHES
    with closing(Connection(target.bootstrap)) as connection:
        insist(lambda: _all_led(connection))
        for frame in frames + [frame for frame in _to_each(target) for _ in range(WIDE_BATCHES)]:
            connection.send(frame)
            check_produced(connection.receive())
        ends = end_offsets(connection, {READ: range(PARTITIONS), WIDE: range(WIDE_PARTITIONS)})
    wanted = {READ: READ_BATCHES, WIDE: WIDE_BATCHES}
    assert all(end == wanted[topic] for (topic, _), end in ends.items()), "what was sent is there, once"


def _all_led(connection: Connection) -> None:
    end_offsets(connection, {WRITTEN: range(PARTITIONS), READ: range(PARTITIONS), WIDE: range(WIDE_PARTITIONS)})


def in_turn(durability: Durability) -> list[Case]:
    """The cases as they are run; with fsync only those that write: to the others it is nothing."""
    return sorted((case for case in CASES if case.is_written or durability is Durability.PAGE_CACHE), key=lambda case: case.turn)


def measure_small(
    target: Target, settings: BenchSettings, program: Path, durability: Durability
) -> Iterator[tuple[Case, dict[str, float]]]:
    """Each case in its turn, after what they need was made."""
    prepare(target)
    warm_s, seconds = settings.small_warm_seconds, settings.small_seconds
    if settings.small_pass_seconds:
        for case in (each for each in in_turn(durability) if each.name in FIRST_PASS):
            _run(target, case, program, warm_s=settings.small_pass_seconds, seconds=FIRST_PASS_COUNTED_S)
    for case in in_turn(durability):
        os.sync()
        metrics = _run(target, case, program, warm_s=warm_s, seconds=seconds)
        metrics["broker_cpu_us"] = metrics["broker_cpu_s"] / metrics["answers"] * 1e6
        metrics["client_cpu_us"] = metrics["client_cpu_s"] / metrics["answers"] * 1e6
        yield case, metrics | {"rss_mib": target.rss_bytes() / 2**20}


def _run(target: Target, case: Case, program: Path, *, warm_s: float, seconds: float) -> dict[str, float]:
    load = Load(
        frames=case.frames(target), connections=case.connections, in_flight=case.in_flight, own=case.own,
        partitions=case.partitions, records=case.records,
    )  # fmt: skip
    port = int(target.bootstrap.rpartition(":")[2])
    return run_load(program, port, load, warm_s=warm_s, seconds=seconds, cpu=target.cpu_seconds)
