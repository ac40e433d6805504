"""Nothing that grows with a group holds the event loop: rebalances of many members, and groups of many offsets."""

from __future__ import annotations

import asyncio

import pytest

from hotlog.coordinators import group_shard, shard
from hotlog.coordinators.group_types import Code, State
from hotlog.coordinators.service import Commit, GroupCoordinator
from hotlog.kernel.settings import Settings
from tests.coordinators.scene import SETTINGS, SIMPLE, Member, Scene, all_work, commit, play
from tests.sim.clock import DAY_MS
from tests.tools.steps import Steps, count_steps

pytestmark = pytest.mark.timeout(300)  # virtual time or many examples: it ends by itself

WEEK_S = 7 * DAY_MS / 1000
MOST_STEPS = 100_000  # what Python does in 5 ms on a slow machine, about
STEPS_PER_OFFSET_READ = 1_500
DELAYED = Settings.resolve({**SETTINGS.given, "group.initial.rebalance.delay.ms": "3000"})


async def _rebalanced(members: list[Member]) -> None:
    await asyncio.gather(*(member.join() for member in members))


def rebalance_of(count: int, *, is_static: bool = False) -> Steps:
    """A second rebalance of `count` members: all join once more, and sync."""
    found: list[Steps] = []

    async def story(scene: Scene) -> None:
        groups = await scene.life()
        members = [Member(groups, session_ms=60_000, instance_id=f"i{n}" if is_static else None) for n in range(count)]
        await _rebalanced(members)
        joining = asyncio.gather(*(member.join() for member in members))
        found.append(await count_steps(joining))
        assert groups.describe("g").group.state is State.STABLE
        assert len(groups.describe("g").group.members) == count
        assert {member.generation for member in members} == {2}
        await scene.end(groups)

    play(story, DELAYED)
    return found[0]


@pytest.mark.parametrize(("count", "is_static"), [(2_000, False), (400, True)])
def test_a_rebalance_of_many_members_is_many_short_turns(count: int, is_static: bool) -> None:
    few, many = rebalance_of(100, is_static=is_static), rebalance_of(count, is_static=is_static)
    assert many.most < MOST_STEPS
    assert many.total < count / 100 * 1.3 * few.total, "a member costs the same in a large group"


def test_members_that_do_not_come_back_go_in_one_short_turn() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        members = [Member(groups, session_ms=60_000, rebalance_ms=20_000) for _ in range(1_000)]
        await _rebalanced(members)
        joining = asyncio.create_task(Member(groups, session_ms=60_000, rebalance_ms=20_000).join_alone())
        await asyncio.sleep(1)
        steps = await count_steps(asyncio.sleep(25))
        await joining
        assert len(groups.describe("g").group.members) == 1
        assert steps.most < MOST_STEPS
        await scene.end(groups)

    play(story, DELAYED)


def test_who_is_answered_in_a_slice_may_go_on_before_the_others_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Effects of its next request come after those that are left; a heartbeat is answered at once."""
    monkeypatch.setattr(shard, "CARRIED_OUT_AT_ONCE", 2)

    async def story(scene: Scene) -> None:
        groups = await scene.life()
        members = [Member(groups, session_ms=10_000) for _ in range(40)]
        answered: list[int] = []

        async def life(number: int) -> None:
            member = members[number]
            await member.join_alone()
            answered.append(number)
            if len(answered) == 1:
                assert member.heartbeat() is Code.NONE
                await groups.leave("g", ((member.member_id, None),))  # all the others are told to join again, in their order
                return
            codes = {member.heartbeat() for _ in range(3)}
            assert codes <= {Code.NONE, Code.REBALANCE_IN_PROGRESS}
            await member.join()
            assert member.heartbeat() is Code.NONE

        await asyncio.gather(*(life(number) for number in range(40)))
        group = groups.describe("g").group
        assert (group.state, len(group.members), group.generation) == (State.STABLE, 39, 2)
        for _ in range(3):
            await asyncio.sleep(6)
            assert {member.heartbeat() for number, member in enumerate(members) if number != answered[0]} == {Code.NONE}
        await asyncio.sleep(11)
        assert groups.describe("g").group.members == {}, "every session runs"
        await scene.end(groups)

    play(story, DELAYED)


# Offsets


async def _wide(groups: GroupCoordinator, group: str, count: int) -> None:
    await commit(groups, group, *range(count))


@pytest.mark.parametrize("how", ["expiry", "delete", "offset delete"])
def test_thousands_of_offsets_of_one_group_go_in_slices(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_shard, "LOOKED_AT_ONCE", 64)

    async def story(scene: Scene) -> None:
        groups = await scene.life()
        slice_of_64 = await count_steps(commit(groups, "slice", *range(64)))
        await _wide(groups, "wide", 4_000)
        if how == "expiry":
            await asyncio.sleep(WEEK_S + 60)
            steps = await count_steps(all_work(groups))
            assert groups.all() == []
        elif how == "delete":
            steps = await count_steps(groups.delete("wide"))
            assert [group.group_id for group in groups.all()] == ["slice"]
        else:
            places = [("clicks", partition) for partition in range(10, 4_500)]
            steps = await count_steps(groups.delete_offsets("wide", places))
            assert sorted(groups.offsets("wide")) == [("clicks", partition) for partition in range(10)]
        assert steps.most < 3 * slice_of_64.total
        await scene.end(groups)
        groups = await scene.life()
        assert len(groups.offsets("wide")) == (10 if how == "offset delete" else 0)
        await scene.end(groups)

    play(story)


def test_who_comes_while_a_group_expires_loses_nothing_that_it_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_shard, "LOOKED_AT_ONCE", 16)

    async def story(scene: Scene) -> None:
        groups = await scene.life()
        await _wide(groups, "used", 400)
        await _wide(groups, "joined", 400)
        await asyncio.sleep(WEEK_S + 60)
        expiring = asyncio.create_task(all_work(groups))
        for _ in range(12):
            await asyncio.sleep(0)
        await commit(groups, "used", 399, offset=9)
        member = Member(groups, "joined")
        await member.join()
        await expiring
        assert groups.offsets("used")["clicks", 399].offset == 9
        assert list(groups.describe("joined").group.members) == [member.member_id]
        await scene.end(groups)

    play(story)


def test_a_commit_that_waits_for_the_disk_while_its_group_expires_is_kept() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        await commit(groups, "g", 0, offset=1)
        await asyncio.sleep(WEEK_S + 60)
        committing = asyncio.create_task(commit(groups, "g", 0, offset=2))
        await asyncio.sleep(0)
        await all_work(groups)
        await committing
        await all_work(groups)
        assert groups.offsets("g")["clicks", 0].offset == 2
        await scene.end(groups)

    play(story)


def test_a_group_that_somebody_joins_while_it_is_deleted_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_shard, "LOOKED_AT_ONCE", 16)

    async def story(scene: Scene) -> None:
        groups = await scene.life()
        await _wide(groups, "g", 400)
        deleting = asyncio.create_task(groups.delete("g"))
        for _ in range(12):
            await asyncio.sleep(0)
        member = Member(groups)
        await member.join()
        assert await deleting is Code.NON_EMPTY_GROUP
        assert list(groups.describe("g").group.members) == [member.member_id]
        await scene.end(groups)

    play(story)


def test_a_topic_that_a_member_subscribes_to_meanwhile_keeps_its_offsets() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        await _wide(groups, "g", 1_000)
        places = [("clicks", partition) for partition in range(1_000)]
        deleting = asyncio.create_task(groups.delete_offsets("g", places))
        await asyncio.sleep(0)
        member = Member(groups)
        await member.join()
        codes = await deleting
        assert Code.GROUP_SUBSCRIBED_TO_TOPIC in codes.values(), "what it subscribes to cannot be told: it may be all"
        kept = {place for place, code in codes.items() if code is not Code.NONE}
        assert set(groups.offsets("g")) == kept
        await scene.end(groups)

    play(story)


def test_commits_of_thousands_of_partitions_are_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_shard, "LOOKED_AT_ONCE", 64)

    async def story(scene: Scene) -> None:
        groups = await scene.life()
        few = await count_steps(commit(groups, "few", *range(64)))
        commits = [Commit("clicks", partition, 1, -1, None) for partition in range(4_000)]
        steps = await count_steps(groups.commit("g", SIMPLE, commits))
        assert steps.most < 3 * few.total
        assert len(groups.offsets("g")) == 4_000
        await scene.end(groups)

    play(story)


def recovery_of(groups_count: int, offsets_each: int) -> Steps:
    """The steps in which groups with committed offsets are read again."""
    found: list[Steps] = []

    async def story(scene: Scene) -> None:
        groups = await scene.life()
        for number in range(groups_count):
            await commit(groups, f"g{number}", *range(offsets_each))
        groups.resign(0)
        found.append(await count_steps(groups.start()))
        assert len(groups.kept_ids()) == groups_count
        assert len(groups.offsets("g0")) == offsets_each
        await scene.end(groups)

    play(story)
    return found[0]


def test_a_thousand_groups_with_ten_thousand_offsets_are_read_in_short_turns() -> None:
    few, many = recovery_of(100, 10), recovery_of(1_000, 10)
    assert many.most < 3 * MOST_STEPS
    assert many.total < 10 * 1.2 * few.total, "a group costs the same among many"
    assert many.total < 10_000 * STEPS_PER_OFFSET_READ
