"""Requests that name thousands of things: nobody else waits for the whole of them, and what is asked twice is answered once.

What counts is the share of the longest turn of the loop in all that a request costs, in CPU time: it does not depend on the machine.
"""

from __future__ import annotations

import gc
import time
from asyncio import events
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest_asyncio

from hotlog.answers.slices import SLICE
from hotlog.wire import apis
from tests.admin.node import coordinator_made
from tests.wire.serving import Serving, batch_of, fetch, frame_of, produce, serving

COUNT = 8 * SLICE
SHARE_MAX = 0.5  # of the longest turn; without slices it is nearly all


@contextmanager
def turns() -> Iterator[list[float]]:
    """CPU seconds of each turn of the loop."""
    seconds: list[float] = []
    run = events.Handle._run  # type: ignore[attr-defined]

    def timed(handle: Any) -> None:
        before = time.thread_time()
        try:
            run(handle)
        finally:
            seconds.append(time.thread_time() - before)

    gc.collect()
    gc.disable()
    events.Handle._run = timed  # type: ignore[attr-defined]
    try:
        yield seconds
    finally:
        events.Handle._run = run  # type: ignore[attr-defined]
        gc.enable()


def requests(topic_id: Any) -> dict[str, Any]:
    every = range(COUNT)
    at, epochs, groups, commits = apis.requests(2, 7), apis.requests(23, 4), apis.requests(15, 5), apis.requests(8, 6)
    elections, moves, dirs = apis.requests(43, 2), apis.requests(45, 1), apis.requests(34, 2)

    def offsets(timestamp: int) -> Any:
        parts = tuple(at.ListOffsetsPartition(partition_index=n, current_leader_epoch=-1, timestamp=timestamp) for n in every)
        return at.ListOffsetsRequest(replica_id=-1, isolation_level=0, topics=(at.ListOffsetsTopic(name="t", partitions=parts),))

    ends = tuple(epochs.OffsetForLeaderPartition(partition=n, current_leader_epoch=-1, leader_epoch=0) for n in every)
    return {
        "metadata": apis.requests(3, 12).MetadataRequest(
            topics=None, allow_auto_topic_creation=False, include_topic_authorized_operations=False
        ),
        "metadata of a name": apis.requests(3, 9).MetadataRequest(
            topics=(apis.requests(3, 9).MetadataRequestTopic(name="t"),),
            allow_auto_topic_creation=False,
            include_cluster_authorized_operations=False,
            include_topic_authorized_operations=False,
        ),
        "produce": produce("t", {n: batch_of(b"x") for n in every}),
        "fetch": fetch("t", dict.fromkeys(every, 0)),
        "fetch with a session": fetch("t", dict.fromkeys(every, 0), session=(0, 0)),
        "long poll": fetch("t", dict.fromkeys(every, 0), wait_ms=50, version=17, topic_id=topic_id),
        "latest": offsets(-1),
        "by time": offsets(1),
        "epochs": epochs.OffsetForLeaderEpochRequest(
            replica_id=-1, topics=(epochs.OffsetForLeaderTopic(topic="t", partitions=ends),)
        ),
        "log dirs": apis.requests(35, 4).DescribeLogDirsRequest(topics=None),
        "elections": elections.ElectLeadersRequest(
            election_type=0, topic_partitions=(elections.TopicPartitions(topic="t", partitions=tuple(every)),)
        ),
        "reassignments": moves.AlterPartitionReassignmentsRequest(
            topics=(moves.ReassignableTopic(name="t", partitions=tuple(
                moves.ReassignablePartition(partition_index=n, replicas=(7,)) for n in every
            )),),
        ),
        "directories": dirs.AlterReplicaLogDirsRequest(
            dirs=(dirs.AlterReplicaLogDir(path="", topics=(dirs.AlterReplicaLogDirTopic(name="t", partitions=tuple(every)),)),),
        ),
        "groups": groups.DescribeGroupsRequest(
            groups=tuple(f"g{n}" for n in every), include_authorized_operations=False
        ),
        "commit": commits.OffsetCommitRequest(
            group_id="g", generation_id_or_member_epoch=-1, member_id="", topics=(
                commits.OffsetCommitRequestTopic(name="t", partitions=tuple(
                    commits.OffsetCommitRequestPartition(partition_index=n, committed_offset=1, committed_metadata="") for n in every
                )),
            ),
        ),
        "offsets of a group": apis.requests(9, 7).OffsetFetchRequest(
            group_id="g", topics=(apis.requests(9, 7).OffsetFetchRequestTopic(name="t", partition_indexes=tuple(every)),),
            require_stable=False,
        ),
    }  # fmt: skip


async def test_no_turn_of_the_loop_is_most_of_a_wide_request(tmp_path: Path) -> None:
    async with serving(tmp_path, {"auto.create.topics.enable": "false", "hotlog.durability": "page-cache"}) as served:
        topic = await served.broker.create_topic("t", COUNT)
        await coordinator_made(served.broker)
        client = await served.connect()
        shares = {}
        for name, request in requests(topic.topic_id).items():
            frame = frame_of(request, 1)
            with turns() as seconds:
                client.writer.write(frame)
                await client.frame()
            shares[name] = max(seconds) / sum(seconds)
        assert {name: share for name, share in shares.items() if share > SHARE_MAX} == {}


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> Any:
    async with serving(tmp_path, {"auto.create.topics.enable": "false"}) as each:
        await each.broker.create_topic("t", 2)
        await coordinator_made(each.broker)
        yield each


async def test_what_is_asked_twice_is_answered_once(served: Serving) -> None:
    """An answer is up to thousands of times as long as the name it is asked by."""
    client = await served.connect()
    names, groups, offsets, configs = apis.requests(3, 9), apis.requests(15, 5), apis.requests(9, 8), apis.requests(32, 4)
    answer = await client.call(
        names.MetadataRequest(
            topics=(names.MetadataRequestTopic(name="t"),) * 100,
            allow_auto_topic_creation=False,
            include_cluster_authorized_operations=False,
            include_topic_authorized_operations=False,
        )
    )
    assert [topic.name for topic in answer.topics] == ["t"]
    answer = await client.call(groups.DescribeGroupsRequest(groups=("a", "b") * 50, include_authorized_operations=False))
    assert [group.group_id for group in answer.groups] == ["a", "b"]
    wanted = offsets.OffsetFetchRequestGroup(group_id="a", topics=None)
    answer = await client.call(offsets.OffsetFetchRequest(groups=(wanted,) * 100, require_stable=False))
    assert [group.group_id for group in answer.groups] == ["a"]
    resource = configs.DescribeConfigsResource(resource_type=2, resource_name="t", configuration_keys=None)
    answer = await client.call(
        configs.DescribeConfigsRequest(resources=(resource,) * 100, include_synonyms=True, include_documentation=True)
    )
    assert len(answer.results) == 1
