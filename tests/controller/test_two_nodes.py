"""Two nodes on one store, in virtual time: one commits, the other follows and sends; crashes at every call, lost answers, a change of the lease."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from controller import codec
from controller.change_codec import NotDone, Reason, Sent, decode_answer, encode_change
from controller.changes import Accepted, CreateTopics, DeleteTopics, Refusal
from controller.follower import read_image
from controller.keys import head_key
from controller.lease import TURNS, Lease, Standing, Turn
from controller.metadata import Metadata, State
from controller.peers import Liveness
from controller.topic_rules import NewTopic
from hotlog.kernel.errors import Fenced, ForeignStore, HotlogError, Invalid, NotReady, OutcomeUnknown, Retry
from tests.controller.peers import Switchboard
from tests.controller.samples import IMAGE
from tests.controller.world import World, simulate
from tests.sim.fuse import Crashed, Fuse
from tests.sim.store import SimStore


def make(number: int, name: str = "") -> CreateTopics:
    return CreateTopics(topics=((UUID(int=number), NewTopic(name or f"t{number}")),))


def names(metadata: Metadata) -> list[str]:
    return sorted(metadata.image.topics)


class Pair:
    """Node 1, opened first, and node 2; each on a machine of its own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.peers = Switchboard()

    async def start(self, node_id: int, *, fuse: Fuse | None = None) -> Metadata:
        node = self.world.metadata(f"machine {node_id}", node_id=node_id, peers=self.peers, fuse=fuse)
        await node.open()
        self.peers.nodes[node_id] = node
        return node

    def stop(self, node_id: int) -> None:
        """Its process is gone, and that is known."""
        self.peers.nodes[node_id] = None


async def both(world: World) -> tuple[Pair, Metadata, Metadata]:
    pair = Pair(world)
    return pair, await pair.start(1), await pair.start(2)


def test_the_second_follows_and_sees_what_the_first_does() -> None:
    async def body(world: World) -> None:
        _, first, second = await both(world)
        assert (first.state, second.state) == (State.ACTIVE, State.FOLLOWING)
        assert (first.epoch, second.epoch, second.image.controller_id) == (1, -1, 1)
        assert sorted(second.image.brokers) == [1, 2], "it registered by the first"
        await first.submit(make(1))
        assert names(second) == []
        assert await second.tick()
        assert second.image == first.image
        assert first.state is State.ACTIVE, "nobody deposed it"
        while await second.tick():
            pass
        image = second.image
        for _ in range(3):
            assert not await second.tick()
        assert second.image is image, "to look again costs no new image"

    simulate(body)


def test_a_change_of_the_second_goes_to_the_first_and_is_in_both_images_when_it_is_answered() -> None:
    async def body(world: World) -> None:
        pair, first, second = await both(world)
        change = CreateTopics(topics=((UUID(int=1), NewTopic("clicks")), (UUID(int=2), NewTopic("bad name"))))
        answer = await second.submit(change)
        accepted, refused = answer.results
        assert accepted == Accepted()
        assert isinstance(refused, Refusal)
        assert refused.code is ErrorCode.invalid_topic_exception
        assert names(first) == names(second) == ["clicks"]
        assert second.image.topics["clicks"].topic_id == UUID(int=1)
        assert answer.offset <= second.image.offset
        assert first.epoch == first.image.controller_epoch == 1
        (refused,) = (await second.submit(DeleteTopics(topic_ids=(UUID(int=9),)))).results
        assert isinstance(refused, Refusal)
        assert [node for node, _ in pair.peers.sent][-2:] == [1, 1]

    simulate(body)


def test_producer_ids_of_two_nodes_are_given_out_once() -> None:
    async def body(world: World) -> None:
        _, first, second = await both(world)
        given = []
        for _ in range(3):
            for node in (first, second):
                given += [await node.allocate_producer_id() for _ in range(700)]
                await node.tick()
        assert len(given) == len(set(given))

    simulate(body)


def test_a_lost_answer_is_told_and_the_same_value_may_be_submitted_again() -> None:
    async def body(world: World) -> None:
        pair, first, second = await both(world)
        pair.peers.lost_answers = 1
        with pytest.raises(OutcomeUnknown):
            await second.submit(make(1))
        answer = await second.submit(make(1))
        assert answer.results == (Accepted(),)
        assert names(first) == names(second) == ["t1"]

    simulate(body)


def test_what_is_committed_and_cannot_be_read_yet_is_told_as_unknown() -> None:
    async def body(world: World) -> None:
        _, first, second = await both(world)
        world.bucket.fail("get", "unavailable", pattern="*/meta/head", times=1)
        with pytest.raises(OutcomeUnknown, match="was committed"):
            await second.submit(make(1))
        assert names(first) == ["t1"]
        await second.tick()
        assert names(second) == ["t1"]

    simulate(body)


def test_a_controller_that_cannot_be_reached_is_told_and_not_deposed() -> None:
    async def body(world: World) -> None:
        pair, first, second = await both(world)
        pair.peers.cut = True
        for _ in range(3):
            with pytest.raises(Retry):
                await second.submit(make(1))
            await second.tick()
        assert second.state is State.FOLLOWING
        await first.submit(make(2))
        await second.tick()
        assert names(second) == ["t2"], "it reads on"
        pair.peers.cut = False
        await second.submit(make(1))
        assert names(first) == ["t1", "t2"]

    simulate(body)


def test_the_second_claims_when_the_first_is_gone_and_a_late_append_of_the_first_fails() -> None:
    async def body(world: World) -> None:
        pair, first, second = await both(world)
        await first.submit(make(1))
        pair.stop(1)
        assert await second.tick()
        assert (second.state, second.epoch, second.image.controller_id) == (State.ACTIVE, 2, 2)
        await second.submit(make(2))
        pair.peers.cut = True
        with pytest.raises(Fenced, match="deposed by node 2 at epoch 2"):
            await first.submit(make(3))
        assert first.state is State.FENCED, "it sees nobody whom it could follow"
        assert names(second) == ["t1", "t2"]
        assert (await read_image(SimStore(world.bucket, world.trace, Fuse())))[1] == second.image

    simulate(body)


def test_the_first_follows_when_it_was_deposed_by_a_node_that_it_can_ask() -> None:
    """Its late append fails, and goes to the new controller in the same call."""

    async def body(world: World) -> None:
        pair, first, second = await both(world)
        pair.stop(1)
        await second.tick()
        pair.peers.nodes[1] = first  # it was not gone, only slow
        answer = await first.submit(make(3))
        assert answer.results == (Accepted(),)
        assert (first.state, second.state) == (State.FOLLOWING, State.ACTIVE)
        assert names(first) == names(second) == ["t3"]
        pair.stop(2)
        await first.tick()
        assert (first.state, first.epoch) == (State.ACTIVE, 3)
        with pytest.raises(NotReady, match="is not reached"):
            second._peers = Lonely()  # type: ignore[assignment]
            await second.submit(make(4))

    simulate(body)


class Lonely(Switchboard):
    """It sees everybody alive and reaches nobody."""

    async def liveness(self, node_id: int) -> Liveness:
        await asyncio.sleep(0)
        return Liveness.ALIVE

    async def submit(self, node_id: int, change: bytes) -> bytes:
        await asyncio.sleep(0)
        raise NotReady(f"node {node_id} is the controller, and is not reached")


def test_a_follower_whose_place_another_directory_took_is_fenced() -> None:
    async def body(world: World) -> None:
        pair, first, second = await both(world)
        other = world.metadata("another disk", node_id=2, peers=pair.peers, is_adopting=True)
        await other.open()
        assert other.state is State.FOLLOWING
        pair.peers.cut = True  # the log says so, and nobody has to be asked
        with pytest.raises(ForeignStore, match="taken over by another data directory"):
            await second.tick()
        assert second.state is State.FENCED
        with pytest.raises(Fenced):
            await second.submit(make(1))
        pair.peers.cut = False
        await other.submit(make(2))
        assert names(first) == ["t2"]

    simulate(body)


def test_a_directory_that_lost_its_place_cannot_join_as_a_follower() -> None:
    async def body(world: World) -> None:
        pair, _, second = await both(world)
        await second.close()
        await world.metadata("another disk", node_id=2, peers=pair.peers, is_adopting=True).open()
        with pytest.raises(ForeignStore, match="taken over by another data directory"):
            await pair.start(2)

    simulate(body)


def test_a_node_that_restarts_takes_its_own_lease_and_another_one_follows() -> None:
    async def body(world: World) -> None:
        pair, first, second = await both(world)
        await first.close()
        again = await pair.start(1)
        assert (again.state, again.epoch) == (State.ACTIVE, 2)
        await second.tick()
        assert second.state is State.FOLLOWING
        await second.submit(make(1))
        assert names(again) == ["t1"]

    simulate(body)


def test_a_follower_starts_from_its_copy_while_the_store_is_away_and_joins_later() -> None:
    async def body(world: World) -> None:
        pair, first, second = await both(world)
        await first.submit(make(1))
        await second.tick()
        await second.close()
        world.bucket.weather.down = True
        again = await pair.start(2)
        assert (again.state, names(again)) == (State.OFFLINE, ["t1"])
        world.bucket.weather.down = False
        while again.state is State.OFFLINE:
            await again.tick()
            await asyncio.sleep(1)
        assert again.state is State.FOLLOWING
        assert first.image.brokers[2].incarnation == again.registration.incarnation
        assert first.epoch == 1

    simulate(body)


def test_of_several_that_wait_for_the_lease_one_gets_it_and_the_others_follow_it() -> None:
    async def body(world: World) -> None:
        pair = Pair(world)
        nodes = [await pair.start(number) for number in (1, 2, 3, 4)]
        pair.stop(1)
        await asyncio.gather(*(node.tick() for node in nodes[1:]))
        states = sorted(node.state.value for node in nodes[1:])
        assert states == ["active", "following", "following"]
        (leader,) = [node for node in nodes[1:] if node.state is State.ACTIVE]
        for number, node in enumerate(nodes[1:]):
            await node.submit(make(10 + number))
        assert names(leader) == ["t10", "t11", "t12"]
        assert leader.image.controller_epoch == 2

    simulate(body)


def test_a_node_serves_changes_only_as_the_controller_and_of_its_own_cluster() -> None:
    async def body(world: World) -> None:
        _, first, second = await both(world)

        async def reason(node: Metadata, raw: bytes) -> Any:
            answer = decode_answer(await node.serve(raw))
            return answer.reason if isinstance(answer, NotDone) else answer

        sound = encode_change(Sent(first.cluster_id, make(1)))
        assert await reason(second, sound) is Reason.NOT_CONTROLLER
        assert await reason(first, encode_change(Sent("another cluster", make(1)))) is Reason.INVALID
        assert await reason(first, sound[:-1]) is Reason.INVALID
        newer = sound.replace(b'"version":1', b'"version":2')
        raw = codec.seal(codec.CHANGE, codec.json.loads(newer[codec.PREFIX_BYTES :]))
        assert await reason(first, raw) is Reason.INVALID
        world.bucket.weather.down = True
        assert await reason(first, sound) is Reason.RETRY
        world.bucket.weather.down = False
        assert names(first) == []
        with pytest.raises(Invalid):
            second.cluster_id = second._log.cluster_id = "another cluster"
            await second.submit(make(1))

    simulate(body)


@pytest.mark.parametrize("seed", range(3))
def test_the_controller_dies_at_every_call_of_a_change_that_another_node_sent(seed: int) -> None:
    """The sender does not learn what came of it, claims, and submits the same value again: it is done once, and nothing is lost."""

    async def body(world: World) -> None:
        deaths = 0
        for at in range(1, 40):
            pair = Pair(world)
            fuse = Fuse()
            first, second = await pair.start(1, fuse=fuse), await pair.start(2)
            before = names(second)
            fuse.at = fuse.calls + at
            change = make(at)
            try:
                await second.submit(change)
            except OutcomeUnknown:
                deaths += 1
                while second.state is not State.ACTIVE:
                    await second.tick()
                assert (await second.submit(change)).results == (Accepted(),)
            assert names(second) == sorted([*before, f"t{at}"])
            assert second.image.topics[f"t{at}"].topic_id == UUID(int=at)
            await asyncio.sleep(60)  # whatever the dead one had sent has arrived
            assert (await read_image(SimStore(world.bucket, world.trace, Fuse())))[1] == second.image
            pair.stop(2)
            await first.close()
            await second.close()
            if not fuse.blown:
                break
        assert deaths >= 2, "before and after the conditional write, at least"
        assert not fuse.blown, "one lived to its end"

    simulate(body, seed)


@pytest.mark.parametrize("seed", range(6))
def test_weather_and_changes_of_the_lease_never_split_the_history(seed: int) -> None:
    """Three nodes submit while the store and the network fail; whatever was answered is there, once, in one order that all of them see."""

    async def body(world: World) -> None:
        pair = Pair(world)
        nodes = {number: await pair.start(number) for number in (1, 2, 3)}
        weather, acked = world.bucket.weather, []
        weather.unavailable, weather.lost, weather.conflict = 0.05, 0.05, 0.05
        for number in range(1, 61):
            if number % 7 == 0:  # somebody looks gone to the others, rightly or not
                active = [one for one, node in nodes.items() if node.state is State.ACTIVE]
                pair.peers.nodes.update(nodes)
                pair.peers.nodes.update(dict.fromkeys(active))
            if number % 7 == 2:
                pair.peers.nodes.update(nodes)
            pair.peers.lost_answers = number % 5 == 0
            for node in nodes.values():
                try:
                    await node.tick()
                    await node.submit(make(number * 10 + node.node_id))
                except HotlogError:
                    continue
                acked.append(number * 10 + node.node_id)
        weather.unavailable = weather.lost = weather.conflict = 0.0
        pair.peers.nodes.update(nodes)
        pair.peers.lost_answers = 0
        await asyncio.sleep(60)
        image = (await read_image(SimStore(world.bucket, world.trace, Fuse())))[1]
        assert len(acked) > 60
        assert {UUID(int=number) for number in acked} <= set(image.topics_by_id)
        assert image.controller_epoch > 3, "the lease has changed hands"
        assert State.FENCED not in {node.state for node in nodes.values()}
        for node in nodes.values():
            await node.submit(make(9000 + node.node_id))
        while any([await node.tick() for node in nodes.values()]):
            pass
        assert len({node.image.controller_id for node in nodes.values()}) == 1
        assert sum(node.state is State.ACTIVE for node in nodes.values()) == 1
        head = codec.decode_head(world.bucket.objects[head_key(nodes[1].cluster_id)].body)
        assert {node._log.log.lineage for node in nodes.values()} == {head.lineage}

    simulate(body, seed)


@pytest.mark.parametrize("standing", list(Standing))
@pytest.mark.parametrize("liveness", list(Liveness))
def test_every_standing_has_a_turn_and_only_a_start_or_a_dead_node_lets_another_be_deposed(
    standing: Standing, liveness: Liveness
) -> None:
    turn = TURNS[standing, liveness]
    assert (turn is Turn.CLAIM) == (liveness is Liveness.GONE or (liveness is Liveness.UNKNOWN and standing is Standing.STARTING))
    assert (turn is Turn.FOLLOW) <= (liveness is not Liveness.GONE)
    assert (turn is Turn.FENCED) == ((standing, liveness) == (Standing.DEPOSED, Liveness.UNKNOWN))


async def test_ones_own_lease_and_nobodys_is_claimed_without_asking() -> None:
    class Nobody(Switchboard):
        async def liveness(self, node_id: int) -> Liveness:
            raise AssertionError("nobody is asked")

    assert IMAGE.controller_id == 1
    assert await Lease(1, Nobody()).turn(IMAGE, Standing.STARTING) is Turn.CLAIM
    empty = type(IMAGE)()
    assert await Lease(2, Nobody()).turn(empty, Standing.STARTING) is Turn.CLAIM


def test_a_crash_is_a_crash() -> None:
    """The double hides a death of the other node only as far as a network would."""

    async def body(world: World) -> None:
        pair = Pair(world)
        fuse = Fuse()
        await pair.start(1, fuse=fuse)
        second = await pair.start(2)
        fuse.at = fuse.calls + 1
        with pytest.raises(OutcomeUnknown):
            await second.submit(make(1))
        assert pair.peers.nodes[1] is None
        with pytest.raises(Crashed):
            fuse.check()

    simulate(body)
