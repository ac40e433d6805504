"""What a group of many members does not move: a rolling restart of static members moves nothing, a cooperative rebalance only what changes hands."""

from __future__ import annotations

import asyncio

import pytest

from hotlog.coordinators.consumer.values import LEAVE_STATIC_EPOCH
from hotlog.coordinators.group_types import Code, JoinRequest, State
from hotlog.coordinators.service import Commit, Committer, GroupCoordinator
from hotlog.kernel.settings import Settings
from tests.coordinators.consumer.stage import image_of
from tests.coordinators.consumer.test_service import OFTEN, Client, group_of, settled
from tests.coordinators.scene import Member, Scene, play

STATIC, MEMBERS, PARTITIONS = 10, 100, 300
AWAY_S = 8  # of a session of 10
TOGETHER = Settings.resolve({**OFTEN.given, "group.initial.rebalance.delay.ms": "3000", "group.max.size": "1000"})

pytestmark = pytest.mark.timeout(300)  # virtual time: it ends by itself


# Static members (KIP-345)


def test_a_rolling_restart_of_static_members_moves_nothing() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        members = [Member(groups, instance_id=f"i{number}") for number in range(STATIC)]
        await asyncio.gather(*(member.join_alone() for member in members))
        shares = {member.member_id: b"%d" % number for number, member in enumerate(members)}
        synced = await asyncio.gather(*(_sync(groups, member, shares) for member in members))
        assert synced == [b"%d" % number for number in range(STATIC)]
        generation = members[0].generation
        for number in range(STATIC):
            for _ in range(AWAY_S // 2):
                await asyncio.sleep(2)
                for other in members[:number] + members[number + 1 :]:
                    code = groups.heartbeat("g", other.member_id, other.instance_id, generation)
                    assert code is Code.NONE, "nobody else hears of it"
            back = members[number] = Member(groups, instance_id=f"i{number}")
            await back.join_alone()
            assert back.generation == generation
            assert await _sync(groups, back, {}) == b"%d" % number
        group = groups.describe("g").group
        assert (group.state, len(group.members)) == (State.STABLE, STATIC)
        await scene.end(groups)

    play(story, TOGETHER)


async def _sync(groups: GroupCoordinator, member: Member, shares: dict[str, bytes]) -> bytes:
    synced = await groups.sync(
        "g", member_id=member.member_id, instance_id=member.instance_id, generation=member.generation, protocol_type=None,
        protocol=None, assignments=shares,
    )  # fmt: skip
    assert synced.code is Code.NONE
    return synced.assignment


def test_a_rolling_restart_of_static_members_of_the_new_protocol_moves_nothing() -> None:
    async def story(scene: Scene) -> None:
        scene.image = image_of(1, t=STATIC * 2)
        groups = await scene.life()
        clients = [Client(groups, f"m{number}", instance_id=f"i{number}") for number in range(STATIC)]
        for _ in range(3):
            await settled(*clients)
        held, epoch = [client.held for client in clients], group_of(groups).epoch
        assert {client.count for client in clients} == {2}
        for number in range(STATIC):
            await clients[number].leave(LEAVE_STATIC_EPOCH)
            for _ in range(AWAY_S // 2):
                await asyncio.sleep(2)
                for other in clients[:number] + clients[number + 1 :]:
                    await other.beat()
            clients[number] = Client(groups, f"again{number}", instance_id=f"i{number}")
            await clients[number].beat()
            assert [client.held for client in clients] == held
        assert group_of(groups).epoch == epoch, "there was nothing to assign anew"
        await scene.end(groups)

    play(story, OFTEN)


# Cooperative rebalances


class Cooperative:
    """A member whose assignor is cooperative (KIP-429): it keeps what it has until it is told to give it up.  It says what it has with each join."""

    def __init__(self, groups: GroupCoordinator, name: str) -> None:
        self.groups, self.name = groups, name
        self.member_id, self.generation = "", -1
        self.held: frozenset[int] = frozenset()
        self.gave_up: set[int] = set()

    async def rejoin(self) -> bool:
        """One rebalance; whether it gave something up, and so joins once more."""
        said = b",".join(b"%d" % index for index in sorted(self.held))
        asked = JoinRequest(
            member_id=self.member_id, instance_id=None, client_id=self.name, client_host="h", session_timeout_ms=10_000,
            rebalance_timeout_ms=60_000, protocol_type="consumer", protocols=(("cooperative", said),), needs_known_id=False,
            can_skip_assignment=False,
        )  # fmt: skip
        joined = await self.groups.join("g", asked)
        assert joined.code is Code.NONE
        self.member_id, self.generation = joined.member_id, joined.generation
        shares = {}
        if joined.leader == self.member_id:
            shares = _dealt(
                {member: frozenset(map(int, data.split(b","))) if data else frozenset() for member, _, data in joined.members}
            )
        synced = await self.groups.sync(
            "g", member_id=self.member_id, instance_id=None, generation=self.generation, protocol_type=None, protocol=None,
            assignments={member: b",".join(b"%d" % index for index in sorted(share)) for member, share in shares.items()},
        )  # fmt: skip
        if synced.code is Code.REBALANCE_IN_PROGRESS:  # somebody came meanwhile
            return await self.rejoin()
        assert synced.code is Code.NONE
        given = frozenset(map(int, synced.assignment.split(b","))) if synced.assignment else frozenset()
        gave_up, self.held = self.held - given, given
        self.gave_up |= gave_up
        return bool(gave_up)

    async def commit_all(self) -> None:
        """It goes on with what it has."""
        by = Committer(self.member_id, None, self.generation, 9)
        codes = await self.groups.commit("g", by, [Commit("clicks", index, 1, -1, None) for index in self.held])
        assert set(codes.values()) <= {Code.NONE}


def _dealt(owned: dict[str, frozenset[int]]) -> dict[str, frozenset[int]]:
    """Sticky: everybody keeps what is not too much; what is free goes to those who have least; what must move is free the next time."""
    least, more = divmod(PARTITIONS, len(owned))
    shares = {}
    for number, (member, parts) in enumerate(sorted(owned.items(), key=lambda each: -len(each[1]))):
        shares[member] = frozenset(sorted(parts)[: least + (number < more)])
    free = sorted(set(range(PARTITIONS)).difference(*owned.values()))
    for size in (least, least + 1):
        for member in shares:
            while free and len(shares[member]) < size:
                shares[member] |= {free.pop()}
    return shares


def test_a_cooperative_rebalance_of_a_hundred_members_pauses_only_what_moves() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        members = [Cooperative(groups, f"m{number}") for number in range(MEMBERS)]
        await _rebalanced(members)
        assert {len(member.held) for member in members} == {PARTITIONS // MEMBERS}
        for member in members:
            member.gave_up.clear()
        last = Cooperative(groups, "last")
        joining = asyncio.create_task(last.rejoin())
        await asyncio.sleep(0.1)
        for member in members:
            assert groups.heartbeat("g", member.member_id, None, member.generation) is Code.REBALANCE_IN_PROGRESS
            await member.commit_all()  # while the others join
        again = await asyncio.gather(*(member.rejoin() for member in members), joining)
        assert sum(again) == sum(len(member.gave_up) for member in members) == PARTITIONS // (MEMBERS + 1)
        await _rebalanced([*members, last])
        moved = set().union(*(member.gave_up for member in members))
        assert moved == last.held, "nothing else was ever given up"
        assert sorted(index for member in [*members, last] for index in member.held) == list(range(PARTITIONS))
        await scene.end(groups)

    play(story, TOGETHER)


async def _rebalanced(members: list[Cooperative]) -> None:
    """Until a rebalance has nothing to move."""
    for _ in range(6):
        before = [member.held for member in members]
        await asyncio.gather(*(member.rejoin() for member in members))
        if before == [member.held for member in members] and any(before):
            return
    raise AssertionError("they do not come to rest")


def test_a_member_that_joins_a_hundred_of_the_new_protocol_pauses_only_what_moves() -> None:
    async def story(scene: Scene) -> None:
        scene.image = image_of(1, t=PARTITIONS)
        groups = await scene.life()
        clients = [Client(groups, f"m{number:03d}") for number in range(MEMBERS)]
        while {client.count for client in clients} != {PARTITIONS // MEMBERS}:
            await settled(*clients)
        before = {client.member_id: _parts(client) for client in clients}
        last = Client(groups, "last")
        gave_up: set[int] = set()
        for _ in range(4):
            for client in [last, *clients]:
                await client.beat()
                if client is not last:
                    gave_up |= before[client.member_id] - _parts(client)
        assert len(_parts(last)) == PARTITIONS // (MEMBERS + 1)
        assert gave_up == _parts(last), "nothing else was ever given up"
        await scene.end(groups)

    play(story, OFTEN)


def _parts(client: Client) -> set[int]:
    return {index for indexes in client.held.values() for index in indexes}
