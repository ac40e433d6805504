"""The cost meter: what was really asked of the object store, by topic, purpose, kind of request and storage class of puts.

Totals are kept per calendar month (UTC) and written to one small JSON file in the data directory, so that a bill survives restarts.
A crash forgets what was counted since the last `save` (the scheduler's beat, a minute or so): the meter informs, it never decides.

Invariants: counts only grow within a month; the number of lines is bounded (TOPICS_MAX topics, MONTHS_KEPT months); a damaged or
foreign file is an error that names it, never a silent zero.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from hotlog.kernel.errors import Corrupt, UnknownVersion
from hotlog.kernel.versions import StoredFormat
from hotlog.world.ports import STANDARD, Clock, Disk

Kind = Literal[
    "put", "get", "head", "list", "delete",
    "create_upload", "put_part", "complete_upload", "abort_upload", "list_uploads",
]  # fmt: skip
KINDS: tuple[Kind, ...] = (
    "put", "get", "head", "list", "delete", "create_upload", "put_part", "complete_upload", "abort_upload", "list_uploads",
)  # fmt: skip

TOPICS_MAX = 10_000
MONTHS_KEPT = 14
NO_TOPIC = "-"  # calls for no topic in particular (metadata, listings); cannot be a topic name in metrics by accident: see _named
OVERFLOW_TOPIC = "(others)"
_FORMAT = "hotlog-meter"


def _from_version_1(file: dict[str, Any]) -> dict[str, Any]:
    """Lines had no storage class: all was put into the standard one."""
    return {**file, "rows": [[*row[:5], STANDARD, *row[5:]] for row in file["rows"]]}


_VERSIONS: StoredFormat[dict[str, Any]] = StoredFormat("meter file", 2, {1: _from_version_1})


class Line(NamedTuple):
    """What a count is filed under."""

    month: str  # "2026-11", UTC
    topic: str
    purpose: str
    kind: str
    outcome: str
    storage_class: str = STANDARD  # of puts, by the store's name


@dataclass(slots=True)
class Count:
    """Requests (every attempt is one: attempts are what is billed) and payload bytes, both ways."""

    requests: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


class Row(NamedTuple):
    """One line of the meter with its count."""

    line: Line
    requests: int
    bytes_sent: int
    bytes_received: int


def month_of(now_ms: int) -> str:
    """The UTC calendar month of a wall time, as "2026-11"."""
    return datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m")


class Meter:
    """Counts in memory, with a home on disk if `path` is given.  Used from the event loop only."""

    def __init__(self, clock: Clock, *, disk: Disk | None = None, path: str | None = None) -> None:
        self._clock = clock
        self._disk = disk
        self._path = path
        self._counts: dict[Line, Count] = {}
        self._topics: set[str] = set()
        self._since_ms = clock.now_ms()
        self._dirty = False

    @property
    def since_ms(self) -> int:
        """Wall time from which on everything was counted, ms since the epoch."""
        return self._since_ms

    def add(
        self,
        topic: str,
        purpose: str,
        kind: Kind,
        outcome: str,
        *,
        sent: int = 0,
        received: int = 0,
        storage_class: str = STANDARD,
    ) -> None:
        """Count one request."""
        if topic not in self._topics:
            if len(self._topics) >= TOPICS_MAX:
                topic = OVERFLOW_TOPIC
            self._topics.add(topic)
        line = Line(month_of(self._clock.now_ms()), topic, purpose, kind, outcome, storage_class)
        count = self._counts.get(line)
        if count is None:
            count = self._counts[line] = Count()
        count.requests += 1
        count.bytes_sent += sent
        count.bytes_received += received
        self._dirty = True

    def rows(self, month: str | None = None) -> tuple[Row, ...]:
        """All lines (of one month if given), sorted."""
        return tuple(
            Row(line, count.requests, count.bytes_sent, count.bytes_received)
            for line, count in sorted(self._counts.items())
            if month is None or line.month == month
        )

    def encode(self) -> bytes:
        """The file's content: JSON, one list per line of the meter.  Months beyond MONTHS_KEPT are forgotten here."""
        months = sorted({line.month for line in self._counts})
        if len(months) > MONTHS_KEPT:
            oldest = months[-MONTHS_KEPT]
            self._counts = {line: count for line, count in self._counts.items() if line.month >= oldest}
            self._since_ms = max(self._since_ms, int(datetime.strptime(oldest + " +0000", "%Y-%m %z").timestamp() * 1000))
        rows = [[*row.line, row.requests, row.bytes_sent, row.bytes_received] for row in self.rows()]
        return json.dumps({"format": _FORMAT, "version": _VERSIONS.version, "since_ms": self._since_ms, "rows": rows}).encode()

    async def load(self) -> None:
        """Take over the totals of the file, if there is one.

        Raises:
            Corrupt: the file is not a meter file.  UnknownVersion: a newer release wrote it.
        """
        if self._disk is None or self._path is None or not self._disk.exists(self._path):
            return
        raw = await self._disk.run(self._disk.read, self._path)
        try:
            since_ms, rows = decode(raw, self._path)
        except UnknownVersion:
            self._path = None  # counted, but not saved over it
            raise
        self._since_ms = min(self._since_ms, since_ms)
        for row in rows:
            count = self._counts.setdefault(row.line, Count())
            count.requests += row.requests
            count.bytes_sent += row.bytes_sent
            count.bytes_received += row.bytes_received
            self._topics.add(row.line.topic)

    async def save(self) -> None:
        """Write the totals if they changed (atomically: old or new, never a mix)."""
        if self._disk is None or self._path is None or not self._dirty:
            return
        self._dirty = False
        body = self.encode()
        try:
            await self._disk.run(self._disk.write_atomic, self._path, body)
        except OSError:
            self._dirty = True
            raise


def decode(raw: bytes, name: str) -> tuple[int, tuple[Row, ...]]:
    """(since_ms, rows) of a meter file.  `name` is for the message.

    Raises:
        Corrupt: not such a file.  UnknownVersion: a newer release wrote it.
    """
    try:
        value = json.loads(raw)
        if value["format"] != _FORMAT:
            raise ValueError(f"format {value['format']!r}, not {_FORMAT!r}")
        value = _VERSIONS.upgraded(int(value["version"]), value, name)
        rows = tuple(
            Row(Line(*(str(word) for word in words)), int(requests), int(sent), int(received))
            for *words, requests, sent, received in value["rows"]
        )
        return int(value["since_ms"]), rows
    except (ValueError, KeyError, TypeError) as wrong:
        raise Corrupt(f"meter file {name} cannot be read: {wrong}; move it away to start counting anew") from wrong
