"""One partition of __consumer_offsets: what is shown and when, what a start reads, and when a segment is closed for the cleaner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hotlog.coordinators import group_log, keyed_log
from hotlog.coordinators.group_log import GroupLog
from hotlog.coordinators.group_shard import Entry
from hotlog.coordinators.group_types import Group
from hotlog.coordinators.offset_records import GroupCodec, GroupKey, GroupValue, Key, OffsetKey, OffsetValue, Value
from hotlog.coordinators.record_log import PartitionRecords
from hotlog.kernel.ids import TopicPartition
from hotlog.world.ports import Disk
from hotlog.world.posix import SystemEntropy
from tests.compaction.cleaning import cleaner_of
from tests.log.support import T0, config, new_log, opened
from tests.partitions.hosted import hosted
from tests.support.clocks import HandClock
from tests.support.disks import FastDisk, FaultyDisk

TP = TopicPartition("__consumer_offsets", 0)
CONFIG = config(cleanup_policy="compact", file_delete_delay_ms=0)


def committed(offset: int, *, group: str = "g", partition: int = 0, metadata: str = "") -> Entry:
    return OffsetKey(group, "clicks", partition), OffsetValue(offset, -1, metadata, T0)


def stored(group: str, generation: int) -> Entry:
    return GroupKey(group), GroupValue(Group(group_id=group, generation=generation), T0)


@asynccontextmanager
async def table_at(path: Path, disk: Disk | None = None) -> AsyncIterator[GroupLog]:
    async with opened(path, CONFIG, disk=disk or FastDisk(2)) as logs:
        table = GroupLog(PartitionRecords(hosted(logs.get(TP) or await new_log(logs, CONFIG, TP))), HandClock(), SystemEntropy())
        await table.replay()
        yield table


def shown(table: GroupLog, *, group: str = "g") -> dict[int, int]:
    return {partition: value.offset for (_, partition), value in table.offsets(group).items()}


async def cleaned(table: GroupLog) -> int:
    """Clean what is closed; how many cleanings it took."""
    log = table.log.partition.log
    await log.flush()
    cleaner, count = cleaner_of(log, disk=FastDisk(2), clock=HandClock()), 0
    while await cleaner.tick():
        count += 1
    return count


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


async def test_a_segment_is_closed_for_the_cleaner_when_that_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_log, "SEGMENT_BYTES", 4_000)
    async with table_at(tmp_path) as table:
        log = table.log.partition.log
        everything = [committed(1, partition=partition, metadata="m" * 40) for partition in range(300)]
        await table.append(everything)
        assert not table.keep_short(), "all of it is alive"
        await table.append([committed(2, partition=partition, metadata="m" * 40) for partition in range(60)])
        assert not table.keep_short(), "more is alive than dead"
        for offset in (3, 4):
            await table.append([committed(offset, partition=partition, metadata="m" * 40) for partition in range(300)])
        assert table.keep_short()
        assert not table.keep_short(), "nothing was appended since"
        size = log.size
        assert await cleaned(table) == 1
        assert log.size < size / 2
        await table.append([committed(5, partition=partition, metadata="m" * 40) for partition in range(60)])
        assert not table.keep_short(), "most of it is alive now"
        wanted = {partition: 5 if partition < 60 else 4 for partition in range(300)}
        assert shown(table) == wanted
    async with table_at(tmp_path) as table:
        assert shown(table) == wanted


async def test_what_was_cleaned_is_read_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_log, "SEGMENT_BYTES", 2_000)
    async with table_at(tmp_path) as table:
        await table.append([stored("quiet", 3)])
        for offset in range(50):
            await table.append([committed(offset), committed(offset, partition=offset)])
        await table.append([(OffsetKey("g", "clicks", 7), None)])
        assert table.keep_short()
        assert await cleaned(table)
        await table.append([committed(100, partition=8)])
        wanted = shown(table)
    async with table_at(tmp_path) as table:
        value = table.group("quiet")
        assert value is not None and value.group.generation == 3
        assert shown(table) == wanted
        assert 7 not in wanted and wanted[8] == 100


class CountingCodec(GroupCodec):
    """Counts the values that are decoded."""

    decoded = 0

    def decode_value(self, key: Key, raw: bytes) -> Value:
        self.decoded += 1
        return super().decode_value(key, raw)


async def test_a_start_decodes_what_is_alive_however_much_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand groups with ten offsets each, all of which were committed again and again, here and there in a transaction."""
    codecs: list[CountingCodec] = []

    def made() -> CountingCodec:
        codecs.append(CountingCodec())
        return codecs[-1]

    monkeypatch.setattr(group_log, "GroupCodec", made)
    groups, commits = 1_000, 5
    async with table_at(tmp_path) as table:
        await table.append([stored(f"g{number}", 3) for number in range(groups)])
        for offset in range(commits):
            for number in range(groups):
                entries = [committed(offset, group=f"g{number}", partition=partition) for partition in range(10)]
                table._write(
                    [(key, value, table._codec.encode_key(key), table._codec.encode_value(value)) for key, value in entries]
                )
        await table.log.partition.log.flush()
    async with table_at(tmp_path) as table:
        alive = groups * 11
        assert alive <= codecs[-1].decoded <= alive * 1.01, (
            f"{codecs[-1].decoded} values were decoded; {groups * (commits * 10 + 1)} are in the log"
        )
        assert all(shown(table, group=f"g{number}") == dict.fromkeys(range(10), commits - 1) for number in range(groups))
