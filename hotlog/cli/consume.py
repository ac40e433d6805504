"""hotlog consume: a topic, or a stretch of it, to standard output.

Invariants: without --group nothing is committed; `--until-end` stops at the offsets that were the latest when it began.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from confluent_kafka import KafkaError, TopicPartition

from hotlog.cli.client import WAIT_SECONDS, ClientError, answered, consumer, record_of
from hotlog.cli.options import BOOTSTRAP_DEFAULT, Bootstrap
from hotlog.cli.times import Position, parse_position
from hotlog.kernel.errors import NotFound
from tiering.replay_sinks import json_line

app = typer.Typer(add_completion=False)
Printer = Callable[[Any], str]


@app.command()
def consume(
    topic: Annotated[str, typer.Argument(metavar="TOPIC")],
    start: Annotated[str, typer.Option("--from", help="earliest, latest, an offset or a time (2013-02-01).")] = "earliest",
    count: Annotated[int | None, typer.Option("--count", "-n", help="Stop after this many records.")] = None,
    until_end: Annotated[bool, typer.Option("--until-end", "-e", help="Stop at the end of the topic.")] = False,
    group: Annotated[str | None, typer.Option("--group", "-g", help="Join this group and commit.")] = None,
    partition: Annotated[int | None, typer.Option("--partition", "-p", help="One partition only.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line: partition, offset, timestamp, key, value, headers.")
    ] = False,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
) -> None:
    """Read a topic.  Example: hotlog consume numbers --until-end --json"""
    extra: dict[str, Any] = {"group.id": group, "enable.auto.commit": True} if group else {}
    client = consumer(bootstrap, extra)
    show: Printer = _json_line if json else _text_line
    try:
        if group:
            client.subscribe([topic])
            ends: set[int] = set(_partitions(client, topic)) if until_end else set()
        else:
            places = start_places(client, topic, start, partition)
            client.assign(places)
            ends = {place.partition for place in places} if until_end else set()
        for message in records(client, count, ends):
            sys.stdout.write(show(message))
    finally:
        sys.stdout.flush()
        client.close()


def records(client: Any, count: int | None, ends: set[int]) -> Iterator[Any]:
    """Messages until `count` are out or every partition in `ends` reported its end (an empty set: for ever)."""
    waits_for_end, left = bool(ends), count
    while (left is None or left > 0) and (ends or not waits_for_end):
        for message in client.consume(min(left or 1000, 1000), 0.5):
            error = message.error()
            if error is None:
                ends |= {message.partition()} & ends
                left = None if left is None else left - 1
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                ends.discard(message.partition())
            else:
                raise ClientError(f"{error.name()}: {error.str()}")


def start_places(client: Any, topic: str, start: str, partition: int | None) -> list[TopicPartition]:
    """Where to begin in each partition."""
    indexes = _partitions(client, topic) if partition is None else [partition]
    special = {"earliest": -2, "latest": -1}
    if start in special:
        return [TopicPartition(topic, index, special[start]) for index in indexes]
    position: Position = parse_position(start)
    if position.offset is not None:
        return [TopicPartition(topic, index, position.offset) for index in indexes]
    wanted = [TopicPartition(topic, index, position.timestamp_ms or 0) for index in indexes]
    return list(answered(lambda: client.offsets_for_times(wanted, timeout=WAIT_SECONDS)))


def _partitions(client: Any, topic: str) -> list[int]:
    meta = answered(lambda: client.list_topics(topic, timeout=WAIT_SECONDS)).topics[topic]
    if meta.error is not None:
        raise NotFound(f"topic {topic!r}: {meta.error.str()}")
    return sorted(meta.partitions)


def _json_line(message: Any) -> str:
    return json_line(message.partition(), record_of(message))


def _text_line(message: Any) -> str:
    value = message.value()
    return ("" if value is None else str(value, "utf-8", "replace")) + "\n"
