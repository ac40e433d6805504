"""Where a replay puts records: standard output, a file, a directory of raw logs, or a topic that exists.

Invariants: a file is opened with the first record, written aside and renamed when the replay is whole: until then, and if it fails, a file of
that name is what it was; exit code 0 means that a topic has acknowledged every record.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from confluent_kafka import KafkaException

from hotlog.cli.client import WAIT_SECONDS, ClientError, admin, answered, limits, producer
from hotlog.cli.output import put
from hotlog.cli.raw import full_disk_words
from hotlog.kernel.errors import Invalid, NotFound
from hotlog.wire.records import Record
from hotlog.world.posix import PosixDisk
from tiering.replay.sinks import JsonLinesSink, RawLogSink, RecordSink, json_line
from tiering.replay.topic import Sink

_FLUSH_SECONDS = 120


class Target:
    """A file's name has a slash, or ends with .json or .jsonl; a directory's ends with a slash (direct replays only)."""

    def __init__(self, to: str, bootstrap: str, extra: Mapping[str, str] | None = None) -> None:
        self._to, self._bootstrap = to, bootstrap
        self._client: Any = None
        self._file: _FileAside | None = None
        self._failures: list[str] = []
        self._turn = asyncio.Lock()  # partitions come side by side, a stream takes one at a time
        if to == "-" or to.endswith("/"):
            return
        if "/" in to or to.endswith((".jsonl", ".json")):
            self._file = _FileAside(Path(to))
            return
        if to not in answered(lambda: admin(bootstrap, extra).list_topics(timeout=WAIT_SECONDS), bootstrap).topics:
            raise NotFound(f"topic {to!r} does not exist on {bootstrap}; a file is written with a slash: ./{to}")
        self._client = producer(bootstrap, limits(bootstrap, to, extra) | dict(extra or {}))

    def __enter__(self) -> Target:
        return self

    def __exit__(self, kind: object, *failure: object) -> None:
        is_whole = kind is None
        if self._client is not None:
            left = self._client.flush(_FLUSH_SECONDS)
            if (left or self._failures) and is_whole:
                raise ClientError(
                    f"{left + len(self._failures)} records were not acknowledged by {self._to}: {self._failures[:1]}"
                    + full_disk_words(self._bootstrap)
                )
        elif self._file is not None:
            self._file.close(is_whole=is_whole)

    def sink(self, topic: str) -> Sink:
        """For a direct replay: lines are made, and raw batches written, without going over `give`."""
        if self._to.endswith("/"):
            return RawLogSink(PosixDisk(), self._to.rstrip("/"), topic)
        return RecordSink(self._hand_on) if self._client is not None else JsonLinesSink(self._write_lines)

    async def _write_lines(self, lines: bytes) -> None:
        async with self._turn:
            await asyncio.to_thread(self._write, lines)

    async def _hand_on(self, partition: int, records: list[Record]) -> None:
        async with self._turn:
            await asyncio.to_thread(self.give, partition, records)

    def give(self, partition: int, records: Sequence[Record]) -> None:
        """Take records of one partition, in their order."""
        if self._client is None:
            self._write("".join(json_line(partition, record) for record in records).encode())
            return
        for record in records:
            self._produce(record)

    def _write(self, lines: bytes) -> None:
        if self._file is None:
            put(lines)
        else:
            self._file.stream().write(lines)

    def _produce(self, record: Record) -> None:
        fields: dict[str, Any] = {"value": record.value, "key": record.key, "timestamp": record.timestamp}
        if record.headers:
            fields["headers"] = list(record.headers)
        while not self._failures:
            try:
                self._client.produce(self._to, on_delivery=self._delivered, **fields)
                self._client.poll(0)
                return
            except BufferError:
                self._client.poll(0.1)
            except KafkaException as wrong:
                self._failures.append(wrong.args[0].str())
            except UnicodeEncodeError:  # a header's name, which clients hold as text
                self._failures.append("a header's name is not UTF-8; librdkafka's Python binding sends no other")
        raise ClientError(f"stopped at offset {record.offset}, records cannot go to {self._to}: {self._failures[0]}")

    def _delivered(self, error: Any, message: Any) -> None:
        if error is not None:
            self._failures.append(error.str())


class _FileAside:
    """A file that is written beside its place and put there when it is whole.  What is no plain file (a pipe, /dev/stdout) is written as it is."""

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise Invalid(f"--to {str(path)!r} is a directory; raw logs go to {path}/ with --direct")
        if not path.parent.is_dir():
            raise Invalid(f"--to {str(path)!r}: there is no directory {str(path.parent)!r}")
        self._path = path.resolve()  # a link stays one
        self._is_plain = not path.exists() or path.is_file()
        self._aside: Path | None = None
        self._stream: IO[bytes] | None = None

    def stream(self) -> IO[bytes]:
        """Opened when it is first asked for."""
        if self._stream is None:
            if self._is_plain:
                handle, name = tempfile.mkstemp(prefix=f".{self._path.name[:200]}.", suffix=".part", dir=self._path.parent)
                self._aside, self._stream = Path(name), os.fdopen(handle, "wb")
            else:
                self._stream = self._path.open("wb")
        return self._stream

    def close(self, *, is_whole: bool) -> None:
        """Put it in its place, or leave no trace of it."""
        if is_whole:
            self.stream()  # a replay of nothing makes an empty file
        if self._stream is None:
            return
        try:
            with self._stream as stream:
                if is_whole and self._aside is not None:
                    stream.flush()
                    mode = self._path.stat().st_mode & 0o777 if self._path.exists() else 0o666 & ~_umask()
                    os.fchmod(stream.fileno(), mode)
                    os.fsync(stream.fileno())
            if is_whole and self._aside is not None:
                self._aside.replace(self._path)
                self._aside = None
        finally:
            if self._aside is not None:
                self._aside.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
