"""Consumer groups of the new protocol on a real log in virtual time: sessions, disks that are full, restarts, crashes at every call of the disk."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest

from hotlog.coordinators.consumer.values import LEAVE_EPOCH, Beaten, BeatRequest, ConsumerGroup
from hotlog.coordinators.group_types import Code
from hotlog.coordinators.service import Commit, Committer, GroupCoordinator
from hotlog.kernel.settings import Settings
from tests.coordinators.consumer.stage import image_of, topic_id
from tests.coordinators.scene import SETTINGS, SIMPLE, Member, Scene, all_work, play
from tests.sim.disk import SimDisk
from tests.sim.lives import die_in_every_call
from tests.sim.loop import SimLoop, run

pytestmark = pytest.mark.timeout(300)  # virtual time or many examples: it ends by itself

OFTEN = Settings.resolve({**SETTINGS.given, "group.consumer.assignment.interval.ms": "0"})
T = topic_id("t")


class Client:
    """A member of the new protocol; it gives up at once what it has to."""

    def __init__(
        self,
        groups: GroupCoordinator,
        member_id: str,
        group: str = "g",
        topics: tuple[str, ...] = ("t",),
        instance_id: str | None = None,
    ) -> None:
        self.groups, self.member_id, self.group, self.topics, self.instance_id = groups, member_id, group, topics, instance_id
        self.epoch, self.held = 0, dict[UUID, frozenset[int]]()
        self.regex: str | None = None

    async def beat(self) -> Beaten:
        is_joining = self.epoch == 0
        asked = BeatRequest(
            member_id=self.member_id, epoch=self.epoch, instance_id=self.instance_id, rack_id=None, rebalance_ms=30_000 if is_joining else -1,
            topics=self.topics if is_joining else None, regex=self.regex if is_joining else None, assignor=None,
            owned={} if is_joining else dict(self.held), client_id="c", client_host="/h",
        )  # fmt: skip
        answer = await self.groups.beat(self.group, asked)
        if answer.code in (Code.FENCED_MEMBER_EPOCH, Code.UNKNOWN_MEMBER_ID, Code.GROUP_ID_NOT_FOUND):
            self.epoch, self.held = 0, {}
        elif answer.code is Code.NONE:
            assert answer.epoch >= self.epoch
            self.epoch = answer.epoch
            if answer.assignment is not None:
                self.held = {key: frozenset(indexes) for key, indexes in answer.assignment.items()}
        return answer

    async def leave(self, epoch: int = LEAVE_EPOCH) -> None:
        asked = BeatRequest(
            member_id=self.member_id, epoch=epoch, instance_id=self.instance_id, rack_id=None, rebalance_ms=-1, topics=None, regex=None, assignor=None,
            owned=None, client_id="c", client_host="/h",
        )  # fmt: skip
        await self.groups.beat(self.group, asked)

    @property
    def count(self) -> int:
        return sum(map(len, self.held.values()))


def group_of(groups: GroupCoordinator) -> ConsumerGroup:
    group = groups.describe("g").group
    assert isinstance(group, ConsumerGroup)
    return group


async def settled(*clients: Client) -> None:
    for _ in range(8):
        for client in clients:
            await client.beat()


def test_members_share_go_and_are_read_again() -> None:
    async def story(scene: Scene) -> None:
        scene.image = image_of(1, t=4)
        groups = await scene.life()
        clients = [Client(groups, f"m{number}") for number in range(3)]
        await settled(*clients)
        assert sorted(client.count for client in clients) == [1, 1, 2]
        held = [client.held for client in clients]
        await scene.end(groups)
        groups = await scene.life()
        for client in clients:
            client.groups = groups
        await settled(*clients)
        assert [client.held for client in clients] == held, "nothing moves by a restart"
        await clients[0].leave()
        await settled(*clients[1:])
        assert [client.count for client in clients[1:]] == [2, 2]
        await scene.end(groups)

    play(story, OFTEN)


def test_a_member_that_is_silent_is_gone_and_one_that_beats_stays() -> None:
    async def story(scene: Scene) -> None:
        scene.image = image_of(1, t=4)
        groups = await scene.life()
        loud, silent = Client(groups, "loud"), Client(groups, "silent")
        await settled(loud, silent)
        for _ in range(12):
            await asyncio.sleep(5)
            assert (await loud.beat()).code is Code.NONE
        assert group_of(groups).members.keys() == {"loud"}
        await settled(loud)
        assert loud.count == 4
        await scene.end(groups)

    play(story, OFTEN)


def test_what_a_group_was_given_holds_from_the_next_heartbeat_on() -> None:
    """Its own session and heartbeat, within the bounds of the broker; another group has the broker's."""

    async def story(scene: Scene) -> None:
        scene.image = image_of(1, t=4)
        groups = await scene.life()
        own, other = Client(groups, "own"), Client(groups, "other", group="h")
        assert [(await client.beat()).heartbeat_ms for client in (own, other)] == [5_000, 5_000]
        given = {"consumer.session.timeout.ms": "50000", "consumer.heartbeat.interval.ms": "1"}
        scene.image = replace(scene.image, offset=2, group_configs={"g": given})
        assert [(await client.beat()).heartbeat_ms for client in (own, other)] == [5_000, 5_000], (
            "1 ms is below what the broker allows"
        )
        await asyncio.sleep(47)
        assert group_of(groups).members.keys() == {"own"}
        assert not groups.describe("h").group.members
        await asyncio.sleep(4)
        assert not group_of(groups).members
        await scene.end(groups)

    play(story, OFTEN)


def test_a_group_that_was_read_again_gives_its_members_a_session() -> None:
    async def story(scene: Scene) -> None:
        scene.image = image_of(1, t=4)
        groups = await scene.life()
        client = Client(groups, "m")
        await settled(client)
        await scene.end(groups)
        groups = await scene.life()
        await asyncio.sleep(44)
        assert group_of(groups).members.keys() == {"m"}
        await asyncio.sleep(2)
        assert not group_of(groups).members
        await scene.end(groups)

    play(story, OFTEN)


def test_what_the_log_does_not_take_never_was() -> None:
    async def story(scene: Scene) -> None:
        scene.image = image_of(1, t=4)
        groups = await scene.life()
        first, second, third = (Client(groups, f"m{number}") for number in range(3))
        await settled(first)
        assert scene.log is not None
        scene.log.block_appends("for now")
        answers = await asyncio.gather(second.beat(), third.beat(), first.beat())
        assert [answer.code for answer in answers[:2]] == [Code.COORDINATOR_NOT_AVAILABLE] * 2
        scene.log.block_appends(None)
        assert group_of(groups).members.keys() == {"m0"}
        await settled(first, second, third)
        assert sorted(client.count for client in (first, second, third)) == [1, 1, 2]
        await scene.end(groups)

    play(story, OFTEN)


def test_an_answer_waits_for_its_record() -> None:
    async def story(scene: Scene) -> None:
        scene.image = image_of(1, t=4)
        groups = await scene.life()
        client = Client(groups, "m")
        assert scene.log is not None
        joining = asyncio.create_task(client.beat())
        while scene.log.log_end_offset == 0:
            await asyncio.sleep(0)
        assert not joining.done(), "the log has it, the device not yet"
        again = asyncio.create_task(client.beat())
        await asyncio.sleep(0)
        assert not again.done(), "nor is anything told that follows from it"
        assert (await joining).code is (await again).code is Code.NONE
        await scene.end(groups)

    play(story, OFTEN)


def test_commits_are_fenced_by_epoch() -> None:
    async def story(scene: Scene) -> None:
        scene.image = image_of(1, t=4, u=2)
        groups = await scene.life()
        client = Client(groups, "m")
        await settled(client)

        async def commit(member_id: str, epoch: int, version: int = 9, topic: str = "t") -> Code:
            codes = await groups.commit("g", Committer(member_id, None, epoch, version), [Commit(topic, 0, 5, -1, None)])
            return codes[topic, 0]

        assert await commit("m", client.epoch) is Code.NONE
        assert await commit("m", client.epoch + 1) is Code.STALE_MEMBER_EPOCH
        assert await commit("m", client.epoch - 1) is Code.STALE_MEMBER_EPOCH
        assert await commit("m", client.epoch, 8) is Code.UNSUPPORTED_VERSION
        assert await commit("other", client.epoch) is Code.UNKNOWN_MEMBER_ID
        assert await commit("", -1) is Code.UNKNOWN_MEMBER_ID
        before, client.epoch, client.topics = client.epoch, 0, ("t", "u")
        await settled(client)
        assert client.epoch > before
        assert await commit("m", before) is Code.NONE, "of a partition that it had then"
        assert await commit("m", before, topic="u") is Code.STALE_MEMBER_EPOCH
        assert groups.fetch_code("g", "m", client.epoch) is Code.NONE
        assert groups.fetch_code("g", "m", before) is Code.STALE_MEMBER_EPOCH
        assert groups.fetch_code("g", "other", before) is Code.UNKNOWN_MEMBER_ID
        assert groups.fetch_code("g", None, -1) is Code.NONE
        assert (await groups.delete_offsets("g", [("t", 0)]))["t", 0] is Code.GROUP_SUBSCRIBED_TO_TOPIC
        assert await groups.delete("g") is Code.NON_EMPTY_GROUP
        await client.leave()
        assert await commit("", -1) is Code.NONE
        assert await groups.delete("g") is Code.NONE
        assert groups.describe("g").code is Code.GROUP_ID_NOT_FOUND
        assert groups.kept_ids() == []
        await scene.end(groups)
        groups = await scene.life()
        assert groups.all() == [], "no record is left of it"
        await scene.end(groups)

    play(story, OFTEN)


def test_an_expression_is_looked_up_and_a_bad_one_refused() -> None:
    async def story(scene: Scene) -> None:
        scene.image = image_of(1, alpha=2, beta=1, other=5)
        groups = await scene.life()
        client = Client(groups, "m", topics=())
        client.regex = "("
        answer = await client.beat()
        assert answer.code is Code.INVALID_REGULAR_EXPRESSION
        assert "SubscribedTopicRegex `(`" in (answer.message or "")
        client.regex = "(alpha|be.*)"
        await settled(client)
        assert client.count == 3
        scene.image = image_of(2, alpha=2, beta=1, other=5, bell=4)
        await settled(client)
        assert client.count == 7
        await scene.end(groups)

    play(story, OFTEN)


def test_empty_groups_expire() -> None:
    week_s = 7 * 86_400

    async def story(scene: Scene) -> None:
        scene.image = image_of(1, t=4)
        groups = await scene.life()
        client = Client(groups, "m")
        await settled(client)
        await client.leave()
        assert not [
            code for code in (await groups.commit("g", SIMPLE, [Commit("t", 0, 1, -1, None)])).values() if code is not Code.NONE
        ]
        await asyncio.sleep(week_s - 60)
        await all_work(groups)
        assert [group.group_id for group in groups.all()] == ["g"]
        await asyncio.sleep(120)
        await all_work(groups)
        assert groups.all() == []
        await scene.end(groups)

    play(story, OFTEN)


def test_offsets_of_topics_that_a_group_does_not_want_any_more_expire() -> None:
    short = Settings.resolve({**OFTEN.given, "offsets.retention.minutes": "60"})

    async def story(scene: Scene) -> None:
        scene.image = image_of(1, t=4, u=2)
        groups = await scene.life()
        client = Client(groups, "m", topics=("t", "u"))
        await settled(client)
        by = Committer("m", None, client.epoch, 9)
        await groups.commit("g", by, [Commit("t", 0, 1, -1, None), Commit("u", 0, 1, -1, None)])
        client.epoch, client.topics = 0, ("t",)
        await settled(client)
        for minutes in range(80):
            if minutes == 50:
                assert len(groups.offsets("g")) == 2
            for _ in range(2):
                await asyncio.sleep(30)
                assert (await client.beat()).code is Code.NONE
            await all_work(groups)
        assert list(groups.offsets("g")) == [("t", 0)]
        await scene.end(groups)

    play(story, short)


def test_classic_members_and_new_ones_meet_on_the_log() -> None:
    async def story(scene: Scene) -> None:
        scene.image = image_of(1, t=4)
        groups = await scene.life()
        old = Member(groups)
        await old.join()
        client = Client(groups, "m")
        answer = await client.beat()
        assert answer.code is Code.GROUP_ID_NOT_FOUND, "what the old one says of itself is no subscription"
        assert old.heartbeat() is Code.NONE
        await scene.end(groups)

    play(story, OFTEN)


@pytest.mark.parametrize("is_power_lost", [False, True])
def test_a_crash_at_every_call_leaves_each_partition_with_one_client(is_power_lost: bool) -> None:
    """Clients go on over all crashes; what they were told is true, whatever was lost."""

    async def main(loop: SimLoop) -> None:
        scene = Scene(loop, OFTEN)
        scene.image = image_of(1, t=6)
        clients = [Client(None, f"m{number}") for number in range(3)]  # type: ignore[arg-type]

        async def live(disk: SimDisk) -> None:
            scene.disk = disk
            await life(scene, clients)

        deaths = await die_in_every_call(loop, scene.disk, live, power=is_power_lost)
        assert deaths > 30, "there were many places to die"

    run(main)


async def life(scene: Scene, clients: list[Client]) -> None:
    """One process: its clients beat, one of them leaves and comes back."""
    groups = await scene.life()
    for number in range(4):
        for client in clients:
            client.groups = groups
            await client.beat()
            held = [(key, index) for each in clients for key, indexes in each.held.items() for index in indexes]
            assert len(set(held)) == len(held), "a partition has one client"
        if number == 1:
            await clients[2].leave()
            clients[2].epoch, clients[2].held = 0, {}
    await settled(*clients)
    assert sum(client.count for client in clients) == 6
    await scene.end(groups)
