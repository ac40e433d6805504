"""What lies where at an export's destination; keys are built here only.

    part-<number>-<digest>.parquet                                  --partition-by none
    date=2013-02-01/part-<number>-<digest>.parquet                  --partition-by day
    date=2013-02-01/hour=05/part-<number>-<digest>.parquet          --partition-by hour
    _hotlog/<topic>/cursor.json                                     the cursor
    _hotlog/<topic>/schema.json                                     inferred value columns
    _hotlog/<topic>/<partition>.json                                where earlier releases kept a cursor

`<number>` counts the units of offsets that were written together, `<digest>` is of the topic's id and the unit's offsets: topics may share a
directory.  With days or hours one unit has one file in each directory it has rows for.  Directories are UTC, in the hive style that DuckDB,
Spark and Arrow understand; names that start with "_" or "." are skipped by most of them, so no file's name depends on the topic's.

Invariants: a file's key follows from its unit and directory alone, so writing a unit again overwrites and never duplicates; times that share
a directory share a bucket.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from tiering.export.ranges import Ranges

PartitionBy = Literal["none", "day", "hour"]
BUCKET_MS: dict[PartitionBy, int] = {"none": 0, "day": 86_400_000, "hour": 3_600_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEARS = range(-62_135_596_800_000, 253_402_300_800_000)  # 0001 to 9999, ms
_NO_DATE = "__HIVE_DEFAULT_PARTITION__"


def unit_name(topic_id: UUID, number: int, parts: Mapping[int, Ranges]) -> str:
    """Name of the files of a unit."""
    text = json.dumps([str(topic_id), sorted(parts.items())])
    return f"part-{number:06d}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def file_key(name: str, by: PartitionBy, bucket: int | None) -> str:
    """Key of a unit's file with the rows of `bucket`."""
    return f"{directory(by, bucket)}{name}.parquet"


def bucket_of(timestamp_ms: int, by: PartitionBy) -> int | None:
    """Which directory a time belongs to: days or hours since the epoch; None for what is in none of the years 1 to 9999, as is no time (-1)."""
    if by == "none":
        return 0
    return timestamp_ms // BUCKET_MS[by] if timestamp_ms in _YEARS and timestamp_ms != -1 else None


def directory(by: PartitionBy, bucket: int | None) -> str:
    """Hive-style directory of a bucket, with "/" at the end."""
    if by == "none":
        return ""
    if bucket is None:
        return f"date={_NO_DATE}/" if by == "day" else f"date={_NO_DATE}/hour={_NO_DATE}/"
    time = _EPOCH + timedelta(milliseconds=bucket * BUCKET_MS[by])
    day = f"date={time.year:04d}-{time.month:02d}-{time.day:02d}/"
    return day if by == "day" else f"{day}hour={time.hour:02d}/"


def cursor_key(topic: str) -> str:
    return f"_hotlog/{topic}/cursor.json"


def old_cursor_key(topic: str, partition: int) -> str:
    """Of the first format, which had a cursor per partition."""
    return f"_hotlog/{topic}/{partition}.json"


def old_unit_name(topic: str, partition: int, start: int, end: int) -> str:
    """What the first format called the files of a unit."""
    return f"{topic}-{partition}-{start:020d}-{end:020d}"


def schema_key(topic: str) -> str:
    return f"_hotlog/{topic}/schema.json"
