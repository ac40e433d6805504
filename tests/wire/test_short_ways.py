"""The short ways of doors against the long ones: what is read by hand against kio, what is answered byte for byte.

Every test that calls a door through tests.admin.node.Door compares the two as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from hotlog.front.dispatch import load_apis
from hotlog.wire import apis, short_bodies
from tests.admin.test_groups import Client as Member
from tests.wire.serving import Client, Serving, batch_of, frame_of, parsed, produce, serving
from tests.wire.strategies import entities, written

Read = Callable[[int, bytes], Any]


def heartbeat_fields(request: Any) -> Any:
    return request.group_id, request.generation_id, request.member_id, getattr(request, "group_instance_id", None)


def commit_fields(request: Any) -> Any:
    ((topic,),) = [request.topics]
    (part,) = topic.partitions
    topic_id = getattr(topic, "topic_id", None)
    return (
        request.group_id, request.generation_id_or_member_epoch, request.member_id, getattr(request, "group_instance_id", None),
        topic.name if hasattr(topic, "name") else (topic_id or UUID(int=0)).bytes, part.partition_index, part.committed_offset,
        getattr(part, "committed_leader_epoch", -1), part.committed_metadata,
    )  # fmt: skip


def offsets_fields(request: Any) -> Any:
    (topic,) = request.topics
    parts = [(p.partition_index, getattr(p, "current_leader_epoch", -1), p.timestamp) for p in topic.partitions]
    return getattr(request, "isolation_level", 0) & 0xFF, topic.name, parts


READ_BY_HAND: list[tuple[int, Read, Callable[[Any], Any]]] = [
    (2, lambda version, body: short_bodies.list_offsets(version, body)[:-1], offsets_fields),
    (8, lambda version, body: short_bodies.offset_commit(version, body)[:-1], commit_fields),
    (12, short_bodies.heartbeat, heartbeat_fields),
]


def narrow(request: Any) -> Any:
    """The same with one topic, and that with one partition, where it has any."""
    topics = getattr(request, "topics", None)
    if not topics:
        return request
    return replace(request, topics=(replace(topics[0], partitions=topics[0].partitions[:1]),))


def served_versions(key: int) -> range:
    return next(api.versions for api in load_apis() if api.key == key)


VERSIONS = [(key, version, read, fields) for key, read, fields in READ_BY_HAND for version in served_versions(key)]
JUNK = st.binary(max_size=60) | st.lists(st.sampled_from([0, 1, 2, 3, 0x7F, 0x80, 0xFF]), max_size=60).map(bytes)


@pytest.mark.parametrize(("key", "version", "read", "fields"), VERSIONS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_body_is_read_by_hand_as_kio_reads_it(key: int, version: int, read: Read, fields: Any, data: st.DataObject) -> None:
    request = data.draw(entities(apis.request_type(key, version)).flatmap(lambda drawn: st.sampled_from([drawn, narrow(drawn)])))
    with suppress(short_bodies.OtherShape):
        assert read(version, written(request)) == fields(request)


@pytest.mark.parametrize(("key", "version", "read", "fields"), VERSIONS)
@settings(max_examples=50, deadline=None)
@given(junk=JUNK, data=st.data())
def test_junk_is_read_as_kio_reads_it_or_not_at_all(
    key: int, version: int, read: Read, fields: Any, junk: bytes, data: st.DataObject
) -> None:
    body = written(narrow(data.draw(entities(apis.request_type(key, version))))) if len(junk) % 2 else b""
    at = data.draw(st.integers(0, len(body)))
    bent = body[:at] + junk + body[at + len(junk) // 4 :]
    with suppress(*short_bodies.NOT_SHORT):
        assert read(version, bent) == fields(apis.decode_request(key, version, memoryview(bent), 0))


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path) as each:
        yield each


async def frames(served: Serving, client: Client, request: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, bytes]:
    """The answers of both ways; the short one must be taken."""
    key, version = type(request).__api_key__, type(request).__version__
    doors, kind = served.connections.dispatch.short_doors, (key << 16) + version
    assert kind in doors, f"API {key} version {version} has no short way"
    door, way = doors[kind]
    answered: list[Any] = []

    def watched(*arguments: Any) -> Any:
        answered.append(way(*arguments))
        return answered[-1]

    monkeypatch.setitem(doors, kind, (door, watched))
    client.writer.write(frame_of(request, 77))
    short = await client.frame()
    assert answered[-1] is not None, f"API {key} version {version} went the long way"
    monkeypatch.delitem(doors, kind)
    client.writer.write(frame_of(request, 77))
    long = await client.frame()
    monkeypatch.undo()
    parsed(key, version, short, 77)
    return short, long


async def test_heartbeats_of_a_member_are_answered_alike_both_ways(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    await served.broker.create_topic("__consumer_offsets", 2)
    await served.broker.groups.ensure()
    for instance in (None, "i"):
        member = Member(served.broker, f"g{instance}", instance=instance)
        assert await member.join() is ErrorCode.none
        assert (await member.sync())[0] is ErrorCode.none
        client = await served.connect()
        for version in apis.versions_known(12):
            request = apis.requests(12, version).HeartbeatRequest(
                group_id=member.group, generation_id=member.generation, member_id=member.member_id, group_instance_id=instance
            )
            short, long = await frames(served, client, request, monkeypatch)
            assert short == long


@pytest.mark.parametrize("listed", [True, False], ids=["all", "one"])
async def test_metadata_is_answered_alike_both_ways(served: Serving, monkeypatch: pytest.MonkeyPatch, listed: bool) -> None:
    made = await served.broker.create_topic("t", 2)
    await served.broker.create_topic("u", 1)
    client = await served.connect()
    for version in apis.versions_known(3):
        shapes = apis.requests(3, version)
        topics: Any = (
            None if listed else (shapes.MetadataRequestTopic(topic_id=None if version < 12 else made.topic_id, name="t"),)
        )
        request = shapes.MetadataRequest(
            topics=() if listed and version == 0 else topics, allow_auto_topic_creation=True,
            include_cluster_authorized_operations=False, include_topic_authorized_operations=False,
        )  # fmt: skip
        for _ in range(2):  # made, and kept
            short, long = await frames(served, client, request, monkeypatch)
            assert short == long
        await served.broker.create_partitions("u", len(served.broker.image.topics["u"].partitions) + 1)


@pytest.mark.parametrize("epoch", [-1, 0])
async def test_ends_are_listed_alike_both_ways(served: Serving, monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    await served.broker.create_topic("t", 3)
    client = await served.connect()
    await client.call(produce("t", {0: batch_of(b"x"), 1: batch_of(b"y")}))
    for version in served_versions(2):
        shapes = apis.requests(2, version)
        for position in (-1, -2):
            parts = tuple(
                shapes.ListOffsetsPartition(partition_index=index, current_leader_epoch=epoch, timestamp=position)
                for index in range(3)
            )
            request = shapes.ListOffsetsRequest(
                replica_id=-1,
                isolation_level=1,
                topics=(shapes.ListOffsetsTopic(name="t", partitions=parts),),
                timeout=timedelta(0),
            )
            short, long = await frames(served, client, request, monkeypatch)
            assert short == long


async def about_to_commit(served: Serving) -> tuple[UUID, Member, Client]:
    """A topic's id, the only member of the group that reads it, and a connection."""
    made = await served.broker.create_topic("t", 3)
    await served.broker.create_topic("__consumer_offsets", 2)
    await served.broker.groups.ensure()
    member = Member(served.broker)
    assert await member.join() is ErrorCode.none
    assert (await member.sync())[0] is ErrorCode.none
    return made.topic_id, member, await served.connect()


async def test_commits_of_a_member_are_answered_alike_both_ways(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    topic_id, member, client = await about_to_commit(served)
    for version in served_versions(8):
        request = one_commit(member, version, topic_id, 100 + version)
        short, long = await frames(served, client, request, monkeypatch)
        assert short == long
        assert served.broker.groups.offsets("g")["t", 2].offset == 100 + version


@pytest.mark.parametrize("version", served_versions(8))
async def test_commits_again_and_again_are_what_is_fetched(served: Serving, version: int) -> None:
    """What one looked up is found by the next, unless it ends otherwise, or everything has changed meanwhile."""
    topic_id, member, client = await about_to_commit(served)

    async def commit(offset: int, epoch: int, metadata: str | None, wanted: ErrorCode = ErrorCode.none) -> None:
        answer = await client.call(one_commit(member, version, topic_id, offset, epoch, metadata))
        assert answer.topics[0].partitions[0].error_code is wanted

    for offset, (epoch, metadata) in enumerate([(0, None), (5, ""), (6, None), (-1, "x"), (7, ""), (8, "0" * 5000), (9, None)]):
        is_kept = len(metadata or "") < 5000
        await commit(offset, epoch, metadata, ErrorCode.none if is_kept else ErrorCode.offset_metadata_too_large)
        found = served.broker.groups.offsets("g")["t", 2]
        wanted = (offset, epoch if version >= 6 else -1, metadata or "")
        assert ((found.offset, found.leader_epoch, found.metadata) == wanted) == is_kept
    before = member.generation
    assert await member.join() is ErrorCode.none
    assert (await member.sync())[0] is ErrorCode.none
    now, member.generation = member.generation, before
    await commit(100, 0, None, ErrorCode.illegal_generation)
    member.generation = now
    await commit(101, 0, None)
    await served.broker.delete_topics([topic_id])
    await commit(102, 0, None, ErrorCode.unknown_topic_id if version >= 10 else ErrorCode.unknown_topic_or_partition)


def one_commit(member: Member, version: int, topic_id: UUID, offset: int, epoch: int = 0, metadata: str | None = "x") -> Any:
    shapes = apis.requests(8, version)
    part = shapes.OffsetCommitRequestPartition(
        partition_index=2, committed_offset=offset, committed_leader_epoch=epoch, committed_metadata=metadata
    )
    return shapes.OffsetCommitRequest(
        group_id=member.group, generation_id_or_member_epoch=member.generation, member_id=member.member_id, group_instance_id=None,
        retention_time=timedelta(0), topics=(shapes.OffsetCommitRequestTopic(name="t", topic_id=topic_id, partitions=(part,)),),
    )  # fmt: skip


async def test_what_is_asked_behind_a_commit_in_one_write_sees_it(served: Serving) -> None:
    topic_id, member, client = await about_to_commit(served)
    fetch = apis.requests(9, 7)
    asked = fetch.OffsetFetchRequest(
        group_id="g", topics=(fetch.OffsetFetchRequestTopic(name="t", partition_indexes=(2,)),), require_stable=True
    )
    for offset in range(20):
        client.writer.write(frame_of(one_commit(member, 8, topic_id, offset), 1) + frame_of(asked, 2))
        assert parsed(8, 8, await client.frame(), 1).topics[0].partitions[0].error_code is ErrorCode.none
        assert parsed(9, 7, await client.frame(), 2).topics[0].partitions[0].committed_offset == offset
