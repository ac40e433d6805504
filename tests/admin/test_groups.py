"""Groups through their APIs over real logs: every version, restart, a copy of the disk as kill -9 leaves it."""

from __future__ import annotations

import asyncio
import errno
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from kio.schema.errors import ErrorCode

from hotlog.broker.broker import Broker
from hotlog.coordinators import keyed_log
from hotlog.coordinators.shards import partition_for
from hotlog.kernel.errors import Corrupt
from hotlog.kernel.ids import TopicPartition
from tests.admin.node import Door, coordinator_made, open_broker, open_directory_store, request, running
from tests.compaction.cleaning import cleaner_of
from tests.support.clocks import HandClock
from tests.support.disks import FaultyDisk
from tests.tools.patience import SOON_S

LONG_MS = int(SOON_S * 1000)  # for what a member must not miss


def ms(count: int) -> timedelta:
    return timedelta(milliseconds=count)


class Client:
    """A group member that speaks one version of each API."""

    def __init__(self, broker: Broker, group: str = "g", *, join: int = 5, sync: int = 3, instance: str | None = None) -> None:
        self.door = Door(broker)
        self.group = group
        self.join_version, self.sync_version = join, sync
        self.instance = instance
        self.member_id = ""
        self.generation = -1
        self.leader = ""
        self.members: list[str] = []

    async def join(self, session_ms: int = LONG_MS, rebalance_ms: int = LONG_MS) -> ErrorCode:
        shapes = request(11, self.join_version)
        for _ in range(2):
            reply = await self.door.call(
                11, self.join_version,
                shapes.JoinGroupRequest(
                    group_id=self.group, session_timeout=ms(session_ms), rebalance_timeout=ms(rebalance_ms), member_id=self.member_id,
                    group_instance_id=self.instance, protocol_type="consumer", reason=None,
                    protocols=(shapes.JoinGroupRequestProtocol(name="range", metadata=b"\0\0\0\0\0\x01\0\x06clicks\xff\xff\xff\xff"),),
                ),
            )  # fmt: skip
            self.member_id = reply.member_id
            if reply.error_code is not ErrorCode.member_id_required:
                break
        self.generation, self.leader = reply.generation_id, reply.leader
        self.members = [member.member_id for member in reply.members]
        return reply.error_code

    async def sync(self) -> tuple[ErrorCode, bytes]:
        shapes = request(14, self.sync_version)
        given = tuple(shapes.SyncGroupRequestAssignment(member_id=m, assignment=m.encode()) for m in self.members)
        reply = await self.door.call(
            14, self.sync_version,
            shapes.SyncGroupRequest(
                group_id=self.group, generation_id=self.generation, member_id=self.member_id, group_instance_id=self.instance,
                protocol_type="consumer", protocol_name="range", assignments=given,
            ),
        )  # fmt: skip
        return reply.error_code, reply.assignment

    async def heartbeat(self, version: int = 3) -> ErrorCode:
        wanted = request(12, version).HeartbeatRequest(
            group_id=self.group, generation_id=self.generation, member_id=self.member_id, group_instance_id=self.instance
        )
        return (await self.door.call(12, version, wanted)).error_code

    async def leave(self, version: int = 1) -> ErrorCode:
        shapes = request(13, version)
        members = () if version < 3 else (shapes.MemberIdentity(member_id=self.member_id, group_instance_id=None, reason=None),)
        reply = await self.door.call(
            13, version, shapes.LeaveGroupRequest(group_id=self.group, member_id=self.member_id, members=members)
        )
        return reply.members[0].error_code if version >= 3 and not reply.error_code else reply.error_code

    async def commit(
        self, offsets: dict[int, int], *, topic: str = "clicks", version: int = 8, metadata: str = "m", simple: bool = False
    ):
        shapes = request(8, version)
        parts = tuple(
            shapes.OffsetCommitRequestPartition(
                partition_index=index, committed_offset=offset, committed_leader_epoch=0, committed_metadata=metadata
            )
            for index, offset in offsets.items()
        )
        known = self.door.broker.topic(topic)
        topics = (shapes.OffsetCommitRequestTopic(name=topic, topic_id=known.topic_id if known else None, partitions=parts),)
        reply = await self.door.call(
            8, version,
            shapes.OffsetCommitRequest(
                group_id=self.group, generation_id_or_member_epoch=-1 if simple else self.generation,
                member_id="" if simple else self.member_id, group_instance_id=self.instance, retention_time=ms(-1), topics=topics,
            ),
        )  # fmt: skip
        return [part.error_code for part in reply.topics[0].partitions]

    async def fetch(self, indexes: tuple[int, ...] | None = (0,), *, topic: str = "clicks", version: int = 7) -> dict[int, int]:
        shapes = request(9, version)
        if version >= 8:
            known = self.door.broker.topic(topic)
            topics = None
            if indexes is not None:
                topics = (
                    shapes.OffsetFetchRequestTopics(
                        name=topic, topic_id=known.topic_id if known else None, partition_indexes=indexes
                    ),
                )
            group = shapes.OffsetFetchRequestGroup(group_id=self.group, topics=topics, member_id=None, member_epoch=-1)
            reply = (await self.door.call(9, version, shapes.OffsetFetchRequest(groups=(group,), require_stable=False))).groups[0]
        else:
            topics = None if indexes is None else (shapes.OffsetFetchRequestTopic(name=topic, partition_indexes=indexes),)
            wanted = shapes.OffsetFetchRequest(group_id=self.group, topics=topics, require_stable=False)
            reply = await self.door.call(9, version, wanted)
        return {part.partition_index: part.committed_offset for found in reply.topics for part in found.partitions}


async def ready(broker: Broker) -> None:
    """A topic and the coordinator."""
    if broker.topic("clicks") is None:
        await broker.create_topic("clicks", 3)
    await coordinator_made(broker)
    for version in range(7):
        shapes = request(10, version)
        wanted = shapes.FindCoordinatorRequest(key="g", key_type=0, coordinator_keys=("g",))
        reply = await Door(broker).call(10, version, wanted)
        found = reply.coordinators[0] if version >= 4 else reply
        assert (found.error_code, found.node_id) == (ErrorCode.none, 1)


@pytest.mark.parametrize(
    ("join", "sync", "heartbeat", "leave"), [(0, 0, 0, 0), (1, 1, 1, 1), (4, 2, 2, 2), (5, 3, 3, 3), (7, 4, 4, 4), (9, 5, 4, 5)]
)
async def test_a_member_lives_a_whole_life_in_every_version(
    tmp_path: Path, join: int, sync: int, heartbeat: int, leave: int
) -> None:
    async with running(tmp_path) as broker:
        await ready(broker)
        client = Client(broker, join=join, sync=sync)
        assert await client.join() is ErrorCode.none
        assert client.leader == client.member_id
        assert await client.sync() == (ErrorCode.none, client.member_id.encode())
        assert await client.heartbeat(heartbeat) is ErrorCode.none
        assert await client.commit({0: 7}) == [ErrorCode.none]
        assert await client.leave(leave) is ErrorCode.none
        assert await client.heartbeat(heartbeat) is ErrorCode.unknown_member_id


@pytest.mark.parametrize("version", range(2, 11))
async def test_commit_in_every_version(tmp_path: Path, version: int) -> None:
    async with running(tmp_path) as broker:
        await ready(broker)
        client = Client(broker)
        assert await client.commit({0: 5, 2: 9}, version=version, simple=True) == [ErrorCode.none] * 2
        assert await client.fetch((0, 1, 2)) == {0: 5, 1: -1, 2: 9}


@pytest.mark.parametrize("version", range(1, 11))
async def test_fetch_in_every_version(tmp_path: Path, version: int) -> None:
    async with running(tmp_path) as broker:
        await ready(broker)
        client = Client(broker)
        await client.commit({0: 5, 2: 9}, simple=True)
        assert await client.fetch((0, 1), version=version) == {0: 5, 1: -1}
        if version >= 2:
            assert await client.fetch(None, version=version) == {0: 5, 2: 9}


async def test_two_members_share_and_rebalance(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await ready(broker)
        one, two = Client(broker), Client(broker)
        await one.join()
        await one.sync()
        joining = asyncio.create_task(two.join())
        async with asyncio.timeout(SOON_S):
            while await one.heartbeat() is not ErrorCode.rebalance_in_progress:
                await asyncio.sleep(0.01)
        assert await one.join() is ErrorCode.none
        assert await joining is ErrorCode.none
        assert one.generation == two.generation == 2
        assert sorted(one.members) == sorted([one.member_id, two.member_id])
        assert await asyncio.gather(one.sync(), two.sync()) == [
            (ErrorCode.none, one.member_id.encode()), (ErrorCode.none, two.member_id.encode()),
        ]  # fmt: skip
        one.generation = 1
        assert await one.commit({0: 1}) == [ErrorCode.illegal_generation]
        assert await Client(broker).commit({0: 1}, simple=True) == [ErrorCode.unknown_member_id]


async def test_a_silent_member_is_dropped_by_its_session(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await ready(broker)
        client = Client(broker, join=3)  # of a version that need not ask twice: it is a member at once
        assert await client.join(session_ms=50) is ErrorCode.none
        async with asyncio.timeout(SOON_S):
            while broker.groups.describe("g").group.members:
                await asyncio.sleep(0.02)
        assert await client.heartbeat() is ErrorCode.unknown_member_id


async def test_offsets_and_members_survive_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await ready(broker)
        client = Client(broker, instance="i1")
        await client.join()
        await client.sync()
        assert await client.commit({0: 11, 1: 12}) == [ErrorCode.none] * 2
    async with running(tmp_path) as broker:
        back = Client(broker, instance="i1")
        back.member_id, back.generation = client.member_id, client.generation
        assert await back.heartbeat() is ErrorCode.none, "the group was stable and is again"
        assert await back.fetch((0, 1)) == {0: 11, 1: 12}
        assert (await back.sync())[1] == client.member_id.encode()


async def test_acked_commits_survive_kill_9(tmp_path: Path) -> None:
    store = await open_directory_store(tmp_path / "store")
    broker = await open_broker(tmp_path / "data", store)
    await ready(broker)
    client = Client(broker)
    for offset in range(20):
        assert await client.commit({0: offset}, simple=True) == [ErrorCode.none]
    shutil.copytree(tmp_path / "data", tmp_path / "after", symlinks=True)
    other = await open_broker(tmp_path / "after", store)
    assert await Client(other).fetch((0,)) == {0: 19}
    await other.close()
    await broker.close()
    await store.close()


async def test_commit_is_refused_where_it_must_be(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await ready(broker)
        client = Client(broker)
        assert await client.commit({7: 1}, simple=True) == [ErrorCode.unknown_topic_or_partition]
        assert await client.commit({0: 1}, topic="nobody", simple=True) == [ErrorCode.unknown_topic_or_partition]
        assert await client.commit({0: 1}, topic="nobody", version=10, simple=True) == [ErrorCode.unknown_topic_id]
        assert await client.commit({0: 1}, metadata="x" * 5000, simple=True) == [ErrorCode.offset_metadata_too_large]
        client.generation, client.member_id = 3, "ghost"
        assert await client.commit({0: 1}) == [ErrorCode.illegal_generation]
        bad = Client(broker, group="")
        assert await bad.join() is ErrorCode.invalid_group_id
        wild = Client(broker)
        assert await wild.join(session_ms=1) is ErrorCode.invalid_session_timeout


async def describe(broker: Broker, version: int, group: str):
    wanted = request(15, version).DescribeGroupsRequest(groups=(group,), include_authorized_operations=False)
    return (await Door(broker).call(15, version, wanted)).groups[0]


async def test_describe_list_and_delete(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await ready(broker)
        client = Client(broker)
        await client.join()
        await client.sync()
        await client.commit({0: 3})
        await Client(broker, group="simple").commit({0: 4}, simple=True)
        for version in range(7):
            found = await describe(broker, version, "g")
            assert (found.group_state, found.protocol_type, found.protocol_data) == ("Stable", "consumer", "range")
            assert [(m.member_id, m.client_id, m.client_host) for m in found.members] == [
                (client.member_id, "test", "/127.0.0.1")
            ]
            nobody = await describe(broker, version, "nobody")
            assert nobody.group_state == "Dead"
            assert nobody.error_code is (ErrorCode.group_id_not_found if version >= 6 else ErrorCode.none)
        for version in range(6):
            listed = await Door(broker).call(
                16, version, request(16, version).ListGroupsRequest(states_filter=(), types_filter=())
            )
            assert [group.group_id for group in listed.groups] == ["g", "simple"]
        for states, types, groups in ((("stable",), (), ["g"]), (("Empty",), ("Classic",), ["simple"]), ((), ("share",), [])):
            listed = await Door(broker).call(16, 5, request(16, 5).ListGroupsRequest(states_filter=states, types_filter=types))
            assert [group.group_id for group in listed.groups] == groups
        for version in range(3):
            wanted = request(42, version).DeleteGroupsRequest(groups_names=("g", "nobody"))
            reply = await Door(broker).call(42, version, wanted)
            assert [r.error_code for r in reply.results] == [ErrorCode.non_empty_group, ErrorCode.group_id_not_found]
        await client.leave()
        reply = await Door(broker).call(42, 2, request(42, 2).DeleteGroupsRequest(groups_names=("g",)))
        assert reply.results[0].error_code is ErrorCode.none
        assert await client.fetch((0,)) == {0: -1}
    async with running(tmp_path) as broker:
        assert await Client(broker).fetch((0,)) == {0: -1}, "deletion is durable"
        assert await Client(broker, group="simple").fetch((0,)) == {0: 4}


async def test_offset_delete_spares_subscribed_topics(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await ready(broker)
        await broker.create_topic("views", 1)
        client = Client(broker)
        await client.join()
        await client.sync()
        await client.commit({0: 3})
        await client.commit({0: 4}, topic="views")
        shapes = request(47, 0)
        topics = tuple(
            shapes.OffsetDeleteRequestTopic(name=name, partitions=(shapes.OffsetDeleteRequestPartition(partition_index=0),))
            for name in ("clicks", "views")
        )
        reply = await Door(broker).call(47, 0, shapes.OffsetDeleteRequest(group_id="g", topics=topics))
        assert [t.partitions[0].error_code for t in reply.topics] == [ErrorCode.group_subscribed_to_topic, ErrorCode.none]
        assert await client.fetch((0,)) == {0: 3}
        assert await client.fetch((0,), topic="views") == {0: -1}
        unknown = await Door(broker).call(47, 0, shapes.OffsetDeleteRequest(group_id="nobody", topics=topics))
        assert unknown.error_code is ErrorCode.group_id_not_found


async def test_a_deleted_topics_offsets_are_forgotten(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await ready(broker)
        await Client(broker).commit({0: 3}, simple=True)
        assert await broker.delete_topics([broker.topic("clicks").topic_id]) == [None]
        await broker.create_topic("clicks", 1)
        assert await Client(broker).fetch((0,)) == {0: -1}


async def test_the_offsets_log_is_kept_short_and_says_the_same_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed_log, "SEGMENT_BYTES", 20_000)
    index = partition_for("g", 2)
    async with running(tmp_path) as broker:
        await ready(broker)
        client = Client(broker)
        for offset in range(200):
            await client.commit({0: offset, 1: offset}, simple=True)
        log = broker.logs.get(TopicPartition("__consumer_offsets", index))
        late = [asyncio.create_task(client.commit({2: offset}, simple=True)) for offset in range(10)]
        while await broker.groups.tick():
            pass
        await asyncio.gather(*late)
        before = log.size
        assert await cleaner_of(log, disk=broker.disk, clock=broker.clock).tick()
        assert log.segment_count > 1 and log.size < before / 2
    async with running(tmp_path) as broker:
        assert await Client(broker).fetch((0, 1, 2)) == {0: 199, 1: 199, 2: 9}


async def test_groups_on_a_damaged_partition_are_refused_and_others_served(tmp_path: Path) -> None:
    hurt, whole = "g", "other"
    assert partition_for(hurt, 2) != partition_for(whole, 2)
    async with running(tmp_path) as broker:
        await ready(broker)
        for group in (hurt, whole):
            await Client(broker, group=group).commit({0: 3}, simple=True)
        directory = broker.logs.get(TopicPartition("__consumer_offsets", partition_for(hurt, 2))).directory
    path = next(Path(directory).glob("*.log"))
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    async with running(tmp_path) as broker:
        assert await Client(broker, group=whole).fetch((0,)) == {0: 3}
        shapes = request(9, 7)
        wanted = shapes.OffsetFetchRequest(
            group_id=hurt, topics=(shapes.OffsetFetchRequestTopic(name="clicks", partition_indexes=(0,)),), require_stable=False
        )
        assert (await Door(broker).call(9, 7, wanted)).error_code is ErrorCode.coordinator_not_available


async def test_expiry_takes_old_empty_groups_only(tmp_path: Path) -> None:
    async with running(tmp_path, {"offsets.retention.minutes": "1"}) as broker:
        await ready(broker)
        started_ms, started = broker.groups._started
        broker.groups._clock = HandClock(started_ms, seconds=started)
        await Client(broker, group="old").commit({0: 1}, simple=True)
        live = Client(broker)
        await live.join()
        await live.sync()
        await live.commit({0: 2})
        assert not await broker.groups.tick()
        broker.groups._clock = HandClock(started_ms + 120_000, seconds=started + 120)
        assert await broker.groups.tick()
        assert await Client(broker, group="old").fetch((0,)) == {0: -1}
        assert await live.fetch((0,)) == {0: 2}


async def test_a_clock_that_jumps_a_year_expires_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await ready(broker)
        await Client(broker, group="old").commit({0: 1}, simple=True)
        broker.groups._clock = HandClock(broker.clock.now_ms() + 365 * 86_400_000, seconds=broker.clock.monotonic())
        assert not await broker.groups.tick()
        assert await Client(broker, group="old").fetch((0,)) == {0: 1}


@pytest.mark.parametrize("settings", [{}, {"hotlog.durability": "page-cache", "log.flush.interval.messages": "1"}])
async def test_a_partition_of_groups_that_the_disk_failed_heals_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    disk = FaultyDisk()
    monkeypatch.setattr("tests.admin.node.PosixDisk", lambda: disk)
    async with running(tmp_path, settings) as broker:
        await ready(broker)
        client = Client(broker)
        await client.commit({0: 3}, simple=True)
        disk.fail("sync", "*/__consumer_offsets-*/*.log", errno.EIO)
        for _ in range(2):
            assert await client.commit({0: 4}, simple=True) == [ErrorCode.coordinator_not_available]
        assert await client.fetch((0,)) == {0: 3}, "what is committed is told meanwhile"
        await broker.tick()
        await broker.groups.tick()
        assert await client.commit({0: 5}, simple=True) == [ErrorCode.coordinator_not_available], "it fails still"
        disk.heal()
        await broker.tick()
        await broker.groups.tick()
        assert await client.fetch((0,)) == {0: 3}, "nothing that was refused is there"
        assert await client.commit({0: 6}, simple=True) == [ErrorCode.none]
        assert await client.fetch((0,)) == {0: 6}
    async with running(tmp_path) as broker:
        assert await Client(broker).fetch((0,)) == {0: 6}


async def test_a_damaged_partition_of_groups_is_left_as_it_is_for_someone_to_decide(tmp_path: Path) -> None:
    """What follows one bad bit was acknowledged: it is served up to there, and nobody cuts off the rest to make it whole."""
    async with running(tmp_path) as broker:
        await ready(broker)
        client = Client(broker)
        for offset in range(20):
            await client.commit({0: offset}, simple=True)
        tp = TopicPartition("__consumer_offsets", partition_for("g", 2))
        (path,) = (tmp_path / "data").glob(f"log/{tp}/*.log")
    (tmp_path / "data/log/.kafka_cleanshutdown").unlink()  # so that every batch is looked at
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    for _ in range(2):
        async with running(tmp_path) as broker:
            await broker.tick()
            log = broker.logs.get(tp)
            assert log is not None
            assert isinstance(log.failed, Corrupt)
            assert 0 < log.high_watermark < 20
            assert path.read_bytes() == raw
