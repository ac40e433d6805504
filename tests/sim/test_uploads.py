"""What closes is copied when it closes, as fast as the store answers; the beat only catches what was missed."""

from __future__ import annotations

import asyncio

from controller.metadata import State
from controller.topic_rules import NewTopic
from hotlog.broker.broker import Broker
from tests.log.support import append, batch
from tests.sim.world import SimWorld, simulate
from tests.tools.steps import count_steps

MANY = 300
CONFIGS = {"hotlog.durability": "page-cache", "retention.ms": "-1"}


async def closed_once(broker: Broker, *, segments: int = 1) -> None:
    """So many closed segments in every partition, on the device."""
    for partition in broker.hosted():
        for _ in range(segments):
            append(partition.log, batch(b"x" * 100, timestamp=broker.clock.now_ms()))
            partition.roll(broker.clock.now_ms())
        await partition.log.flush()


def left(broker: Broker) -> int:
    """How many partitions have closed segments that are not in the store."""
    return sum(
        partition.cold is None or partition.cold.end_offset < partition.log.active.base_offset for partition in broker.hosted()
    )


def are_copied(broker: Broker) -> bool:
    return not left(broker)


def test_a_segment_that_closes_is_copied_without_a_beat() -> None:
    async def main(world: SimWorld) -> None:
        broker = (await world.boot()).broker
        await broker.create_topic("clicks", 3, CONFIGS)
        for _ in range(3):
            await closed_once(broker)
            await asyncio.sleep(1)
            assert are_copied(broker)

    simulate(1, main)


def test_copies_are_as_fast_as_the_store_and_the_slots_allow() -> None:
    """A beat of 30 s began as many copies as there are slots, waited for the first to end, and left the rest to the next."""

    async def main(world: SimWorld) -> None:
        broker = (await world.boot()).broker
        world.bucket.weather.latency_seconds = 0.08  # 20 to 80 ms an answer
        await broker.create_topics([NewTopic("clicks", MANY, -1, CONFIGS, ())])
        slots, tier = broker.settings.number("remote.log.manager.copier.thread.pool.size"), broker.tier
        assert tier is not None
        await closed_once(broker)
        world.bucket.counts.clear()
        while left(broker) > slots:
            assert len(tier.flights) == slots, "no slot is ever free while something waits"
            await asyncio.sleep(0.1)
        assert world.bucket.counts.total() <= 3 * MANY, "a claim, the object, its row"

    simulate(2, main)


def test_a_backlog_is_copied_after_a_start_and_after_the_store_was_away_without_a_beat() -> None:
    async def main(world: SimWorld) -> None:
        life = await world.boot()
        await life.broker.create_topic("clicks", 40, CONFIGS)
        world.bucket.weather.down = True
        await closed_once(life.broker, segments=3)
        await asyncio.sleep(120)
        assert not are_copied(life.broker)
        world.bucket.weather.down = False
        await asyncio.sleep(60)
        assert are_copied(life.broker)
        world.bucket.weather.down = True
        await closed_once(life.broker, segments=3)
        await life.end("stop")
        life = await world.boot()
        world.bucket.weather.down = False
        while life.node.metadata.state is not State.ACTIVE:
            await asyncio.sleep(5)
            await life.beat("broker")
        await asyncio.sleep(60)
        assert are_copied(life.broker)

    simulate(3, main)


def test_what_nobody_was_told_of_is_copied_by_the_beat() -> None:
    async def main(world: SimWorld) -> None:
        life = await world.boot()
        await life.broker.create_topic("clicks", 3, {**CONFIGS, "remote.copy.lag.ms": "3600000"})
        await closed_once(life.broker)
        await life.beat("copy")
        assert not are_copied(life.broker)
        await asyncio.sleep(3601)
        await life.beat("copy")
        assert are_copied(life.broker)

    simulate(4, main)


def test_a_copy_costs_the_same_however_many_partitions_and_segments_there_are() -> None:
    async def main(world: SimWorld) -> None:
        broker = (await world.boot()).broker
        tier = broker.tier
        assert tier is not None
        found = []
        for name, partitions, segments in (("few", 2, 1), ("many", MANY, 1), ("deep", 1, 500)):
            await broker.create_topic(name, partitions, CONFIGS)
            await asyncio.sleep(1)
            world.bucket.weather.down = True
            for partition in broker.hosted():
                if partition.tp.topic == name:
                    for _ in range(segments):
                        append(partition.log, batch(b"x", timestamp=world.clock.now_ms()))
                        partition.roll(world.clock.now_ms())
                    await partition.log.flush()
            await asyncio.sleep(1)
            one = next(partition for partition in broker.hosted() if partition.tp.topic == name)
            assert one.cold is not None

            async def look(cold: object = one.cold) -> None:
                tier.stir(cold)  # type: ignore[arg-type, union-attr]
                tier._advance()  # type: ignore[union-attr]

            found.append((await count_steps(look())).total)
            world.bucket.weather.down = False
            await asyncio.sleep(90)
        assert max(found) < 2 * min(found), found

    simulate(5, main)
