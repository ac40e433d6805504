"""hotlog produce: lines in, records out, through a real client.

Invariants: exit code 0 means that every line was acknowledged (acks=all, idempotent).
"""

from __future__ import annotations

import base64
import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from confluent_kafka import KafkaException

from hotlog.cli.client import WAIT_SECONDS, ClientError, producer
from hotlog.cli.options import BOOTSTRAP_DEFAULT, Bootstrap
from hotlog.cli.output import say
from hotlog.kernel.errors import Invalid

app = typer.Typer(add_completion=False)


@app.command()
def produce(
    topic: Annotated[str, typer.Argument(metavar="TOPIC")],
    source: Annotated[Path | None, typer.Option("--file", "-f", help="Read from a file instead of standard input.")] = None,
    key_separator: Annotated[
        str | None, typer.Option("--key-separator", "-k", help="KEY, this text, VALUE in each line.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help='Each line is {"key":…,"value":…,"timestamp":ms,"headers":{…},"partition":n}.')
    ] = False,
    compression: Annotated[str, typer.Option(help="none, gzip, snappy, lz4 or zstd.")] = "zstd",
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
) -> None:
    """Write lines to a topic.  Example: seq 10 | hotlog produce numbers"""
    client = producer(bootstrap, {"compression.type": compression})
    failures: list[str] = []
    count = 0
    stream = source.open("rb") if source else sys.stdin.buffer
    with stream:
        for number, line in enumerate(stream, 1):
            fields = _from_json(line, number) if json else _from_text(line.rstrip(b"\r\n"), key_separator)
            _send(client, topic, fields, failures)
            count += 1
    left = client.flush(WAIT_SECONDS)
    if left or failures:
        raise ClientError(
            f"{left + len(failures)} of {count} records were not acknowledged: {failures[:1] or 'no answer in time'}"
        )
    say(f"{count} records acknowledged by {topic}")


def _from_text(line: bytes, separator: str | None) -> dict[str, Any]:
    if separator is None:
        return {"value": line}
    key, mark, value = line.partition(separator.encode())
    return {"key": key, "value": value} if mark else {"value": line}


def _from_json(line: bytes, number: int) -> dict[str, Any]:
    try:
        given = jsonlib.loads(line)
        fields: dict[str, Any] = {"value": _bytes(given.get("value"))}
    except (ValueError, AttributeError) as wrong:
        raise Invalid(f"line {number} is not a JSON object: {wrong}") from None
    if given.get("key") is not None:
        fields["key"] = _bytes(given["key"])
    for name in ("timestamp", "partition"):
        if name in given:
            fields[name] = int(given[name])
    if given.get("headers"):
        fields["headers"] = [(name, _bytes(value)) for name, value in _pairs(given["headers"])]
    return fields


def _pairs(headers: Any) -> list[tuple[str, Any]]:
    """Headers as an object, or as a list of pairs where names repeat (as `consume --json` prints them)."""
    return list(headers.items()) if isinstance(headers, dict) else [(name, value) for name, value in headers]


def _bytes(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, dict) and set(value) == {"base64"}:
        return base64.b64decode(value["base64"])
    return value.encode() if isinstance(value, str) else jsonlib.dumps(value, separators=(",", ":")).encode()


def _send(client: Any, topic: str, fields: dict[str, Any], failures: list[str]) -> None:
    def done(error: Any, message: Any) -> None:
        if error is not None:
            failures.append(error.str())

    while True:
        try:
            client.produce(topic, on_delivery=done, **fields)
            client.poll(0)
            return
        except BufferError:
            client.poll(0.1)
        except KafkaException as wrong:
            raise ClientError(str(wrong.args[0])) from None
