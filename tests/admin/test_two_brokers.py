"""Two brokers on one store: the second follows, and tells its clients who the controller is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from controller.metadata import State
from hotlog.wire.error_codes import Refused
from tests.admin.node import Door, open_broker, open_directory_store, request
from tests.controller.peers import Switchboard
from tests.support.topics import alter_configs


async def told(door: Door) -> tuple[int, int]:
    """(controller of Metadata, controller of DescribeCluster)"""
    shapes = request(3, 9)
    metadata: Any = shapes.MetadataRequest(
        topics=(), allow_auto_topic_creation=False, include_cluster_authorized_operations=False,
        include_topic_authorized_operations=False,
    )  # fmt: skip
    cluster: Any = request(60, 1).DescribeClusterRequest(include_cluster_authorized_operations=False, endpoint_type=1)
    return (await door.call(3, 9, metadata)).controller_id, (await door.call(60, 1, cluster)).controller_id


async def test_the_second_broker_follows_and_names_the_first_as_the_controller(tmp_path: Path) -> None:
    peers = Switchboard()
    stores = [await open_directory_store(tmp_path / "store") for _ in range(2)]
    first = await open_broker(tmp_path / "one", stores[0], peers=peers)
    peers.nodes[1] = first.metadata
    second = await open_broker(tmp_path / "two", stores[1], {"node.id": "2"}, peers=peers)
    peers.nodes[2] = second.metadata
    assert (first.metadata.state, second.metadata.state) == (State.ACTIVE, State.FOLLOWING)
    assert await told(Door(first)) == await told(Door(second)) == (1, 1)

    topic = await second.create_topic("clicks", 2, {"retention.ms": "1000"})
    assert second.topic("clicks") == first.topic("clicks") == topic
    with pytest.raises(Refused) as refused:
        await second.create_topic("clicks")
    assert refused.value.code is ErrorCode.topic_already_exists
    await first.tick()
    assert first.partition("clicks", 1) is not None, "the first was asked, and serves it"
    await alter_configs(second, "clicks", {"retention.ms": "2000"})
    assert first.topic("clicks").configs == {"retention.ms": "2000"}
    assert await first.delete_topics([topic.topic_id]) == [None]
    await second.tick()
    assert second.topic("clicks") is None

    await first.close()
    peers.nodes[1] = None
    await second.tick()
    assert second.metadata.state is State.ACTIVE
    assert await told(Door(second)) == (2, 2)
    await second.create_topic("views")
    assert second.partition("views", 0) is not None
    await second.close()
    for store in stores:
        await store.close()
