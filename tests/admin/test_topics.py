"""Topics through their APIs: creation, refusals, metadata of every version, deletion, growth, restart."""

from __future__ import annotations

import asyncio
import io
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode
from kio.serial import entity_writer

from controller.image import TopicImage
from controller.topic_rules import NewTopic
from hotlog.answers.api import Caller, RequestContext
from hotlog.apis import k03_metadata
from hotlog.kernel.errors import NotReady
from hotlog.kernel.ids import TopicPartition
from hotlog.wire.error_codes import Refused
from tests.admin.node import Door, coordinator_made, request, running
from tests.tools.patience import SOON_S

MINUTE = timedelta(minutes=1)


async def create(
    door: Door,
    name: str,
    partitions: int = 1,
    *,
    version: int = 7,
    replicas: int = -1,
    validate_only: bool = False,
    configs=(),
    assignments=(),
):
    shapes = request(19, version)
    topic = shapes.CreatableTopic(
        name=name, num_partitions=partitions, replication_factor=replicas,
        assignments=tuple(shapes.CreatableReplicaAssignment(partition_index=i, broker_ids=b) for i, b in assignments),
        configs=tuple(shapes.CreatableTopicConfig(name=k, value=v) for k, v in configs),
    )  # fmt: skip
    reply = await door.call(19, version, shapes.CreateTopicsRequest(topics=(topic,), timeout=MINUTE, validate_only=validate_only))
    return reply.topics[0]


async def metadata(door: Door, version: int, names=None, *, ids=(), create_missing: bool = False):
    shapes = request(3, version)
    topics = None if names is None else tuple(shapes.MetadataRequestTopic(name=n, topic_id=None) for n in names)
    if ids:
        topics = tuple(shapes.MetadataRequestTopic(name=None, topic_id=i) for i in ids)
    if version == 0 and topics is None:
        topics = ()
    wanted = shapes.MetadataRequest(
        topics=topics, allow_auto_topic_creation=create_missing, include_cluster_authorized_operations=False,
        include_topic_authorized_operations=False,
    )  # fmt: skip
    return await door.call(3, version, wanted)


@pytest.mark.parametrize("version", range(2, 8))
async def test_created_topic_is_hosted_and_told_in_every_version(tmp_path: Path, version: int) -> None:
    async with running(tmp_path) as broker:
        door = Door(broker)
        made = await create(door, "clicks", 3, version=version, configs=[("retention.ms", "-1")])
        assert made.error_code is ErrorCode.none
        assert broker.partition("clicks", 2) is not None
        assert broker.partition("clicks", 3) is None
        topic = broker.topic("clicks")
        assert topic is not None
        assert topic.configs == {"retention.ms": "-1"}
        if version >= 5:
            told = {c.name: (c.value, c.config_source) for c in made.configs}
            assert told["retention.ms"] == ("-1", 1)
            assert told["segment.bytes"] == ("1073741824", 5)
            assert made.num_partitions == 3
        if version >= 7:
            assert made.topic_id == topic.topic_id
        assert broker.logs.get(TopicPartition("clicks", 0)).topic_id == topic.topic_id


@pytest.mark.parametrize("version", range(14))
async def test_metadata_of_every_version_tells_the_topic(tmp_path: Path, version: int) -> None:
    async with running(tmp_path) as broker:
        door = Door(broker)
        await create(door, "clicks", 2)
        broker.advertised = {"PLAINTEXT": ("host.example", 4711)}
        for names in (None, ["clicks"]):
            reply = await metadata(door, version, names)
            assert [(b.node_id, b.host, b.port) for b in reply.brokers] == [(1, "host.example", 4711)]
            (topic,) = reply.topics
            assert (topic.name, topic.error_code) == ("clicks", ErrorCode.none)
            assert [(p.partition_index, p.leader_id, tuple(p.isr_nodes)) for p in topic.partitions] == [
                (0, 1, (1,)),
                (1, 1, (1,)),
            ]
        if version >= 2:
            assert reply.cluster_id == broker.cluster_id
        if version >= 10:
            assert reply.topics[0].topic_id == broker.topic("clicks").topic_id


async def test_metadata_by_id_and_unknown_id(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        door = Door(broker)
        made = await create(door, "clicks")
        reply = await metadata(door, 13, ids=[made.topic_id, UUID(int=77)])
        assert [(t.name, t.error_code) for t in reply.topics] == [
            ("clicks", ErrorCode.none), (None, ErrorCode.unknown_topic_id),
        ]  # fmt: skip


async def test_metadata_lists_nothing_for_an_empty_list(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await create(Door(broker), "clicks")
        assert (await metadata(Door(broker), 1, [])).topics == ()
        assert len((await metadata(Door(broker), 0)).topics) == 1


async def test_auto_creation_needs_both_sides(tmp_path: Path) -> None:
    async with running(tmp_path, {"num.partitions": "4"}) as broker:
        door = Door(broker)
        refused = (await metadata(door, 9, ["later"])).topics[0]
        assert refused.error_code is ErrorCode.unknown_topic_or_partition
        async with asyncio.timeout(SOON_S):
            made = (await metadata(door, 9, ["later"], create_missing=True)).topics[0]
            while made.error_code is ErrorCode.leader_not_available:  # one request waits a moment only, clients ask again
                await asyncio.sleep(0.01)
                made = (await metadata(door, 9, ["later"], create_missing=True)).topics[0]
        assert made.error_code is ErrorCode.none
        assert len(made.partitions) == 4
        bad = (await metadata(door, 9, ["no/slash"], create_missing=True)).topics[0]
        assert bad.error_code is ErrorCode.invalid_topic_exception
    async with running(tmp_path, {"auto.create.topics.enable": "false"}) as broker:
        never = (await metadata(Door(broker), 9, ["never"], create_missing=True)).topics[0]
        assert never.error_code is ErrorCode.unknown_topic_or_partition


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("", {}, ErrorCode.invalid_topic_exception),
        ("..", {}, ErrorCode.invalid_topic_exception),
        ("a/b", {}, ErrorCode.invalid_topic_exception),
        ("nul\0", {}, ErrorCode.invalid_topic_exception),
        ("x" * 250, {}, ErrorCode.invalid_topic_exception),
        ("clicks", {}, ErrorCode.topic_already_exists),
        ("page.views", {}, ErrorCode.invalid_topic_exception),
        ("ok", {"partitions": 0}, ErrorCode.invalid_partitions),
        ("ok", {"partitions": -2}, ErrorCode.invalid_partitions),
        ("ok", {"partitions": 2**31 - 1}, ErrorCode.invalid_partitions),
        ("ok", {"replicas": 0}, ErrorCode.invalid_replication_factor),
        ("ok", {"replicas": 3}, ErrorCode.invalid_replication_factor),
        ("ok", {"configs": [("no.such.key", "1")]}, ErrorCode.invalid_config),
        ("ok", {"configs": [("retention.ms", "soon")]}, ErrorCode.invalid_config),
        ("ok", {"configs": [("retention.ms", None)]}, ErrorCode.invalid_config),
        ("ok", {"configs": [("local.retention.ms", "10"), ("retention.ms", "5")]}, ErrorCode.invalid_config),
        ("ok", {"assignments": [(0, (1,))]}, ErrorCode.invalid_request),  # and a number of partitions
        ("ok", {"partitions": -1, "assignments": [(1, (1,))]}, ErrorCode.invalid_replica_assignment),
        ("ok", {"partitions": -1, "assignments": [(0, (2,))]}, ErrorCode.invalid_replica_assignment),
    ],
)
async def test_refusals_carry_kafkas_code_and_create_nothing(tmp_path: Path, name: str, options: dict, code: ErrorCode) -> None:
    async with running(tmp_path) as broker:
        door = Door(broker)
        await create(door, "clicks")
        await create(door, "page_views")
        refused = await create(door, name, **options)
        assert refused.error_code is code, refused.error_message
        assert refused.error_message
        assert sorted(broker.image.topics) == ["clicks", "page_views"]


async def test_validate_only_creates_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        answer = await create(Door(broker), "clicks", 2, validate_only=True)
        assert (answer.error_code, answer.num_partitions) == (ErrorCode.none, 2)
        assert broker.topic("clicks") is None


async def test_manual_assignment_is_taken(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        made = await create(Door(broker), "clicks", -1, assignments=[(0, (1,)), (1, (1,))])
        assert made.error_code is ErrorCode.none
        assert broker.partition("clicks", 1) is not None


async def test_a_name_twice_in_one_request_is_refused_once(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        shapes = request(19, 5)
        twin = shapes.CreatableTopic(name="clicks", num_partitions=1, replication_factor=1, assignments=(), configs=())
        wanted = shapes.CreateTopicsRequest(topics=(twin, twin), timeout=MINUTE, validate_only=False)
        reply = await Door(broker).call(19, 5, wanted)
        assert [t.error_code for t in reply.topics] == [ErrorCode.invalid_request]
        assert broker.topic("clicks") is None


async def delete(door: Door, version: int, name: str | None = None, topic_id: UUID | None = None):
    shapes = request(20, version)
    if version >= 6:
        wanted = shapes.DeleteTopicsRequest(topics=(shapes.DeleteTopicState(name=name, topic_id=topic_id),), timeout=MINUTE)
    else:
        wanted = shapes.DeleteTopicsRequest(topic_names=(name,), timeout=MINUTE)
    return (await door.call(20, version, wanted)).responses[0]


@pytest.mark.parametrize("version", range(1, 7))
async def test_delete_then_create_again_gives_another_id(tmp_path: Path, version: int) -> None:
    async with running(tmp_path) as broker:
        door = Door(broker)
        first = await create(door, "clicks")
        assert (await delete(door, version, "clicks")).error_code is ErrorCode.none
        assert broker.partition("clicks", 0) is None
        assert broker.logs.get(TopicPartition("clicks", 0)) is None
        assert (await delete(door, version, "clicks")).error_code is ErrorCode.unknown_topic_or_partition
        second = await create(door, "clicks")
        assert second.error_code is ErrorCode.none
        assert second.topic_id != first.topic_id
        await broker.tick()
        assert broker.image.doomed == {}, "the deleted topic's data was given up"


async def test_delete_by_id(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        door = Door(broker)
        made = await create(door, "clicks")
        assert (await delete(door, 6, topic_id=UUID(int=5))).error_code is ErrorCode.unknown_topic_id
        gone = await delete(door, 6, topic_id=made.topic_id)
        assert (gone.error_code, gone.name) == (ErrorCode.none, "clicks")


async def test_deletion_may_be_disabled_and_never_takes_the_groups(tmp_path: Path) -> None:
    async with running(tmp_path, {"delete.topic.enable": "false"}) as broker:
        door = Door(broker)
        await create(door, "clicks")
        assert (await delete(door, 6, "clicks")).error_code is ErrorCode.topic_deletion_disabled
    async with running(tmp_path) as broker:
        await coordinator_made(broker)
        assert (await delete(Door(broker), 6, "__consumer_offsets")).error_code is ErrorCode.policy_violation


async def grow(door: Door, name: str, count: int, *, version: int = 3, assignments=None, validate_only: bool = False):
    shapes = request(37, version)
    assigned = None if assignments is None else tuple(shapes.CreatePartitionsAssignment(broker_ids=b) for b in assignments)
    topic = shapes.CreatePartitionsTopic(name=name, count=count, assignments=assigned)
    wanted = shapes.CreatePartitionsRequest(topics=(topic,), timeout=MINUTE, validate_only=validate_only)
    return (await door.call(37, version, wanted)).results[0]


@pytest.mark.parametrize("version", range(4))
async def test_partitions_are_added(tmp_path: Path, version: int) -> None:
    async with running(tmp_path) as broker:
        door = Door(broker)
        await create(door, "clicks", 2)
        assert (await grow(door, "clicks", 5, version=version, validate_only=True)).error_code is ErrorCode.none
        assert broker.partition("clicks", 4) is None
        assert (await grow(door, "clicks", 5, version=version)).error_code is ErrorCode.none
        assert broker.partition("clicks", 4) is not None
        assert (await grow(door, "clicks", 5, version=version)).error_code is ErrorCode.invalid_partitions
        assert (await grow(door, "clicks", 1, version=version)).error_code is ErrorCode.invalid_partitions
        assert (await grow(door, "nobody", 2, version=version)).error_code is ErrorCode.unknown_topic_or_partition
        wrong = await grow(door, "clicks", 7, version=version, assignments=[(1,)])
        assert wrong.error_code is ErrorCode.invalid_replica_assignment


async def test_restart_keeps_topics_and_raises_leader_epochs(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        made = await create(Door(broker), "clicks", 2, configs=[("segment.bytes", "4096")])
        cluster_id = broker.cluster_id
        assert broker.partition("clicks", 0).leader_epoch == 0
    async with running(tmp_path) as broker:
        assert broker.cluster_id == cluster_id
        assert broker.topic("clicks").topic_id == made.topic_id
        partition = broker.partition("clicks", 1)
        assert partition.log.config.segment_bytes == 4096
        assert partition.leader_epoch == partition.log.leader_epoch == 1


async def test_describe_cluster(tmp_path: Path) -> None:
    async with running(tmp_path, {"broker.rack": "zone-a"}) as broker:
        for version in range(3):
            reply = await Door(broker).call(
                60,
                version,
                request(60, version).DescribeClusterRequest(
                    include_cluster_authorized_operations=False, include_fenced_brokers=False
                ),
            )
            assert reply.cluster_id == broker.cluster_id
            assert [(b.broker_id, b.rack) for b in reply.brokers] == [(1, "zone-a")]
        reply = await Door(broker).call(
            60,
            2,
            request(60, 2).DescribeClusterRequest(
                include_cluster_authorized_operations=False, endpoint_type=2, include_fenced_brokers=False
            ),
        )
        assert reply.error_code is ErrorCode.mismatched_endpoint_type


async def test_describe_topic_partitions_pages_through_everything_once(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        door = Door(broker)
        for name, count in (("a", 3), ("b", 1), ("c", 4)):
            await create(door, name, count)
        shapes = request(75, 0)
        seen, cursor, pages = [], None, 0
        while True:
            wanted = shapes.DescribeTopicPartitionsRequest(topics=(), response_partition_limit=2, cursor=cursor)
            reply = await door.call(75, 0, wanted)
            page = [(t.name, p.partition_index) for t in reply.topics for p in t.partitions]
            assert len(page) <= 2
            seen += page
            pages += 1
            if reply.next_cursor is None:
                break
            cursor = shapes.Cursor(topic_name=reply.next_cursor.topic_name, partition_index=reply.next_cursor.partition_index)
        assert seen == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("c", 0), ("c", 1), ("c", 2), ("c", 3)]
        assert pages == 4
        one = await door.call(
            75, 0,
            shapes.DescribeTopicPartitionsRequest(
                topics=(shapes.TopicRequest(name="b"), shapes.TopicRequest(name="zz")), response_partition_limit=100, cursor=None
            ),
        )  # fmt: skip
        assert [(t.name, t.error_code) for t in one.topics] == [
            ("b", ErrorCode.none), ("zz", ErrorCode.unknown_topic_or_partition),
        ]  # fmt: skip


async def test_many_topics_of_one_request_are_one_commit(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        shapes = request(19, 7)

        def topic(name: str, partitions: int = 1):
            return shapes.CreatableTopic(name=name, num_partitions=partitions, replication_factor=1, assignments=(), configs=())

        before = broker.image.offset
        topics = (topic("a.b"), topic("bad", 0), topic("a_b"), topic("c"), topic("d", 3))
        reply = await Door(broker).call(19, 7, shapes.CreateTopicsRequest(topics=topics, timeout=MINUTE, validate_only=False))
        assert [(found.name, found.error_code) for found in reply.topics] == [
            ("a.b", ErrorCode.none), ("bad", ErrorCode.invalid_partitions), ("a_b", ErrorCode.invalid_topic_exception),
            ("c", ErrorCode.none), ("d", ErrorCode.none),
        ]  # fmt: skip
        assert broker.image.offset == before + 3
        assert sorted(broker.image.topics) == ["a.b", "c", "d"]


async def test_a_value_too_long_to_keep_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        refused = await create(Door(broker), "clicks", configs=[("retention.ms", " " * 5000 + "5")])
        assert refused.error_code is ErrorCode.invalid_config
        assert "5001" in refused.error_message


@pytest.mark.parametrize("version", range(14))
async def test_metadata_from_kept_bytes_is_what_kio_writes_and_follows_changes(tmp_path: Path, version: int) -> None:
    async with running(tmp_path) as broker:
        door = Door(broker)
        names = [f"t{number}" for number in range(130)]  # more than one byte of a compact length
        await broker.create_topics([NewTopic(name, 1) for name in names])
        for _ in range(2):
            reply = await metadata(door, version)
            assert [topic.name for topic in reply.topics] == names
            with io.BytesIO() as buffer:
                entity_writer(type(reply))(buffer, reply)
                spelled = buffer.getvalue()
            shapes = request(3, version)
            wanted = shapes.MetadataRequest(
                topics=() if version == 0 else None, allow_auto_topic_creation=False, include_cluster_authorized_operations=False,
                include_topic_authorized_operations=False,
            )  # fmt: skip
            context = RequestContext(3, version, 1, None, Caller(("", 1), 1), 0.0)
            assert b"".join(bytes(part) for part in k03_metadata.handle(broker, context, wanted).buffers) == spelled
        await broker.create_partitions("t5", 3)
        assert await broker.delete_topics([broker.topic("t0").topic_id]) == [None]
        after = {topic.name: len(topic.partitions) for topic in (await metadata(door, version)).topics}
        assert after["t5"] == 3
        assert "t0" not in after
        await broker.logs.delete(TopicPartition("t7", 0))
        del broker._hosting.partitions["t7", 0]
        (gone,) = (await metadata(door, version, ["t7"])).topics
        assert gone.partitions[0].error_code is ErrorCode.leader_not_available


async def test_topics_that_were_refused_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(change: object) -> None:
        raise NotReady("the store is away")

    async with running(tmp_path) as broker:
        (made,) = await broker.create_topics([NewTopic("clicks", 1)])
        assert isinstance(made, TopicImage)
        for _ in range(5):
            await broker.create_topics([NewTopic("clicks", 1)])
        with monkeypatch.context() as patched:
            patched.setattr(broker.metadata, "submit", away)
            with pytest.raises(Refused):
                await broker.create_topics([NewTopic("views", 1)])
        assert broker._hosting.fresh == {made.topic_id}


async def test_a_topic_that_could_not_be_hosted_is_tried_again_though_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as broker:
        with monkeypatch.context() as patched:

            async def fails(*arguments: object, **named: object) -> None:
                raise OSError(28, "no space")

            patched.setattr(broker.logs, "create", fails)
            await broker.create_topic("clicks", 1)
            assert broker.partition("clicks", 0) is None
        await broker.tick()
        assert broker.partition("clicks", 0) is not None
