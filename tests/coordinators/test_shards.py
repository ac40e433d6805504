"""Shards come and go while the broker runs: unloaded and loaded again, logs that fail and are opened again, partitions that cannot be read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from hotlog.coordinators import group_shard, keyed_log
from hotlog.coordinators.group_shard import GroupShard
from hotlog.coordinators.group_types import Code, State
from hotlog.coordinators.service import Commit, Committer
from hotlog.coordinators.shards import AGAIN_S_MAX
from hotlog.coordinators.tenure import Loading, NotCoordinator, NotServed
from hotlog.kernel.errors import StorageFailed
from tests.coordinators.scene import TP, Member, Scene, all_work, commit, play
from tests.sim.fuse import Fuse

pytestmark = pytest.mark.timeout(300)  # virtual time or many examples: it ends by itself


async def outcome(work: Awaitable[object]) -> object:
    """What it returns or raises."""
    try:
        return await work
    except Exception as failure:
        return failure


def heartbeat(member: Member) -> Code | Exception:
    try:
        return member.heartbeat()
    except NotServed as refusal:
        return refusal


def scheduled() -> list[object]:
    """Timers of the loop that were not cancelled."""
    return [handle for handle in asyncio.get_running_loop()._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]


def test_who_waits_is_told_when_a_shard_is_unloaded_and_nothing_of_it_is_left() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        leader, follower, late = (Member(groups, rebalance_ms=60_000) for _ in range(3))
        await leader.join()
        joining = asyncio.create_task(follower.join_alone())
        await asyncio.sleep(1)
        await asyncio.gather(leader.join_alone(), joining)
        syncing = asyncio.create_task(outcome(follower.sync()))
        other = Member(groups, "other", rebalance_ms=60_000)
        await other.join()
        joining = asyncio.create_task(outcome(Member(groups, "other").join_alone()))
        committing = asyncio.create_task(outcome(commit(groups, "third", 0)))
        await asyncio.sleep(0)  # it waits for the disk
        assert groups._memory.total > 0
        groups.resign(0)
        assert not scheduled() or all("settle" in repr(handle) for handle in scheduled()), "only the disk goes on"
        for waiting in (syncing, joining, committing):
            assert isinstance(await waiting, NotCoordinator)
        assert groups._memory.total == 0
        assert list(groups._shards) == []
        scene.log, log = None, scene.log
        for refusal in (heartbeat(leader), await outcome(leader.commit(7)), await outcome(late.join())):
            assert type(refusal) is NotCoordinator
        scene.log = log
        await scene.end(groups)

    play(story)


def test_a_wide_request_whose_shard_goes_between_two_slices_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that is not here any more is no group of another generation: its members would give up what they did."""
    monkeypatch.setattr(group_shard, "LOOKED_AT_ONCE", 16)

    async def story(scene: Scene) -> None:
        groups = await scene.life()
        member = Member(groups)
        await member.join()
        nowhere = [Commit("clicks", 10_000 + number, 1, -1, None) for number in range(400)]  # so that nothing is written
        generation = member.generation
        committing = groups.commit("g", Committer(member.member_id, None, generation, 9), nowhere)
        told = asyncio.create_task(outcome(committing))
        for _ in range(4):
            await asyncio.sleep(0)
        assert not told.done()
        groups.resign(0)
        assert isinstance(await told, NotCoordinator)
        await scene.end(groups)

    play(story)


def test_an_unloaded_group_goes_on_where_it_was_when_its_shard_is_loaded_again() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        member = Member(groups)
        await member.join()
        assert await member.commit(7) is Code.NONE
        for offset in range(8, 12):
            groups.resign(0)
            with pytest.raises(Loading):
                groups.offsets("g")
            assert heartbeat(member) is Code.NONE, "as Kafka while it loads"
            await asyncio.sleep(9)
            assert await member.commit(offset) is Code.NONE, "who comes has it loaded"
            assert groups.offsets("g")["clicks", 0].offset == offset
            assert member.heartbeat() is Code.NONE
            assert groups.describe("g").group.state is State.STABLE
        groups.resign(0)
        await all_work(groups)
        assert groups.offsets("g")["clicks", 0].offset == 11, "or upkeep"
        await asyncio.sleep(10.1)
        assert member.heartbeat() is Code.UNKNOWN_MEMBER_ID, "sessions run again"
        await scene.end(groups)

    play(story)


def test_what_an_earlier_tenure_left_uncommitted_is_shown_once_it_is_committed() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        await commit(groups, "g", 0, offset=1)
        left = asyncio.create_task(outcome(commit(groups, "g", 0, offset=2)))
        await asyncio.sleep(0)
        assert scene.log is not None
        assert scene.log.log_end_offset > scene.log.high_watermark
        groups.resign(0)
        assert isinstance(await left, NotCoordinator)
        await groups.tick()
        assert groups.offsets("g")["clicks", 0].offset == 2
        await scene.end(groups)

    play(story)


def test_a_shard_that_is_resigned_while_it_is_read_is_not_served() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        await commit(groups, "g", 0)
        groups.resign(0)
        reading = asyncio.create_task(groups.tick())
        await asyncio.sleep(0)
        log, scene.log = scene.log, None
        groups.resign(0)
        await reading
        assert list(groups._shards) == []
        scene.log = log
        await groups.tick()
        assert groups.offsets("g")["clicks", 0].offset == 1
        await scene.end(groups)

    play(story)


async def reopened(scene: Scene) -> None:
    """The log is opened again while the coordinator lives."""
    assert scene.manager is not None
    scene.log = None
    scene.log = await scene.manager.reopen(TP)


def test_a_log_that_failed_and_was_opened_again_is_read_anew() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        member = Member(groups)
        await member.join()
        assert await member.commit(7) is Code.NONE
        assert scene.log is not None
        scene.disk.machine.fail("sync", pattern=f"*/{TP}/*.log")
        assert isinstance(await outcome(member.commit(8)), StorageFailed)
        assert isinstance(await outcome(member.commit(9)), StorageFailed), "it takes nothing more"
        assert groups.offsets("g")["clicks", 0].offset == 7, "what is committed is told"
        assert member.heartbeat() is Code.NONE
        await reopened(scene)
        await groups.tick()
        assert groups.offsets("g")["clicks", 0].offset == 7, "what was refused does not come back"
        assert await member.commit(10) is Code.NONE
        assert member.heartbeat() is Code.NONE, "the group lives on"
        await scene.end(groups)
        groups = await scene.life()
        assert groups.offsets("g")["clicks", 0].offset == 10
        await scene.end(groups)

    play(story)


@pytest.mark.parametrize("is_power_lost", [False, True])
@pytest.mark.parametrize("call", ["sync", "append", "sync_dir"])
def test_no_acked_commit_is_lost_wherever_the_disk_fails_and_the_log_is_opened_again(
    call: str, is_power_lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed_log, "SEGMENT_BYTES", 900)

    async def story(scene: Scene) -> None:
        acked: dict[int, int] = {}
        said = 0
        failures = 0
        for skip in range(25):
            groups = await scene.life()
            for place, offset in acked.items():
                assert groups.offsets("g")["clicks", place].offset == offset
            scene.disk.machine.fail(call, pattern=f"*/{TP}*", skip=skip)
            for number in range(12):
                said += 1
                outcome_of_it = await outcome(commit(groups, "g", number % 3, offset=said))
                if isinstance(outcome_of_it, Exception):
                    failures += 1
                    assert scene.log is not None
                    if scene.log.failed is not None:
                        await outcome(reopened(scene))
                        if scene.log is None:  # it failed once more
                            await reopened(scene)
                    await groups.tick()
                    shown = {partition: value.offset for (_, partition), value in groups.offsets("g").items()}
                    assert shown == acked, "what was refused is not there"
                else:
                    acked[number % 3] = said
                await groups.tick()
            scene.disk.machine.faults.clear()
            await groups.close()
            scene.disk = scene.disk.lose_power(Fuse()) if is_power_lost else scene.disk.kill(Fuse())
        assert failures >= 3

    play(story)


def test_a_partition_that_cannot_be_read_is_tried_again_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        await commit(groups, "g", 0)
        assert scene.log is not None
        path = scene.log.segments()[0].log_path
        groups.resign(0)
        scene.disk.machine.flip(path, 80)
        reads = 0

        elected = GroupShard.elected

        async def counted(shard: GroupShard) -> None:
            nonlocal reads
            reads += 1
            await elected(shard)

        monkeypatch.setattr(GroupShard, "elected", counted)
        for _ in range(60):
            await groups.tick()
            with pytest.raises(NotServed, match="cannot be read") as refusal:
                groups.offsets("g")
            assert type(refusal.value) is NotServed
            assert isinstance(await outcome(commit(groups, "g", 0)), NotServed), "who asks does not have it read at once"
            await asyncio.sleep(5)
        assert 5 <= reads <= 7, "after 5, 10, 20 s and so on"
        scene.disk.machine.flip(path, 80)  # mended
        await asyncio.sleep(AGAIN_S_MAX)
        await groups.tick()
        assert groups.offsets("g")["clicks", 0].offset == 1
        await scene.end(groups)

    play(story)


def test_a_partition_that_is_begun_anew_is_read_at_once() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        await commit(groups, "g", 0)
        assert scene.log is not None
        groups.resign(0)
        scene.disk.machine.flip(scene.log.segments()[0].log_path, 80)
        await groups.tick()
        with pytest.raises(NotServed):
            groups.offsets("g")
        assert scene.manager is not None
        await scene.manager.delete(TP)
        scene.log = await scene.created_log(scene.manager)
        await groups.tick()
        assert groups.offsets("g") == {}
        await commit(groups, "g", 1)
        await scene.end(groups)

    play(story)
