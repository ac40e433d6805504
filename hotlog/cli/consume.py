"""hotlog consume: topics, or a stretch of them, to standard output.

Invariants: without --group nothing is committed; with it, a record is committed after it was printed and flushed, never before; a reader
with an end (--until-end, --until) stops at the offsets that were the latest when it began; bytes are printed as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from confluent_kafka import KafkaException, TopicPartition

from hotlog.cli.client import consumer, record_of
from hotlog.cli.complete import BOOTSTRAP_DEFAULT
from hotlog.cli.exact_headers import ExactHeaders
from hotlog.cli.line_format import Formatter, HeadersOf, parse_format, text_format
from hotlog.cli.options import Bootstrap, ClientPairs, From, Topics, Until, client_pairs
from hotlog.cli.output import put, say
from hotlog.cli.reading import Reading, Stretch, stretches
from hotlog.cli.times import parse_position, place
from hotlog.kernel.errors import Invalid
from tiering.replay.sinks import json_line

app = typer.Typer(add_completion=False)
_COMMIT_INTERVAL_MS = 1000


@app.command()
def consume(
    topics: Topics,
    start: From = "earliest",
    until: Until = None,
    count: Annotated[int | None, typer.Option("--count", "-n", min=0, help="Stop after this many records.")] = None,
    until_end: Annotated[bool, typer.Option("--until-end", "-e", help="Stop where the topic ended when this began.")] = False,
    group: Annotated[str | None, typer.Option("--group", "-g", help="Join this group; commit what was printed.")] = None,
    partitions: Annotated[
        list[int] | None, typer.Option("--partition", "-p", metavar="N", help="This partition only; may be repeated.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line: partition, offset, timestamp, key, value, headers.")
    ] = False,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help=r"As kcat's: %s value, %k key, %t topic, %p, %o, %T time, %h headers, %S, %K, \n.",
        ),
    ] = None,
    key_separator: Annotated[
        str | None, typer.Option("--key-separator", "-k", metavar="TEXT", help="Print the key and this before the value.")
    ] = None,
    headers: Annotated[bool, typer.Option("--headers", "-H", help="Print the headers and a tab before it.")] = False,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
    client: ClientPairs = None,
) -> None:
    """Read topics; bytes come as they are, a line feed after each value.

    Example: hotlog consume numbers --until-end --json
    Example: hotlog consume clicks --from -2h --until now -f '%o %k %s\\n'
    """
    show = _formatter(topics, json, form, key_separator, headers, ExactHeaders(bootstrap))
    is_bounded = until_end or until is not None
    extra: dict[str, Any] = dict(client_pairs(client))
    if group is not None:
        extra = _group_settings(group, start or "earliest", partitions) | extra
    places = (place(start), place(until))
    kafka = consumer(bootstrap, extra)
    try:
        plan: list[Stretch] = []
        for topic in dict.fromkeys(topics):
            first, end = (None, places[1]) if group is not None else places
            plan += stretches(kafka, topic, first, end, partitions=partitions, is_bounded=is_bounded)
        reading = Reading(kafka, plan)
        if group is None:
            reading.assign(plan)
        else:
            reading.subscribe(list(dict.fromkeys(topics)))
        for batch in reading.batches(count):
            put(b"".join(map(show, batch)))
            if group is not None:
                _printed(kafka, batch)
    finally:
        kafka.close()  # commits what was noted as printed


def _formatter(
    topics: Sequence[str], json: bool, form: str | None, key_separator: str | None, with_headers: bool, headers_of: HeadersOf
) -> Formatter:
    if json + (form is not None) + (key_separator is not None or with_headers) > 1:
        raise Invalid("--json, --format, and --key-separator with --headers are three ways to print; choose one")
    if form is not None:
        return parse_format(form, headers_of)
    if not json:
        return text_format(key_separator, headers_of if with_headers else None)
    if len(set(topics)) == 1:
        return lambda message: json_line(message.partition(), record_of(message, headers_of)).encode()
    return lambda message: json_line(message.partition(), record_of(message, headers_of), topic=message.topic()).encode()


def _group_settings(group: str, start: str, partitions: Sequence[int] | None) -> dict[str, Any]:
    """A member of a group: where it begins is the group's; what it commits is what `_printed` notes.

    Raises:
        Invalid: options that a group decides itself.
    """
    if partitions:
        raise Invalid("--partition: a group gives its members their partitions; leave --group or --partition out")
    if start not in ("earliest", "latest"):
        parse_position(start)
        raise Invalid(f"--from {start}: a group goes on where it is; where it never was, it begins at earliest or latest")
    return {
        "group.id": group, "enable.auto.commit": True, "enable.auto.offset.store": False, "auto.offset.reset": start,
        "auto.commit.interval.ms": _COMMIT_INTERVAL_MS, "on_commit": _tell_failure,
    }  # fmt: skip


def _printed(kafka: Any, batch: Sequence[Any]) -> None:
    """Note what may be committed."""
    last = {(message.topic(), message.partition()): message.offset() for message in batch}
    for (topic, partition), offset in last.items():
        try:
            kafka.store_offsets(offsets=[TopicPartition(topic, partition, offset + 1)])
        except KafkaException:  # the partition went to another member, who reads these records again
            say(f"{topic}-{partition} was given to another member of the group")


def _tell_failure(error: Any, places: Any) -> None:
    if error is not None and error.name() != "_NO_OFFSET":
        say(f"offsets were not committed: {error.str()}")
