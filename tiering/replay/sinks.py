"""Where a direct replay can go: JSON lines (a file or stdout), or raw batches in Kafka's log format.

A JSON line has "partition", "offset", "timestamp" (ms), "key", "value", and "headers" if there are any; bytes that are not UTF-8, a header's
name too, come as {"base64": "..."}.

Invariants: lines of one partition are in offset order and written whole; raw batches are byte for byte those that were produced.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from hotlog.wire.batch import walk
from hotlog.wire.records import Record, decode_batch, name_bytes
from hotlog.world.ports import Buffer, Disk, File
from tiering.objects.batch_runs import has_rows
from tiering.replay.direct import Hole, Run

Write = Callable[[bytes], Awaitable[None]]


class _Base:
    """Remembers what each partition's replay is about."""

    def __init__(self) -> None:
        self.wanted: dict[int, range] = {}
        self.aborted: dict[int, Sequence[tuple[int, int, int]]] = {}
        self.holes: list[tuple[int, Hole]] = []
        self.records = 0

    async def begin(self, partition: int, wanted: range, aborted: Sequence[tuple[int, int, int]]) -> None:
        self.wanted[partition] = wanted
        self.aborted[partition] = aborted

    async def hole(self, partition: int, hole: Hole) -> None:
        self.holes.append((partition, hole))


class RecordSink(_Base):
    """Opens batches and hands on records: `give(partition, records)` per run, in order.  Base of sinks that need records."""

    def __init__(self, give: Callable[[int, list[Record]], Awaitable[None]]) -> None:
        super().__init__()
        self._give = give

    async def take_run(self, partition: int, run: Run) -> None:
        await self._give(partition, self.records_of(partition, run))

    def records_of(self, partition: int, run: Run) -> list[Record]:
        """The committed records of a run that lie in the wanted range."""
        wanted, aborted = self.wanted[partition], self.aborted[partition]
        result: list[Record] = []
        for position, header in walk(run.data):
            if not has_rows(header, aborted):
                continue
            records = decode_batch(run.data[position : position + header.size])
            if header.base_offset < wanted.start or header.next_offset > wanted.stop:
                records = [record for record in records if record.offset in wanted]
            result.extend(records)
        self.records += len(result)
        return result


class JsonLinesSink(RecordSink):
    """One JSON object per record and line, handed to `write` a run at a time."""

    def __init__(self, write: Write) -> None:
        super().__init__(self._lines)
        self._write = write

    async def _lines(self, partition: int, records: list[Record]) -> None:
        if records:
            await self._write("".join(json_line(partition, record) for record in records).encode())


def json_line(partition: int, record: Record, *, topic: str | None = None) -> str:
    """One record as a line, with the line feed; `topic` where several are mixed."""
    fields: dict[str, Any] = {} if topic is None else {"topic": topic}
    fields |= {
        "partition": partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": _text(record.key),
        "value": _text(record.value),
    }
    if record.headers:
        fields["headers"] = [[_text(name_bytes(name)), _text(value)] for name, value in record.headers]
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n"


def _text(data: bytes | None) -> str | dict[str, str] | None:
    if data is None:
        return None
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


class RawLogSink(_Base):
    """Batches as they are, one `<topic>-<partition>.log` per partition in a directory: Kafka's dump tool reads them."""

    def __init__(self, disk: Disk, directory: str, topic: str) -> None:
        super().__init__()
        self._disk = disk
        self._directory = directory
        self._topic = topic
        self._files: dict[int, File] = {}

    async def begin(self, partition: int, wanted: range, aborted: Sequence[tuple[int, int, int]]) -> None:
        """A file that is there already is replaced."""
        await super().begin(partition, wanted, aborted)
        self._files[partition] = await self._disk.run(self._open, f"{self._directory}/{self._topic}-{partition}.log")

    def _open(self, path: str) -> File:
        self._disk.make_dirs(self._directory)
        self._disk.remove(path)
        return self._disk.open(path, create=True)

    async def take_run(self, partition: int, run: Run) -> None:
        data: Buffer = run.data
        await self._disk.run(self._files[partition].append, [data])

    async def close(self) -> None:
        for file in self._files.values():
            await self._disk.run(file.sync)
            file.close()
        self._files.clear()
