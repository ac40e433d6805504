"""Export: every committed record once, whatever was killed and however often it is run; DuckDB reads the result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlog.kernel.errors import Corrupt, Invalid, NotFound
from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.log import checkpoints, files
from hotlog.wire.records import NewRecord, encode_batch
from hotlog.world.ports import PendingUpload
from hotlog.world.posix import PosixDisk, SystemClock, SystemEntropy
from tests.cold.lake import CLUSTER, TOPIC_ID, Lake, random_lake
from tests.cold.support import ScriptedStore
from tiering.export.job import ExportProgress, ExportRequest, export_topic
from tiering.export.ranges import add, missing, normal
from tiering.export.value_schema import parse_schema
from tiering.replay import AtOffset, AtTime
from tiering.segment_object import AbortedTransaction
from tiering.store import open_store

DAY_MS = 86_400_000


class Killed(BaseException):
    """As good as kill -9: nobody catches it."""


async def export(source: ScriptedStore | None, target: Any, **options: Any) -> ExportProgress:
    progress = options.pop("progress", None)
    request = ExportRequest(**{"topic": "clicks", "topic_id": TOPIC_ID, "cluster_id": CLUSTER, "partitions": range(3), **options})
    return await export_topic(
        source=source,  # type: ignore[arg-type]
        target=target,
        request=request,
        clock=SystemClock(),
        entropy=SystemEntropy(),
        disk=PosixDisk(),
        progress=progress,
    )


def tables(target: ScriptedStore) -> Iterator[tuple[str, pa.Table]]:
    for key, data in sorted(target.objects.items()):
        if key.endswith(".parquet"):
            yield key, pq.read_table(pa.BufferReader(data), partitioning=None)


def exported(target: ScriptedStore) -> list[tuple[int, int, int, bytes | None, bytes | None]]:
    """(partition, offset, timestamp, key, value) of all visible rows."""
    rows = []
    for _, table in tables(target):
        times = table.column("timestamp").cast(pa.int64()).to_pylist()
        columns = [table.column(name).to_pylist() for name in ("partition", "offset", "key", "value")]
        rows += [(p, o, t, k, v) for (p, o, k, v), t in zip(zip(*columns, strict=True), times, strict=True)]
    return sorted(rows)


def wanted(*lakes: Lake) -> list[tuple[int, int, int, bytes | None, bytes | None]]:
    return sorted((lake.partition, o, t, k, v) for lake in lakes for o, t, _, k, v in lake.records())


def topic(count: int = 2, **options: Any) -> tuple[ScriptedStore, list[Lake]]:
    store = ScriptedStore()
    lakes = []
    for number in range(count):
        lake = random_lake(number + 40, partition=number, **options)
        store.objects.update(lake.store.objects)
        lake.store = store
        lakes.append(lake)
    return store, lakes


def grow(lake: Lake, records: list[NewRecord] | None = None) -> None:
    lake.segment([lake.batch(records or [NewRecord(5_000_000 + lake.next_offset, b"k", b"more")] * 3) for _ in range(4)])
    lake.commit()


# -- what comes out


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
    assert missing(add(done, start, end), start, end) == ()


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
    spans = sorted(key.rsplit("/", 1)[-1].removesuffix(".parquet").split("-")[1:] for key, _ in tables(target))
    for (p1, _, end), (p2, start, _) in pairwise(spans):
        assert p1 != p2 or end == start, "units follow each other without gap"


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


# -- values as columns


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
    assert second.column_names[-1] == "gate"
    assert second.column("flight").to_pylist() == [None] * 12, "a number column does not take text"
    assert all(json.loads(value)["flight"] == "late" for value in second.column("value").to_pylist())


async def test_a_given_schema_picks_columns() -> None:
    lake = Lake(ScriptedStore())
    lake.segment([lake.batch(flights(4))])
    lake.commit()
    target = ScriptedStore()
    await export(lake.store, target, schema=parse_schema('{"delay": "float", "flight": "int32"}', "s.json"))
    ((_, table),) = tables(target)
    assert table.column_names[-2:] == ["delay", "flight"]
    assert table.column("flight").to_pylist() == [0, 1, 2, 3]


async def test_columns_that_change_half_way_begin_a_new_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiering.export.columns.BLOCK_ROWS_MAX", 5)
    lake = Lake(ScriptedStore())
    lake.segment([lake.batch(flights(5)), lake.batch(flights(5)), lake.batch(flights(5, gate="A1"))])
    lake.commit()
    target = ScriptedStore()
    await export(lake.store, target, schema="auto")
    assert [len(table) for _, table in tables(target)] == [10, 5]


# -- trouble


def puts_of(target: ScriptedStore) -> int:
    return len(target.puts)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("options", [{}, {"partition_by": "day", "schema": "auto"}], ids=["plain", "by day with columns"])
async def test_a_kill_at_every_write_leaves_each_record_once(
    when: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiering.export.columns.BLOCK_ROWS_MAX", 8)
    options = {**options, "file_bytes_max": 700}

    def build() -> tuple[ScriptedStore, Lake]:
        lake = Lake(ScriptedStore())
        for number in range(4):
            records = [
                NewRecord(number * DAY_MS // 2 + n * 1000, b"k", json.dumps({"n": n, "s": number}).encode()) for n in range(6)
            ]
            lake.segment([lake.batch(records), lake.batch(records, codec="zstd")])
        lake.commit()
        return lake.store, lake

    store, lake = build()
    target = ScriptedStore()
    await export(store, target, **options)
    whole = len(exported(target))
    count = puts_of(target)
    assert count > 8
    for kill_at in range(1, count + 1):
        store, lake = build()
        target = ScriptedStore()
        calls = [0]

        def count_and_kill(key: str, calls: list[int] = calls, kill_at: int = kill_at) -> None:
            calls[0] += 1
            if calls[0] == kill_at:
                raise Killed

        setattr(target, f"{when}_put", count_and_kill)
        with pytest.raises(Killed):
            await export(store, target, **options)
        target.before_put = target.after_put = None
        offsets = [row[1] for row in exported(target)]
        assert len(offsets) == len(set(offsets)), "even before the next run nothing is twice"
        grow(lake)  # the next run sees more than the killed one did
        await export(store, target, **options)
        offsets = [row[1] for row in exported(target)]
        assert offsets == list(range(whole + 12)), f"killed {when} write {kill_at}"


async def test_multipart_uploads_of_a_killed_run_are_ended() -> None:
    store, _ = topic(1)
    target = ScriptedStore()

    def kill(key: str) -> None:
        if key.endswith(".parquet"):
            target.uploads = [PendingUpload(key, "half", 0), PendingUpload("somebody/elses.parquet", "half", 0)]
            raise Killed

    target.before_put = kill
    with pytest.raises(Killed):
        await export(store, target, partition_by="day")
    target.before_put = None
    await export(store, target, partition_by="day")
    assert [upload.key for upload in target.uploads] == ["somebody/elses.parquet"]


@pytest.mark.parametrize("gone", ["part", "all"])
async def test_a_pending_unit_whose_records_expired_meanwhile_is_finished(gone: str) -> None:
    lake = random_lake(44, segments=6)
    target = ScriptedStore()

    def kill(key: str) -> None:
        if key.endswith(".parquet"):
            raise Killed

    target.after_put = kill
    with pytest.raises(Killed):
        await export(lake.store, target, until=AtOffset(lake.rows[3].end_offset))
    target.after_put = None
    before = wanted(lake)
    start = lake.rows[1].base_offset + 1 if gone == "part" else lake.rows[4].base_offset
    lake.log_start = start
    lake.commit()
    await export(lake.store, target)
    left = [row for row in before if row[1] >= start]
    assert exported(target) == (left if gone == "part" else before), "what was visible stays, or is what is left"
    again = await export(lake.store, target)
    assert again.rows == 0


async def test_two_exports_to_one_destination_do_not_mix() -> None:
    store, _ = topic(1)
    target = ScriptedStore()

    def intrude(key: str) -> None:
        if key.endswith(".parquet"):
            cursor = next(key for key in target.objects if key.endswith("/0.json"))
            target.objects[cursor] += b" "

    target.after_put = intrude
    with pytest.raises(Invalid, match="another export"):
        await export(store, target)


async def test_a_destination_is_continued_only_as_it_was_begun() -> None:
    store, _ = topic(1)
    target = ScriptedStore()
    await export(store, target)
    with pytest.raises(Invalid, match="partition by none, not day"):
        await export(store, target, partition_by="day")
    with pytest.raises(Invalid, match="value mode raw, not auto"):
        await export(store, target, schema="auto")
    with pytest.raises(Corrupt, match="cursor"):
        target.objects["_hotlog/clicks/0.json"] = b"{}"
        await export(store, target)


async def test_nothing_to_export_is_said() -> None:
    with pytest.raises(NotFound, match="clicks"):
        await export(ScriptedStore(), ScriptedStore())


# -- both tiers


def write_hot(data_dir: Path, lake: Lake, starts: list[int], *, topic_id: Any = TOPIC_ID) -> None:
    """Local segments of the lake's batches; `starts` are their base offsets, the last one is the active one."""
    directory = data_dir / files.partition_directory(TopicPartition("clicks", lake.partition))
    directory.mkdir(parents=True)
    (directory / files.METADATA_FILE).write_bytes(checkpoints.print_metadata(topic_id))
    for base, end in zip(starts, [*starts[1:], 1 << 60], strict=True):
        log = b"".join(
            batch for batch, header in zip(lake.batches, lake.headers(), strict=True) if base <= header.base_offset < end
        )
        Path(files.segment_path(str(directory), base, files.LOG)).write_bytes(log)


@pytest.mark.parametrize("with_store", [True, False])
async def test_closed_hot_segments_follow_the_cold_tier(tmp_path: Path, with_store: bool) -> None:
    whole = random_lake(44, segments=8)
    write_hot(tmp_path, whole, [whole.rows[n].base_offset for n in (2, 4, 5, 7)])
    cold = random_lake(44, segments=8)
    cold.rows = cold.rows[:5]
    cold.next_offset = cold.rows[-1].end_offset
    cold.commit()
    target = ScriptedStore()
    await export(cold.store if with_store else None, target, data_dir=str(tmp_path))
    active, first = whole.rows[7].base_offset, 0 if with_store else whole.rows[2].base_offset
    assert exported(target) == [row for row in wanted(whole) if first <= row[1] < active]
    # a time whose answer lies in the hot part
    hot = [(offset, time) for offset, time, _, _, _ in whole.records() if whole.rows[5].base_offset <= offset < active]
    time = max(time for _, time in hot)
    found = whole.for_timestamp(time)
    target = ScriptedStore()
    await export(cold.store if with_store else None, target, data_dir=str(tmp_path), start=AtTime(time))
    assert found is not None
    assert exported(target) == [row for row in wanted(whole) if found[0] <= row[1] < active]


async def test_local_segments_of_another_topic_are_not_read(tmp_path: Path) -> None:
    from uuid import uuid4

    lake = random_lake(44)
    write_hot(tmp_path, lake, [0, lake.rows[2].base_offset], topic_id=uuid4())
    with pytest.raises(NotFound):
        await export(None, ScriptedStore(), data_dir=str(tmp_path))


async def test_a_flipped_bit_in_a_local_segment_stops_the_export(tmp_path: Path) -> None:
    lake = random_lake(44)
    write_hot(tmp_path, lake, [0, lake.rows[4].base_offset])
    path = min(tmp_path.rglob("*.log"))
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(Corrupt, match=r"\.log"):
        await export(None, ScriptedStore(), data_dir=str(tmp_path))


async def test_a_segment_dropped_meanwhile_is_read_from_the_cold_tier(tmp_path: Path) -> None:
    lake = random_lake(44, segments=8)
    write_hot(tmp_path, lake, [lake.rows[n].base_offset for n in (2, 4, 6, 7)])
    newest = lake.manifest
    rows = list(lake.rows)
    lake.rows = rows[:3]
    lake.next_offset = lake.rows[-1].end_offset
    lake.commit()
    early = lake.store.objects[lake.keys.manifest]
    assert newest is not None
    lake.rows, lake.next_offset = rows, rows[-1].end_offset
    lake.commit()
    late = lake.store.objects[lake.keys.manifest]
    lake.store.objects[lake.keys.manifest] = early

    def spoil(call: Any, data: bytes) -> bytes:
        if call.key == lake.keys.object(rows[1].name):  # while the cold part is read, the broker tiers and drops the rest
            lake.store.objects[lake.keys.manifest] = late
            for path in tmp_path.rglob("*.log"):
                path.unlink()
        return data

    lake.store.spoil = spoil
    target = ScriptedStore()
    await export(lake.store, target, data_dir=str(tmp_path))
    assert exported(target) == [row for row in wanted(lake) if row[1] < rows[7].base_offset]


# -- the real thing


async def test_duckdb_reads_an_export_in_a_directory(tmp_path: Path) -> None:
    lake = Lake(ScriptedStore(), topic="flights")
    lake.segment([lake.batch(flights(1440)), lake.batch(flights(1440, gate="A"))])
    lake.commit()
    world = {
        "settings": Settings.resolve({}),
        "metrics": Metrics(),
        "clock": SystemClock(),
        "entropy": SystemEntropy(),
        "disk": PosixDisk(),
    }
    target = await open_store(f"file://{tmp_path}/out", **world)  # type: ignore[arg-type]
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
