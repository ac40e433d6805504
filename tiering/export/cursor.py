"""The cursor of one exported partition: what is done, and the unit that may be half visible.  Pure codec.

A unit is made visible in three steps: the cursor names it as pending, its files are put, the cursor has it done.  A run that was killed
in between writes exactly the pending unit again first: same offsets, same keys, so nothing is twice.

Invariants: `pending` never overlaps `done`; a cursor of another topic, format or layout is refused, never adapted silently.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from uuid import UUID

from hotlog.kernel.errors import Corrupt, Invalid
from tiering.export.layout import PartitionBy
from tiering.export.ranges import Range, Ranges, add, missing, normal

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Offsets half open; `rows`, `files` and `bytes` are totals over all runs."""

    topic_id: UUID
    partition: int
    partition_by: PartitionBy
    value_mode: str  # "raw", "auto" or "given"
    done: Ranges = ()
    pending: Range | None = None
    rows: int = 0
    files: int = 0
    bytes: int = 0

    def begun(self, start: int, end: int) -> Cursor:
        """With the unit [start, end) announced."""
        assert missing(self.done, start, end) == ((start, end),), (self.done, start, end)
        return replace(self, pending=(start, end))

    def finished(self, rows: int, files: int, size: int) -> Cursor:
        """With the pending unit done."""
        assert self.pending is not None
        return replace(
            self,
            done=add(self.done, *self.pending),
            pending=None,
            rows=self.rows + rows,
            files=self.files + files,
            bytes=self.bytes + size,
        )


def encode(cursor: Cursor) -> bytes:
    return json.dumps(
        {
            "hotlog-export": VERSION,
            "topic_id": str(cursor.topic_id),
            "partition": cursor.partition,
            "partition_by": cursor.partition_by,
            "values": cursor.value_mode,
            "done": [list(part) for part in cursor.done],
            "pending": list(cursor.pending) if cursor.pending else None,
            "rows": cursor.rows,
            "files": cursor.files,
            "bytes": cursor.bytes,
        },
        indent=1,
    ).encode()


def decode(raw: bytes, where: str) -> Cursor:
    """Raises Corrupt for anything that encode() did not make."""
    try:
        fields = json.loads(raw)
        if fields["hotlog-export"] != VERSION:
            raise Invalid(f"{where} has format version {fields['hotlog-export']!r}; this release knows {VERSION}")
        done = normal((int(start), int(end)) for start, end in fields["done"])
        pending = fields["pending"]
        return Cursor(
            topic_id=UUID(fields["topic_id"]),
            partition=int(fields["partition"]),
            partition_by=fields["partition_by"],
            value_mode=fields["values"],
            done=done,
            pending=(int(pending[0]), int(pending[1])) if pending else None,
            rows=int(fields["rows"]),
            files=int(fields["files"]),
            bytes=int(fields["bytes"]),
        )
    except (ValueError, KeyError, TypeError, IndexError) as failure:
        raise Corrupt(f"export cursor {where} does not parse: {failure!r}") from None


def check_same(found: Cursor, wanted: Cursor, where: str) -> None:
    """A destination is continued only as it was begun.

    Raises:
        Invalid: another topic (deleted and made again), another --partition-by or another --schema.
    """
    for name in ("topic_id", "partition", "partition_by", "value_mode"):
        if getattr(found, name) != getattr(wanted, name):
            raise Invalid(
                f"{where} was exported with {name.replace('_', ' ')} {getattr(found, name)}, not {getattr(wanted, name)};"
                " choose another destination"
            )
