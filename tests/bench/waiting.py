"""What consumers cost that wait for what is new: one fetch session over many partitions, and many consumers of one topic.

Invariants:
- Of a session's fetch the broker's CPU is that of the whole round, one record produced and fetched, less what the same produce costs alone.
- A consumer that waits has its request at the broker before the record is sent; its latency is from the record's own stamp.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from kio.schema.fetch.v12 import response as fetch_response

from tests.bench.frames import end_offsets, fetch_many, follow_at, insist, produce_many, stamped_batch
from tests.bench.load import Load, running
from tests.bench.settings import BenchSettings
from tests.bench.small import KEPT
from tests.bench.targets import Target
from tests.bench.wire import Connection, Refused, answer_of, check_produced, fetched

SESSION_WAIT_MS = 10_000
STEP = 7  # from one moved partition to the next: no neighbours
TOPIC_PARTITIONS = 1_000
CONNECT_SECONDS = 5.0


def measure_session(target: Target, settings: BenchSettings, partitions: int) -> dict[str, float]:
    """One consumer's incremental fetch session over `partitions` idle partitions; records come one by one, each to another of them."""
    topics = {
        f"session-{number}": range(min(TOPIC_PARTITIONS, partitions - first))
        for number, first in enumerate(range(0, partitions, TOPIC_PARTITIONS))
    }
    target.start()
    for name, numbers in topics.items():
        target.create_topic(name, len(numbers), KEPT)
    warm = settings.session_warm_records
    places = [(name, number) for name, numbers in topics.items() for number in numbers]
    with closing(Connection(target.bootstrap)) as producing, closing(Connection(target.bootstrap)) as consuming:
        insist(lambda: _check_open(producing, topics))
        session = _Session(consuming, topics)
        rounds = [places[number * STEP % len(places)] for number in range(warm + settings.session_records)]
        for place in rounds[:warm]:
            session.follow(producing, place)
        cpu, began = target.cpu_seconds(), time.monotonic()
        for place in rounds[warm:]:
            session.follow(producing, place)
        took, both = time.monotonic() - began, target.cpu_seconds() - cpu
    with closing(Connection(target.bootstrap)) as producing:  # nobody waits now
        cpu = target.cpu_seconds()
        for place in rounds[warm:]:
            _produce(producing, place)
        alone = target.cpu_seconds() - cpu
    records = settings.session_records
    return {
        "round_cpu_us": both / records * 1e6,
        "produce_cpu_us": alone / records * 1e6,
        "fetch_cpu_us": max(both - alone, 0.0) / records * 1e6,
        "round_ms": took / records * 1e3,
        "partitions": float(partitions),
    }


def _check_open(connection: Connection, topics: dict[str, range]) -> None:
    for name, numbers in topics.items():
        end_offsets(connection, {name: numbers})


def _produce(connection: Connection, place: tuple[str, int]) -> None:
    connection.send(produce_many([(*place, stamped_batch())]))
    check_produced(connection.receive())


class _Session:
    """A consumer as KIP-227 has it: all partitions once, from then on only those that moved."""

    def __init__(self, connection: Connection, topics: dict[str, range]) -> None:
        self._connection, self._epoch = connection, 1
        self._offsets = {(name, number): 0 for name, numbers in topics.items() for number in numbers}
        self._moved: tuple[str, int] | None = None
        everything = {name: dict.fromkeys(numbers, 0) for name, numbers in topics.items()}
        connection.send(fetch_many(everything, wait_ms=0, bytes_min=0, session=(0, 0)))
        answer = answer_of(fetch_response.FetchResponse, connection.receive())
        if not answer.session_id:
            raise Refused("the broker gave no fetch session")
        self._id = int(answer.session_id)

    def follow(self, producing: Connection, place: tuple[str, int]) -> None:
        """Ask, then let a record come to `place`, and take it. Raises Refused where another answer came."""
        said = {self._moved[0]: {self._moved[1]: self._offsets[self._moved]}} if self._moved is not None else {}
        self._connection.send(fetch_many(said, wait_ms=SESSION_WAIT_MS, session=(self._id, self._epoch)))
        _produce(producing, place)
        size, following = fetched(self._connection.receive())
        if not size or set(following) != {place[1]}:
            raise Refused(f"a record came to {place}, and the session told of {following}")
        self._offsets[place], self._moved, self._epoch = following[place[1]], place, self._epoch + 1


def measure_long_poll(target: Target, settings: BenchSettings, program: Path) -> dict[str, float]:
    """Many consumers wait at the end of one partition; a few records a second go to all of them."""
    target.start()
    target.create_topic("news", 1, KEPT)
    with closing(Connection(target.bootstrap)) as producing:
        insist(lambda: _produce(producing, ("news", 0)))
        frame, place = follow_at("news", 0, 1)
        load = Load(frames=[frame], connections=settings.poll_consumers, partitions=1, follow=place)
        port = int(target.bootstrap.rpartition(":")[2])
        with running(program, port, load, warm_s=CONNECT_SECONDS, seconds=settings.poll_seconds) as run:
            run.until("measuring")
            cpu, records = target.cpu_seconds(), 0
            first = time.monotonic()
            while (due := first + records / settings.poll_rate) < first + settings.poll_seconds:
                time.sleep(max(0.0, due - time.monotonic()))
                _produce(producing, ("news", 0))
                records += 1
            run.until("measured")
            used = target.cpu_seconds() - cpu
            found = run.result()
    deliveries = found["with_records"]
    return {
        "deliveries_per_s": deliveries / found["seconds"],
        "delivered_share": found["batches"] / (records * settings.poll_consumers),
        "delivery_cpu_us": used / max(deliveries, 1.0) * 1e6,
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "broker_cpu_share": used / found["seconds"],
        "rss_mib": target.rss_bytes() / 2**20,
    }
