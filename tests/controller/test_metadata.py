"""The metadata log in the simulated world: commits, crashes at every call, lost answers, outages, fencing, foreign buckets."""

from __future__ import annotations

import asyncio
import contextlib
from uuid import UUID

import pytest

from controller import codec
from controller.changes import PRODUCER_ID_BLOCK
from controller.follower import read_image
from controller.image import ClusterImage, fold
from controller.keys import head_key
from controller.metadata import Metadata, State
from hotlog.kernel.errors import AlreadyExists, Fenced, ForeignStore, HotlogError, NotReady, Retry
from tests.controller.world import Create, World, create, simulate
from tests.sim.fuse import Crashed, Fuse
from tests.sim.store import SimStore


def names(metadata: Metadata) -> list[str]:
    return sorted(metadata.image.topics)


def test_first_start_founds_a_cluster_and_the_next_one_finds_it() -> None:
    async def body(world: World) -> None:
        async with world.opened() as first:
            assert (first.state, first.epoch, len(first.cluster_id)) == (State.ACTIVE, 1, 22)
            await first.submit(create("clicks", UUID(int=1)))
            cluster_id = first.cluster_id
        async with world.opened() as second:
            assert (second.cluster_id, second.epoch, names(second)) == (cluster_id, 2, ["clicks"])
        async with world.opened("fresh disk", is_adopting=True) as third:
            assert (third.cluster_id, third.epoch, names(third)) == (cluster_id, 3, ["clicks"])

    simulate(body)


def test_the_bucket_alone_tells_everything() -> None:
    async def body(world: World) -> None:
        async with world.opened() as metadata:
            await metadata.submit(create("clicks", UUID(int=1)))
            store = SimStore(world.bucket, world.trace, Fuse())
            assert await read_image(store) == (metadata.cluster_id, metadata.image)

    simulate(body)


def test_head_stays_bounded_and_everything_is_found_again_through_pages_and_snapshots() -> None:
    async def body(world: World) -> None:
        async with world.opened() as metadata:
            assert await metadata.tick(), "a reserve of producer ids"
            for number in range(160):
                await metadata.submit(create(f"t{number}", UUID(int=number + 1), padding=6000))
                raw = world.bucket.objects[head_key(metadata.cluster_id)].body
                assert len(raw) <= codec.HEAD_BYTES_MAX
            head = codec.decode_head(raw)
            assert head.snapshot is not None, "a snapshot was cut"
            assert head.pages, "and pages after it"
            assert head.retired
            image = metadata.image
            assert not await metadata.tick(), "retired objects have a grace"
            await world_sleep(world, 3600)
            before = len(world.bucket.objects)
            assert await metadata.tick()
            assert len(world.bucket.objects) == before - len(head.retired)
            await metadata.submit(create("after", UUID(int=999)))
        for machine in ("a", "empty disk"):
            async with world.opened(machine, is_adopting=True) as metadata:
                assert {name: t for name, t in metadata.image.topics.items() if name != "after"}.keys() == image.topics.keys()
                assert metadata.image.topics["t7"].topic_id == UUID(int=8)

    simulate(body)


async def world_sleep(world: World, seconds: float) -> None:
    import asyncio

    await asyncio.sleep(seconds)


def test_a_batch_above_a_page_is_cut_and_commits_as_one() -> None:
    async def body(world: World) -> None:
        async with world.opened() as metadata:
            many = range(400)
            await metadata.submit(
                Create(names=tuple(f"t{n}" for n in many), topic_ids=tuple(UUID(int=n + 1) for n in many), padding=4000)
            )
            assert len(metadata.image.topics) == 400
        async with world.opened("b", is_adopting=True) as other:
            assert len(other.image.topics) == 400

    simulate(body)


@pytest.mark.parametrize("fate", ["lost", "conflict"])
def test_a_lost_answer_is_recognised_as_ones_own_write(fate: str) -> None:
    async def body(world: World) -> None:
        async with world.opened() as metadata:
            world.bucket.fail("put", fate, pattern="*/meta/head")
            await metadata.submit(create("clicks", UUID(int=1)))
            assert names(metadata) == ["clicks"]
            with pytest.raises(AlreadyExists):
                await metadata.submit(create("clicks", UUID(int=2)))
            assert metadata.image.topics["clicks"].topic_id == UUID(int=1)

    simulate(body)


def test_an_outcome_that_stays_unknown_is_found_out_by_the_next_tick() -> None:
    async def body(world: World) -> None:
        async with world.opened() as metadata:
            world.bucket.fail("put", "lost", pattern="*/meta/head")
            world.bucket.fail("get", "unavailable", pattern="*/meta/head", times=3)
            with pytest.raises(HotlogError):
                await metadata.submit(create("clicks", UUID(int=1)))
            assert names(metadata) == []
            for _ in range(4):
                await metadata.tick()
            assert names(metadata) == ["clicks"]

    simulate(body)


def test_a_second_process_that_claims_deposes_the_first() -> None:
    async def body(world: World) -> None:
        async with world.opened("a") as first, world.opened("b", node_id=2) as second:
            with pytest.raises(Fenced, match="deposed"):
                await first.submit(create("late", UUID(int=1)))
            assert first.state is State.FENCED
            with pytest.raises(Fenced):
                await first.submit(create("later", UUID(int=2)))
            await second.submit(create("clicks", UUID(int=3)))
            assert names(second) == ["clicks"]

    simulate(body)


def test_a_data_directory_whose_node_was_taken_over_never_leads_again() -> None:
    async def body(world: World) -> None:
        async with world.opened("a") as first:
            await first.submit(create("clicks", UUID(int=1)))
        async with world.opened("b", is_adopting=True) as second:
            assert names(second) == ["clicks"]
        with pytest.raises(ForeignStore, match="taken over"):
            await world.metadata("a").open()

    simulate(body)


def test_leader_epochs_rise_with_every_start() -> None:
    async def body(world: World) -> None:
        async with world.opened() as first:
            await first.submit(create("clicks", UUID(int=1)))
        for epoch in (1, 2, 3):
            async with world.opened() as metadata:
                assert metadata.image.topics["clicks"].partitions[0].leader_epoch == epoch

    simulate(body)


def test_without_the_store_the_local_copy_serves_and_changes_are_refused_until_it_is_back() -> None:
    async def body(world: World) -> None:
        async with world.opened() as first:
            await first.submit(create("clicks", UUID(int=1)))
        world.bucket.fail("get", "unavailable", times=10_000)
        metadata = world.metadata()
        await metadata.open()
        assert (metadata.state, names(metadata)) == (State.OFFLINE, ["clicks"])
        with pytest.raises(NotReady):
            await metadata.submit(create("views", UUID(int=2)))
        assert not await metadata.tick()
        world.bucket.faults.clear()
        assert await metadata.tick()
        assert metadata.state is State.ACTIVE
        await metadata.submit(create("views", UUID(int=2)))
        assert names(metadata) == ["clicks", "views"]
        await metadata.close()

    simulate(body)


def test_a_store_that_hangs_does_not_keep_a_broker_from_starting() -> None:
    async def body(world: World) -> None:
        async with world.opened() as first:
            await first.submit(create("clicks", UUID(int=1)))
        world.bucket.fail("get", "hang", times=1)
        async with world.opened() as metadata:
            assert (metadata.state, names(metadata)) == (State.OFFLINE, ["clicks"])

    simulate(body)


def test_the_very_first_start_needs_the_store() -> None:
    async def body(world: World) -> None:
        world.bucket.fail("get", "unavailable", times=10_000)
        with pytest.raises(Retry):
            await world.metadata().open()

    simulate(body)


def test_producer_ids_are_given_out_once() -> None:
    async def body(world: World) -> None:
        given: list[int] = []
        for life in range(4):
            async with world.opened() as metadata:
                world.bucket.fail("put", "lost", pattern="*/meta/head")
                given += [await metadata.allocate_producer_id() for _ in range(3 if life else 1500)]
        assert len(given) == len(set(given))

    simulate(body)


def test_a_store_that_goes_away_leaves_ids_for_new_producers() -> None:
    async def body(world: World) -> None:
        async with world.opened() as metadata:
            assert await metadata.tick()
            assert not await metadata.tick(), "one block ahead is enough"
            world.bucket.weather.down = True
            given = [await metadata.allocate_producer_id() for _ in range(PRODUCER_ID_BLOCK * 2)]
            with pytest.raises(Retry):
                await metadata.allocate_producer_id()
            assert not await metadata.tick()
            world.bucket.weather.down = False
            assert await metadata.tick()
            given.append(await metadata.allocate_producer_id())
            assert len(given) == len(set(given))

    simulate(body)


@pytest.mark.parametrize("is_power_lost", [False, True])
def test_a_node_that_starts_without_the_store_has_ids_for_new_producers(is_power_lost: bool) -> None:
    async def body(world: World) -> None:
        world.is_power_lost = is_power_lost
        async with world.opened() as metadata:
            await metadata.tick()
            given = [await metadata.allocate_producer_id()]
        for start in range(3):
            world.bucket.weather.down = True
            metadata = world.metadata()
            await metadata.open()
            assert metadata.state is State.OFFLINE
            given += [await metadata.allocate_producer_id() for _ in range(100)]
            if start == 2:
                with pytest.raises(NotReady, match="503"):
                    for _ in range(PRODUCER_ID_BLOCK):
                        given.append(await metadata.allocate_producer_id())
        world.bucket.weather.down = False
        async with world.opened() as metadata:
            assert await metadata.tick()
            given += [await metadata.allocate_producer_id() for _ in range(PRODUCER_ID_BLOCK * 2)]
        assert len(given) == len(set(given))

    simulate(body)


async def life(world: World, fuse: Fuse, acked: set[str], number: int) -> None:
    metadata = world.metadata(fuse=fuse)
    await metadata.open()
    for step in range(3):
        name = f"t{number}-{step}"
        with contextlib.suppress(AlreadyExists):
            await metadata.submit(create(name, UUID(int=number * 10 + step + 1), padding=9000))
        acked.add(name)
    await metadata.close()


@pytest.mark.parametrize("is_power_lost", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_crash_at_every_call_loses_nothing_that_was_acked(seed: int, is_power_lost: bool) -> None:
    """Each life dies at a later call than the one before, until one lives to its end; then everything is checked."""

    async def body(world: World) -> None:
        world.is_power_lost = is_power_lost
        acked: set[str] = set()
        at, deaths = 1, 0
        while True:
            fuse = Fuse(at)
            try:
                await life(world, fuse, acked, at)
            except Crashed:
                deaths += 1
                at += 1
                continue
            break
        assert deaths > 20
        for machine in ("a", "fresh disk"):
            metadata = world.metadata(machine, is_adopting=True)
            await metadata.open()
            assert acked <= set(metadata.image.topics)
            everything = await read_image(SimStore(world.bucket, world.trace, Fuse()))
            assert everything == (metadata.cluster_id, metadata.image)
            await metadata.close()

    simulate(body, seed)


def test_store_weather_never_splits_the_history() -> None:
    """Two nodes fight for the controller while the store fails in every way; what was acked is there, once, in one order."""

    async def body(world: World) -> None:
        acked: list[str] = []
        weather = world.bucket.weather
        async with world.opened("a", node_id=1) as first, world.opened("b", node_id=2) as second:
            weather.unavailable, weather.lost, weather.conflict = 0.1, 0.1, 0.1
            for number in range(60):
                if number % 10 == 0:
                    for metadata in (first, second):
                        metadata.state = State.OFFLINE  # as after a restart: claim again
                for metadata in (first, second):
                    try:
                        if metadata.state is State.OFFLINE:
                            await metadata.tick()
                        await metadata.submit(create(f"t{number}-{metadata.node_id}", world.entropy.uuid()))
                    except (HotlogError, AssertionError):
                        continue
                    acked.append(f"t{number}-{metadata.node_id}")
            weather.unavailable = weather.lost = weather.conflict = 0.0
            _, image = await read_image(SimStore(world.bucket, world.trace, Fuse()))
            assert len(acked) > 10
            assert set(acked) <= set(image.topics)
            head = codec.decode_head(world.bucket.objects[head_key(first.cluster_id)].body)
            if head.inline_start == 0:
                assert fold(ClusterImage(), head.inline) == image

    simulate(body)


@pytest.mark.parametrize("after_ms", range(0, 60, 4))
def test_a_commit_that_is_cancelled_half_way_harms_no_later_one(after_ms: int) -> None:
    """The cancelled write may still arrive, before or after the next one: it is in, or it is not, and the next one is in."""

    async def body(world: World) -> None:
        async with world.opened() as metadata:
            cancelled = asyncio.create_task(metadata.submit(create("maybe", UUID(int=1), padding=9000)))
            await asyncio.sleep(after_ms / 1000)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
            for number in range(4):
                await metadata.submit(create(f"sure{number}", UUID(int=number + 2), padding=9000))
            image = metadata.image
            assert (
                {f"sure{number}" for number in range(4)}
                <= set(image.topics)
                <= {f"sure{number}" for number in range(4)} | {"maybe"}
            )
        async with world.opened("b", is_adopting=True) as other:
            assert other.image.topics.keys() == image.topics.keys()

    simulate(body)


def test_a_node_knows_its_own_claim_however_many_later_ones_failed() -> None:
    async def body(world: World) -> None:
        async with world.opened() as first:
            await first.submit(create("clicks", UUID(int=1)))
        for _ in range(20):
            world.bucket.fail("put", "unavailable", pattern="*/meta/head", times=1000)
            async with world.opened() as offline:
                assert offline.state is State.OFFLINE
                for _ in range(3):
                    await offline.tick()
            world.bucket.faults.clear()
        async with world.opened() as again:
            assert again.state is State.ACTIVE

    simulate(body)


def test_of_two_controllers_that_claim_at_once_neither_overwrites_the_other() -> None:
    """Both decide on the same head: whoever is second decides again, on what the first one wrote."""

    async def body(world: World) -> None:
        async with world.opened("a", node_id=1) as founder:
            await founder.submit(create("clicks", UUID(int=1)))
        races = 0
        for round_ in range(10):
            head = head_key(founder.cluster_id)
            before = codec.decode_head(world.bucket.objects[head].body)
            counted = world.bucket.counts["put", "meta"]
            first, second = world.metadata("a", node_id=1), world.metadata("b", node_id=2)
            await asyncio.gather(first.open(), second.open())
            races += world.bucket.counts["put", "meta"] - counted > 2
            image = (await read_image(SimStore(world.bucket, world.trace, Fuse())))[1]
            after = codec.decode_head(world.bucket.objects[head].body)
            assert image.controller_epoch == before.controller_epoch + 2
            assert sorted([first.epoch, second.epoch]) == [image.controller_epoch - 1, image.controller_epoch]
            assert {node: broker.incarnation for node, broker in image.brokers.items()} == {
                1: first.registration.incarnation,
                2: second.registration.incarnation,
            }
            assert after.next_offset == before.next_offset + 6, "a claim, a start and a block of ids of each"
            loser, winner = sorted((first, second), key=lambda one: one.epoch)
            with pytest.raises(Fenced, match="deposed"):
                await loser.submit(create(f"late{round_}", world.entropy.uuid()))
            await winner.submit(create(f"t{round_}", world.entropy.uuid()))
            assert f"t{round_}" in winner.image.topics
            await first.close()
            await second.close()
        assert races, "at least once both wrote over the same head"

    simulate(body)
