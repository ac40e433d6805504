"""Stores that are not this cluster's, or not any more: another cluster's, wiped, set back, or taken over by a newer program."""

from __future__ import annotations

import asyncio
import struct
from uuid import UUID

import pytest

from controller import codec
from controller.image import ClusterImage
from controller.keys import CLUSTER_KEY, head_key
from controller.metadata import State
from hotlog.kernel.errors import Fenced, ForeignStore, UnknownVersion
from tests.controller.peers import Switchboard
from tests.controller.world import World, create, simulate
from tests.sim.fuse import Fuse


def test_a_bucket_of_another_cluster_is_refused_and_left_alone() -> None:
    async def body(world: World) -> None:
        async with world.opened("a") as first:
            await first.submit(create("clicks", UUID(int=1)))
        foreign = World(world.loop, seed=7)
        async with foreign.opened("b"):
            pass
        before = {key: stored.body for key, stored in foreign.bucket.objects.items()}
        foreign.machines["a"] = world.machines["a"]
        with pytest.raises(ForeignStore, match="belongs to cluster"):
            await foreign.metadata("a").open()
        assert {key: stored.body for key, stored in foreign.bucket.objects.items()} == before

    simulate(body)


@pytest.mark.parametrize("wiped", ["all", "head"])
def test_a_wiped_bucket_is_refused(wiped: str) -> None:
    async def body(world: World) -> None:
        async with world.opened() as first:
            await first.submit(create("clicks", UUID(int=1)))
            key = head_key(first.cluster_id)
        for victim in [key, *([CLUSTER_KEY] if wiped == "all" else [])]:
            del world.bucket.objects[victim]
        with pytest.raises(ForeignStore, match="wiped"):
            await world.metadata().open()

    simulate(body)


def test_a_copy_or_head_of_a_newer_program_is_refused_by_name_and_left_alone() -> None:
    async def body(world: World) -> None:
        async with world.opened() as metadata:
            key = head_key(metadata.cluster_id)
        newer = bytearray(world.bucket.objects[key].body)
        struct.pack_into(">H", newer, 6, 2)
        world.bucket.objects[key] = world.bucket.objects[key]._replace(body=bytes(newer))
        with pytest.raises(UnknownVersion, match="head has format version 2"):
            await world.metadata().open()
        disk = world.disk("a", Fuse())
        disk.write_atomic("/data/metadata/head", bytes(newer))
        world.bucket.weather.down = True
        with pytest.raises(UnknownVersion, match="head has format version 2"):
            await world.metadata().open()
        assert world.bucket.objects[key].body == bytes(newer)

    simulate(body)


@pytest.mark.parametrize("is_following", [False, True])
def test_a_cluster_that_a_newer_program_took_over_is_left_alone_from_then_on(is_following: bool) -> None:
    """By a node that joins late, and by one that follows."""

    async def body(world: World) -> None:
        async with world.opened() as first:
            key = head_key(first.cluster_id)
            peers = Switchboard()
            peers.nodes[1] = first
            async with world.opened("b", node_id=2, peers=peers) as second:
                if not is_following:
                    await second.close()
                    world.bucket.weather.down = True
                    second = world.metadata("b", node_id=2, peers=peers)
                    await second.open()
                    assert second.state is State.OFFLINE
                newer = bytearray(world.bucket.objects[key].body)
                struct.pack_into(">H", newer, 6, 2)
                world.bucket.objects[key] = world.bucket.objects[key]._replace(body=bytes(newer))
                world.bucket.weather.down = False
                with pytest.raises(UnknownVersion, match="head has format version 2"):
                    await second.tick()
                assert second.state is State.FENCED
                assert not await second.tick()
                with pytest.raises(Fenced):
                    await second.submit(create("clicks", UUID(int=1)))
                await second.close()

    simulate(body)


def test_a_change_that_waited_for_a_join_which_ended_fenced_is_refused() -> None:
    """It is not sent to whoever leads: this node has no part in the cluster any more."""

    async def body(world: World) -> None:
        async with world.opened("b", node_id=2) as second:
            key = head_key(second.cluster_id)
        world.bucket.weather.down = True
        second = world.metadata("b", node_id=2)
        await second.open()
        newer = bytearray(world.bucket.objects[key].body)
        struct.pack_into(">H", newer, 6, 2)
        world.bucket.objects[key] = world.bucket.objects[key]._replace(body=bytes(newer))
        world.bucket.weather.down = False
        told = await asyncio.gather(second.tick(), second.submit(create("clicks", UUID(int=1))), return_exceptions=True)
        assert second.state is State.FENCED
        assert [type(each) for each in told] == [UnknownVersion, Fenced]
        await second.close()

    simulate(body)


def test_a_controller_that_meets_a_newer_programs_head_at_a_commit_is_fenced() -> None:
    async def body(world: World) -> None:
        async with world.opened() as metadata:
            key = head_key(metadata.cluster_id)
            newer = bytearray(world.bucket.objects[key].body)
            struct.pack_into(">H", newer, 6, 2)
            world.bucket.put(key, bytes(newer), if_match=None, if_absent=False)
            with pytest.raises(UnknownVersion):
                await metadata.submit(create("clicks", UUID(int=1)))
            with pytest.raises(UnknownVersion):
                await metadata.tick()
            assert metadata.state is State.FENCED
            assert world.bucket.objects[key].body == bytes(newer)

    simulate(body)


def test_a_head_that_vanishes_while_running_is_not_founded_anew() -> None:
    async def body(world: World) -> None:
        async with world.opened() as metadata:
            key = head_key(metadata.cluster_id)
            del world.bucket.objects[key]
            with pytest.raises(ForeignStore):
                await metadata.submit(create("clicks", UUID(int=1)))
            assert key not in world.bucket.objects
            with pytest.raises(ForeignStore):
                await metadata.tick()
            assert metadata.state is State.FENCED, "it copies and deletes nothing more"

    simulate(body)


def test_a_bucket_set_back_to_an_older_state_is_refused() -> None:
    async def body(world: World) -> None:
        async with world.opened() as metadata:
            key = head_key(metadata.cluster_id)
            old = world.bucket.objects[key]
            await metadata.submit(create("clicks", UUID(int=1)))
        world.bucket.objects[key] = old
        with pytest.raises(ForeignStore, match="older state"):
            await world.metadata().open()

    simulate(body)


def test_another_history_of_the_same_length_is_refused() -> None:
    async def body(world: World) -> None:
        async with world.opened() as metadata:
            key = head_key(metadata.cluster_id)
            old = world.bucket.objects[key]
            await metadata.submit(create("clicks", UUID(int=1)))
        head = codec.decode_head(old.body)
        other = create("other", UUID(int=5)).plan(ClusterImage(), metadata._scope(ClusterImage())).records
        forged = codec.Head(
            **{
                **head.__dict__, "inline": (*head.inline, *other), "next_offset": head.next_offset + 1,
                "lineage": codec.chained(head.lineage, other), "nonces": ("ff",),
            }
        )  # fmt: skip
        world.bucket.objects[key] = old._replace(body=codec.encode_head(forged))
        with pytest.raises(ForeignStore, match="another history"):
            await world.metadata().open()

    simulate(body)
