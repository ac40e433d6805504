"""Members of consumer groups beside a simulated node, of both protocols, as clients are: they join, beat, commit, and come again after any answer.

What members hold is told to `Owners`, which cries out when two have the same.

Invariants: a member that lives gives up at once what it has to, and beats in time as long as the broker answers; what it does survives the broker.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Protocol
from uuid import UUID

from hotlog.coordinators.consumer.values import JOIN_EPOCH, LEAVE_EPOCH, BeatRequest
from hotlog.coordinators.group_types import Code, JoinRequest
from hotlog.coordinators.service import Commit, Committer, GroupCoordinator
from hotlog.coordinators.tenure import NotServed
from hotlog.kernel.errors import DiskFull, Retry, StorageFailed
from tests.sim.bucket import Violation

SESSION_MS, BEAT_S, AGAIN_S = 10_000, 3.0, 0.5
WEATHER = (NotServed, StorageFailed, DiskFull, Retry)
LOST = (Code.UNKNOWN_MEMBER_ID, Code.FENCED_MEMBER_EPOCH, Code.GROUP_ID_NOT_FOUND, Code.FENCED_INSTANCE_ID)


class Member(Protocol):
    """A member: `name` is for people."""

    name: str
    group: str
    is_frozen: bool

    async def run(self, groups: GroupCoordinator) -> None:
        """Be a member, until cancelled."""

    async def leave(self, groups: GroupCoordinator) -> None: ...


class Owners:
    """Who holds which partition of which group, and what was committed of it."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.held: dict[tuple[str, str], frozenset[int]] = {}  # by group and member
        self.generations: dict[str, dict[int, dict[int, str]]] = {}  # by group: generation -> partition -> member
        self.said: dict[tuple[str, int], int] = {}  # the largest offset that anybody asked to be committed
        self.acked: dict[tuple[str, int], int] = {}

    def newest(self, group: str) -> int:
        """The newest generation that anybody was told of."""
        return max(self.generations.get(group, ()), default=-1)

    def hold(self, group: str, name: str, partitions: frozenset[int], generation: int | None = None) -> None:
        """A member has these from now on, and no others; of a classic group as of `generation`."""
        if generation is None:
            for (other_group, other), theirs in self.held.items():
                if other_group == group and other != name and theirs & partitions:
                    raise Violation(f"{group}: {sorted(theirs & partitions)} are held by {name} and by {other}")
        else:
            owners = self.generations.setdefault(group, {}).setdefault(generation, {})
            for partition in partitions:
                if owners.setdefault(partition, name) != name:
                    raise Violation(f"{group}, generation {generation}: {partition} has {owners[partition]} and {name}")
        self.held[group, name] = partitions

    def drop(self, group: str, name: str) -> None:
        """A member is gone, or knows that it has nothing."""
        self.held.pop((group, name), None)

    async def commit(self, groups: GroupCoordinator, group: str, by: Committer, partition: int, *, is_classic: bool) -> Code:
        """The next offset of a partition."""
        place, newest = (group, partition), self.newest(group)
        offset = self.said[place] = self.said.get(place, 0) + 1
        codes = await groups.commit(group, by, [Commit(self.topic, partition, offset, -1, None)])
        code = codes[self.topic, partition]
        if code is Code.NONE:
            if is_classic and by.generation < newest:
                raise Violation(f"{group}: generation {by.generation} could commit, and {newest} was there already")
            self.acked[place] = offset
        return code

    def check_offsets(self, groups: GroupCoordinator, group: str) -> None:
        """What was acknowledged is there, or something that was said later."""
        found = groups.offsets(group)
        for (its_group, partition), acked in self.acked.items():
            if its_group == group:
                value = found.get((self.topic, partition))
                if value is None or not acked <= value.offset <= self.said[group, partition]:
                    raise Violation(f"{group}: the offset of {partition} is {value}; acknowledged was {acked}")


class ClassicMember:
    """Of the classic protocol, eager: gives all up before it joins again.  The leader deals partitions out in turn."""

    def __init__(
        self, owners: Owners, group: str, name: str, random: Random, *, partitions: int, instance_id: str | None = None
    ) -> None:
        self.name, self.group, self.instance_id = name, group, instance_id
        self.is_frozen = False
        self._owners, self._random, self._partitions = owners, random, partitions
        self._member_id, self._generation = "", -1
        self._held: frozenset[int] = frozenset()

    async def run(self, groups: GroupCoordinator) -> None:
        while True:
            try:
                if self.is_frozen:
                    await asyncio.sleep(AGAIN_S)
                elif self._generation < 0:
                    await self._join(groups)
                else:
                    await asyncio.sleep(BEAT_S)
                    self._heard(groups.heartbeat(self.group, self._member_id, self.instance_id, self._generation))
                    if self._generation >= 0:  # it may have been frozen, and counts again
                        self._owners.hold(self.group, self.name, self._held, self._generation)
                    for partition in sorted(self._held):
                        if self._random.random() < 0.3:
                            by = Committer(self._member_id, self.instance_id, self._generation, 9)
                            self._heard(await self._owners.commit(groups, self.group, by, partition, is_classic=True))
            except WEATHER:
                await asyncio.sleep(AGAIN_S)

    def _heard(self, code: Code) -> None:
        """What an answer means."""
        if code is Code.NONE or code is Code.COORDINATOR_NOT_AVAILABLE:
            return
        if code in LOST:
            self._member_id = ""
        self._generation, self._held = -1, frozenset()
        self._owners.drop(self.group, self.name)

    async def _join(self, groups: GroupCoordinator) -> None:
        asked = JoinRequest(
            member_id=self._member_id, instance_id=self.instance_id, client_id=self.name, client_host="h", session_timeout_ms=SESSION_MS,
            rebalance_timeout_ms=SESSION_MS, protocol_type="consumer", protocols=(("range", b"all"),), needs_known_id=self.instance_id is None,
            can_skip_assignment=False,
        )  # fmt: skip
        joined = await groups.join(self.group, asked)
        if joined.code is Code.MEMBER_ID_REQUIRED:
            self._member_id = joined.member_id
            return
        if joined.code is not Code.NONE:
            self._heard(joined.code)
            await asyncio.sleep(AGAIN_S)
            return
        self._member_id = joined.member_id
        members = [member_id for member_id, _, _ in joined.members] if joined.leader == joined.member_id else []
        dealt = {member_id: bytes(range(number, self._partitions, len(members))) for number, member_id in enumerate(members)}
        synced = await groups.sync(
            self.group, member_id=self._member_id, instance_id=self.instance_id, generation=joined.generation, protocol_type="consumer",
            protocol=joined.protocol, assignments=dealt,
        )  # fmt: skip
        self._heard(synced.code)
        if synced.code is Code.NONE:
            self._generation, self._held = joined.generation, frozenset(synced.assignment)
            self._owners.hold(self.group, self.name, self._held, self._generation)

    async def leave(self, groups: GroupCoordinator) -> None:
        self._owners.drop(self.group, self.name)
        if self._member_id:
            await groups.leave(self.group, ((self._member_id, self.instance_id),))


class ModernMember:
    """Of the new protocol (KIP-848)."""

    def __init__(self, owners: Owners, group: str, name: str, random: Random, *, topic_id: UUID) -> None:
        self.name, self.group = name, group
        self.is_frozen = False
        self._owners, self._random, self._topic_id = owners, random, topic_id
        self._epoch = JOIN_EPOCH
        self._held: frozenset[int] = frozenset()

    async def run(self, groups: GroupCoordinator) -> None:
        while True:
            try:
                if not self.is_frozen:
                    await self._beat(groups)
                    for partition in sorted(self._held):
                        if self._random.random() < 0.3:
                            by = Committer(self.name, None, self._epoch, 9)
                            await self._owners.commit(groups, self.group, by, partition, is_classic=False)
                await asyncio.sleep(BEAT_S if self._epoch > JOIN_EPOCH else AGAIN_S)
            except WEATHER:
                await asyncio.sleep(AGAIN_S)

    def _asked(self, epoch: int) -> BeatRequest:
        is_joining = epoch == JOIN_EPOCH
        return BeatRequest(
            member_id=self.name, epoch=epoch, instance_id=None, rack_id=None, rebalance_ms=SESSION_MS if is_joining else -1,
            topics=(self._owners.topic,) if is_joining else None, regex=None, assignor=None,
            owned={} if is_joining else {self._topic_id: self._held} if self._held else {}, client_id=self.name, client_host="/h",
        )  # fmt: skip

    async def _beat(self, groups: GroupCoordinator) -> None:
        answer = await groups.beat(self.group, self._asked(self._epoch))
        if answer.code in LOST:
            self._epoch = JOIN_EPOCH
            self._hold(frozenset())
        elif answer.code is Code.NONE:
            if answer.epoch < self._epoch:
                raise Violation(f"{self.group}: {self.name} goes back from epoch {self._epoch} to {answer.epoch}")
            self._epoch = answer.epoch
            told = self._held if answer.assignment is None else frozenset(answer.assignment.get(self._topic_id, ()))
            self._hold(told)  # also what it knew: it may have been frozen, and counts again

    def _hold(self, partitions: frozenset[int]) -> None:
        self._held = partitions
        self._owners.hold(self.group, self.name, partitions)

    async def leave(self, groups: GroupCoordinator) -> None:
        self._owners.drop(self.group, self.name)
        await groups.beat(self.group, self._asked(LEAVE_EPOCH))
