"""Page-cache durability and transactions: a power loss takes the end of each log by itself, and no transaction is left open for ever.

The logs of __transaction_state and of the topic come to the device at different times, as the operating system likes it. Afterwards
nothing that was aborted is shown, the last stable offset moves, and the producer goes on under its name.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from controller.internal_topics import TRANSACTIONS_TOPIC
from hotlog.kernel.errors import InvalidProducerEpoch
from hotlog.wire.records import NewRecord
from tests.sim.bucket import Violation
from tests.sim.committed import read_committed
from tests.sim.seeds import SEEDS, is_whole
from tests.sim.transacting import Place, Transactor, coordinated
from tests.sim.world import Life, SimWorld, simulate

TOPIC = "story"
PLACES: tuple[Place, ...] = ((TOPIC, 0), (TOPIC, 1))
STATE: Place = (TRANSACTIONS_TOPIC, 0)
NAME = "writer"
LIVES, SMALL_LIVES = 16, 5
SETTINGS = {
    "hotlog.durability": "page-cache",
    "transaction.state.log.num.partitions": "1",
    "offsets.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
}


class LosesAll(Random):
    """A power loss that takes all that was not synced."""

    def choice(self, seq: Any) -> Any:
        return seq[0]

    def randint(self, a: int, b: int) -> int:
        return a


async def begun(world: SimWorld) -> tuple[Life, Transactor]:
    """A life that has all it needs."""
    life = world.begin()
    await life.open()
    await coordinated(life)
    if life.broker.topic(TOPIC) is None:
        await life.broker.create_topic(TOPIC, len(PLACES), {"retention.ms": "-1"})
    return life, Transactor(life, NAME)


async def flush(life: Life, *places: Place) -> None:
    """The operating system writes back."""
    for place in places:
        partition = life.broker.partition(*place)
        assert partition is not None
        await partition.log.flush()


def record(world: SimWorld, value: bytes) -> list[NewRecord]:
    return [NewRecord(world.clock.now_ms(), None, value)]


async def values(life: Life, place: Place) -> list[bytes | None]:
    partition = life.broker.partition(*place)
    assert partition is not None
    shown = [each.value for each in await read_committed(partition)]
    if partition.marks.last_stable_offset != partition.log_end_offset:
        raise Violation(f"{partition.tp}: the last stable offset stands still at {partition.marks.last_stable_offset}")
    return shown


@pytest.mark.parametrize("is_commit", [True, False])
def test_a_marker_that_was_lost_behind_its_completion(is_commit: bool) -> None:
    async def main(world: SimWorld) -> None:
        life, writer = await begun(world)
        await writer.begin()
        await writer.send(PLACES[0], record(world, b"first"))
        await writer.end(is_commit=True)
        await writer.settled()
        await writer.send(PLACES[0], record(world, b"second"))
        await flush(life, *PLACES, STATE)
        await writer.end(is_commit=is_commit)
        await writer.settled()
        await flush(life, STATE)
        world.machine.random = LosesAll()
        await life.end("power")
        life, writer = await begun(world)
        assert await values(life, PLACES[0]) == [b"first"], "records may be lost as well: none of it is shown"
        await writer.begin()
        await writer.send(PLACES[0], record(world, b"third"))
        await writer.end(is_commit=True)
        await writer.settled()
        assert await values(life, PLACES[0]) == [b"first", b"third"]
        await life.end("stop")

    simulate(0, main, settings=SETTINGS)


def test_a_beginning_that_the_coordinator_lost() -> None:
    async def main(world: SimWorld) -> None:
        life, writer = await begun(world)
        await flush(life, STATE)
        await writer.begin()
        await writer.send(PLACES[0], record(world, b"first"))
        await flush(life, *PLACES)
        world.machine.random = LosesAll()
        await life.end("power")
        life, writer = await begun(world)
        assert life.broker.transactions.describe(NAME) is None, "it knows nothing of the id"
        assert await values(life, PLACES[0]) == []
        await life.end("stop")

    simulate(0, main, settings=SETTINGS)


def test_what_goes_on_is_left_to_its_coordinator() -> None:
    async def main(world: SimWorld) -> None:
        life, writer = await begun(world)
        await writer.begin()
        for place in PLACES:
            await writer.send(place, record(world, b"first"))
        await flush(life, *PLACES, STATE)
        await life.end("kill")
        life, again = await begun(world)
        again.producer_id, again.epoch = writer.producer_id, writer.epoch  # the same process goes on
        await life.beat("hanging-transactions")
        await again.end(is_commit=True)
        await again.settled()
        for place in PLACES:
            assert await values(life, place) == [b"first"]
        await life.end("stop")

    simulate(0, main, settings=SETTINGS)


async def many_power_losses(world: SimWorld, lives: int) -> None:
    aborted: set[bytes] = set()
    number = 0
    for _ in range(lives):
        life, writer = await begun(world)
        await writer.begin()
        for _ in range(world.random.randint(1, 9)):
            number += 1
            name = b"%d" % number
            is_commit = world.random.random() < 0.5
            if not is_commit:
                aborted.add(name)
            try:
                for place in world.random.sample(PLACES, world.random.randint(1, 2)):
                    await writer.send(place, record(world, name))
                    await flush(life, *world.random.sample([*PLACES, STATE], world.random.choice((0, 0, 1, 2))))
                if world.random.random() < 0.15:
                    break
                await writer.end(is_commit=is_commit)
                if world.random.random() < 0.8:
                    await writer.settled()
            except InvalidProducerEpoch:  # the coordinator has forgotten epochs that partitions know: a client begins anew
                await writer.begin()
            await flush(life, *world.random.sample([*PLACES, STATE], world.random.choice((0, 0, 1, 2))))
        await life.end("power")
        life, writer = await begun(world)
        for _ in range(5):
            await writer.begin()
            number += 1
            name = b"%d" % number
            try:
                for place in PLACES:
                    await writer.send(place, record(world, name))
            except InvalidProducerEpoch:
                continue
            await writer.end(is_commit=True)
            await writer.settled()
            break
        await asyncio.sleep(1)
        for place in PLACES:
            shown = await values(life, place)
            if wrong := aborted.intersection(each for each in shown if each is not None):
                raise Violation(f"{place} shows what was aborted: {wrong}")
            if shown[-1] != name:
                raise Violation(f"{place}: {name!r} is lost, which came after the power did; it shows {shown}")
        await flush(life, *PLACES, STATE)
        await life.end("kill")


@pytest.mark.parametrize("seed", SEEDS)
def test_power_losses_leave_nothing_open_and_show_nothing_aborted(seed: int) -> None:
    simulate(seed, lambda world: many_power_losses(world, LIVES if is_whole(seed) else SMALL_LIVES), settings=SETTINGS)
