"""What lies where at an export's destination; keys are built here only.

    <topic>-<partition>-<start>-<end>.parquet                                  --partition-by none
    date=2013-02-01/<topic>-<partition>-<start>-<end>.parquet                  --partition-by day
    date=2013-02-01/hour=05/<topic>-<partition>-<start>-<end>.parquet          --partition-by hour
    _hotlog/<topic>/<partition>.json                                           cursor of one partition
    _hotlog/<topic>/schema.json                                                inferred value columns

`<start>-<end>` (20 digits each, half open) is the unit of offsets that was written together; with days or hours one unit has one file
in each directory it has rows for.  Directories are UTC, in the hive style that DuckDB, Spark and Arrow understand; names that start with
"_" are skipped by all of them.

Invariants: a file's key follows from its unit and time alone, so writing a unit again overwrites and never duplicates.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

PartitionBy = Literal["none", "day", "hour"]
BUCKET_MS: dict[PartitionBy, int] = {"none": 0, "day": 86_400_000, "hour": 3_600_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def file_key(topic: str, partition: int, start: int, end: int, by: PartitionBy, bucket: int) -> str:
    """Key of the file with the rows of `bucket` (timestamp // bucket length, since the epoch) of the unit [start, end)."""
    return f"{directory(by, bucket)}{topic}-{partition}-{start:020d}-{end:020d}.parquet"


def directory(by: PartitionBy, bucket: int) -> str:
    """Hive-style directory of a bucket, with "/" at the end; times outside the years 1 to 9999 share one directory."""
    if by == "none":
        return ""
    try:
        time = _EPOCH + timedelta(milliseconds=bucket * BUCKET_MS[by])
    except OverflowError:
        return "date=__HIVE_DEFAULT_PARTITION__/" if by == "day" else "date=__HIVE_DEFAULT_PARTITION__/hour=0/"
    day = f"date={time.year:04d}-{time.month:02d}-{time.day:02d}/"
    return day if by == "day" else f"{day}hour={time.hour:02d}/"


def cursor_key(topic: str, partition: int) -> str:
    return f"_hotlog/{topic}/{partition}.json"


def schema_key(topic: str) -> str:
    return f"_hotlog/{topic}/schema.json"
