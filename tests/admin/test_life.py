"""A broker's life: crashes between commit and effect, a store that is away, a lost or stale disk, two processes, damage."""

from __future__ import annotations

import asyncio
import errno
import shutil
from pathlib import Path
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from controller.changes import DeleteTopics
from controller.metadata import State
from controller.records import TopicCreated, TopicDeleted
from hotlog.apis.fetch.cold_reads import Fetches
from hotlog.apis.fetch.parts import Limits
from hotlog.apis.fetch.rounds import Round
from hotlog.broker.broker import Broker
from hotlog.kernel.errors import Corrupt, ForeignStore, Invalid, UnknownVersion
from hotlog.kernel.ids import PartitionId, TopicPartition
from hotlog.log.checkpoints import parse_metadata
from hotlog.partitions.partition import Partition
from hotlog.wire.batch import header_at
from hotlog.wire.error_codes import Refused
from hotlog.wire.fetch_request import Wanted
from hotlog.wire.records import NewRecord, decode_batch, encode_batch
from tests.admin.node import Door, heard_of, open_broker, open_directory_store, request, running
from tests.controller.world import Raw
from tests.support.faulty_store import Faults, FaultyStore
from tests.tools.patience import SOON_S
from tiering.manifest.codec import FORMAT, decode, encode

TP = TopicPartition("clicks", 0)


async def produce(broker: Broker, first: int, count: int) -> None:
    log = broker.logs.get(TP)
    for number in range(first, first + count):
        data = encode_batch([NewRecord(broker.clock.now_ms(), b"k", b"%d" % number)])
        appended = log.append(memoryview(data), [header_at(data)], now_ms=broker.clock.now_ms())
        assert appended.base_offset == number
    await log.wait_durable(first + count)


async def tier(broker: Broker, end: int) -> None:
    """Roll, and copy until everything below `end` is in the store."""
    broker.logs.get(TP).roll(broker.clock.now_ms())
    await broker.logs.get(TP).flush()
    async with asyncio.timeout(SOON_S):
        while broker.partition("clicks", 0).cold.end_offset < end:
            await broker.tier.tick_copy()
            await asyncio.sleep(0.01)


async def values_cold(broker: Broker, start: int, end: int) -> list[bytes]:
    found, offset = [], start
    while offset < end:
        piece = await broker.partition("clicks", 0).cold.read(offset, 1_000_000)
        data = memoryview(piece.data)
        while len(data):
            size = header_at(data).size
            found += [bytes(record.value) for record in decode_batch(data[:size]) if record.offset >= start]
            offset = header_at(data).next_offset
            data = data[size:]
    return found


async def test_history_in_the_cold_tier_stays_readable_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await broker.create_topic("clicks", 1)
        await produce(broker, 0, 20)
        await tier(broker, 20)
        assert await broker.logs.get(TP).drop_local_before(20) > 0
        assert broker.partition("clicks", 0).log_start_offset == 0
    async with running(tmp_path) as broker:
        partition = broker.partition("clicks", 0)
        assert partition.log.local_log_start_offset == 20
        assert partition.log_start_offset == 0, "what is only in the store is still there for clients"
        assert await values_cold(broker, 0, 20) == [b"%d" % number for number in range(20)]


@pytest.mark.parametrize("deleted_first", [0, 5])
async def test_a_lost_disk_begins_anew_where_the_cold_tier_ends(tmp_path: Path, deleted_first: int) -> None:
    async with running(tmp_path) as broker:
        await broker.create_topic("clicks", 1)
        await produce(broker, 0, 20)
        await tier(broker, 20)
        if deleted_first:
            await broker.partition("clicks", 0).delete_records(deleted_first)
    shutil.rmtree(tmp_path / "data")
    for _ in range(2):  # and so it stays after one more restart
        async with running(tmp_path) as broker:
            partition = broker.partition("clicks", 0)
            assert (partition.log.log_end_offset, partition.log_start_offset) == (20, deleted_first)
            assert await values_cold(broker, deleted_first, 20) == [b"%d" % number for number in range(deleted_first, 20)]


async def test_a_lost_disk_waits_for_the_store_rather_than_give_offsets_out_twice(tmp_path: Path) -> None:
    store = FaultyStore(await open_directory_store(tmp_path / "store"), Faults())
    broker = await open_broker(tmp_path / "data", store)
    await broker.create_topic("clicks", 1)
    await produce(broker, 0, 20)
    await tier(broker, 20)
    await broker.close()
    shutil.rmtree(tmp_path / "data" / "log" / "clicks-0")
    store.faults.is_down = True
    broker = await open_broker(tmp_path / "data", store)
    assert broker.partition("clicks", 0) is None, "not served"
    shapes = request(3, 9)
    wanted = shapes.MetadataRequest(
        topics=None, allow_auto_topic_creation=False, include_cluster_authorized_operations=False,
        include_topic_authorized_operations=False,
    )  # fmt: skip
    reply = await Door(broker).call(3, 9, wanted)
    assert reply.topics[0].partitions[0].error_code is ErrorCode.leader_not_available
    store.faults.is_down = False
    await broker.tick()
    assert broker.partition("clicks", 0).log.log_end_offset == 20
    await broker.close()


async def test_a_log_behind_its_cold_tier_begins_anew(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await broker.create_topic("clicks", 1)
        await produce(broker, 0, 10)
        await broker.logs.get(TP).flush()
        shutil.copytree(tmp_path / "data" / "log" / "clicks-0", tmp_path / "old")
        await produce(broker, 10, 10)
        await tier(broker, 20)
    shutil.rmtree(tmp_path / "data" / "log" / "clicks-0")
    shutil.copytree(tmp_path / "old", tmp_path / "data" / "log" / "clicks-0")
    for name in (".kafka_cleanshutdown", "recovery-point-offset-checkpoint", "replication-offset-checkpoint"):
        (tmp_path / "data" / "log" / name).unlink(missing_ok=True)
    async with running(tmp_path) as broker:
        async with asyncio.timeout(SOON_S):
            while broker.partition("clicks", 0) is None or broker.partition("clicks", 0).log.log_end_offset != 20:
                await broker.tick()
                await asyncio.sleep(0.01)
        await heard_of(broker.tier)
        assert await values_cold(broker, 0, 20) == [b"%d" % number for number in range(20)]
        await produce(broker, 20, 1)


async def test_without_the_store_hot_data_is_served_and_changes_are_retriable(tmp_path: Path) -> None:
    store = FaultyStore(await open_directory_store(tmp_path / "store"), Faults())
    broker = await open_broker(tmp_path / "data", store)
    await broker.create_topic("clicks", 1)
    await produce(broker, 0, 5)
    store.faults.is_down = True
    for _ in range(2):  # while running, and after a restart
        await produce(broker, broker.logs.get(TP).log_end_offset, 5)
        with pytest.raises(Refused) as refused:
            await broker.create_topic("views", 1)
        assert refused.value.code.retriable
        shapes = request(3, 9)
        wanted = shapes.MetadataRequest(
            topics=(shapes.MetadataRequestTopic(name="auto"),), allow_auto_topic_creation=True,
            include_cluster_authorized_operations=False, include_topic_authorized_operations=False,
        )  # fmt: skip
        assert (await Door(broker).call(3, 9, wanted)).topics[0].error_code is ErrorCode.leader_not_available
        await broker.close()
        broker = await open_broker(tmp_path / "data", store)
    assert broker.metadata.state is State.OFFLINE
    assert broker.logs.get(TP).log_end_offset == 15
    store.faults.is_down = False
    await broker.tick()
    await broker.create_topic("views", 1)
    await broker.close()


async def test_a_crash_between_commit_and_effect_is_repaired_at_the_next_start(tmp_path: Path) -> None:
    made, kept = UUID(int=5), TopicPartition("made", 1)
    async with running(tmp_path) as broker:
        await broker.create_topic("clicks", 1)
        gone = broker.topic("clicks").topic_id
        record = TopicCreated(topic_id=made, name="made", partitions=((1,), (1,)), configs={}, created_ms=0)
        await broker.metadata.submit(Raw(records=(record, TopicDeleted(topic_id=gone))))
        assert broker.logs.get(kept) is None, "committed, and nothing done about it"
    async with running(tmp_path) as broker:
        assert broker.logs.get(kept).topic_id == made
        assert broker.logs.get(TP) is None
        await broker.tick()
        assert broker.image.doomed == {}


async def test_purging_waits_for_the_store(tmp_path: Path) -> None:
    store = FaultyStore(await open_directory_store(tmp_path / "store"), Faults())
    broker = await open_broker(tmp_path / "data", store)
    topic = await broker.create_topic("clicks", 1)
    await broker.metadata.submit(DeleteTopics(topic_ids=(topic.topic_id,)))
    store.faults.is_down = True
    await broker.tick()
    assert broker.partition("clicks", 0) is None
    assert topic.topic_id in broker.image.doomed
    store.faults.is_down = False
    await broker.tick()
    assert broker.image.doomed == {}
    await broker.close()


async def test_two_processes_never_run_on_one_directory(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        epoch = broker.image.controller_epoch
        store = await open_directory_store(tmp_path / "store")
        with pytest.raises(Invalid, match="in use"):
            await open_broker(tmp_path / "data", store)
        await broker.create_topic("clicks", 1)
        assert broker.image.controller_epoch == epoch, "the second did not even try to depose the first"


async def test_a_second_data_directory_deposes_the_first_which_goes_on_serving(tmp_path: Path) -> None:
    store = await open_directory_store(tmp_path / "store")
    first = await open_broker(tmp_path / "data", store)
    await first.create_topic("clicks", 1)
    second = await open_broker(tmp_path / "other", store)
    with pytest.raises(Refused) as refused:
        await first.create_topic("views", 1)
    assert refused.value.code is ErrorCode.not_controller
    assert first.partition("clicks", 0) is not None
    await second.close()
    await first.close()
    with pytest.raises(ForeignStore, match="last run from another data directory"):
        await open_broker(tmp_path / "data", store, is_adopting=False)


async def test_another_clusters_store_or_directory_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path):
        pass
    async with running(tmp_path / "elsewhere"):
        pass
    foreign = await open_directory_store(tmp_path / "elsewhere" / "store")
    with pytest.raises(ForeignStore, match="belongs to cluster"):
        await open_broker(tmp_path / "data", foreign)
    store = await open_directory_store(tmp_path / "store")
    shutil.rmtree(tmp_path / "elsewhere" / "data" / "metadata")
    with pytest.raises((Invalid, ForeignStore)):
        await open_broker(tmp_path / "elsewhere" / "data", store)


async def test_a_damaged_partition_leaves_the_others_served(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await broker.create_topic("clicks", 2)
    metadata = tmp_path / "data" / "log" / "clicks-1" / "partition.metadata"
    metadata.write_text("nonsense")
    async with running(tmp_path) as broker:
        assert broker.partition("clicks", 0) is not None
        assert broker.partition("clicks", 1) is None


async def test_a_rotten_topic_id_does_not_cost_the_partition(tmp_path: Path) -> None:
    """A log of another topic's id is left over from a deleted topic and goes: one flipped bit must not look like that."""
    async with running(tmp_path) as broker:
        await broker.create_topic("clicks", 1)
        partition = broker.partition("clicks", 0)
        assert partition is not None
        data = encode_batch([NewRecord(1_700_000_000_000, None, b"x")])
        partition.log.append(memoryview(data), [header_at(data)], now_ms=1_700_000_000_000)
        await partition.log.flush()
    metadata = tmp_path / "data" / "log" / "clicks-0" / "partition.metadata"
    good, mended = metadata.read_bytes(), 0
    for bit in range(len(good) * 8):
        body = bytearray(good)
        body[bit // 8] ^= 1 << bit % 8
        try:
            if parse_metadata(body) == parse_metadata(good) or mended == 4:
                continue
        except Corrupt:
            continue
        metadata.write_bytes(body)
        async with running(tmp_path) as broker:
            partition = broker.partition("clicks", 0)
            assert partition is not None
            assert partition.log.log_end_offset == 1
            assert metadata.read_bytes() == good
            assert broker.metrics.corruption.labels("partition-metadata")._value.get() == 1
        mended += 1
    assert mended == 4


async def test_a_damaged_manifest_is_told_to_readers_and_healed_by_a_good_one(tmp_path: Path) -> None:
    """Not served, not silently skipped, and not waited for: the hot part goes on."""
    async with running(tmp_path) as broker:
        await broker.create_topic("clicks", 1)
        await produce(broker, 0, 20)
        await tier(broker, 20)
        assert await broker.logs.get(TP).drop_local_before(20) > 0
    (manifest,) = (tmp_path / "store").rglob("data/*/*/0/manifest")
    good = manifest.read_bytes()
    manifest.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    async with running(tmp_path) as broker:
        await produce(broker, 20, 5)
        assert fetch_code(broker, 3) is ErrorCode.kafka_storage_error
        assert fetch_code(broker, 20) is ErrorCode.none
        with pytest.raises(Corrupt):
            await broker.partition("clicks", 0).cold.read(3, 1000)
        assert broker.metrics.corruption.labels("manifest")._value.get() >= 1
        assert manifest.read_bytes() != good, "a damaged manifest is never written over"
        manifest.write_bytes(good)
        await broker.partition("clicks", 0).cold.reload()
        assert await values_cold(broker, 0, 20) == [b"%d" % number for number in range(20)]


async def test_a_manifest_of_a_newer_release_is_told_to_readers_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as broker:
        await broker.create_topic("clicks", 1)
        await produce(broker, 0, 20)
        await tier(broker, 20)
        assert await broker.logs.get(TP).drop_local_before(20) > 0
    (manifest,) = (tmp_path / "store").rglob("data/*/*/0/manifest")
    with monkeypatch.context() as patch:
        root = decode(manifest.read_bytes())
        patch.setattr(FORMAT, "version", FORMAT.version + 1)
        newer = encode(root)
    manifest.write_bytes(newer)
    async with running(tmp_path) as broker:
        await produce(broker, 20, 5)
        assert fetch_code(broker, 3) is ErrorCode.kafka_storage_error
        assert fetch_code(broker, 20) is ErrorCode.none
        with pytest.raises(UnknownVersion, match="a newer one wrote it"):
            await broker.partition("clicks", 0).cold.read(3, 1000)
        await broker.tier.tick_copy()
        assert broker.metrics.corruption.labels("manifest")._value.get() == 0
        assert manifest.read_bytes() == newer


def fetch_code(broker: Broker, offset: int) -> ErrorCode:
    """What a fetch from `offset` on is told at its first look."""
    fetch = Round(broker, broker.kept[Fetches].cold_reads, [(("clicks", 0), Wanted(offset, 10**6))], Limits(10**6, 1, False))
    fetch.look()
    return fetch.parts[0].code


async def test_many_topics_start_and_are_created_quickly_enough_to_count(tmp_path: Path) -> None:
    async with running(tmp_path, {"remote.log.storage.system.enable": "false"}) as broker:
        for number in range(40):
            await broker.create_topic(f"t{number}", 10)
    async with running(tmp_path) as broker:
        assert len(broker.hosted()) == 400


async def test_producer_ids_come_from_the_journal(tmp_path: Path) -> None:
    given = []
    for _ in range(2):
        async with running(tmp_path) as broker:
            given += [await broker.allocate_producer_id() for _ in range(3)]
    assert given == [0, 1, 2, 1000, 1001, 1002]


@pytest.mark.parametrize("version", range(1, 6))
async def test_log_dirs_tell_both_tiers(tmp_path: Path, version: int) -> None:
    async with running(tmp_path) as broker:
        await broker.create_topic("clicks", 1)
        await produce(broker, 0, 20)
        await tier(broker, 20)
        shapes = request(35, version)
        local, remote = (await Door(broker).call(35, version, shapes.DescribeLogDirsRequest(topics=None))).results
        assert (local.log_dir, remote.log_dir) == (str(tmp_path / "data" / "log"), f"remote:{broker.cluster_id}")
        for result in (local, remote):
            assert result.topics[0].partitions[0].partition_size == broker.logs.get(TP).size > 0
        await broker.logs.get(TP).drop_local_before(20)
        one = shapes.DescribableLogDirTopic(topic="clicks", partitions=(0, 9))
        local, remote = (await Door(broker).call(35, version, shapes.DescribeLogDirsRequest(topics=(one,)))).results
        assert local.topics[0].partitions[0].partition_size == 0
        assert remote.topics[0].partitions[0].partition_size > 0
        if version >= 4:
            assert local.total_bytes > local.usable_bytes > 0
            assert (remote.total_bytes, remote.usable_bytes) == (-1, -1)


async def test_objects_of_a_deleted_topic_become_garbage_and_a_namesake_is_untouched(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        old = await broker.create_topic("clicks", 1)
        await produce(broker, 0, 20)
        await tier(broker, 20)
        assert await broker.delete_topics([old.topic_id]) == [None]
        new = await broker.create_topic("clicks", 1)
        await produce(broker, 0, 5)
        await tier(broker, 5)
        await broker.tick()
        assert await broker.tier.tiered_range(PartitionId(old.topic_id, 0)) is None
        assert await broker.tier.tiered_range(PartitionId(new.topic_id, 0)) == (0, 5)
        assert await values_cold(broker, 0, 5) == [b"%d" % number for number in range(5)]


async def test_a_store_that_comes_back_as_another_clusters_is_left_alone(tmp_path: Path) -> None:
    store = FaultyStore(await open_directory_store(tmp_path / "store"), Faults())
    broker = await open_broker(tmp_path / "data", store)
    await broker.create_topic("clicks", 1)
    await produce(broker, 0, 5)
    await broker.close()
    async with running(tmp_path / "elsewhere"):
        pass
    before = sorted(path.name for path in (tmp_path / "elsewhere" / "store").rglob("*"))
    store.faults.is_down = True
    broker = await open_broker(tmp_path / "data", store)
    store.faults.replaced_by = await open_directory_store(tmp_path / "elsewhere" / "store")
    store.faults.is_down = False
    await broker.tick()
    assert broker.metadata.state is State.FENCED
    broker.logs.get(TP).roll(broker.clock.now_ms())
    await broker.logs.get(TP).flush()
    await broker.tier.tick_copy()
    await broker.tick()
    await produce(broker, 5, 5)
    with pytest.raises(Refused):
        await broker.create_topic("views", 1)
    assert broker.partition("clicks", 0).cold is None
    assert sorted(path.name for path in (tmp_path / "elsewhere" / "store").rglob("*")) == before
    await broker.close()


async def test_a_log_that_cannot_be_given_up_yet_is_served_until_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends before its cold tier does, and the disk refuses to let it go."""

    async def refused(tp: TopicPartition) -> None:
        raise OSError(errno.EIO, "no")

    async with running(tmp_path) as broker:
        await broker.create_topic("clicks", 2)
        with monkeypatch.context() as patched:
            patched.setattr(Partition, "stored_range", lambda self: (0, 5) if self.tp == TP else None)
            patched.setattr(broker.logs, "delete", refused)
            await broker.tick()
        await broker.tick()
        assert broker.partition(*TP) is not None
