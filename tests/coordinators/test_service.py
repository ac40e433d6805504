"""The coordinator in virtual time: sessions, restarts, expiry, and how much of its upkeep runs at once."""

from __future__ import annotations

import asyncio

import pytest

from hotlog.coordinators import group_shard
from hotlog.coordinators.group_types import Code, State
from hotlog.coordinators.service import Commit, Committer, GroupCoordinator
from hotlog.kernel.limits import KiB
from hotlog.kernel.settings import Settings
from tests.coordinators.scene import SETTINGS, Member, Scene, all_work, commit, play
from tests.sim.clock import DAY_MS
from tests.tools.steps import count_steps

WEEK_S = 7 * DAY_MS / 1000

pytestmark = pytest.mark.timeout(300)  # virtual time or many examples: it ends by itself


# Members


def test_a_member_that_only_heartbeats_stays() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        member = Member(groups, session_ms=10_000)
        await member.join()
        for _ in range(100):  # sixty sessions
            await asyncio.sleep(6)
            assert member.heartbeat() is Code.NONE
            await all_work(groups)
        assert list(groups.describe("g").group.members) == [member.member_id]
        await asyncio.sleep(9.9)
        assert member.heartbeat() is Code.NONE, "a session is whole after each heartbeat"
        await asyncio.sleep(10.1)
        assert member.heartbeat() is Code.UNKNOWN_MEMBER_ID
        await scene.end(groups)

    play(story)


def test_a_heartbeat_while_others_rejoin_keeps_the_session_too() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        first, second = Member(groups, rebalance_ms=60_000), Member(groups, rebalance_ms=60_000)
        await first.join()
        second_joins = asyncio.create_task(second.join())
        for _ in range(10):  # three sessions, half of the time to rejoin
            await asyncio.sleep(3)
            assert first.heartbeat() is Code.REBALANCE_IN_PROGRESS
        assert first.member_id in groups.describe("g").group.members
        second_joins.cancel()
        await scene.end(groups)

    play(story)


def test_a_member_that_only_commits_stays() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        member = Member(groups, session_ms=10_000)
        await member.join()
        for offset in range(10):
            await asyncio.sleep(6)
            assert await member.commit(offset) is Code.NONE
        assert list(groups.describe("g").group.members) == [member.member_id]
        await scene.end(groups)

    play(story)


def test_a_commit_of_another_generation_changes_nothing() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        member = Member(groups)
        await member.join()
        await member.join()  # the leader again: a new generation
        assert await member.commit(7) is Code.NONE
        for generation in (member.generation - 1, member.generation + 1):
            assert await member.commit(3, generation=generation) is Code.ILLEGAL_GENERATION
        assert groups.offsets("g")["clicks", 0].offset == 7
        await scene.end(groups)

    play(story)


def test_a_commit_waits_for_the_assignment_of_its_generation() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        member = Member(groups)
        await member.join_alone()
        assert groups.describe("g").group.state is State.COMPLETING
        assert await member.commit(7) is Code.REBALANCE_IN_PROGRESS
        assert not groups.offsets("g")
        await member.sync()
        assert await member.commit(7) is Code.NONE
        await scene.end(groups)

    play(story)


def test_the_older_process_of_a_static_member_commits_nothing() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        old, new = Member(groups, instance_id="i"), Member(groups, instance_id="i")
        await old.join()
        await new.join()
        assert await new.commit(7) is Code.NONE
        assert await old.commit(3) is Code.FENCED_INSTANCE_ID
        assert groups.offsets("g")["clicks", 0].offset == 7
        await scene.end(groups)

    play(story)


def test_memory_of_members_that_left_is_given_back() -> None:
    few = Settings.resolve({**SETTINGS.given, "hotlog.groups.max.bytes": str(64 * KiB)})

    async def story(scene: Scene) -> None:
        groups = await scene.life()
        for number in range(30):
            member = Member(groups, f"g{number}")
            await member.join()
            await groups.leave(member.group, ((member.member_id, None),))
        for number in range(5):
            await Member(groups, f"stays{number}").join()
        with pytest.raises(AssertionError):  # there is a bound, or this test says nothing
            for number in range(15):
                await Member(groups, f"many{number}").join()
        await scene.end(groups)

    play(story, few)


def test_after_a_restart_dead_members_expire_and_the_living_stay() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        living, dead = Member(groups, "living"), Member(groups, "dead")
        await living.join()
        await dead.join()
        await scene.end(groups)
        groups = living.groups = await scene.life()
        assert list(groups.describe("dead").group.members) == [dead.member_id], "it has one session to show up"
        for _ in range(4):
            await asyncio.sleep(4)
            assert living.heartbeat() is Code.NONE
        assert groups.describe("living").group.state is State.STABLE
        assert groups.describe("dead").group.state is State.EMPTY
        assert not groups.describe("dead").group.members
        await scene.end(groups)

    play(story)


def test_after_a_restart_with_a_smaller_limit_who_rejoins_first_stays() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        members = [Member(groups, rebalance_ms=8_000) for _ in range(3)]
        await asyncio.gather(*(member.join() for member in members))
        assert len(groups.describe("g").group.members) == 3
        await scene.end(groups)
        scene.settings = Settings.resolve({**scene.settings.given, "group.max.size": "2"})
        groups = await scene.life()
        assert groups.describe("g").group.state is State.PREPARING
        for member in members:
            member.groups = groups
            assert member.heartbeat() is Code.REBALANCE_IN_PROGRESS
        joining = [asyncio.create_task(member.join()) for member in members]
        await asyncio.wait(joining)
        assert [task.exception() is None for task in joining] == [True, True, False]
        assert set(groups.describe("g").group.members) == {member.member_id for member in members[:2]}
        await scene.end(groups)

    play(story, Settings.resolve({**SETTINGS.given, "group.initial.rebalance.delay.ms": "1000"}))


def test_a_member_of_a_group_that_is_not_there_is_told_what_its_version_knows() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        commits = [Commit("clicks", 0, 1, -1, None)]
        for unknown in (Code.ILLEGAL_GENERATION, Code.GROUP_ID_NOT_FOUND):
            codes = await groups.commit("g", Committer("m", None, 3, 9), commits, unknown)
            assert codes == {("clicks", 0): unknown}
        assert groups.all() == []
        await scene.end(groups)

    play(story)


# Expiry


def test_groups_expire_a_retention_period_after_their_last_use_and_not_before() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        await commit(groups, "old", 0, 1)
        await commit(groups, "used")
        left = Member(groups, "left")
        await left.join()
        for _ in range(int(WEEK_S // 5) // 4):  # it heartbeats for a quarter of the week, upkeep runs now and then
            await asyncio.sleep(5)
            assert left.heartbeat() is Code.NONE
            if scene.clock.monotonic() % 3600 < 5:
                await all_work(groups)
        await commit(groups, "used", 1, offset=2)  # the newest of its commits counts
        await groups.leave("left", ((left.member_id, None),))
        await asyncio.sleep(WEEK_S * 0.75 - 60)
        await all_work(groups)
        assert [group.group_id for group in groups.all()] == ["left", "old", "used"]
        await asyncio.sleep(120)
        await all_work(groups)
        assert [group.group_id for group in groups.all()] == ["left", "used"]
        assert not groups.offsets("old")
        await asyncio.sleep(WEEK_S * 0.25 - 120)
        await all_work(groups)
        assert [group.group_id for group in groups.all()] == ["left", "used"]
        await asyncio.sleep(180)
        await all_work(groups)
        assert groups.all() == []
        await scene.end(groups)
        groups = await scene.life()
        assert groups.all() == [], "and the log says so"
        await scene.end(groups)

    play(story)


def test_a_group_with_members_keeps_its_old_offsets() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        await commit(groups, "g", offset=7)
        member = Member(groups, "g", session_ms=30 * 60_000)
        await member.join()
        for _ in range(int(WEEK_S // 1200) * 2):
            await asyncio.sleep(1200)
            assert member.heartbeat() is Code.NONE
        await all_work(groups)
        assert groups.offsets("g")["clicks", 0].offset == 7
        await scene.end(groups)

    play(story)


def test_expiry_that_fails_is_tried_again_and_stops_nobody_else() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        for group in ("a", "b", "c"):
            await commit(groups, group)
        await asyncio.sleep(WEEK_S + 60)
        (shard,) = groups._shards
        shard.log.log.partition.log.block_appends("for now")
        await groups.tick()
        assert len(groups.all()) == 3
        shard.log.log.partition.log.block_appends(None)
        await all_work(groups)
        assert groups.all() == []
        await scene.end(groups)

    play(story)


def test_groups_that_were_only_asked_for_are_forgotten() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        member = Member(groups, "passing")
        await member.join()
        await groups.leave("passing", ((member.member_id, None),))
        await asyncio.sleep(1)
        assert await groups.delete("passing") is Code.NONE
        (shard,) = groups._shards
        shard.log.log.partition.log.block_appends("for now")
        codes = asyncio.create_task(commit(groups, "refused"))
        await asyncio.wait([codes])
        assert codes.exception() is not None
        shard.log.log.partition.log.block_appends(None)
        await all_work(groups)
        assert shard.states() == {}
        await commit(groups, "emptied")
        await groups.delete_offsets("emptied", [("clicks", 0)])
        await commit(groups, "topicless")
        await groups.forget_topic("clicks")
        await all_work(groups)
        assert shard.states() == {}
        await scene.end(groups)

    play(story)


# How much runs at once


async def _resting(scene: Scene, count: int) -> GroupCoordinator:
    """`count` groups that commit, and then do nothing."""
    groups = await scene.life()
    for start in range(0, count, 500):
        await asyncio.gather(*(commit(groups, f"group-{number}") for number in range(start, min(start + 500, count))))
    await all_work(groups)
    return groups


def test_groups_at_rest_cost_nothing() -> None:
    totals = []

    async def story(scene: Scene) -> None:
        groups = await _resting(scene, 20 if not totals else 2_000)
        totals.append((await count_steps(groups.tick())).total)
        await scene.end(groups)

    play(story)
    play(story)
    assert totals[1] < 2 * totals[0], "a hundred times as many groups, and nothing to do for any"


def test_upkeep_of_many_groups_yields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_shard, "LOOKED_AT_ONCE", 16)

    async def story(scene: Scene) -> None:
        groups = await _resting(scene, 1_000)
        few = await count_steps(asyncio.gather(*(commit(groups, f"group-{number}") for number in range(16))))
        await asyncio.sleep(WEEK_S / 2)
        await asyncio.gather(*(commit(groups, f"group-{number}") for number in range(0, 1_000, 2)))
        await asyncio.sleep(WEEK_S / 2 + 60)
        steps = await count_steps(all_work(groups))
        assert len(groups.all()) == 500
        assert steps.most < 4 * few.total, "a turn looks at 16 groups"
        await commit(groups, "group-0")
        steps = await count_steps(groups.forget_topic("clicks"))
        assert steps.most < 4 * few.total
        await all_work(groups)
        assert groups.all() == [], "no offset is left"
        await scene.end(groups)

    play(story)
