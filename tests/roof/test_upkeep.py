"""Small workers of a node: the series of deleted topics, and whether the store is there."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from hotlog.broker.topic_series import TopicSeries
from hotlog.kernel.metrics import Metrics
from hotlog.observe.store_probe import StoreProbe
from tests.sim.world import SimWorld, simulate


async def test_a_deleted_topic_keeps_its_series_until_nothing_of_it_is_left() -> None:
    topics, doomed, being_deleted = {"a": None, "b": None}, {}, set[str]()
    image = SimpleNamespace(topics=topics, doomed=doomed)
    tier = SimpleNamespace(deleted_topics=lambda: being_deleted)
    broker: Any = SimpleNamespace(is_ready=True, image=image, tier=tier)
    metrics = Metrics()
    metrics.log_size_bytes.labels("b").set(1)
    series = TopicSeries(broker, metrics)

    async def is_told() -> bool:
        await series.tick()
        return metrics.registry.get_sample_value("kafka_log_size_bytes", {"topic": "b"}) is not None

    assert await is_told()
    doomed["id"] = SimpleNamespace(name=topics.popitem()[0])
    assert await is_told(), "its logs are still to be removed"
    doomed.clear()
    being_deleted.add("b")
    assert await is_told(), "its objects are"
    being_deleted.clear()
    assert not await is_told()


def test_the_store_is_asked_only_when_nobody_has_heard_of_it() -> None:
    async def main(world: SimWorld) -> None:
        life = await world.boot()
        probe = StoreProbe(life.store, life.node.parts.store_health)
        calls = life.fuse.calls
        await probe.tick()
        assert life.fuse.calls == calls
        await asyncio.sleep(31)
        await probe.tick()
        assert life.fuse.calls > calls

    simulate(1, main)
