"""One partition of __consumer_offsets: what is shown and when, checkpoints beside commits, and that work ends and yields."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hotlog.coordinators import keyed_log
from hotlog.coordinators.group_log import GroupLog
from hotlog.coordinators.group_shard import Entry
from hotlog.coordinators.group_types import Group
from hotlog.coordinators.offset_records import GroupKey, GroupValue, OffsetKey, OffsetValue
from hotlog.coordinators.record_log import PartitionRecords
from hotlog.kernel.ids import TopicPartition
from hotlog.world.ports import Disk
from tests.log.support import T0, config, new_log, opened
from tests.partitions.hosted import hosted
from tests.support.clocks import HandClock
from tests.support.disks import FastDisk, FaultyDisk
from tests.tools.steps import count_steps

TP = TopicPartition("__consumer_offsets", 0)
CONFIG = config(cleanup_policy="compact", file_delete_delay_ms=0)


def committed(offset: int, *, group: str = "g", partition: int = 0, metadata: str = "") -> Entry:
    return OffsetKey(group, "clicks", partition), OffsetValue(offset, -1, metadata, T0)


def stored(group: str, generation: int) -> Entry:
    return GroupKey(group), GroupValue(Group(group_id=group, generation=generation), T0)


@asynccontextmanager
async def table_at(path: Path, disk: Disk | None = None) -> AsyncIterator[GroupLog]:
    async with opened(path, CONFIG, disk=disk or FastDisk(2)) as logs:
        table = GroupLog(PartitionRecords(hosted(logs.get(TP) or await new_log(logs, CONFIG, TP))), HandClock())
        await table.replay()
        yield table


def shown(table: GroupLog, *, group: str = "g") -> dict[int, int]:
    return {partition: value.offset for (_, partition), value in table.offsets(group).items()}


async def checkpointed(table: GroupLog) -> int:
    """Checkpoint to the end; how many pieces it took."""
    for pieces in range(1_000):
        if not await table.checkpoint_some():
            return pieces
    raise AssertionError("a checkpoint goes on for ever")


async def test_a_record_is_shown_only_when_it_is_durable(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with table_at(tmp_path, disk) as table:
        await table.append([committed(1), stored("g", 1)])
        disk.hold()
        writing = asyncio.create_task(table.append([committed(2), committed(7, partition=1), stored("g", 2), stored("h", 1)]))
        await disk.is_holding()
        assert shown(table) == {0: 1}
        assert table.group("g").group.generation == 1
        assert not table.has("h")
        behind = asyncio.create_task(table.append([committed(8, partition=1), stored("h", 2)]))
        await asyncio.sleep(0)
        disk.let_go()  # the first, and with it another that waits for its own fsync
        disk.hold()
        await writing
        assert shown(table) == {0: 2, 1: 7}
        assert table.group("h").group.generation == 1
        disk.let_go()
        await behind
        assert shown(table) == {0: 2, 1: 8}
        assert table.group("g").group.generation == 2
        assert table.has("h")
        disk.hold()
        deleting = asyncio.create_task(table.append([(OffsetKey("g", "clicks", 0), None)]))
        await disk.is_holding()
        assert shown(table) == {0: 2, 1: 8}
        disk.let_go()
        await deleting
        assert shown(table) == {1: 8}


async def test_what_nobody_waits_for_any_more_is_shown_with_the_next_that_is_durable(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with table_at(tmp_path, disk) as table:
        disk.hold()
        left = asyncio.create_task(table.append([committed(1)]))
        await disk.is_holding()
        left.cancel()
        await asyncio.wait([left])
        disk.let_go()
        await table.append([committed(5, partition=1)])
        assert shown(table) == {0: 1, 1: 5}, "as a replay would show it"


async def test_tombstones_and_commits_of_one_key_in_one_flush_end_as_a_replay_ends(tmp_path: Path) -> None:
    disk, key = FaultyDisk(), OffsetKey("g", "clicks", 0)
    async with table_at(tmp_path, disk) as table:
        await table.append([committed(1)])
        disk.hold()
        work = [[(key, None)], [(key, None)], [committed(2)], [(key, None)], [committed(3)]]
        tasks = [asyncio.create_task(table.append(entries)) for entries in work]
        await disk.is_holding()
        disk.let_go()
        await asyncio.gather(*tasks)
        assert shown(table) == {0: 3}
        await table.append([(key, None)])
        assert not table.has("g")
        assert table._table._records == {}, "nothing is left of a group that is gone"
        assert table._table.alive_bytes == 0
    async with table_at(tmp_path) as table:
        assert not table.has("g")


@pytest.mark.parametrize("piece", [4, 50])
async def test_a_commit_during_a_checkpoint_is_not_undone_by_the_older_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(keyed_log, "CHECKPOINT_BYTES", 2_000)
    monkeypatch.setattr(keyed_log, "PIECE_RECORDS", piece)
    disk = FaultyDisk()
    async with table_at(tmp_path, disk) as table:
        for offset in range(12):
            await table.append([committed(offset, partition=partition) for partition in range(12)])
        disk.hold()  # commits before, between and after the pieces, none of them durable while the pieces are read
        late = [asyncio.create_task(table.append([committed(100 + p, partition=p)])) for p in (0, 5)]
        await disk.is_holding()
        checkpoint = asyncio.create_task(checkpointed(table))
        for partition in (0, 1, 6, 11):
            await asyncio.sleep(0)
            late.append(asyncio.create_task(table.append([committed(200 + partition, partition=partition)])))
        await asyncio.sleep(0)
        disk.let_go()
        await asyncio.gather(*late)
        await table.append([committed(300, partition=2)])
        assert await checkpoint == -(-12 // piece)
        assert table.log.partition.log.log_start_offset >= 144
        wanted = {p: 11 for p in range(12)} | {0: 200, 1: 201, 2: 300, 5: 105, 6: 206, 11: 211}
        assert shown(table) == wanted
    async with table_at(tmp_path) as table:
        assert shown(table) == wanted


async def test_a_checkpoint_keeps_groups_that_never_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_log, "CHECKPOINT_BYTES", 2_000)
    async with table_at(tmp_path) as table:
        await table.append([stored("quiet", 3)])
        for offset in range(50):
            await table.append([committed(offset)])
        await checkpointed(table)
        assert table.log.partition.log.log_start_offset > 40
    async with table_at(tmp_path) as table:
        value = table.group("quiet")
        assert value is not None
        assert value.group.generation == 3
        assert shown(table) == {0: 49}


async def test_what_is_alive_alone_is_never_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More alive than CHECKPOINT_BYTES: one checkpoint when as much is dead, then none until as much is dead again."""
    monkeypatch.setattr(keyed_log, "CHECKPOINT_BYTES", 4_000)
    monkeypatch.setattr(keyed_log, "PIECE_RECORDS", 50)
    async with table_at(tmp_path) as table:
        everything = [committed(1, partition=partition, metadata="m" * 40) for partition in range(300)]
        await table.append(everything)
        assert await checkpointed(table) == 0, "all of it is alive"
        await table.append([committed(2, partition=partition, metadata="m" * 40) for partition in range(60)])
        assert await checkpointed(table) == 0, "4,000 bytes are dead, but far more is alive"
        for offset in (3, 4):
            await table.append([committed(offset, partition=partition, metadata="m" * 40) for partition in range(300)])
        end = table.log.partition.log.log_end_offset
        assert await checkpointed(table) == 6, "300 records in pieces of 50"
        assert table.log.partition.log.log_end_offset == end + 300
        assert await checkpointed(table) == 0, "what a checkpoint wrote is alive"
        size = table.log.partition.log.size
    async with table_at(tmp_path) as table:
        assert await checkpointed(table) == 0, "also after a restart"
        assert table.log.partition.log.size == size
        assert len(shown(table)) == 300


async def test_a_checkpoint_that_was_interrupted_goes_on_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed_log, "CHECKPOINT_BYTES", 2_000)
    monkeypatch.setattr(keyed_log, "PIECE_RECORDS", 10)
    disk = FaultyDisk()
    async with table_at(tmp_path, disk) as table:
        for offset in range(5):
            await table.append([committed(offset, partition=partition) for partition in range(50)])
        for _ in range(3):
            assert await table.checkpoint_some()
        start = table.log.partition.log.log_start_offset
        assert start == 0, "nothing is given up before all of it is written again"
    async with table_at(tmp_path) as table:
        assert shown(table) == {partition: 4 for partition in range(50)}
        assert await checkpointed(table) >= 5
        assert table.log.partition.log.log_start_offset > 250
    async with table_at(tmp_path) as table:
        assert shown(table) == {partition: 4 for partition in range(50)}


async def test_what_goes_was_written_again_on_the_device_whatever_the_durability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed_log, "CHECKPOINT_BYTES", 2_000)
    disk = FaultyDisk()
    lazy = config(cleanup_policy="compact", hotlog_durability="page-cache", flush_messages=1 << 40)
    async with opened(tmp_path, lazy, disk=disk) as logs:
        table = GroupLog(PartitionRecords(hosted(await new_log(logs, lazy, TP))), HandClock())
        for offset in range(60):
            await table.append([committed(offset)])
        await table.log.partition.log.flush()
        await checkpointed(table)
        assert table.log.partition.log.log_start_offset >= 60
        assert table.log.partition.log.durable_end == table.log.partition.log.log_end_offset


async def test_a_checkpoint_is_pieces_and_commits_go_on_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_log, "CHECKPOINT_BYTES", 10_000)
    monkeypatch.setattr(keyed_log, "PIECE_RECORDS", 20)
    async with table_at(tmp_path) as table:
        for offset in range(3):
            await table.append([committed(offset, partition=partition) for partition in range(400)])
        few = await count_steps(table.append([committed(3, partition=partition) for partition in range(20)]))
        steps = await count_steps(checkpointed(table))
        assert steps.total > 10 * few.total
        assert steps.most < 2 * few.total, "a piece is about as much as writing PIECE_RECORDS records"
