"""The group coordinator: drives the group machines with timers and the log.

Groups are kept in __consumer_offsets (group_tables).  This module owns what the machines do not: futures for waiting requests, loop timers
(monotonic), and appends.

Invariants: a group changes only through `step`; effects are carried out in their order; a commit is answered after it is durable;
what is not loaded is answered COORDINATOR_LOAD_IN_PROGRESS, what cannot be read COORDINATOR_NOT_AVAILABLE.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from hotlog.coordinators.driver import GroupDriver, Live
from hotlog.coordinators.group_tables import GroupTables
from hotlog.coordinators.group_types import (
    Arm,
    Code,
    Group,
    Heartbeat,
    Join,
    Joined,
    Leave,
    Left,
    Limits,
    MemberDue,
    State,
    Sync,
    Synced,
    member_timer,
    protocol_bytes,
)
from hotlog.coordinators.offset_log import Entry, OffsetLog
from hotlog.coordinators.offset_records import GroupKey, OffsetKey, OffsetValue, subscribed_topics
from hotlog.kernel.errors import HotlogError
from hotlog.kernel.settings import Settings
from hotlog.log.partition_log import PartitionLog
from hotlog.world.ports import Clock, Entropy

LOG = logging.getLogger(__name__)
GROUP_ID_BYTES_MAX = 32_000
LOOKED_AT_ONCE = 256  # groups or offsets, in one turn of the loop


class Commit(NamedTuple):
    """One partition of an OffsetCommit; leader epoch -1 if not said."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int
    metadata: str | None


class Described(NamedTuple):
    """A group for DescribeGroups and ListGroups; `code` is not NONE if it is unknown."""

    group: Group
    code: Code


class GroupCoordinator:
    """All groups of this node.  The callables reach the broker: the log of a partition of __consumer_offsets, its creation, its number
    of partitions, and the number of partitions of any topic."""

    def __init__(
        self,
        *,
        settings: Callable[[], Settings],
        clock: Clock,
        entropy: Entropy,
        log_of: Callable[[int], PartitionLog | None],
        ensure_topic: Callable[[], Awaitable[None]],
        partition_count: Callable[[], int],
        topic_partitions: Callable[[str], int],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._entropy = entropy
        self._topic_partitions = topic_partitions
        self._driver = GroupDriver(self._limits, clock)
        self._tables = GroupTables(
            clock=clock,
            log_of=log_of,
            ensure_topic=ensure_topic,
            partition_count=partition_count,
            found=self._driver.revive,
        )
        self._started = (clock.now_ms(), clock.monotonic())

    # Life

    async def start(self) -> None:
        """Load every partition of __consumer_offsets that is here."""
        await self._tables.load()

    async def close(self) -> None:
        """Stop timers; waiting requests end with their connections."""
        await self._driver.close()

    async def ensure(self) -> None:
        """Create and load __consumer_offsets if it is missing (FindCoordinator)."""
        await self._tables.ensure()

    def _limits(self) -> Limits:
        settings = self._settings()
        return Limits(
            settings.number("group.min.session.timeout.ms"),
            settings.number("group.max.session.timeout.ms"),
            settings.number("group.initial.rebalance.delay.ms"),
            settings.number("group.max.size"),
            settings.number("hotlog.group.max.bytes"),
        )

    # Membership

    async def join(
        self,
        group_id: str,
        *,
        member_id: str,
        instance_id: str | None,
        client_id: str,
        client_host: str,
        session_timeout_ms: int,
        rebalance_timeout_ms: int,
        protocol_type: str,
        protocols: tuple[tuple[str, bytes], ...],
        needs_known_id: bool,
        can_skip_assignment: bool,
    ) -> Joined:
        """JoinGroup; waits for the rebalance.

        Raises:
            GroupNotServed
        """
        if not _is_group_id(group_id):
            return Joined(Code.INVALID_GROUP_ID, member_id)
        table = await self._tables.for_writing(group_id)
        live = self._driver.live.get(group_id)
        if member_id and live is None:
            return Joined(Code.UNKNOWN_MEMBER_ID, member_id)
        known = live.group.members.get(member_id) if live is not None else None
        grows = protocol_bytes(protocols) - (known.size if known is not None else 0)
        if grows + self._driver.member_bytes.total > self._settings().number("hotlog.groups.max.bytes"):
            return Joined(Code.COORDINATOR_NOT_AVAILABLE, member_id)  # it is asked again later
        live = self._driver.made(group_id, table)
        token = self._driver.token()
        event = Join(
            token=token,
            member_id=member_id,
            fresh_id=f"{(instance_id or client_id)[:200]}-{self._entropy.uuid()}",
            instance_id=instance_id,
            client_id=client_id,
            client_host=client_host,
            session_timeout_ms=session_timeout_ms,
            rebalance_timeout_ms=rebalance_timeout_ms,
            protocol_type=protocol_type,
            protocols=protocols,
            needs_known_id=needs_known_id,
            can_skip_assignment=can_skip_assignment,
        )
        result: Joined = await self._driver.ask(live, token, event)
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
        live = self._known(group_id)
        if live is None:
            return Synced(Code.UNKNOWN_MEMBER_ID)
        token = self._driver.token()
        event = Sync(
            token=token,
            member_id=member_id,
            instance_id=instance_id,
            generation=generation,
            protocol_type=protocol_type,
            protocol=protocol,
            assignments=assignments,
        )
        result: Synced = await self._driver.ask(live, token, event)
        return result

    def heartbeat(self, group_id: str, member_id: str, instance_id: str | None, generation: int) -> Code:
        """Heartbeat."""
        live = self._known(group_id)
        if live is None:
            return Code.UNKNOWN_MEMBER_ID
        token = self._driver.token()
        event = Heartbeat(token=token, member_id=member_id, instance_id=instance_id, generation=generation)
        code = self._driver.ask_now(live, token, event)
        assert isinstance(code, Code)
        return code

    def leave(self, group_id: str, members: tuple[tuple[str, str | None], ...]) -> Left:
        """LeaveGroup."""
        live = self._known(group_id)
        if live is None:
            return Left(tuple((member_id, instance_id, Code.UNKNOWN_MEMBER_ID) for member_id, instance_id in members))
        token = self._driver.token()
        result = self._driver.ask_now(live, token, Leave(token=token, members=members))
        assert isinstance(result, Left)
        return result

    def _known(self, group_id: str) -> Live | None:
        self._tables.of(group_id)
        return self._driver.live.get(group_id)

    # Offsets

    async def commit(
        self, group_id: str, *, member_id: str, instance_id: str | None, generation: int, commits: Iterable[Commit]
    ) -> dict[tuple[str, int], Code]:
        """OffsetCommit: a code for each (topic, partition); durable when it returns.

        Raises:
            GroupNotServed, StorageFailed, DiskFull
        """
        wanted = list(commits)
        if not _is_group_id(group_id) and group_id != "":
            return {(commit.topic, commit.partition): Code.INVALID_GROUP_ID for commit in wanted}
        table = await self._tables.for_writing(group_id)
        codes: dict[tuple[str, int], Code] = {}
        for at in range(0, max(len(wanted), 1), LOOKED_AT_ONCE):  # no offsets at all is a heartbeat still
            if at:
                await asyncio.sleep(0)
            some = wanted[at : at + LOOKED_AT_ONCE]
            code = self._commit_refusal(group_id, member_id, instance_id, generation)  # a group moves on between two slices
            if code is not Code.NONE:
                codes.update({(commit.topic, commit.partition): code for commit in some})
                continue
            entries: list[Entry] = []
            codes.update(self._checked(group_id, some, entries))
            if entries:
                self._driver.made(group_id, table)
                await table.append(entries)
        return codes

    def _checked(self, group_id: str, commits: Sequence[Commit], entries: list[Entry]) -> Iterator[tuple[tuple[str, int], Code]]:
        """A code for each; what is to be written is added to `entries`."""
        metadata_max = min(self._settings().number("offset.metadata.max.bytes"), GROUP_ID_BYTES_MAX)
        now_ms = self._clock.now_ms()
        for commit in commits:
            metadata = commit.metadata or ""
            place = (commit.topic, commit.partition)
            if not 0 <= commit.partition < self._topic_partitions(commit.topic):
                yield place, Code.UNKNOWN_TOPIC_OR_PARTITION
            elif len(metadata.encode("utf-8", "replace")) > metadata_max:
                yield place, Code.OFFSET_METADATA_TOO_LARGE
            else:
                value = OffsetValue(commit.offset, commit.leader_epoch, metadata, now_ms)
                entries.append((OffsetKey(group_id, *place), value))
                yield place, Code.NONE

    def _commit_refusal(self, group_id: str, member_id: str, instance_id: str | None, generation: int) -> Code:
        live = self._driver.live.get(group_id)
        if live is None:
            return Code.NONE if generation < 0 else Code.ILLEGAL_GENERATION
        group = live.group
        if generation < 0 and group.state is State.EMPTY:
            return Code.NONE
        if generation < 0 and not member_id and instance_id is None:
            return Code.UNKNOWN_MEMBER_ID
        if instance_id is not None and group.static.get(instance_id, member_id) != member_id:
            return Code.FENCED_INSTANCE_ID
        member = group.members.get(member_id)
        if member is None:
            return Code.UNKNOWN_MEMBER_ID
        if generation != group.generation:
            return Code.ILLEGAL_GENERATION
        if member.join_token is None and member.sync_token is None:
            self._driver.arm(live, Arm(member_timer(member_id), member.session_timeout_ms, MemberDue(member_id)))
        return Code.REBALANCE_IN_PROGRESS if group.state is State.COMPLETING else Code.NONE

    def offsets(self, group_id: str) -> Mapping[tuple[str, int], OffsetValue]:
        """All committed offsets of a group, as they are when they are looked at.

        Raises:
            GroupNotServed
        """
        if not self._tables.exist:
            return {}
        return self._tables.of(group_id).offsets(group_id)

    # Administration

    def describe(self, group_id: str) -> Described:
        """A group's state; GROUP_ID_NOT_FOUND (with an empty group) if it is unknown."""
        live = self._driver.live.get(group_id) if not self._tables.exist else self._known(group_id)
        if live is not None:
            return Described(live.group, Code.NONE)
        code = Code.NONE if self._tables.exist and self._tables.of(group_id).has(group_id) else Code.GROUP_ID_NOT_FOUND
        return Described(Group(group_id=group_id), code)

    def all(self) -> list[Group]:
        """Every group that has members or offsets."""
        found = {group_id: live.group for group_id, live in self._driver.live.items()}
        for table in self._tables:
            for group_id in table.group_ids():
                found.setdefault(group_id, Group(group_id=group_id))
        return [found[group_id] for group_id in sorted(found)]

    def kept_ids(self) -> list[str]:
        """Every group that has offsets or a record of its own."""
        return [group_id for table in self._tables for group_id in table.group_ids()]

    async def delete(self, group_id: str) -> Code:
        """DeleteGroups: only a group without members."""
        if not _is_group_id(group_id):
            return Code.INVALID_GROUP_ID
        if not self._tables.exist:
            return Code.GROUP_ID_NOT_FOUND
        table = self._tables.of(group_id)
        live = self._driver.live.get(group_id)
        if live is not None and live.group.state is not State.EMPTY:
            return Code.NON_EMPTY_GROUP
        if live is None and not table.has(group_id):
            return Code.GROUP_ID_NOT_FOUND
        await self._forget(group_id, table)
        return Code.NONE

    async def _forget(self, group_id: str, table: OffsetLog) -> None:
        live = self._driver.live.get(group_id)
        before = live.group if live is not None else None
        entries: list[Entry] = [(OffsetKey(group_id, *place), None) for place in table.offsets(group_id)]
        if table.group(group_id) is not None:
            entries.append((GroupKey(group_id), None))
        await table.append(entries)
        if live is not None and live.group is before and self._driver.live.get(group_id) is live:  # nobody joined meanwhile
            self._driver.drop(live)

    async def delete_offsets(self, group_id: str, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Code]:
        """OffsetDelete (KIP-496): not for topics that a member still subscribes to.

        Raises:
            GroupNotServed
        """
        wanted = list(places)
        described = self.describe(group_id)
        if described.code is not Code.NONE:
            return {place: described.code for place in wanted}
        topics: frozenset[str] | None = frozenset()
        if described.group.state is not State.EMPTY:
            topics = subscribed_topics(described.group)
            if topics is None:
                return {place: Code.NON_EMPTY_GROUP for place in wanted}
        table = self._tables.of(group_id)
        known = table.offsets(group_id)
        codes = {}
        for at in range(0, len(wanted), LOOKED_AT_ONCE):
            if at:
                await asyncio.sleep(0)
            gone: list[Entry] = []
            for place in wanted[at : at + LOOKED_AT_ONCE]:
                is_subscribed = place[0] in (topics or ())
                codes[place] = Code.GROUP_SUBSCRIBED_TO_TOPIC if is_subscribed else Code.NONE
                if not is_subscribed and place in known:
                    gone.append((OffsetKey(group_id, *place), None))
            await table.append(gone)
        self._driver.changed(group_id)
        return codes

    async def forget_topic(self, topic: str) -> None:
        """A topic was deleted: its offsets mean nothing any more."""
        for table in self._tables:
            looked_at = 0
            for group_id in table.group_ids():
                known = list(table.offsets(group_id))
                gone: list[Entry] = [(OffsetKey(group_id, *place), None) for place in known if place[0] == topic]
                if gone:
                    await table.append(gone)
                    self._driver.changed(group_id)
                looked_at += len(known)
                if looked_at >= LOOKED_AT_ONCE:
                    looked_at = 0
                    await asyncio.sleep(0)

    def _steady_now_ms(self) -> int:
        """Wall time that a step of the clock since the start cannot push forward: a wrong clock must not expire everything."""
        elapsed_ms = int((self._clock.monotonic() - self._started[1]) * 1000)
        return min(self._clock.now_ms(), self._started[0] + elapsed_ms)

    async def tick(self) -> bool:
        """One bounded piece of upkeep: expire the offsets of groups that have been empty for long, keep the logs short.

        True if it found work: there may be more.  What fails is told and tried again.
        """
        done = self._driver.sweep(LOOKED_AT_ONCE)
        for table in self._tables:
            try:
                has_worked = await self._expire(table)
                has_worked = await table.checkpoint_some() or has_worked
            except (HotlogError, OSError) as failure:
                LOG.warning("upkeep of %s is tried again: %s", table.log.tp, failure)
                continue
            if has_worked:
                done = True
                await asyncio.sleep(0)
        return done

    async def _expire(self, table: OffsetLog) -> bool:
        """Look at the groups that may be past retention, a bounded number of them."""
        now_ms = self._steady_now_ms()
        oldest_ms = now_ms - self._settings().number("offsets.retention.minutes") * 60_000
        taken = table.ages.take(oldest_ms, LOOKED_AT_ONCE)
        for group_id in taken:
            newest_ms = table.newest_ms(group_id)
            if newest_ms is not None:  # put back also if it expires now: that may fail
                table.ages.put(group_id, now_ms if self._is_in_use(group_id) else newest_ms)
        for group_id in taken:
            newest_ms = table.newest_ms(group_id)
            if newest_ms is not None and newest_ms < oldest_ms and not self._is_in_use(group_id):
                await self._forget(group_id, table)
        return bool(taken)

    def _is_in_use(self, group_id: str) -> bool:
        live = self._driver.live.get(group_id)
        return live is not None and (live.group.state is not State.EMPTY or bool(live.group.pending))


def _is_group_id(group_id: str) -> bool:
    return 0 < len(group_id.encode("utf-8", "replace")) <= GROUP_ID_BYTES_MAX
