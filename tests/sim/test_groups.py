"""Two groups, one of each protocol, whose members come, go, freeze and die, beside a broker that dies at any call to disk or store.

In a generation of a classic group a partition has one owner; in a group of the new protocol it has one at any time. Nobody commits as of
a generation that is over. What was acknowledged stays committed. In the end every partition has an owner.
"""

from __future__ import annotations

import asyncio

import pytest

from hotlog.kernel.errors import Retry
from hotlog.wire.error_codes import Refused
from tests.sim.bucket import Violation
from tests.sim.members import WEATHER, ClassicMember, Member, ModernMember, Owners
from tests.sim.sweep import Sweep
from tests.sim.transacting import coordinated
from tests.sim.world import Life, SimWorld

TOPIC, PARTITIONS = "clicks", 6
CLASSIC, MODERN = "classic", "modern"
MEMBERS_MAX = 4  # of a group
EVENTS, EVENT_S, SETTLE_S = 12, 20, 240
STRIDE = 120
SETTINGS = {
    "offsets.topic.num.partitions": "1", "transaction.state.log.num.partitions": "1", "group.initial.rebalance.delay.ms": "0",
    "group.consumer.assignment.interval.ms": "0",
}  # fmt: skip


class Story:
    """The members, and what happens to them; it outlives the broker."""

    def __init__(self, world: SimWorld) -> None:
        self.world = world
        self.random = world.random
        self.owners = Owners(TOPIC)
        self.members: list[Member] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.events = self.made = 0

    async def tell(self, life: Life) -> None:
        await self.begin(life)
        while self.events < EVENTS:
            await self.happen(life)
            self.events += 1
            await asyncio.sleep(EVENT_S)
            await life.beat("groups", "log")
            self.check(life)
        await self.stop()
        await life.node.close()

    async def begin(self, life: Life) -> None:
        await life.open()
        while life.broker.topic(TOPIC) is None:
            try:
                await life.broker.create_topic(TOPIC, PARTITIONS)
            except (Retry, Refused):
                await asyncio.sleep(1)
                await life.beat("broker")
        await coordinated(life)
        self.tasks.clear()
        for group in (CLASSIC, MODERN):
            self.owners.check_offsets(life.broker.groups, group)
        for member in self.members or [self.make(life, CLASSIC), self.make(life, MODERN)]:
            self.start(life, member)

    def make(self, life: Life, group: str) -> Member:
        self.made += 1
        name, topic = f"{group}-{self.made}", life.broker.topic(TOPIC)
        assert topic is not None
        member: Member
        if group == CLASSIC:
            is_static = self.random.random() < 0.3
            member = ClassicMember(
                self.owners, group, name, self.random, partitions=PARTITIONS, instance_id=name if is_static else None
            )
        else:
            member = ModernMember(self.owners, group, name, self.random, topic_id=topic.topic_id)
        self.members.append(member)
        return member

    def start(self, life: Life, member: Member) -> None:
        self.tasks[member.name] = self.world.loop.create_task(member.run(life.broker.groups), name=member.name)

    async def happen(self, life: Life) -> None:
        """Something happens to one of the groups."""
        group = self.random.choice((CLASSIC, MODERN))
        members = [member for member in self.members if member.group == group]
        for member in members:
            member.is_frozen = False
        what = self.random.choice(("come", "come", "leave", "die", "freeze"))
        if len(members) < 2 or (what == "come" and len(members) < MEMBERS_MAX):
            self.start(life, self.make(life, group))
            return
        member = self.random.choice(members)
        if what == "freeze":  # for longer than a session of the classic protocol
            member.is_frozen = True
            self.owners.drop(group, member.name)
            return
        self.members.remove(member)
        self.owners.drop(group, member.name)
        await self._end(self.tasks.pop(member.name))
        if what == "leave":
            try:
                await member.leave(life.broker.groups)
            except WEATHER:
                return

    async def _end(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()  # a violation

    async def stop(self) -> None:
        tasks, self.tasks = self.tasks, {}
        for task in tasks.values():
            await self._end(task)

    def check(self, life: Life) -> None:
        for task in self.tasks.values():
            if task.done():
                task.result()
        for group in (CLASSIC, MODERN):
            self.owners.check_offsets(life.broker.groups, group)

    async def settle(self) -> None:
        """Nothing happens any more: every partition comes to have an owner."""
        life = self.world.begin()
        await self.begin(life)
        for member in self.members:
            member.is_frozen = False
        for _ in range(SETTLE_S // EVENT_S):
            await asyncio.sleep(EVENT_S)
            await life.beat("groups")
            self.check(life)
        for group in (CLASSIC, MODERN):
            held = [index for (its_group, _), indexes in self.owners.held.items() if its_group == group for index in indexes]
            if sorted(held) != list(range(PARTITIONS)):
                raise Violation(f"{group}: held are {sorted(held)} of {PARTITIONS} partitions")
        assert self.owners.newest(CLASSIC) > 3 and len(self.owners.acked) > PARTITIONS, "much happened"
        await self.stop()
        await life.end("stop")


SWEEP = Sweep(Story, SETTINGS, stride=STRIDE, parts=2, few=2)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("seed", "part"), SWEEP.cases())
def test_a_death_at_any_call_leaves_one_owner_and_every_commit(seed: int, part: int) -> None:
    SWEEP.die(seed, part)
