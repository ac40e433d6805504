"""hotlog produce: lines in, records out, through a real client.

Invariants: exit code 0 means that every line was acknowledged (acks=all, idempotent) or skipped because --skip-bad said so; otherwise the
last line says how many were acknowledged, which line stopped it, and which line to go on with: no earlier line is missing then.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from confluent_kafka import KafkaException

from hotlog.cli.client import WAIT_SECONDS, ClientError, error_of, limits, producer
from hotlog.cli.complete import BOOTSTRAP_DEFAULT
from hotlog.cli.options import Bootstrap, ClientPairs, Topic, client_pairs
from hotlog.cli.output import say
from hotlog.cli.produce_lines import BadLine, Fields, Parse, parse_headers, parse_json, size_of, text_parser
from hotlog.cli.raw import full_disk_words
from hotlog.kernel.errors import HotlogError, Invalid

app = typer.Typer(add_completion=False)
BAD_LINES_SHOWN_MAX = 5
_FLUSH_SECONDS = 0.5


class Compression(StrEnum):
    """--compression"""

    none = "none"
    gzip = "gzip"
    snappy = "snappy"
    lz4 = "lz4"
    zstd = "zstd"


@app.command()
def produce(
    topic: Topic,
    source: Annotated[Path | None, typer.Option("--file", "-f", help="Read from a file instead of standard input.")] = None,
    key_separator: Annotated[
        str | None, typer.Option("--key-separator", "-k", metavar="TEXT", help="KEY, this text, VALUE in each line.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help='Each line is {"key":…,"value":…,"timestamp":ms,"headers":{…},"partition":n}.')
    ] = False,
    headers: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME=VALUE", help="A header of each record; may be repeated.")
    ] = None,
    partition: Annotated[
        int | None, typer.Option("--partition", "-p", min=0, max=2**31 - 1, help="Where records go that do not say it.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad lines out instead of stopping there; they are told.")
    ] = False,
    resume: Annotated[
        int, typer.Option("--resume", min=1, metavar="LINE", help="Begin with this line; where an earlier run stopped.")
    ] = 1,
    compression: Annotated[Compression, typer.Option("--compression", "-z", help="Of the batches.")] = Compression.zstd,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
    client: ClientPairs = None,
) -> None:
    """Write lines to a topic.

    Example: seq 10 | hotlog produce numbers
    Example: hotlog consume old -e --json | hotlog produce new --json
    """
    if json and key_separator is not None:
        raise Invalid("--json lines have their key in them; leave --key-separator or --json out")
    parse: Parse = parse_json if json else text_parser(key_separator)
    more: Fields = {"headers": parse_headers(headers)} if headers else {}
    if partition is not None:
        more["partition"] = partition
    pairs = client_pairs(client)
    settings = {"compression.type": compression.value, **limits(bootstrap, topic, pairs), **pairs}
    with _opened(source) as stream:
        sender = Sender(producer(bootstrap, settings), topic, why_silent=lambda: full_disk_words(bootstrap))
        with sender.reporting(skip_bad):
            for number, line in enumerate(stream, 1):
                if number < resume:
                    continue
                try:
                    sender.send(number, more | parse(line))
                except BadLine as wrong:
                    sender.bad(number, wrong, skips=skip_bad)
    say(sender.summary())


@contextmanager
def _opened(source: Path | None) -> Iterator[io.BufferedIOBase]:
    if source is None:
        yield sys.stdin.buffer  # type: ignore[misc]
        return
    try:
        stream = source.open("rb")
    except OSError as wrong:
        raise Invalid(f"--file {str(source)!r} cannot be read: {wrong.strerror}") from None
    with stream:
        yield stream


class Sender:
    """Sends records and knows what became of each line."""

    def __init__(
        self, client: Any, topic: str, *, stall_s: float = WAIT_SECONDS, why_silent: Callable[[], str] = lambda: ""
    ) -> None:
        self._client = client
        self._why_silent = why_silent
        self._topic = topic
        self._stall_s = stall_s
        self._acknowledged = 0
        self._acknowledged_last = 0  # the last line that was
        self._next = 1  # the line after the last one that was dealt with
        self._bad = 0
        self._has_stalled = False
        self._failed_line: int | None = None
        self._failure: HotlogError | None = None
        self._pending: dict[int, None] = {}  # lines that are under way, oldest first

    def send(self, number: int, fields: Fields) -> None:
        """Hand a line's record to the client.

        Raises:
            BadLine: it can never be sent.  HotlogError: an earlier one was refused.
        """

        def delivered(error: Any, message: Any, number: int = number) -> None:
            self._pending.pop(number, None)
            if error is None:
                self._acknowledged += 1
                self._acknowledged_last = max(self._acknowledged_last, number)
            elif self._failed_line is None or number < self._failed_line:
                self._failed_line, self._failure = number, error_of(error)

        while True:
            self._stop_if_failed()
            try:
                self._client.produce(self._topic, on_delivery=delivered, **fields)
                break
            except BufferError:
                self._client.poll(0.1)
            except KafkaException as wrong:
                if wrong.args[0].name() == "MSG_SIZE_TOO_LARGE":
                    raise BadLine(f"{size_of(fields):,} bytes are more than the topic takes (max.message.bytes)") from None
                self._failed_line, self._failure = number, error_of(wrong.args[0])
            except (TypeError, ValueError, OverflowError) as wrong:
                raise BadLine(str(wrong)) from None
        self._pending[number] = None
        self._next = number + 1
        self._client.poll(0)

    def bad(self, number: int, wrong: BadLine, *, skips: bool) -> None:
        """A line that is no record: skipped and told, or the end."""
        if not skips:
            self._failed_line, self._failure = number, Invalid(f"line {number}: {wrong}")
            self._stop_if_failed()
        self._bad += 1
        self._next = number + 1
        if self._bad <= BAD_LINES_SHOWN_MAX:
            say(f"line {number} left out: {wrong}")

    def _stop_if_failed(self) -> None:
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def reporting(self, skips: bool) -> Iterator[None]:
        """Wait for what is under way; however it ends, say what was acknowledged."""
        try:
            yield
            self._flush()
            self._stop_if_failed()
        except KeyboardInterrupt:
            self._flush()
            say(self._standing(self._failed_line or self._next))
            raise
        except HotlogError as failure:
            self._flush()
            raise type(failure)(f"{failure}; {self._standing(self._first_open(), can_skip=not skips)}") from None

    def _flush(self) -> None:
        """Until every record is answered for, or none was for a while: that is waited for once."""
        if self._has_stalled:
            return
        heard, since = self._acknowledged, time.monotonic()
        while self._client.flush(_FLUSH_SECONDS):
            if self._acknowledged != heard:
                heard, since = self._acknowledged, time.monotonic()
            elif time.monotonic() - since > self._stall_s:
                self._has_stalled = True
                self._failure = self._failure or ClientError(f"no answer within {self._stall_s:.0f} s{self._why_silent()}")
                return

    def _first_open(self) -> int:
        """The first line of which nobody knows that it was acknowledged."""
        lines = [*list(self._pending)[:1], *([] if self._failed_line is None else [self._failed_line])]
        return min(lines, default=self._next)

    def _standing(self, line: int, *, can_skip: bool = False) -> str:
        is_bad = can_skip and isinstance(self._failure, Invalid) and line == self._failed_line
        skip = " or leave bad lines out with --skip-bad" if is_bad else ""
        later = (
            f" (some after it are acknowledged, the last is line {self._acknowledged_last})"
            if self._acknowledged_last > line
            else ""
        )
        return f"{self._acknowledged} records acknowledged, none before line {line} is missing{later}; go on with --resume {line}{skip}"

    def summary(self) -> str:
        left_out = f", {self._bad} bad lines left out" if self._bad else ""
        return f"{self._acknowledged} records acknowledged by {self._topic}{left_out}"
