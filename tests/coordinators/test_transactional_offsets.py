"""Offsets of transactions in __consumer_offsets: pending until the marker, kept over restarts and cleanings, never older than a later commit."""

from __future__ import annotations

import random

import pytest

from hotlog.coordinators import keyed_log
from hotlog.coordinators.group_types import Code
from hotlog.coordinators.keyed_log import Producer
from hotlog.coordinators.service import Commit, GroupCoordinator
from hotlog.wire.markers import Marker
from tests.compaction.cleaning import cleaner_of
from tests.coordinators.scene import Member, Scene, all_work, commit, play
from tests.sim.entropy import SimEntropy

pytestmark = pytest.mark.timeout(300)  # virtual time or many examples: it ends by itself


def nothing() -> None:
    """Its transaction is open."""


async def pend(
    groups: GroupCoordinator,
    offset: int,
    *,
    producer: int = 1,
    group: str = "g",
    partition: int = 0,
    member: Member | None = None,
) -> Code:
    codes = await groups.commit_in_transaction(
        group, [Commit("clicks", partition, offset, -1, None)], Producer(producer, 0, nothing),
        member_id=member.member_id if member else "", instance_id=None, generation=member.generation if member else -1,
    )  # fmt: skip
    return codes["clicks", partition]


async def end(groups: GroupCoordinator, *, is_commit: bool, producer: int = 1) -> None:
    await groups.end_transaction(0, Marker(producer, 0, 0, is_commit), 0)


def offset_of(groups: GroupCoordinator, group: str = "g", partition: int = 0) -> int:
    value = groups.offsets(group).get(("clicks", partition))
    return -1 if value is None else value.offset


def test_they_are_seen_when_the_transaction_is_committed_and_not_when_it_is_aborted() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        for offset, is_commit, seen in ((5, True, 5), (6, False, 5), (7, True, 7)):
            before = offset_of(groups)
            assert await pend(groups, offset) is Code.NONE
            assert (offset_of(groups), groups.is_pending("g", "clicks", 0)) == (before, True)
            await end(groups, is_commit=is_commit)
            assert (offset_of(groups), groups.is_pending("g", "clicks", 0)) == (seen, False)
        await scene.end(groups)

    play(story)


def test_a_later_commit_outside_is_not_undone() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        await pend(groups, 5)
        await commit(groups, "g", offset=9)
        await end(groups, is_commit=True)
        assert offset_of(groups) == 9
        await scene.end(groups)
        groups = await scene.life()
        assert offset_of(groups) == 9
        await scene.end(groups)

    play(story)


@pytest.mark.parametrize("is_commit", [True, False])
def test_they_wait_over_a_restart(is_commit: bool) -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        await commit(groups, "g", offset=1)
        await pend(groups, 5)
        await pend(groups, 50, producer=2, partition=1)
        await scene.end(groups)
        groups = await scene.life()
        assert offset_of(groups) == 1
        assert groups.is_pending("g", "clicks", 0)
        await end(groups, is_commit=is_commit)
        await scene.end(groups)
        groups = await scene.life()
        assert offset_of(groups) == (5 if is_commit else 1)
        assert not groups.is_pending("g", "clicks", 0)
        assert groups.is_pending("g", "clicks", 1), "the other one's"
        await scene.end(groups)

    play(story)


def test_who_may_commit_so() -> None:
    async def story(scene: Scene) -> None:
        groups = await scene.life()
        member = Member(groups)
        await member.join()
        assert await pend(groups, 1, member=member) is Code.NONE
        assert await pend(groups, 2) is Code.NONE, "a producer that names no member (before KIP-447)"
        member.generation += 1
        assert await pend(groups, 3, member=member) is Code.ILLEGAL_GENERATION
        assert await pend(groups, 3, member=member, group="nobody") is Code.ILLEGAL_GENERATION
        assert await pend(groups, 3, group="") is Code.INVALID_GROUP_ID
        await end(groups, is_commit=True)
        assert offset_of(groups) == 2
        await scene.end(groups)

    play(story)


@pytest.mark.parametrize("seed", range(8))
def test_cleanings_beside_open_transactions_lose_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_log, "SEGMENT_BYTES", 1_000)

    async def story(scene: Scene) -> None:
        chance = random.Random(seed)
        seen: dict[int, tuple[int, int]] = {}  # partition -> (when it was said, offset)
        pending: dict[int, dict[int, tuple[int, int]]] = {}  # producer -> the same
        groups, cleanings = await scene.life(), 0
        for now in range(300):
            partition, producer, what = chance.randrange(4), chance.randrange(3), chance.random()
            if what < 0.3:
                await commit(groups, "g", partition, offset=now)
                seen[partition] = now, now
            elif what < 0.7:
                await pend(groups, now, producer=producer, partition=partition)
                pending.setdefault(producer, {})[partition] = now, now
            elif what < 0.95:
                is_commit = chance.random() < 0.7
                await end(groups, is_commit=is_commit, producer=producer)
                for place, said in pending.pop(producer, {}).items():
                    if is_commit and said > seen.get(place, (-1, -1)):
                        seen[place] = said
            else:
                await scene.end(groups)
                groups = await scene.life()
            if chance.random() < 0.5:
                await groups.tick()
                assert scene.log is not None
                cleaner = cleaner_of(scene.log, disk=scene.disk, clock=scene.clock, entropy=SimEntropy(now))
                cleanings += await cleaner.tick()
            for place in range(4):
                assert offset_of(groups, partition=place) == seen.get(place, (-1, -1))[1]
                is_open = any(place in places for places in pending.values())
                assert groups.is_pending("g", "clicks", place) == is_open
        for producer in range(3):
            await end(groups, is_commit=False, producer=producer)
        await all_work(groups)
        assert scene.log is not None
        assert cleanings > 2 and scene.log.size < 15_000, "half of what was written is dead, and was given up"
        await scene.end(groups)

    play(story)
