"""The data directory: whose it is, creation and deletion, many logs, what is left after a stop."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from uuid import UUID

import pytest

from hotlog.kernel.errors import AlreadyExists, Invalid, NotFound, OutOfRange
from hotlog.kernel.ids import TopicPartition
from hotlog.log import manager as manager_module
from tests.log.support import T0, TOPIC_ID, TP, append, batch, closed_segments, config, kill, manager, new_log, opened, read_all
from tests.support.clocks import HandClock
from tests.support.disks import WatchedDisk
from tests.tools.steps import count_steps

TIERED = config(remote_storage_enable="true", file_delete_delay_ms=1000, segment_bytes=1024)


async def test_files_are_kafkas(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        await logs.bind_cluster("c1")
        log = await new_log(logs)
        log.set_leader_epoch(4)
        append(log, batch(b"x", producer=(1, 0, 0)))
        await log.flush()
    home = tmp_path / "clicks-0"
    zero, one = f"{0:020d}", f"{1:020d}"
    assert {path.name for path in home.iterdir()} == {
        f"{zero}.log", f"{zero}.index", f"{zero}.timeindex", f"{one}.snapshot", "leader-epoch-checkpoint", "partition.metadata",
    }  # fmt: skip
    assert (home / "partition.metadata").read_text() == "version: 0\ntopic_id: ABEiM0RVZneImaq7zN3u_w\n"
    assert (home / "leader-epoch-checkpoint").read_text() == "0\n1\n4 0\n"
    assert (tmp_path / "recovery-point-offset-checkpoint").read_text() == "0\n1\nclicks 0 1\n"
    assert (tmp_path / "replication-offset-checkpoint").read_text() == "0\n1\nclicks 0 1\n"
    assert (tmp_path / ".kafka_cleanshutdown").read_text() == '{"version":0,"brokerEpoch":-1}'
    properties = (tmp_path / "meta.properties").read_text().splitlines()
    assert {"version=1", "node.id=1", "cluster.id=c1"} < set(properties)
    assert (home / f"{zero}.index").read_bytes() == b""
    assert (home / f"{zero}.timeindex").read_bytes() == T0.to_bytes(8, "big") + bytes(4)


async def test_a_directory_of_another_node_or_cluster_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        await logs.bind_cluster("ours")
        await new_log(logs)
    with pytest.raises(Invalid, match=r"node\.id=1; this broker is node\.id=2"):
        await manager(tmp_path, node_id=2).open()
    with pytest.raises(Invalid, match="cluster ours; this broker is of cluster theirs"):
        await manager(tmp_path).open(cluster_id="theirs")
    logs = manager(tmp_path)
    await logs.open(cluster_id="ours")
    with pytest.raises(Invalid, match="not to theirs"):
        await logs.bind_cluster("theirs")
    await logs.close()
    (tmp_path / "meta.properties").unlink()
    with pytest.raises(Invalid, match="whose are they"):
        await manager(tmp_path).open()


async def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(Invalid, match="in use"):
            await manager(tmp_path).open()
    async with opened(tmp_path):
        pass


async def test_a_directory_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(Invalid, match="cannot be used"):
        await manager(tmp_path / "file").open()


async def test_a_refused_open_can_be_tried_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        await new_log(logs)
    with pytest.raises(Invalid):
        await manager(tmp_path, node_id=2).open()
    async with opened(tmp_path) as logs:  # the lock was given back
        assert logs.get(TP) is not None


async def test_create_and_delete(tmp_path: Path) -> None:
    clock = HandClock()
    topic = config(file_delete_delay_ms=1000)
    async with opened(tmp_path, topic, clock=clock) as logs:
        log = await new_log(logs, topic)
        with pytest.raises(AlreadyExists):
            await new_log(logs, topic)
        append(log, batch(b"x"))
        await log.wait_durable(1)
        await logs.delete(TP)
        with pytest.raises(NotFound):
            await logs.delete(TP)
        names = [path.name for path in tmp_path.iterdir() if path.is_dir()]
        assert len(names) == 1 and names[0].startswith("clicks-0.") and names[0].endswith("-delete")
        again = await logs.create(TP, UUID(int=7), topic)  # a new topic of the same name meets nothing of the old
        assert (again.log_end_offset, again.topic_id) == (0, UUID(int=7))
        await logs.tick()
        assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2
        clock.ms += 1001
        await logs.tick()
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["clicks-0"]


async def test_a_log_that_starts_where_the_cold_tier_ends(tmp_path: Path) -> None:
    logs = manager(tmp_path)
    await logs.open(config_of=lambda tp: TIERED)
    log = await logs.create(TP, TOPIC_ID, TIERED, start_offset=500, log_start_offset=20, leader_epoch=6)
    assert (log.log_start_offset, log.local_log_start_offset, log.log_end_offset) == (20, 500, 500)
    assert append(log, batch(b"x")).base_offset == 500
    await log.wait_durable(501)
    assert log.end_offset_for_epoch(6) == (6, 501)
    await kill(logs)
    async with opened(tmp_path, TIERED) as logs:
        again = logs.get(TP)
        assert again is not None
        assert (again.log_end_offset, again.local_log_start_offset, again.leader_epoch) == (501, 500, 6)


async def test_dropping_local_segments_of_a_tiered_log(tmp_path: Path) -> None:
    clock = HandClock()
    async with opened(tmp_path, TIERED, clock=clock) as logs:
        log = await new_log(logs, TIERED)
        for _ in range(10):
            append(log, batch(b"x" * 900))
        await log.wait_durable(10)
        await log.flush()
        with pytest.raises(Invalid, match="cold tier has only what is below 0"):
            await log.drop_local_before(3)
        log.set_tiered_end(5)
        with pytest.raises(Invalid):
            await log.drop_local_before(6)
        size = log.size
        held = log.read(2, 1 << 20, min_one=True)
        freed = await log.drop_local_before(5)
        assert log.size == size - freed > 0
        assert (log.log_start_offset, log.local_log_start_offset) == (0, 5)
        with pytest.raises(OutOfRange):
            log.read(4, 1000, min_one=True)
        assert held is not None and len(held.data) > 900  # a reader that has it keeps it
        home = tmp_path / "clicks-0"
        assert len(list(home.glob("*.deleted"))) >= 15
        await logs.tick()
        assert len(list(home.glob("*.deleted"))) >= 15
        clock.ms += 1001
        await logs.tick()
        assert list(home.glob("*.deleted")) == []
        assert [h.base_offset for h in await read_all(log)] == [5, 6, 7, 8, 9]
        log.advance_log_start(8)
        await log.wait_log_start_saved()
        assert await log.drop_local_before(8, expired=True) > 0
    async with opened(tmp_path, TIERED) as logs:
        again = logs.get(TP)
        assert again is not None and (again.log_start_offset, again.local_log_start_offset) == (8, 8)


async def test_the_log_start_survives_a_kill(tmp_path: Path) -> None:
    logs = manager(tmp_path)
    await logs.open(config_of=lambda tp: config())
    log = await new_log(logs)
    for _ in range(10):
        append(log, batch(b"x"))
    await log.wait_durable(10)
    with pytest.raises(OutOfRange):
        log.advance_log_start(11)
    log.advance_log_start(7)
    await log.wait_log_start_saved()
    log.advance_log_start(3)  # never goes back
    await kill(logs)
    async with opened(tmp_path) as logs:
        again = logs.get(TP)
        assert again is not None and again.log_start_offset == again.local_log_start_offset == 7
        assert [h.base_offset for h in await read_all(again)] == [7, 8, 9]
        with pytest.raises(OutOfRange):
            again.read(6, 100, min_one=True)


async def test_idle_logs_roll_by_time_and_give_back_their_descriptors(tmp_path: Path) -> None:
    clock = HandClock()
    topic = config(segment_ms=10_000)
    async with opened(tmp_path, topic, clock=clock) as logs:
        log = await new_log(logs, topic)
        append(log, batch(b"x", timestamp=1000), now_ms=clock.ms)  # an old event
        await log.wait_durable(1)
        clock.ms += 10_000
        await logs.tick()
        assert len(log.segments()) == 1
        clock.ms += 1
        await logs.tick()
        assert [info.closed_ms for info in log.segments()] == [clock.ms, -1]
        assert closed_segments(log)[0].max_timestamp == 1000
        await log.flush()
        clock.ms += 60_001
        await logs.tick()
        assert log._syncer.file is None and not logs._parts.pool._pinned
        append(log, batch(b"more"), now_ms=clock.ms)
        await log.wait_durable(2)
        assert len(await read_all(log)) == 2


async def test_many_logs_stay_within_few_descriptors(tmp_path: Path) -> None:
    count = 700
    async with opened(tmp_path) as logs:
        for number in range(count):
            await logs.create(TopicPartition("many", number), TOPIC_ID, config())
    before = len(os.listdir("/proc/self/fd"))
    async with opened(tmp_path) as logs:
        assert len(logs.all()) == count
        for log in logs.all():
            assert log.read(0, 100, min_one=True) is not None
        assert len(os.listdir("/proc/self/fd")) - before < 530
        assert logs.damage == [] and logs.failures == {}


async def test_what_the_uploader_gets(tmp_path: Path) -> None:
    async with opened(tmp_path, TIERED) as logs:
        log = await new_log(logs, TIERED)
        log.set_leader_epoch(2)
        for number in range(4):
            append(log, batch(b"x" * 900, timestamp=T0 + number, producer=(3, 0, number)))
        log.set_leader_epoch(9)
        append(log, batch(b"x" * 900, producer=(3, 0, 4)))
        await log.wait_durable(5)
        await log.flush()
        closed = closed_segments(log)
        assert [(info.base_offset, info.end_offset) for info in closed] == [(0, 1), (1, 2), (2, 3), (3, 4)]
        for info in closed:
            assert os.path.getsize(info.log_path) == info.size
            assert info.max_timestamp == T0 + info.base_offset and info.max_timestamp_offset == info.base_offset
            assert os.path.getsize(info.log_path.removesuffix(".log") + ".timeindex") == 12 and not os.path.exists(
                info.txnindex_path
            )
            raw = await log.producer_snapshot_bytes(info.end_offset)
            path = tmp_path / "clicks-0" / f"{info.end_offset:020d}.snapshot"
            assert raw == path.read_bytes() and len(raw) == 10 + 46
            path.unlink()
            assert await log.producer_snapshot_bytes(info.end_offset) == raw  # rebuilt
        assert log.leader_epoch_bytes(4) == b"0\n1\n2 0\n"
        assert log.leader_epoch_bytes(5) == b"0\n2\n2 0\n9 4\n"


async def test_the_index_bound_rolls_a_segment(tmp_path: Path) -> None:
    topic = config(segment_index_bytes=80, index_interval_bytes=0)
    async with opened(tmp_path, topic) as logs:
        log = await new_log(logs, topic)
        for _ in range(40):
            append(log, batch(b"x"))
        await log.wait_durable(40)
        assert len(log.segments()) == 4
        assert all(os.path.getsize(info.log_path.removesuffix(".log") + ".index") <= 80 for info in log.segments())


async def test_a_log_close_that_fails_leaves_no_clean_marker(tmp_path: Path) -> None:
    from tests.support.disks import IO, FaultyDisk

    disk = FaultyDisk()
    logs = manager(tmp_path, disk=disk)
    await logs.open(config_of=lambda tp: config(hotlog_durability="page-cache"))
    log = await new_log(logs, config(hotlog_durability="page-cache"))
    append(log, batch(b"x"))
    disk.fail("sync", "*.log", IO)
    await logs.close()
    assert not (tmp_path / ".kafka_cleanshutdown").exists()
    async with opened(tmp_path) as again:
        assert again.get(TP).log_end_offset == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("clean", [True, False])
async def test_a_partition_made_anew_has_nothing_of_the_deleted_one_of_its_name(tmp_path: Path, clean: bool) -> None:
    """Neither its log start, which would hide records, nor its recovery point, which would believe a torn tail."""
    logs = manager(tmp_path)
    await logs.open(config_of=lambda tp: config())
    other = await new_log(logs, tp=TP._replace(partition=1))
    for log in (other, await new_log(logs)):
        for _ in range(10):
            append(log, batch(b"old"))
        await log.flush()
        log.advance_log_start(7)
    await other.wait_log_start_saved()
    await logs.checkpoint()
    await logs.delete(TP)
    log = await new_log(logs)
    for _ in range(9):
        append(log, batch(b"new"))
    await log.flush()
    path = Path(log.active.log_path)
    await (logs.close() if clean else kill(logs))
    if not clean:
        path.write_bytes(path.read_bytes()[:-3])  # torn, and not below any recovery point of this log
    async with opened(tmp_path) as logs:
        log = logs.get(TP)
        assert log.failed is None
        assert (log.log_start_offset, log.log_end_offset) == (0, 9 if clean else 8)
        assert logs.get(other.tp).log_start_offset == 7


async def test_what_is_known_of_a_partition_that_cannot_be_opened_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await new_log(logs)
        append(log, batch(b"x"), batch(b"y"))
        await log.flush()
        log.advance_log_start(1)
    metadata = tmp_path / "clicks-0" / "partition.metadata"
    good = metadata.read_bytes()
    metadata.write_bytes(b"junk")
    async with opened(tmp_path) as logs:
        assert TP in logs.failures
        await logs.checkpoint()
        other = await new_log(logs, tp=TP._replace(partition=1))
        append(other, batch(b"x"))
        await other.flush()
        other.advance_log_start(1)
        await other.wait_log_start_saved()
    metadata.write_bytes(good)
    async with opened(tmp_path) as logs:
        assert logs.get(TP).log_start_offset == 1


async def test_upkeep_of_many_partitions_is_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager_module, "TICKED_AT_ONCE", 8)
    clock = HandClock()
    async with opened(tmp_path, clock=clock) as logs:
        for index in range(4):
            await new_log(logs, tp=TP._replace(partition=index))
        await logs.tick()  # what is done once, is done
        for log in logs.all():
            log.touch()
        few = (await count_steps(logs.tick())).total
        for index in range(4, 200):
            await new_log(logs, tp=TP._replace(partition=index))
        clock.ms += 60_000  # a checkpoint of all is due at the end of the round
        ticks, most = 0, 0
        while True:
            steps = await count_steps(logs.tick())
            ticks, most = ticks + 1, max(most, steps.most)
            if steps.total == 0 or not logs._round:
                break
        assert ticks >= 200 // 8
        assert most < 3 * few


async def test_log_starts_that_move_together_are_written_together(tmp_path: Path) -> None:
    disk = WatchedDisk(2)
    async with opened(tmp_path, disk=disk) as logs:
        moved = [await new_log(logs, tp=TP._replace(partition=index)) for index in range(50)]
        for log in moved:
            append(log, batch(b"x"))
            await log.flush()
            log.advance_log_start(1)
        disk.asked.clear()
        await moved[0].wait_log_start_saved()
        disk.asked.clear()
        moved[0].begin_history_at(0)  # so that there is something to write once more
        few = await count_steps(moved[0].wait_log_start_saved())
        moved[0].begin_history_at(1)
        many = await count_steps(asyncio.gather(*(log.wait_log_start_saved() for log in moved)))
        assert sum(Path(path).name == "log-start-offset-checkpoint" for path in disk.paths("write_atomic")) == 2
        assert many.total < len(moved) * few.total / 2, "not a look at every log for every caller"
