"""Commits and heartbeats of the short way: they do what those of the long way do, and say None where they cannot."""

from __future__ import annotations

import asyncio

import pytest

from hotlog.coordinators.service import Commit, Committer, GroupCoordinator
from hotlog.coordinators.tenure import NotCoordinator
from hotlog.kernel.errors import StorageFailed
from tests.coordinators.scene import SIMPLE, Member, Scene, commit, play

pytestmark = pytest.mark.timeout(300)  # virtual time: it ends by itself
PLACE = ("clicks", 0)


class Told:
    """What a commit's owner is told."""

    def __init__(self) -> None:
        self.said: list[Exception | None] = []
        self.came = asyncio.Event()

    def __call__(self, error: Exception | None) -> None:
        self.said.append(error)
        self.came.set()


def short(
    groups: GroupCoordinator,
    member: Member,
    offset: int,
    told: Told,
    *,
    generation: int | None = None,
    place: Commit | None = None,
) -> bool | None:
    by = Committer(member.member_id, member.instance_id, member.generation if generation is None else generation, 9)
    return add(groups, member.group, place or Commit(*PLACE, offset, -1, "x"), by, told)


def add(groups: GroupCoordinator, group_id: str, commit: Commit, by: Committer, told: Told) -> bool | None:
    commits = groups.commits_of(group_id, by, commit.topic, commit.partition)
    return None if commits is None else commits.add(commit.offset, commit.leader_epoch, commit.metadata or "", told)


def test_a_commit_is_told_when_it_is_committed_and_shown_then() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        member, told = Member(groups), Told()
        await member.join()
        assert short(groups, member, 7, told) is False
        assert told.said == []
        assert PLACE not in groups.offsets("g"), "nothing is shown that may be lost"
        async with asyncio.timeout(60):
            await told.came.wait()
        assert told.said == [None]
        assert groups.offsets("g")[PLACE].offset == 7
        assert groups.offsets("g")[PLACE].metadata == "x"
        await scene.end(groups)
        groups = await scene.life()
        assert groups.offsets("g")[PLACE].offset == 7
        await scene.end(groups)

    play(story)


def test_what_would_be_answered_otherwise_is_left_to_the_long_way_and_nothing_is_done() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        member, told = Member(groups), Told()
        await member.join()
        await commit(groups, "simple")
        assert scene.log is not None
        end = scene.log.log_end_offset
        assert short(groups, member, 1, told, generation=member.generation + 1) is None
        assert short(groups, member, 1, told, generation=member.generation - 1) is None
        assert short(groups, member, 1, told, place=Commit("clicks", 10_000, 1, -1, None)) is None
        assert short(groups, member, 1, told, place=Commit("clicks", 0, 1, -1, "x" * 5000)) is None
        assert add(groups, "strange", Commit(*PLACE, 1, -1, None), SIMPLE, told) is None
        assert add(groups, "g", Commit(*PLACE, 1, -1, None), SIMPLE, told) is None
        assert not groups.session_of("g", "nobody", None, member.generation)
        assert not groups.session_of("g", member.member_id, None, member.generation + 1)
        assert not groups.session_of("g", member.member_id, "instance", member.generation)
        assert not groups.session_of("strange", member.member_id, None, member.generation)
        assert scene.log.log_end_offset == end
        assert add(groups, "simple", Commit(*PLACE, 9, -1, None), SIMPLE, told) is False
        await scene.end(groups)

    play(story)


@pytest.mark.parametrize("sign", ["commit", "heartbeat"])
def test_a_member_that_only_shows_so_that_it_is_alive_stays(sign: str) -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        member, told = Member(groups, session_ms=10_000), Told()
        await member.join()
        session = groups.session_of("g", member.member_id, None, member.generation)
        assert session is not None
        for offset in range(100):  # sixty sessions
            await asyncio.sleep(6)
            if sign == "commit":
                assert short(groups, member, offset, told) is not None
            else:
                assert session.begins_anew()
        assert list(groups.describe("g").group.members) == [member.member_id]
        await asyncio.sleep(10.1)
        assert not groups.session_of("g", member.member_id, None, member.generation)
        assert not session.begins_anew()
        assert short(groups, member, 1, told) is None
        await scene.end(groups)

    play(story)


def test_a_session_that_was_known_is_not_after_a_rebalance_nor_after_the_shard_was_unloaded() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        member = Member(groups)
        await member.join()
        before = groups.session_of("g", member.member_id, None, member.generation)
        by = Committer(member.member_id, None, member.generation, 9)
        commits, told = groups.commits_of("g", by, *PLACE), Told()
        assert before is not None and before.begins_anew()
        assert commits is not None and commits.add(1, -1, "", told) is False
        await member.join()
        assert not before.begins_anew()
        assert commits.add(2, -1, "", told) is None
        after = groups.session_of("g", member.member_id, None, member.generation)
        assert after is not None and after.begins_anew()
        commits = groups.commits_of("g", by._replace(generation=member.generation), *PLACE)
        assert commits is not None
        await scene.end(groups)
        assert not after.begins_anew()
        assert commits.add(2, -1, "", told) is None

    play(story)


def test_who_waits_is_told_once_when_the_shard_is_unloaded() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        member, told = Member(groups), Told()
        await member.join()
        assert short(groups, member, 7, told) is False
        groups.resign(0)
        assert [type(each) for each in told.said] == [NotCoordinator]
        await asyncio.sleep(60)
        assert len(told.said) == 1
        await scene.end(groups)

    play(story)


def test_who_waits_is_told_that_the_disk_failed() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        member, told = Member(groups), Told()
        await member.join()
        assert scene.log is not None
        assert short(groups, member, 7, told) is False
        scene.log._syncer.fail(OSError(5, "broken"))
        async with asyncio.timeout(60):
            await told.came.wait()
        assert [type(each) for each in told.said] == [StorageFailed]
        assert PLACE not in groups.offsets("g")
        await scene.end(groups)

    play(story)
