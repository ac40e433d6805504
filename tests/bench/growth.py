"""What grows with what is there: the same figures beside 10, 1,000, 4,000 and 10,000 partitions (`--workload partitions`).

Invariants:
- Ready is when the leader of every partition has said where its log ends, not when metadata lists leaders: a broker may list them before.
- Every partition has a record before the broker is stopped or killed, so that there is a log to open.
- What one broker cannot do is said in the result's place, and the other is measured all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.bench.frames import end_offsets, insist, produce_many
from tests.bench.load import Load, run_load
from tests.bench.settings import BenchSettings
from tests.bench.small import KEPT
from tests.bench.targets import Target, TargetFailed
from tests.bench.wire import Connection, Refused, check_produced, record_batch
from tests.bench.workloads import payloads

TOPIC_PARTITIONS = 100
TOPICS_A_REQUEST = 10  # 1,000 partitions: Kafka's controller refuses more than 10,000 records in one write
PRODUCE_RATE = 1_000
PRODUCE_CONNECTIONS = 8
PRODUCED_PARTITIONS = 10
SETTLE_SECONDS = 5.0
READY_SECONDS_MAX = 600.0
POLL_S = 0.02


def measure_partitions(target: Target, settings: BenchSettings, partitions: int, program: Path | None) -> dict[str, float]:
    """One broker with so many partitions, from their creation to its second start. Raises TargetFailed where it cannot have them."""
    topics = _topics(partitions)
    target.start()
    metrics = {"create_s": _timed(lambda: _create(target, topics))}
    _fill(target, topics)
    time.sleep(SETTLE_SECONDS)
    before = target.cpu_seconds()
    time.sleep(settings.growth_idle_seconds)
    metrics["idle_cpu_percent"] = (target.cpu_seconds() - before) / settings.growth_idle_seconds * 100
    metrics |= {"rss_mib": target.rss_bytes() / 2**20, "descriptors": float(target.descriptors())}
    if program is not None:
        load = Load(frames=_produced(topics), connections=PRODUCE_CONNECTIONS, in_flight=5, partitions=1, rate=PRODUCE_RATE)
        warm_s, seconds = settings.growth_warm_seconds, settings.growth_produce_seconds
        found = run_load(program, _port(target), load, warm_s=warm_s, seconds=seconds, cpu=target.cpu_seconds)
        metrics |= {"produce_p50_ms": found["p50_ms"], "produce_p99_ms": found["p99_ms"]}
        metrics["produce_cpu_us"] = found["broker_cpu_s"] / found["answers"] * 1e6
    metrics["stop_s"] = _timed(target.stop)
    metrics["ready_after_stop_s"] = _timed(lambda: _ready(target, topics))
    target.kill()
    metrics["ready_after_kill_s"] = _timed(lambda: _ready(target, topics))
    return metrics


def _topics(partitions: int) -> dict[str, range]:
    whole, rest = divmod(partitions, TOPIC_PARTITIONS)
    found = {f"topic-{number}": range(TOPIC_PARTITIONS) for number in range(whole)}
    return found | ({f"topic-{whole}": range(rest)} if rest else {})


def _timed(work: Callable[[], None]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _create(target: Target, topics: dict[str, range]) -> None:
    names = list(topics)
    for first in range(0, len(names), TOPICS_A_REQUEST):
        target.create_topics({name: len(topics[name]) for name in names[first : first + TOPICS_A_REQUEST]}, KEPT)
    _wait_open(target, topics)


def _ready(target: Target, topics: dict[str, range]) -> None:
    target.start()
    _wait_open(target, topics)


def _wait_open(target: Target, topics: dict[str, range]) -> None:
    """Until the leader of every partition says where its log ends. Raises TargetFailed."""
    give_up, left = time.monotonic() + READY_SECONDS_MAX, dict(topics)
    with closing(Connection(target.bootstrap)) as connection:
        while left:
            name = next(iter(left))
            try:
                end_offsets(connection, {name: left[name]})
                del left[name]
            except Refused as why:
                if time.monotonic() > give_up:
                    raise TargetFailed(f"{len(left)} topics are not served after {READY_SECONDS_MAX} s: {why}") from why
                time.sleep(POLL_S)


def _fill(target: Target, topics: dict[str, range]) -> None:
    batch = record_batch(payloads(1))
    with closing(Connection(target.bootstrap)) as connection:
        for name, partitions in topics.items():
            frame = produce_many([(name, partition, batch) for partition in partitions])

            def send(frame: bytes = frame) -> None:
                connection.send(frame)
                check_produced(connection.receive())

            insist(send)


def _produced(topics: dict[str, range]) -> list[bytes]:
    batch = record_batch(payloads(1))
    return [produce_many([(next(iter(topics)), partition, batch)]) for partition in range(PRODUCED_PARTITIONS)]


def _port(target: Target) -> int:
    return int(target.bootstrap.rpartition(":")[2])
