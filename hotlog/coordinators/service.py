"""The group coordinator as doors see it: which shard keeps a group, and what it is asked.

Groups are kept in __consumer_offsets, a shard for each of its partitions that is led here (hotlog.coordinators.shards).

Invariants: a group changes only by events to its shard; a commit is answered after it is committed to the log; what is not read yet is
answered COORDINATOR_LOAD_IN_PROGRESS, what is not here NOT_COORDINATOR, what cannot be read COORDINATOR_NOT_AVAILABLE.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

from controller.image import ClusterImage
from hotlog.coordinators.consumer import checks
from hotlog.coordinators.consumer.machine import AnyGroup
from hotlog.coordinators.consumer.regexes import Regexes
from hotlog.coordinators.consumer.values import JOIN_EPOCH, Beat, Beaten, BeatRequest, ConsumerGroup
from hotlog.coordinators.current_rules import CurrentRules
from hotlog.coordinators.group_handles import Commits, Session
from hotlog.coordinators.group_kind import GroupKind
from hotlog.coordinators.group_log import GroupLog
from hotlog.coordinators.group_shard import Commit, Committer, GroupShard, all_groups
from hotlog.coordinators.group_types import (
    Code,
    Group,
    Heartbeat,
    Join,
    Joined,
    JoinRequest,
    Leave,
    Left,
    Sync,
    Synced,
    protocol_bytes,
)
from hotlog.coordinators.keyed_log import Producer
from hotlog.coordinators.offset_records import OffsetKey, OffsetValue
from hotlog.coordinators.record_log import PartitionRecords, RecordLog
from hotlog.coordinators.shard import Memory
from hotlog.coordinators.shards import Shards
from hotlog.coordinators.tenure import Loading
from hotlog.kernel.errors import HotlogError, Invalid
from hotlog.kernel.settings import Settings
from hotlog.partitions.partition import Partition
from hotlog.wire.markers import Marker
from hotlog.world.ports import Clock, Entropy

LOG = logging.getLogger(__name__)
TOPIC = "__consumer_offsets"
GROUP_ID_BYTES_MAX = 32_000

__all__ = ["Commit", "Committer", "Described", "GroupCoordinator"]


class Described(NamedTuple):
    """A group for DescribeGroups and ListGroups; `code` is not NONE if it is unknown."""

    group: AnyGroup
    code: Code


class GroupCoordinator:
    """All groups of this node.  The callables reach the broker: the log of a partition of __consumer_offsets if it is led here, its
    creation, its number of partitions, the cluster's topics, and how often what is hosted has changed."""

    def __init__(
        self,
        *,
        settings: Callable[[], Settings],
        clock: Clock,
        entropy: Entropy,
        partition_of: Callable[[int], Partition | None],
        ensure_topic: Callable[[], Awaitable[None]],
        partition_count: Callable[[], int],
        image: Callable[[], ClusterImage],
        hosting_version: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._entropy = entropy
        self._partition_of = partition_of
        self._regexes = Regexes(image, clock.now_ms)
        self._memory = Memory()
        self._rules = CurrentRules(settings, image, clock, self._regexes)
        self._kind = GroupKind(self._rules.limits, self._rules.of_group)
        self._shards: Shards[GroupShard] = Shards(
            topic=TOPIC,
            clock=clock,
            log_of=self._record_log,
            made=self._made,
            ensure_topic=ensure_topic,
            partition_count=partition_count,
            hosting_version=hosting_version,
        )
        self._started = (clock.now_ms(), clock.monotonic())

    def _record_log(self, index: int) -> RecordLog | None:
        partition = self._partition_of(index)
        return PartitionRecords(partition) if partition is not None else None

    def _made(self, log: RecordLog) -> GroupShard:
        return GroupShard(GroupLog(log, self._clock, self._entropy), self._kind, self._clock, self._memory)

    # Life

    async def start(self) -> None:
        """Load every partition of __consumer_offsets that is here."""
        await self._shards.follow()

    async def close(self) -> None:
        """Stop timers and writes; who waits is told."""
        await self._shards.close()

    @property
    def is_settled(self) -> bool:
        """Whether `ensure` has nothing to do."""
        return self._shards.is_settled

    async def ensure(self) -> None:
        """Create and load __consumer_offsets if it is missing (FindCoordinator)."""
        await self._shards.ensure()

    def resign(self, index: int) -> None:
        """This node does not lead a partition of __consumer_offsets any more."""
        self._shards.resign(index)

    # Membership

    async def beat(self, group_id: str, asked: BeatRequest) -> Beaten:
        """ConsumerGroupHeartbeat; what it changes is committed when it returns.  A member without an id gets one.

        Raises:
            NotServed
        """
        shard = await self._shards.for_writing(group_id)
        group = shard.state(group_id)
        if asked.epoch != JOIN_EPOCH and group is None:
            what = "Consumer group" if asked.epoch > JOIN_EPOCH else "Group"
            return Beaten(Code.GROUP_ID_NOT_FOUND, f"{what} {group_id} not found.")
        if asked.assignor is not None and asked.assignor not in self._rules.of_broker().assignors:
            known = ", ".join(self._rules.of_broker().assignors)
            message = f"ServerAssignor {asked.assignor} is not supported. Supported assignors: {known}."
            return Beaten(Code.UNSUPPORTED_ASSIGNOR, message)
        regexes = list(group.regexes) if isinstance(group, ConsumerGroup) else []
        if asked.regex:
            try:
                self._regexes.check(asked.regex)
            except Invalid as problem:
                return Beaten(Code.INVALID_REGULAR_EXPRESSION, str(problem))
            regexes.append(asked.regex)
        await self._regexes.resolve(regexes)
        is_new = asked.epoch == JOIN_EPOCH and self._memory.total > self._settings().number("hotlog.groups.max.bytes")
        if is_new:
            return Beaten(Code.COORDINATOR_NOT_AVAILABLE)  # it is asked again later
        token, said = shard.token(), vars(asked)
        event = Beat(token=token, **(said if asked.member_id else said | {"member_id": str(self._entropy.uuid())}))
        result: Beaten = await shard.ask(group_id, token, event)
        return result

    async def join(self, group_id: str, asked: JoinRequest) -> Joined:
        """JoinGroup; waits for the rebalance.

        Raises:
            NotServed
        """
        if not _is_group_id(group_id):
            return Joined(Code.INVALID_GROUP_ID, asked.member_id)
        shard = await self._shards.for_writing(group_id)
        group = shard.state(group_id)
        if asked.member_id and group is None:
            return Joined(Code.UNKNOWN_MEMBER_ID, asked.member_id)
        known = group.members.get(asked.member_id) if isinstance(group, Group) else None
        grows = protocol_bytes(asked.protocols) - (known.size if known is not None else 0)
        if grows + self._memory.total > self._settings().number("hotlog.groups.max.bytes"):
            return Joined(Code.COORDINATOR_NOT_AVAILABLE, asked.member_id)  # it is asked again later
        token = shard.token()
        fresh_id = f"{(asked.client_id if asked.instance_id is None else asked.instance_id)[:200]}-{self._entropy.uuid()}"
        event = Join(token=token, fresh_id=fresh_id, **vars(asked))
        result: Joined = await shard.ask(group_id, token, event)
        return result

    async def sync(
        self,
        group_id: str,
        *,
        member_id: str,
        instance_id: str | None,
        generation: int,
        protocol_type: str | None,
        protocol: str | None,
        assignments: Mapping[str, bytes],
    ) -> Synced:
        """SyncGroup; waits for the leader's assignment."""
        shard = self._shards.of(group_id)
        if shard.state(group_id) is None:
            return Synced(Code.UNKNOWN_MEMBER_ID)
        token = shard.token()
        event = Sync(
            token=token,
            member_id=member_id,
            instance_id=instance_id,
            generation=generation,
            protocol_type=protocol_type,
            protocol=protocol,
            assignments=assignments,
        )
        result: Synced = await shard.ask(group_id, token, event)
        return result

    def heartbeat(self, group_id: str, member_id: str, instance_id: str | None, generation: int) -> Code:
        """Heartbeat; while the group is being read the answer is yes, as Kafka's, since nobody's session runs."""
        try:
            shard = self._shards.of(group_id)
        except Loading:
            return Code.NONE
        if shard.state(group_id) is None:
            return Code.UNKNOWN_MEMBER_ID
        token = shard.token()
        event = Heartbeat(token=token, member_id=member_id, instance_id=instance_id, generation=generation)
        code: Code = shard.ask_now(group_id, token, event)
        return code

    def session_of(self, group_id: str, member_id: str, instance_id: str | None, generation: int) -> Session | None:
        """Of a member that has nothing to learn by its Heartbeat; None: ask `heartbeat`."""
        shard = self._shards.get(group_id)
        return None if shard is None else shard.session_of(group_id, member_id, instance_id, generation)

    async def leave(self, group_id: str, members: tuple[tuple[str, str | None], ...]) -> Left:
        """LeaveGroup."""
        shard = self._shards.of(group_id)
        if shard.state(group_id) is None:
            return Left(tuple((member_id, instance_id, Code.UNKNOWN_MEMBER_ID) for member_id, instance_id in members))
        token = shard.token()
        result: Left = await shard.ask(group_id, token, Leave(token=token, members=members))
        return result

    # Offsets

    async def commit(
        self,
        group_id: str,
        by: Committer,
        commits: Iterable[Commit],
        unknown: Code = Code.ILLEGAL_GENERATION,
    ) -> dict[tuple[str, int], Code]:
        """OffsetCommit: a code for each (topic, partition); committed when it returns.  `unknown` if a member's group is not there.

        Raises:
            NotServed, StorageFailed, DiskFull
        """
        wanted = list(commits)
        if not _is_group_id(group_id) and group_id != "":
            return {(commit.topic, commit.partition): Code.INVALID_GROUP_ID for commit in wanted}
        shard = await self._shards.for_writing(group_id)
        return await shard.commit(group_id, wanted, by, unknown=unknown, rules=self._rules.offsets())

    async def commit_in_transaction(
        self,
        group_id: str,
        commits: Iterable[Commit],
        producer: Producer,
        *,
        member_id: str,
        instance_id: str | None,
        generation: int,
    ) -> dict[tuple[str, int], Code]:
        """TxnOffsetCommit: a code for each (topic, partition); in the log when it returns, and to be seen when the transaction is committed.

        Raises:
            NotServed, StorageFailed, DiskFull
        """
        wanted = list(commits)
        if not _is_group_id(group_id):
            return {(commit.topic, commit.partition): Code.INVALID_GROUP_ID for commit in wanted}
        shard = await self._shards.for_writing(group_id)
        by = Committer(member_id, instance_id, generation, None)
        return await shard.commit_in_transaction(group_id, wanted, producer, by, rules=self._rules.offsets())

    async def end_transaction(self, index: int, marker: Marker, version: int) -> None:
        """Write the end of a transaction into a partition of __consumer_offsets, and show or forget the offsets that it had.

        Raises:
            NotServed, StorageFailed, DiskFull, NotReady: it is still to be ended.
            InvalidProducerEpoch, CoordinatorFenced
        """
        await self._shards.at(index).log.end_transaction(marker, version)

    def place_of(self, group_id: str) -> tuple[str, int]:
        """The partition that keeps the group.

        Raises:
            NotServed: there is no topic yet.
        """
        return TOPIC, self._shards.index_of(group_id)

    def is_pending(self, group_id: str, topic: str, partition: int) -> bool:
        """Whether an offset may still change by a transaction that has not ended (KIP-447).

        Raises:
            NotServed
        """
        return self._shards.exist and self._shards.of(group_id).log.is_pending(group_id, OffsetKey(group_id, topic, partition))

    def commits_of(self, group_id: str, by: Committer, topic: str, partition: int) -> Commits | None:
        """Of one partition by a group that is there, where nothing is wrong with it; see GroupShard.commits_of."""
        shard = self._shards.get(group_id)
        return None if shard is None else shard.commits_of(group_id, by, topic, partition, self._rules.offsets())

    def offsets(self, group_id: str) -> Mapping[tuple[str, int], OffsetValue]:
        """All committed offsets of a group, as they are when they are looked at.

        Raises:
            NotServed
        """
        if not self._shards.exist:
            return {}
        return self._shards.of(group_id).log.offsets(group_id)

    def fetch_code(self, group_id: str, member_id: str | None, epoch: int) -> Code:
        """Whether this member of a group of the new protocol may ask for offsets as of `epoch`; nobody has to say who it is.

        Raises:
            NotServed
        """
        group = self._shards.of(group_id).state(group_id) if self._shards.exist else None
        return checks.fetch_code(group, member_id, epoch) if isinstance(group, ConsumerGroup) else Code.NONE

    # Administration

    def describe(self, group_id: str) -> Described:
        """A group's state; GROUP_ID_NOT_FOUND (with an empty group) if it is unknown.

        Raises:
            NotServed
        """
        if not self._shards.exist:
            return Described(Group(group_id=group_id), Code.GROUP_ID_NOT_FOUND)
        shard = self._shards.of(group_id)
        group = shard.state(group_id)
        if group is not None:
            return Described(group.kept() if isinstance(group, Group) else group, Code.NONE)
        return Described(Group(group_id=group_id), Code.NONE if shard.log.has(group_id) else Code.GROUP_ID_NOT_FOUND)

    def all(self) -> list[AnyGroup]:
        """Every group that has members or records."""
        return [group.kept() if isinstance(group, Group) else group for group in all_groups(self._shards)]

    def kept_ids(self) -> list[str]:
        """Every group that has offsets or a record of its own."""
        return [group_id for shard in self._shards for group_id in shard.log.owners()]

    async def delete(self, group_id: str) -> Code:
        """DeleteGroups: only a group without members.

        Raises:
            NotServed, StorageFailed, DiskFull
        """
        if not _is_group_id(group_id) and group_id != "":
            return Code.INVALID_GROUP_ID
        if not self._shards.exist:
            return Code.GROUP_ID_NOT_FOUND
        return await self._shards.of(group_id).delete(group_id)

    async def delete_offsets(self, group_id: str, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Code]:
        """OffsetDelete (KIP-496): not for topics that a member still subscribes to.

        Raises:
            NotServed, StorageFailed, DiskFull
        """
        wanted = list(places)
        if not self._shards.exist:
            return {place: Code.GROUP_ID_NOT_FOUND for place in wanted}
        return await self._shards.of(group_id).delete_offsets(group_id, wanted, self._rules.offsets())

    async def forget_topic(self, topic: str) -> None:
        """A topic was deleted: its offsets mean nothing any more."""
        for shard in self._shards:
            await shard.forget_topic(topic)

    def _steady_now_ms(self) -> int:
        """Wall time that a step of the clock since the start cannot push forward: a wrong clock must not expire everything."""
        elapsed_ms = int((self._clock.monotonic() - self._started[1]) * 1000)
        return min(self._clock.now_ms(), self._started[0] + elapsed_ms)

    async def tick(self) -> bool:
        """One bounded piece of upkeep: follow who leads what, expire the offsets of groups that have been empty for long, keep the logs short.

        True if it found work: there may be more.  What fails is told and tried again.
        """
        await self._shards.follow()
        done = False
        retention_ms = self._settings().number("offsets.retention.minutes") * 60_000
        for shard in self._shards:
            try:
                has_worked = await shard.tick(self._steady_now_ms(), retention_ms)
            except (HotlogError, OSError) as failure:
                LOG.warning("upkeep of %s is tried again: %s", shard.log.log.name, failure)
                continue
            if has_worked:
                done = True
                await asyncio.sleep(0)
        return done


def _is_group_id(group_id: str) -> bool:
    return 0 < len(group_id.encode("utf-8", "replace")) <= GROUP_ID_BYTES_MAX
