"""What a node costs while nothing happens does not grow with what lies still in it; what happens is noticed all the same."""

from __future__ import annotations

import asyncio

from controller.topic_rules import NewTopic
from hotlog.kernel.ids import TopicPartition
from hotlog.log.awake import NEVER, Awake
from hotlog.partitions.upkeep import Upkeep
from tests.log.support import append, batch
from tests.sim.world import Life, SimWorld, simulate
from tests.support.topics import alter_configs
from tests.tools.steps import count_steps

FLAT = ("log", "series", "broker", "groups", "group-lag", "ends", "copy")
PAGE_CACHE = {"hotlog.durability": "page-cache"}


async def idle_steps(life: Life) -> dict[str, int]:
    """Steps of a beat of each worker after minutes in which nothing happened."""
    for _ in range(3):
        await asyncio.sleep(100)
        await life.beat(*FLAT)
    found = {}
    for beat in life.node.beats:
        if beat.name in FLAT:
            await asyncio.sleep(10)
            found[beat.name] = (await count_steps(beat.tick())).total
    return found


def test_a_beat_costs_as_much_with_many_partitions_as_with_few() -> None:
    """Each log was looked at each second: 10,000 of them took a tenth of a core."""

    async def main(world: SimWorld) -> None:
        life = await world.boot()
        await life.broker.create_topic("few", 4, PAGE_CACHE)
        for partition in life.broker.hosted():
            append(partition.log, batch(b"x", timestamp=world.clock.now_ms()), now_ms=world.clock.now_ms())
        few = await idle_steps(life)
        await life.broker.create_topics([NewTopic(f"many-{number}", 20, -1, PAGE_CACHE, ()) for number in range(10)])
        for partition in life.broker.hosted():
            append(partition.log, batch(b"x", timestamp=world.clock.now_ms()), now_ms=world.clock.now_ms())
        many = await idle_steps(life)
        slow = {name: (few[name], many[name]) for name in FLAT if many[name] > few[name] + 400}
        assert not slow, "topics, not partitions, may cost a few steps"

    simulate(1, main)


def test_a_log_that_sleeps_rolls_when_its_time_has_come_and_when_it_is_asked_to() -> None:
    async def main(world: SimWorld) -> None:
        life = await world.boot()
        await life.broker.create_topic("clicks", 2, {**PAGE_CACHE, "segment.ms": str(3_600_000)})
        early, late = life.broker.hosted()
        append(early.log, batch(b"x", timestamp=world.clock.now_ms()), now_ms=world.clock.now_ms())
        for _ in range(3):
            await asyncio.sleep(61)
            await life.beat("log")
        append(late.log, batch(b"x", timestamp=world.clock.now_ms()), now_ms=world.clock.now_ms())
        await asyncio.sleep(3_600 - 3 * 61 + 1)
        await life.beat("log")
        assert (early.log.segment_count, late.log.segment_count) == (2, 1)
        await alter_configs(life.broker, "clicks", {"hotlog.segment.roll.before.ms": str(world.clock.now_ms())})
        await life.beat("log")
        assert late.log.segment_count == 2

    simulate(2, main)


def test_dropped_files_of_a_log_that_sleeps_are_removed_when_their_delay_is_over() -> None:
    async def main(world: SimWorld) -> None:
        life = await world.boot()
        await life.broker.create_topic("clicks", 1, {**PAGE_CACHE, "file.delete.delay.ms": "600000"})
        (partition,) = life.broker.hosted()
        append(partition.log, batch(b"x", timestamp=world.clock.now_ms()), now_ms=world.clock.now_ms())
        partition.roll(world.clock.now_ms())
        await partition.log.flush()
        await partition.delete_records(-1)
        await Upkeep(partition).drop_local(1)
        for seconds, left in ((300, 1), (301, 0)):
            await asyncio.sleep(seconds)
            await life.beat("log")
            names = life.disk.listdir(partition.log.directory)
            assert sum(name.endswith(".log.deleted") for name in names) == left

    simulate(3, main)


def test_who_follows_hears_of_each_log_in_which_something_happened_once_it_sleeps_too() -> None:
    awake, (first, second) = Awake(), (TopicPartition("a", 0), TopicPartition("a", 1))
    awake.wake(first)
    follower = awake.follow()
    assert follower.take() == [first]
    awake.wake(second)
    awake.sleep(first, 500)
    awake.sleep(second, NEVER)
    assert sorted(follower.take()) == [first, second]
    assert follower.take() == []
    assert awake.due(499) == []
    assert awake.due(500) == [first]
    assert follower.take() == [first]


def test_a_log_has_one_alarm_that_counts() -> None:
    awake, tp = Awake(), TopicPartition("a", 0)
    for due_ms in (900, 300, 700):
        awake.wake(tp)
        awake.sleep(tp, due_ms)
    assert awake.due(300) == [tp]
    awake.sleep(tp, NEVER)
    assert awake.due(10_000) == []
