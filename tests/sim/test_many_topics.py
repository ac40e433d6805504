"""Many topics against a store that takes its time: they cost what their partitions cost, and hot data does not wait for them."""

from __future__ import annotations

import pytest

from controller.topic_rules import NewTopic
from tests.sim.world import SimWorld, simulate

TOPICS = 200
MOMENT_S = 1.0  # for the metadata, and once more for all manifests together


def made(topics: int, partitions: int) -> list[NewTopic]:
    return [NewTopic(f"t{number}", partitions, -1, {}, ()) for number in range(topics)]


def test_topics_that_are_made_ask_the_store_for_nothing_but_the_one_commit() -> None:
    """Each new partition asked for a manifest that could not be there, topic after topic: 16 s for 300 topics at 50 ms."""

    async def main(world: SimWorld) -> None:
        life = await world.boot()
        world.bucket.counts.clear()
        await life.broker.create_topics(made(TOPICS, 1))
        assert world.bucket.counts["get", "manifest"] == 0
        assert world.bucket.counts.total() <= 2
        assert all(partition.has_store for partition in life.broker.hosted()), "nothing is known to be there"

    simulate(1, main)


@pytest.mark.parametrize(("topics", "partitions"), [(TOPICS, 1), (2, TOPICS // 2)])
def test_a_start_is_as_long_with_many_topics_as_with_few(topics: int, partitions: int) -> None:
    async def main(world: SimWorld) -> None:
        life = await world.boot()
        await life.broker.create_topics(made(topics, partitions))
        await life.end("stop")
        world.bucket.weather.latency_seconds = 0.08
        began = world.loop.time()
        life = await world.boot()
        assert world.loop.time() - began < 2 * MOMENT_S + 0.1
        assert all(partition.has_store for partition in life.broker.hosted()), "and all was asked for meanwhile"

    simulate(2, main)


def test_hot_data_of_all_topics_waits_one_moment_for_a_slow_store() -> None:
    async def main(world: SimWorld) -> None:
        life = await world.boot()
        await life.broker.create_topics(made(TOPICS, 1))
        await life.end("stop")
        world.bucket.weather.latency_seconds = 1.0  # 200 answers, 32 at a time, would take 4 s
        began = world.loop.time()
        life = await world.boot()
        assert life.broker.is_ready
        assert world.loop.time() - began < 2 * MOMENT_S + 0.1
        assert len(life.broker.hosted()) == TOPICS
        assert not all(partition.has_store for partition in life.broker.hosted())
        while not all(partition.has_store for partition in life.broker.hosted()):
            await life.beat("copy")

    simulate(3, main)
