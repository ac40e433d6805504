"""A node whose disk is lost: it starts on another one only if told so, it says what is gone, and gives no offset out twice."""

from __future__ import annotations

import asyncio

import pytest

from controller.ends import MARGIN
from controller.metadata import State
from hotlog.apis.fetch.cold_reads import Fetches
from hotlog.apis.fetch.parts import Limits
from hotlog.apis.fetch.rounds import Round
from hotlog.kernel.errors import ForeignStore
from hotlog.kernel.ids import TopicPartition
from hotlog.wire.fetch_request import Wanted
from tests.sim.checker import Batch, Ledger, batches_of
from tests.sim.disk import Machine
from tests.sim.entropy import stream
from tests.sim.test_faults import Scene
from tests.sim.test_ninety_days import CLICKS, SETTINGS
from tests.sim.traffic import TopicPlan
from tests.sim.world import Life, SimWorld, simulate

LOCAL = TopicPlan("local", 1, {"remote.storage.enable": "false"})


async def ended(world: SimWorld, how: str) -> Scene:
    """A node that has had some days of traffic, and is no more."""
    scene = await Scene.open(world, CLICKS, LOCAL, hours=60)
    await scene.life.end(how)
    return scene


def other_disk(world: SimWorld) -> Machine:
    """Take the machine's disk out and put an empty one in; the old one."""
    old, world.machine = world.machine, Machine(stream(world.seed, "another disk"))
    return old


async def everything(life: Life, topic: str, end: int) -> list[Batch]:
    """What a consumer reads from the log start to `end`, by fetches."""
    broker, found = life.broker, list[Batch]()
    partition = broker.partition(topic, 0)
    assert partition is not None
    offset = partition.log_start_offset
    while offset < end:
        fetch = Round(broker, broker.kept[Fetches].cold_reads, [((topic, 0), Wanted(offset, 1 << 20))], Limits(1 << 20, 1, False))
        fetch.look()
        while not fetch.is_satisfied:
            if fetch.is_on_disk:
                await fetch.read_disk()
            await asyncio.sleep(0.1)
            fetch.look()
        ((_, reply),) = fetch.replies()
        assert not reply.code, reply.code
        got = batches_of(bytes(reply.records), offset)
        assert got, f"a reader stands still at {offset}"
        found += got
        offset = got[-1].next_offset
    return found


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_an_empty_disk_is_refused_and_what_would_be_lost_is_named(how: str) -> None:
    async def main(world: SimWorld) -> None:
        scene = await ended(world, how)
        partition, _ = scene.first
        tiered = world.manifests()[partition.pid].end_offset
        end = partition.log.log_end_offset
        assert 0 < tiered < end, "some of it is in the store, and some is not"
        before = dict(world.bucket.objects)
        old = other_disk(world)
        with pytest.raises(ForeignStore, match="last run from another data directory") as refusal:
            await world.boot()
        told = str(refusal.value)
        assert f"  clicks-0: offsets {tiered} to {end}" in told
        assert f"  local-0: offsets 0 to {scene.life.broker.logs.get(TopicPartition('local', 0)).log_end_offset}" in told  # type: ignore[union-attr]
        assert "--adopt" in told
        assert world.bucket.objects == before, "nothing was written"
        world.machine = old
        scene.life = await world.boot()
        assert scene.life.node.metadata.state is State.ACTIVE, "the directory that was there last starts as ever"
        assert scene.first[0].log.log_end_offset == end

    simulate(21, main, settings=SETTINGS)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_who_adopts_gives_no_acknowledged_offset_out_again(how: str) -> None:
    async def main(world: SimWorld) -> None:
        scene = await ended(world, how)
        ends = {plan.name: partition.log.log_end_offset for plan, partition, _ in scene.traffic.partitions(scene.life)}
        tiered = world.manifests()[scene.first[0].pid].end_offset
        other_disk(world)
        world.is_adopting = True
        scene.life = life = await world.boot()
        world.is_adopting = False
        for name, end in ends.items():
            partition = life.broker.partition(name, 0)
            assert partition is not None
            begins = partition.log.log_end_offset
            assert begins == end if how == "stop" else end <= begins <= end + MARGIN, (name, begins, end)
        clicks, local = life.broker.partition("clicks", 0), life.broker.partition("local", 0)
        assert clicks is not None
        assert local is not None
        assert clicks.log_start_offset == 0, "what is in the store stays"
        assert local.log_start_offset == local.log.log_end_offset
        old, ledger = scene.first[1], Ledger("clicks-0 again", world.seed, 77)
        scene.traffic.ledgers["clicks", 0] = ledger
        await life.beat("copy")
        await scene.traffic.produce(life)
        found = await everything(life, "clicks", clicks.log.high_watermark)
        bodies = [one.body for one in old.acked if one.base_offset < tiered] + [one.body for one in ledger.acked]
        assert [batch.body for batch in found] == bodies, "all that the store had, then what came since"
        await life.end("kill")
        scene.life = life = await world.boot()  # its own directory now: nothing to be told
        await scene.hours(30)
        clicks = life.broker.partition("clicks", 0)
        assert clicks is not None
        found = await everything(life, "clicks", clicks.log.high_watermark)
        assert [batch.body for batch in found][: len(bodies)] == bodies

    simulate(22, main, settings=SETTINGS)


def test_the_old_directory_takes_its_place_back_when_told_so() -> None:
    async def main(world: SimWorld) -> None:
        scene = await ended(world, "stop")
        end = scene.first[0].log.log_end_offset
        old = other_disk(world)
        world.is_adopting = True
        usurper = await world.boot()
        await usurper.end("stop")
        world.machine, world.is_adopting = old, False
        with pytest.raises(ForeignStore, match="last run from another data directory"):
            await world.boot()
        world.is_adopting = True
        scene.life = await world.boot()
        assert scene.first[0].log.log_end_offset == end
        await scene.hours(30)
        await scene.traffic.check(scene.life)

    simulate(23, main, settings=SETTINGS)


def test_a_directory_that_lost_its_metadata_is_still_the_same_one() -> None:
    async def main(world: SimWorld) -> None:
        scene = await ended(world, "stop")
        end = scene.first[0].log.log_end_offset
        scene.life = world.begin()
        scene.life.disk.remove_tree("/data/metadata")
        await scene.life.open()
        assert scene.first[0].log.log_end_offset == end

    simulate(24, main, settings=SETTINGS)
