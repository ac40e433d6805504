"""The clients of the bench. Each workload runs in a process of its own: `python -m tests.bench.workloads JSON`.

The last line of stdout is the result as JSON. Payload is 1 KiB messages, half noise and half words, so that lz4
has about what it has with real events.

Invariants:
- A workload counts only what the broker confirmed: acked batches, or the end offsets after a flush.
- Latency runs from the moment a message was due, not from when it was sent, so a stall is not hidden.
- Clocks are CLOCK_MONOTONIC, which is one clock for all processes of a machine.
"""

from __future__ import annotations

import json
import random
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from statistics import quantiles
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.bench.settings import BATCH_BYTES, CONNECTIONS, INFLIGHT_REQUESTS, MESSAGE_BYTES, PARTITIONS
from tests.bench.wire import (
    Connection,
    check_produced,
    fetch_frame,
    fetched,
    list_offset,
    produce_frame,
    record_batch,
)

WORDS = b"order paid shipped returned user session click view search basket checkout europe-west retry ok failed ".split()
RECORD_OVERHEAD_BYTES = 12
CHUNK_MESSAGES = 1_000
LATEST = -1
FLUSH_SECONDS_MAX = 300
IDLE_SECONDS_MAX = 30
_DUE = struct.Struct(">qq")


def payloads(count: int, size: int = MESSAGE_BYTES) -> list[bytes]:
    """`count` different messages of `size` bytes, the same in every run."""
    chance = random.Random(7)
    made = []
    for _ in range(count):
        words = b" ".join(chance.choice(WORDS) for _ in range(size // 8))[: size // 2]
        made.append((words + chance.randbytes(size))[:size])
    return made


def produce_wire(bootstrap: str, topic: str, messages: int) -> dict[str, float]:
    """Send ready-made 1 MB batches over several connections, a few requests in flight on each."""
    batch_messages = BATCH_BYTES // (MESSAGE_BYTES + RECORD_OVERHEAD_BYTES)
    batch = record_batch(payloads(batch_messages))
    requests = max(1, messages // batch_messages // CONNECTIONS)

    def run(number: int) -> None:
        own = range(number, PARTITIONS, CONNECTIONS)
        frames = [memoryview(produce_frame(topic, partition, batch)) for partition in own]
        connection = Connection(bootstrap)
        for sent in range(requests):
            if sent >= INFLIGHT_REQUESTS:
                check_produced(connection.receive())
            connection.send(frames[sent % len(frames)])
        for _ in range(min(requests, INFLIGHT_REQUESTS)):
            check_produced(connection.receive())
        connection.close()

    seconds = _together(run)
    return _throughput(requests * CONNECTIONS * batch_messages, seconds)


def fetch_wire(bootstrap: str, topic: str, messages: int, until: int = LATEST) -> dict[str, float]:
    """Read all partitions from offset 0 over several connections, one request in flight on each.

    `until` is a special timestamp of ListOffsets: -1 reads to the end, -4 to where the local log begins.
    """
    totals = [0] * CONNECTIONS

    def run(number: int) -> None:
        connection = Connection(bootstrap)
        own = range(number, PARTITIONS, CONNECTIONS)
        ends = {partition: list_offset(connection, topic, partition, until) for partition in own}
        at = dict.fromkeys(own, 0)
        while pending := {partition: offset for partition, offset in at.items() if offset < ends[partition]}:
            connection.send(fetch_frame(topic, pending))
            size, following = fetched(connection.receive())
            totals[number] += size
            at.update(following)
        connection.close()

    seconds = _together(run)
    return {"gb_per_s": sum(totals) / seconds / 1e9, "seconds": seconds, "bytes": sum(totals)}


def replay_loop(bootstrap: str, topic: str, until: int = LATEST) -> dict[str, float]:
    """fetch_wire again and again, until stdin ends; says `replaying` when every connection has its first answer."""
    totals, over = [0] * CONNECTIONS, threading.Event()
    first = threading.Barrier(CONNECTIONS, action=lambda: print("replaying", flush=True))

    def run(number: int) -> None:
        connection = Connection(bootstrap)
        own = range(number, PARTITIONS, CONNECTIONS)
        ends = {partition: list_offset(connection, topic, partition, until) for partition in own}
        at: dict[int, int] = {}
        is_first = True
        while not over.is_set():
            pending = {partition: offset for partition, offset in at.items() if offset < ends[partition]}
            at = at if pending else dict.fromkeys(own, 0)
            connection.send(fetch_frame(topic, pending or at))
            size, following = fetched(connection.receive())
            totals[number] += size
            at.update(following)
            if is_first and size:
                first.wait(IDLE_SECONDS_MAX)
                is_first = False
        connection.close()

    def watch() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=watch, daemon=True).start()
    seconds = _together(run)
    return {"gb_per_s": sum(totals) / seconds / 1e9, "seconds": seconds, "bytes": sum(totals)}


def _together(run: Callable[[int], None]) -> float:
    """Run `run(number)` in one thread a connection; the seconds all of them took. Raises the first error."""
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            run(number)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(CONNECTIONS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - began


def produce_library(bootstrap: str, topic: str, messages: int, codec: str = "none") -> dict[str, float]:
    """librdkafka (confluent-kafka): acks=all, 1 MB batches, linger 20 ms."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "compression.type": codec,
            "batch.size": BATCH_BYTES,
            "batch.num.messages": BATCH_BYTES // MESSAGE_BYTES,
            "linger.ms": 20,
            "queue.buffering.max.messages": 200_000,
            "max.in.flight.requests.per.connection": INFLIGHT_REQUESTS,
        }
    )
    chunk = [{"value": value} for value in payloads(CHUNK_MESSAGES)]
    before = sum(_end_offsets(bootstrap, topic).values())
    began = time.perf_counter()
    for number in range(messages // CHUNK_MESSAGES):
        _queue_all(producer, topic, chunk, number % PARTITIONS)
    left = producer.flush(FLUSH_SECONDS_MAX)
    seconds = time.perf_counter() - began
    delivered = sum(_end_offsets(bootstrap, topic).values()) - before
    expected = messages // CHUNK_MESSAGES * CHUNK_MESSAGES
    assert left == 0 and delivered == expected, f"{delivered} of {expected} messages delivered, {left} left"
    return _throughput(delivered, seconds)


def _queue_all(producer: Producer, topic: str, chunk: list[dict[str, Any]], partition: int) -> None:
    wanted = chunk
    while wanted:
        with suppress(BufferError):
            producer.produce_batch(topic, wanted, partition=partition)
        wanted = [each for each in wanted if each.pop("_error", None) is not None]
        if wanted:
            producer.poll(0.005)


def _end_offsets(bootstrap: str, topic: str, until: int = LATEST) -> dict[int, int]:
    connection = Connection(bootstrap)
    ends = {partition: list_offset(connection, topic, partition, until) for partition in range(PARTITIONS)}
    connection.close()
    return ends


def fetch_library(bootstrap: str, topic: str, messages: int, until: int = LATEST) -> dict[str, float]:
    """librdkafka consumer with its default fetch sizes, all partitions assigned from offset 0; `until` as above.

    Its default of waiting a whole second after its own queue was full (fetch.queue.backoff.ms) is taken away: it would
    punish the broker that fills the queue faster.
    """
    settings = {"enable.auto.commit": False, "fetch.queue.backoff.ms": 1}
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench", **settings})
    ends = _end_offsets(bootstrap, topic, until)
    wanted = sum(ends.values())
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    got, size, began = 0, 0, time.perf_counter()
    while got < wanted:
        batch = consumer.consume(min(CHUNK_MESSAGES, wanted - got), timeout=IDLE_SECONDS_MAX)
        assert batch, f"no message for {IDLE_SECONDS_MAX} s after {got} of {wanted}"
        if until != LATEST:
            batch = [each for each in batch if (each.offset() or 0) < ends[each.partition() or 0]]
        got += len(batch)
        size += sum(map(len, batch))
    seconds = time.perf_counter() - began
    consumer.close()
    return {"gb_per_s": size / seconds / 1e9, "messages_per_s": got / seconds, "seconds": seconds, "bytes": size}


def latency_send(bootstrap: str, topic: str, rate: int, seconds: int) -> dict[str, float]:
    """Send `rate` messages a second, evenly, each stamped with the instant at which it was due."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 1})
    body = payloads(1, MESSAGE_BYTES - _DUE.size)[0]
    interval_ns = 1_000_000_000 // rate
    began = time.monotonic_ns()
    for number in range(rate * seconds):
        due = began + number * interval_ns
        while (wait := due - time.monotonic_ns()) > 0:
            time.sleep(wait / 1e9)
        producer.produce(topic, _DUE.pack(number, due) + body)
        producer.poll(0)
    late_ns = time.monotonic_ns() - (began + rate * seconds * interval_ns)
    left = producer.flush(IDLE_SECONDS_MAX)
    return {"sent": rate * seconds, "left": left, "sender_late_ms": late_ns / 1e6}


def latency_receive(bootstrap: str, topic: str, rate: int, seconds: int, warm_seconds: int) -> dict[str, float]:
    """Receive what latency_send sends; percentiles, in ms, of all messages after the warm-up."""
    wanted, skip = rate * seconds, rate * warm_seconds
    waits: list[float] = []
    for number, due in _arrivals(bootstrap, topic, wanted):
        if number >= skip:
            waits.append((time.monotonic_ns() - due) / 1e6)
    cuts = quantiles(waits, n=1_000, method="inclusive")
    return {"p50_ms": cuts[499], "p99_ms": cuts[989], "p999_ms": cuts[998], "max_ms": max(waits), "count": len(waits)}


def _arrivals(bootstrap: str, topic: str, count: int) -> Iterator[tuple[int, int]]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    print("receiving", flush=True)
    for _ in range(count):
        message = consumer.poll(IDLE_SECONDS_MAX)
        assert message is not None and message.error() is None, f"no message for {IDLE_SECONDS_MAX} s: {message}"
        yield _DUE.unpack_from(message.value() or b"")
    consumer.close()


def _throughput(messages: int, seconds: float) -> dict[str, float]:
    size = messages * MESSAGE_BYTES
    return {
        "gb_per_s": size / seconds / 1e9,
        "messages_per_s": messages / seconds,
        "seconds": seconds,
        "bytes": size,
    }


CALLS: dict[str, Callable[..., dict[str, float]]] = {
    each.__name__: each
    for each in (produce_wire, fetch_wire, replay_loop, produce_library, fetch_library, latency_send, latency_receive)
}


def main() -> None:
    """Run the one workload named by the JSON argument `{"call": NAME, ...arguments}`."""
    arguments = json.loads(sys.argv[1])
    call = CALLS[arguments.pop("call")]
    result = call(**arguments)
    print(json.dumps(result | {"client_cpu_s": time.process_time()}), flush=True)


if __name__ == "__main__":
    main()
