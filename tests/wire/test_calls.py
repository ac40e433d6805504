"""What a request costs, counted: calls of our own Python functions, which do not depend on the machine.

A ceiling is what it is now and a little.  Who passes one has made every request dearer: make it cheaper again, or raise the ceiling and say in the
commit what it buys.  Who makes it cheaper lowers it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import pytest_asyncio

import hotlog
from hotlog.wire import apis
from tests.admin.test_groups import Client as Member
from tests.wire.serving import Client, Serving, batch_of, fetch, frame_of, produce, serving

PACKAGES = tuple(str(Path(hotlog.__file__).parents[1] / name) for name in ("hotlog", "tiering", "compaction", "controller"))
WIDE = 100  # partitions
ROUNDS = 20


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path, {"hotlog.durability": "page-cache"}) as each:
        await each.broker.create_topic("t", WIDE)
        yield each


async def calls_of(client: Client, request: Any) -> float:
    """Of one request, once it has been asked a few times."""
    frame = frame_of(request, 1)

    async def ask() -> None:
        client.writer.write(frame)
        await client.frame()

    for _ in range(5):
        await ask()
    with counting() as counted:
        for _ in range(ROUNDS):
            await ask()
    print({name: count / ROUNDS for name, count in counted.most_common(200)})
    return sum(counted.values()) / ROUNDS


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Counts the calls of our own functions by name."""
    counted: Counter[str] = Counter()

    def look(called: FrameType, event: str, argument: Any) -> None:
        if event == "call" and called.f_code.co_filename.startswith(PACKAGES):
            counted[called.f_code.co_qualname] += 1

    sys.setprofile(look)
    try:
        yield counted
    finally:
        sys.setprofile(None)


def metadata(topic: str = "t") -> Any:
    shapes = apis.requests(3, 12)
    return shapes.MetadataRequest(
        topics=(shapes.MetadataRequestTopic(topic_id=None, name=topic),),
        allow_auto_topic_creation=False,
        include_topic_authorized_operations=False,
    )


async def member(served: Serving) -> Member:
    """The only one of its group."""
    await served.broker.create_topic("__consumer_offsets", 2)
    await served.broker.groups.ensure()
    one = Member(served.broker, "a-group-of-one")
    await one.join()
    await one.sync()
    return one


async def test_a_heartbeat_costs_no_more_calls_than_it_did(served: Serving) -> None:
    one, client = await member(served), await served.connect()
    request = apis.requests(12, 4).HeartbeatRequest(
        group_id=one.group, generation_id=one.generation, member_id=one.member_id, group_instance_id=None
    )
    assert await calls_of(client, request) <= 16


async def test_a_commit_of_one_partition_costs_no_more_calls_than_it_did(served: Serving) -> None:
    one, client = await member(served), await served.connect()
    shapes = apis.requests(8, 8)
    part = shapes.OffsetCommitRequestPartition(
        partition_index=0, committed_offset=1, committed_leader_epoch=0, committed_metadata=""
    )
    request = shapes.OffsetCommitRequest(
        group_id=one.group, generation_id_or_member_epoch=one.generation, member_id=one.member_id, group_instance_id=None,
        topics=(shapes.OffsetCommitRequestTopic(name="t", partitions=(part,)),),
    )  # fmt: skip
    assert await calls_of(client, request) <= 64


def ends(topic: str = "t") -> Any:
    shapes = apis.requests(2, 7)
    part = shapes.ListOffsetsPartition(partition_index=0, current_leader_epoch=-1, timestamp=-1)
    return shapes.ListOffsetsRequest(
        replica_id=-1, isolation_level=0, topics=(shapes.ListOffsetsTopic(name=topic, partitions=(part,)),)
    )


@pytest.mark.parametrize(
    ("name", "request_", "ceiling"),
    [
        ("produce one record", produce("t", {0: batch_of(b"x" * 100)}), 31),
        ("produce one record to each of 100", produce("t", {each: batch_of(b"x" * 100) for each in range(WIDE)}), 1_900),
        ("fetch the end of a partition", fetch("t", {0: 0}, wait_ms=0), 20),
        ("fetch the ends of 100 partitions", fetch("t", dict.fromkeys(range(WIDE), 0), wait_ms=0), 19),
        ("the end of a partition", ends(), 23),
        ("metadata of a topic", metadata(), 17),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_request_costs_no_more_calls_than_it_did(served: Serving, name: str, request_: Any, ceiling: int) -> None:
    client = await served.connect()
    assert await calls_of(client, request_) <= ceiling, name
