"""Exports in trouble: kills at every write, pending units, two at once, local segments that change meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hotlog.kernel.errors import Corrupt, Invalid
from hotlog.kernel.ids import TopicPartition
from hotlog.log import checkpoints, files
from hotlog.wire.records import NewRecord
from hotlog.world.ports import PendingUpload
from tests.cold.lake import TOPIC_ID, Lake, random_lake
from tests.export.support import DAY_MS, export, exported, grow, topic, wanted
from tests.support.scripted_store import ScriptedStore
from tiering.replay.places import AtOffset, AtTime


class Killed(BaseException):
    """As good as kill -9: nobody catches it."""


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
            target.objects["_hotlog/clicks/cursor.json"] += b" "

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
        target.objects["_hotlog/clicks/cursor.json"] = b"{}"
        await export(store, target)


async def test_an_empty_topic_is_no_error() -> None:
    done = await export(ScriptedStore(), ScriptedStore())
    assert (done.rows, done.files, done.ends) == (0, 0, {0: 0, 1: 0, 2: 0})


OLD_CURSOR: dict[str, Any] = {
    "hotlog-export": 1, "topic_id": str(TOPIC_ID), "partition": 0, "partition_by": "none", "values": "raw", "done": [[0, 30]],
    "pending": [30, 50], "rows": 7, "files": 2, "bytes": 99,
}  # fmt: skip


async def test_an_export_that_an_earlier_release_began_is_continued() -> None:
    store, lakes = topic(2)
    target = ScriptedStore()
    half = "clicks-0-00000000000000000030-00000000000000000050.parquet"
    target.objects[half] = b"what the killed run wrote of it"
    target.objects["_hotlog/clicks/0.json"] = json.dumps(OLD_CURSOR).encode()
    target.objects["_hotlog/clicks/1.json"] = json.dumps(OLD_CURSOR | {"partition": 1, "done": [], "pending": None}).encode()
    done = await export(store, target)
    assert exported(target) == [row for row in wanted(*lakes) if row[0] == 1 or row[1] >= 30]
    assert target.objects[half].startswith(b"PAR1"), "the pending unit has the name that it was announced under"
    cursor = json.loads(target.objects["_hotlog/clicks/cursor.json"])
    assert (cursor["rows"], cursor["pending"]) == (14 + done.rows, [])
    assert json.loads(target.objects["_hotlog/clicks/0.json"])["hotlog-export"] == 2, (
        "the earlier release refuses what goes on elsewhere"
    )
    assert (await export(store, target)).rows == 0


async def test_cursors_of_an_earlier_release_that_disagree_are_refused() -> None:
    store, _ = topic(2)
    target = ScriptedStore()
    target.objects["_hotlog/clicks/0.json"] = json.dumps(OLD_CURSOR | {"partition_by": "day"}).encode()
    with pytest.raises(Invalid, match="partition by day, not none"):
        await export(store, target)


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
    assert (await export(None, ScriptedStore(), data_dir=str(tmp_path))).ends == {0: 0, 1: 0, 2: 0}


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
