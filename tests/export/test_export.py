"""Export: every committed record once, however often it is run; values as columns; DuckDB reads the result."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.dataset import dataset

from hotlog.kernel.errors import OutOfRange
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.wire.records import NewRecord, encode_batch
from hotlog.world.ports import ObjectStore
from hotlog.world.posix import PosixDisk, SystemClock, SystemEntropy
from tests.cold.lake import Lake, random_lake
from tests.export.support import DAY_MS, export, exported, grow, tables, topic, wanted
from tests.support.scripted_store import ScriptedStore
from tiering.export.ranges import add_range, missing, normal
from tiering.export.value_schema import parse_schema
from tiering.objects.segment import AbortedTransaction
from tiering.replay.places import AtOffset, AtTime
from tiering.store import open_store


async def test_every_record_comes_out_once() -> None:
    store, lakes = topic(archived=4, holes=True)
    target = ScriptedStore()
    seen: list[int] = []
    totals = await export(store, target, progress=lambda p: seen.append(p.offsets))
    assert exported(target) == wanted(*lakes)
    assert totals.rows == len(wanted(*lakes))
    assert totals.offsets == totals.offsets_total == sum(lake.next_offset for lake in lakes) == seen[-1]
    assert totals.bytes_written == sum(len(data) for key, data in target.objects.items() if key.endswith(".parquet"))
    assert len(totals.holes) == sum(row.is_hole for lake in lakes for row in lake.rows) > 0
    (_, table), *_ = tables(target)
    assert table.schema.field("timestamp").type == pa.timestamp("ms", tz="UTC")
    assert (
        pq.ParquetFile(pa.BufferReader(target.objects[next(k for k, _ in tables(target))]))
        .metadata.row_group(0)
        .column(0)
        .compression
        == "ZSTD"
    )
    assert table.column("headers").to_pylist()[0] == [{"key": "h", "value": b"v"}]


async def test_a_second_run_adds_only_what_is_new() -> None:
    store, lakes = topic()
    target = ScriptedStore()
    await export(store, target)
    before = dict(target.objects)
    again = await export(store, target)
    assert (again.rows, again.files, again.read.bytes, target.objects) == (0, 0, 0, before)
    grow(lakes[0])
    third = await export(store, target)
    assert third.rows == 12
    assert exported(target) == wanted(*lakes)
    assert {key: target.objects[key] for key in before if key.endswith(".parquet")} == {
        k: v for k, v in before.items() if k.endswith(".parquet")
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=1, max_size=5))
async def test_ranges_in_any_order_come_out_once(asked: list[tuple[int, int]]) -> None:
    lake = random_lake(41)
    target = ScriptedStore()
    for start, end in asked:
        if start > lake.rows[-1].end_offset:
            with pytest.raises(OutOfRange):
                await export(lake.store, target, start=AtOffset(start), until=AtOffset(end))
            continue
        await export(lake.store, target, start=AtOffset(start), until=AtOffset(end))
    union = {offset for start, end in asked for offset in range(start, end)}
    assert exported(target) == [row for row in wanted(lake) if row[1] in union]
    await export(lake.store, target)
    assert exported(target) == wanted(lake)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=8), st.integers(0, 50), st.integers(0, 50))
def test_ranges_are_sets_of_offsets(parts: list[tuple[int, int]], start: int, end: int) -> None:
    done = normal(parts)
    members = {offset for a, b in parts for offset in range(a, b)}
    assert {offset for a, b in done for offset in range(a, b)} == members
    assert all(a < b for a, b in done)
    assert all(left[1] < right[0] for left, right in pairwise(done))
    assert {offset for a, b in missing(done, start, end) for offset in range(a, b)} == set(range(start, end)) - members
    assert missing(add_range(done, start, end), start, end) == ()


async def test_times_bound_an_export_as_a_seek_would() -> None:
    store, lakes = topic()
    times = sorted(row[2] for row in wanted(*lakes))
    start, until = times[len(times) // 3], times[2 * len(times) // 3]
    target = ScriptedStore()
    await export(store, target, start=AtTime(start), until=AtTime(until))
    expected = []
    for lake in lakes:
        first, end = lake.for_timestamp(start), lake.for_timestamp(until)
        expected += [row for row in wanted(lake) if first and row[1] >= first[0] and (end is None or row[1] < end[0])]
    assert exported(target) == sorted(expected)


@pytest.mark.parametrize(("by", "length"), [("day", DAY_MS), ("hour", DAY_MS // 24)])
async def test_rows_lie_in_the_directory_of_their_time(by: str, length: int) -> None:
    lake = Lake(ScriptedStore())
    first = 1_359_676_800_000  # 2013-02-01T00:00Z
    times = [first - 1, first, first + length, first + 5 * length, -1, first + 1]
    lake.segment([lake.batch([NewRecord(max(time, 0), None, b"v") for time in times])])
    lake.commit()
    target = ScriptedStore()
    await export(lake.store, target, partition_by=by)
    assert exported(target) == wanted(lake)
    for key, table in tables(target):
        buckets = {time // length for time in table.column("timestamp").cast(pa.int64()).to_pylist()}
        assert len(buckets) == 1
        day = (
            "1970-01-01"
            if buckets == {0}
            else duckdb.sql(f"select strftime(make_timestamp({buckets.pop() * length * 1000}), '%Y-%m-%d')").fetchall()[0][0]
        )
        assert key.startswith(f"date={day}/")
    assert len(list(tables(target))) == 5


async def test_files_are_cut_at_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiering.export.columns.BLOCK_ROWS_MAX", 5)
    store, lakes = topic()
    target = ScriptedStore()
    await export(store, target, file_bytes_max=4000)
    assert exported(target) == wanted(*lakes)
    assert len(list(tables(target))) > 6
    numbers = sorted(int(key.split("-")[1]) for key, _ in tables(target))
    assert numbers == list(range(len(numbers)))


async def test_days_times_partitions_make_a_file_a_day() -> None:
    store = ScriptedStore()
    lakes = []
    for partition in range(4):
        lake = Lake(store, partition=partition)
        for half in range(2):
            lake.segment([lake.batch([NewRecord((half * 50 + n) * DAY_MS + partition, None, b"v") for n in range(50)])])
        lake.commit()
        lakes.append(lake)
    target = ScriptedStore()
    await export(store, target, partitions=range(4), partition_by="day")
    assert exported(target) == wanted(*lakes)
    assert len(list(tables(target))) == 100
    assert all(pq.ParquetFile(pa.BufferReader(target.objects[key])).num_row_groups == 1 for key, _ in tables(target))


@pytest.mark.parametrize("by", ["none", "day", "hour"])
async def test_a_record_without_a_timestamp_has_none(by: str, tmp_path: Path) -> None:
    lake = Lake(ScriptedStore())
    lake.segment([lake.batch([NewRecord(time, None, b"v") for time in (0, -1, 5)]), lake.batch([NewRecord(-1, None, b"v")])])
    lake.commit()
    target = ScriptedStore()
    await export(lake.store, target, partition_by=by)
    assert [row[1:3] for row in exported(target)] == [(0, 0), (1, None), (2, 5), (3, None)]
    for key, data in target.objects.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(data)
    query = f"""select count(*), count(timestamp){", count(date)" if by != "none" else ""}
                from read_parquet('{tmp_path}/**/*.parquet', hive_partitioning=true)"""
    assert duckdb.sql(query).fetchall()[0] == ((4, 2) if by == "none" else (4, 2, 2))
    assert dataset(tmp_path, partitioning="hive" if by != "none" else None, exclude_invalid_files=False).count_rows() == 4


@pytest.mark.parametrize("name", ["_events", ".events", "e" * 249, "__x.y-z"])
async def test_every_topic_name_gives_files_that_readers_see(name: str, tmp_path: Path) -> None:
    lake = Lake(ScriptedStore(), topic=name)
    lake.segment([lake.batch(flights(10))])
    lake.commit()
    target = await directory(tmp_path)
    await export(lake.store, target, topic=name, partition_by="day", schema="auto")
    await export(lake.store, target, topic=name, partition_by="day", schema="auto")
    await target.close()
    assert dataset(tmp_path, format="parquet", partitioning="hive").count_rows() == 10
    assert all(path.name.startswith("part-") for path in tmp_path.rglob("*.parquet"))


async def test_aborted_transactions_and_markers_are_left_out() -> None:
    lake = Lake(ScriptedStore())
    kept = lake.batch([NewRecord(1, None, b"kept")], producer_id=5, transactional=True)
    gone = lake.batch([NewRecord(2, None, b"gone")] * 2, producer_id=7, transactional=True)
    marker = bytearray(encode_batch([NewRecord(3, b"\0\0\0\0", b"\0" * 6)], base_offset=3, is_transactional=True, producer_id=7))
    marker[22] |= 0x20
    lake.next_offset = 4
    lake.segment([kept, gone, bytes(marker)], [AbortedTransaction(7, 1, 3, 4)])
    lake.commit()
    target = ScriptedStore()
    totals = await export(lake.store, target)
    assert [row[4] for row in exported(target)] == [b"kept"]
    assert (totals.offsets, (await export(lake.store, target)).offsets_total) == (4, 0)


def flights(count: int, **more: Any) -> list[NewRecord]:
    return [
        NewRecord(
            1_357_034_400_000 + n * 60_000, b"k", json.dumps({"flight": n, "delay": n / 2, "origin": "JFK", **more}).encode()
        )
        for n in range(count)
    ]


async def test_json_values_become_columns_that_widen_over_runs() -> None:
    lake = Lake(ScriptedStore())
    lake.segment([lake.batch(flights(10)), lake.batch([NewRecord(1_357_034_400_000, None, b"not json")])])
    lake.commit()
    target = ScriptedStore()
    await export(lake.store, target, schema="auto")
    grow(lake, flights(3, gate="B7", flight="late"))
    await export(lake.store, target, schema="auto")
    (_, first), (_, second) = tables(target)
    assert first.column("delay").to_pylist() == [*(n / 2 for n in range(10)), None]
    assert first.column("value").to_pylist() == [None] * 10 + [b"not json"]
    assert "gate" not in first.column_names
    assert second.column_names[-4:] == ["delay", "flight", "gate", "origin"]
    assert second.column("flight").to_pylist() == ["late"] * 12
    assert second.column("value").to_pylist() == [None] * 12


async def test_a_given_schema_picks_columns() -> None:
    lake = Lake(ScriptedStore())
    lake.segment([lake.batch(flights(4))])
    lake.commit()
    target = ScriptedStore()
    await export(lake.store, target, schema=parse_schema('{"delay": "float", "flight": "int32"}', "s.json"))
    ((_, table),) = tables(target)
    assert table.column_names[-2:] == ["delay", "flight"]
    assert table.column("flight").to_pylist() == [0, 1, 2, 3]


@pytest.mark.parametrize("backwards", [False, True])
async def test_all_files_of_an_export_have_one_schema(backwards: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever value, block or partition comes first."""
    monkeypatch.setattr("tiering.export.columns.BLOCK_ROWS_MAX", 5)
    store = ScriptedStore()
    kinds = [[{"n": 1}], [{"n": 0.5}, {"m": True}], [{"n": "x"}, {"m": None, "n": 2}], [{"o": {"n": 1}}]]
    for partition, kind in enumerate(kinds[::-1] if backwards else kinds):
        lake = Lake(store, partition=partition)
        lake.segment([lake.batch([NewRecord(n, None, json.dumps(item).encode()) for n in range(10) for item in kind])])
        lake.commit()
    target = ScriptedStore()
    await export(store, target, partitions=range(4), schema="auto", file_bytes_max=1)
    found = list(tables(target))
    assert len(found) > 4
    types = {(field.name, str(field.type)) for _, table in found for field in list(table.schema)[6:]}
    assert types == {("m", "bool"), ("n", "string"), ("o", "struct<n: int64>")}
    assert all(value is None for _, table in found for value in table.column("value").to_pylist())


async def directory(path: Path) -> ObjectStore:
    path.mkdir(exist_ok=True)
    world = {"settings": Settings.resolve({}), "metrics": Metrics(), "clock": SystemClock(), "entropy": SystemEntropy()}
    return await open_store(path.as_uri(), disk=PosixDisk(), **world)  # type: ignore[arg-type]


async def test_duckdb_reads_an_export_in_a_directory(tmp_path: Path) -> None:
    lake = Lake(ScriptedStore(), topic="flights")
    lake.segment([lake.batch(flights(1440)), lake.batch(flights(1440, gate="A"))])
    lake.commit()
    target = await directory(tmp_path / "out")
    await export(lake.store, target, topic="flights", partition_by="day", schema="auto")
    await target.close()
    files = f"read_parquet('{tmp_path}/out/**/*.parquet', hive_partitioning=true, union_by_name=true)"
    assert duckdb.sql(f'select count(*), count(distinct "offset"), max(delay), max(date) from {files}').fetchall() == [
        (2880, 2880, 719.5, duckdb.sql("select date '2013-01-02'").fetchall()[0][0])
    ]
    assert (
        duckdb.sql(f"select date, count(*) from {files} where origin = 'JFK' group by 1 order by 1").fetchall()[0][1] == 2 * 840
    )
    (first,) = duckdb.sql(f"select min(timestamp) at time zone 'UTC' from {files}").fetchall()[0]
    assert first.isoformat() == "2013-01-01T10:00:00"
