"""The short ways of doors against the long ones: what is read by hand against kio, what is answered byte for byte.

Every test that calls a door through tests.admin.node.Door compares the two as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from hotlog.wire import apis, short_bodies
from tests.admin.test_groups import Client as Member
from tests.wire.serving import Client, Serving, frame_of, parsed, serving
from tests.wire.strategies import entities, written

Read = Callable[[int, bytes], Any]


def heartbeat_fields(request: Any) -> Any:
    return request.group_id, request.generation_id, request.member_id, getattr(request, "group_instance_id", None)


READ_BY_HAND: list[tuple[int, Read, Callable[[Any], Any]]] = [(12, short_bodies.heartbeat, heartbeat_fields)]
VERSIONS = [(key, version, read, fields) for key, read, fields in READ_BY_HAND for version in apis.versions_known(key)]
JUNK = st.binary(max_size=60) | st.lists(st.sampled_from([0, 1, 2, 3, 0x7F, 0x80, 0xFF]), max_size=60).map(bytes)


@pytest.mark.parametrize(("key", "version", "read", "fields"), VERSIONS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_body_is_read_by_hand_as_kio_reads_it(key: int, version: int, read: Read, fields: Any, data: st.DataObject) -> None:
    request = data.draw(entities(apis.request_type(key, version)))
    with suppress(short_bodies.OtherShape):
        assert read(version, written(request)) == fields(request)


@pytest.mark.parametrize(("key", "version", "read", "fields"), VERSIONS)
@settings(max_examples=50, deadline=None)
@given(junk=JUNK, data=st.data())
def test_junk_is_read_as_kio_reads_it_or_not_at_all(
    key: int, version: int, read: Read, fields: Any, junk: bytes, data: st.DataObject
) -> None:
    body = written(data.draw(entities(apis.request_type(key, version)))) if len(junk) % 2 else b""
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
    dispatch = served.connections.dispatch
    asked: list[bytes | None] = []

    def quick(*arguments: Any) -> bytes | None:
        asked.append(type(dispatch).quick(dispatch, *arguments))
        return asked[-1]

    monkeypatch.setattr(dispatch, "quick", quick)
    client.writer.write(frame_of(request, 77))
    short = await client.frame()
    assert asked and asked[-1] is not None, f"API {key} version {version} went the long way"
    monkeypatch.setattr(dispatch, "quick", lambda *arguments: None)
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
