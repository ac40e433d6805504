"""The cursor of an export: what is done of each partition, and the units that may be half visible.  Pure codec.

A unit is made visible in three steps: the cursor names it as pending, its files are put, the cursor has it done.  A run that was killed
in between writes exactly the pending unit again first: same offsets, same keys, so nothing is twice.

Version 1 had a cursor per partition; `joined` makes one of them, and `moved` is what is left in their place, so that the release that wrote
them refuses the destination instead of exporting twice.

Invariants: `pending` never overlaps `done`; a cursor of another topic, format or layout is refused, never adapted silently.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from uuid import UUID

from hotlog.kernel.errors import Corrupt, Invalid
from tiering.export.layout import PartitionBy, old_unit_name, unit_name
from tiering.export.ranges import Ranges, add_range, missing, normal

VERSION = 2


class Unit(NamedTuple):
    """Offsets per partition that become visible together, in files of this name."""

    name: str
    parts: Mapping[int, Ranges]


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Offsets half open; `units`, `rows`, `files` and `bytes` are totals over all runs."""

    topic_id: UUID
    partition_by: PartitionBy
    value_mode: str  # "raw", "auto" or "given"
    done: Mapping[int, Ranges] = field(default_factory=dict)
    pending: tuple[Unit, ...] = ()
    units: int = 0
    rows: int = 0
    files: int = 0
    bytes: int = 0

    def begun(self, parts: Mapping[int, Ranges]) -> Cursor:
        """With a unit of these offsets announced; it is the last of `pending`."""
        for partition, ranges in parts.items():
            for start, end in ranges:
                assert missing(self.done_of(partition), start, end) == ((start, end),), (self.done, partition, start, end)
        unit = Unit(unit_name(self.topic_id, self.units, parts), parts)
        return replace(self, pending=(*self.pending, unit), units=self.units + 1)

    def finished(self, unit: Unit, rows: int, files: int, size: int) -> Cursor:
        """With a pending unit done."""
        assert unit in self.pending
        done = dict(self.done)
        for partition, ranges in unit.parts.items():
            for start, end in ranges:
                done[partition] = add_range(done.get(partition, ()), start, end)
        return replace(
            self,
            done=done,
            pending=tuple(other for other in self.pending if other != unit),
            rows=self.rows + rows,
            files=self.files + files,
            bytes=self.bytes + size,
        )

    def done_of(self, partition: int) -> Ranges:
        """What is done or announced of a partition."""
        announced = [part for unit in self.pending for part in unit.parts.get(partition, ())]
        return normal([*self.done.get(partition, ()), *announced])


def encode(cursor: Cursor) -> bytes:
    return json.dumps(
        {
            "hotlog-export": VERSION,
            "topic_id": str(cursor.topic_id),
            "partition_by": cursor.partition_by,
            "values": cursor.value_mode,
            "done": _print(cursor.done),
            "pending": [{"name": unit.name, "offsets": _print(unit.parts)} for unit in cursor.pending],
            "units": cursor.units,
            "rows": cursor.rows,
            "files": cursor.files,
            "bytes": cursor.bytes,
        },
        indent=1,
    ).encode()


def _print(parts: Mapping[int, Ranges]) -> dict[str, list[list[int]]]:
    return {str(partition): [list(part) for part in ranges] for partition, ranges in sorted(parts.items())}


def _parse(parts: Mapping[str, Any]) -> dict[int, Ranges]:
    return {int(partition): normal((int(start), int(end)) for start, end in ranges) for partition, ranges in parts.items()}


def decode(raw: bytes, where: str) -> Cursor:
    """Raises Corrupt for anything that encode() did not make, Invalid for another version."""
    try:
        fields = json.loads(raw)
        _check_version(fields["hotlog-export"], VERSION, where)
        return Cursor(
            topic_id=UUID(fields["topic_id"]),
            partition_by=fields["partition_by"],
            value_mode=fields["values"],
            done=_parse(fields["done"]),
            pending=tuple(Unit(unit["name"], _parse(unit["offsets"])) for unit in fields["pending"]),
            units=int(fields["units"]),
            rows=int(fields["rows"]),
            files=int(fields["files"]),
            bytes=int(fields["bytes"]),
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as failure:
        raise Corrupt(f"export cursor {where} does not parse: {failure!r}") from None


def _check_version(found: Any, known: int, where: str) -> None:
    if found != known:
        raise Invalid(f"{where} has format version {found!r}; this release knows {known}")


def check_same(found: Cursor, wanted: Cursor, where: str) -> None:
    """A destination is continued only as it was begun.

    Raises:
        Invalid: another topic (deleted and made again), another --partition-by or another --schema.
    """
    for name in ("topic_id", "partition_by", "value_mode"):
        if getattr(found, name) != getattr(wanted, name):
            raise Invalid(
                f"{where} was exported with {name.replace('_', ' ')} {getattr(found, name)}, not {getattr(wanted, name)};"
                " choose another destination"
            )


# -- version 1 ----------------------------------------------------------------------------------------------------------------------------


def joined(raws: Iterable[tuple[str, bytes]], topic: str) -> Cursor | None:
    """One cursor of those that version 1 kept per partition, given as (where, bytes); None if there are none.

    Raises:
        Corrupt, Invalid: as decode and check_same.
    """
    whole: Cursor | None = None
    for where, raw in raws:
        partition, cursor = _decode_old(raw, where, topic)
        if whole is None:
            whole = cursor
            continue
        check_same(cursor, whole, where)
        whole = replace(
            whole,
            done={**whole.done, partition: cursor.done[partition]},
            pending=whole.pending + cursor.pending,
            rows=whole.rows + cursor.rows,
            files=whole.files + cursor.files,
            bytes=whole.bytes + cursor.bytes,
        )
    return whole


def _decode_old(raw: bytes, where: str, topic: str) -> tuple[int, Cursor]:
    try:
        fields = json.loads(raw)
        _check_version(fields["hotlog-export"], 1, where)
        partition, pending = int(fields["partition"]), fields["pending"]
        units = []
        if pending:
            start, end = int(pending[0]), int(pending[1])
            units.append(Unit(old_unit_name(topic, partition, start, end), {partition: ((start, end),)}))
        return partition, Cursor(
            topic_id=UUID(fields["topic_id"]),
            partition_by=fields["partition_by"],
            value_mode=fields["values"],
            done={partition: normal((int(start), int(end)) for start, end in fields["done"])},
            pending=tuple(units),
            rows=int(fields["rows"]),
            files=int(fields["files"]),
            bytes=int(fields["bytes"]),
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as failure:
        raise Corrupt(f"export cursor {where} does not parse: {failure!r}") from None


def moved() -> bytes:
    """What stands where version 1 had a cursor."""
    return json.dumps({"hotlog-export": VERSION, "see": "cursor.json"}).encode()
