"""The groups of one partition of __consumer_offsets: their members, and what they committed.

Invariants: a commit is answered after it is committed to the log; wide requests are done in slices, and the group is looked at anew in
each; offsets of a group that is in use do not expire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple
from uuid import UUID

from hotlog.coordinators.consumer import checks
from hotlog.coordinators.consumer.machine import AnyGroup
from hotlog.coordinators.consumer.records import FORGOTTEN_IN, ConsumerKey
from hotlog.coordinators.consumer.values import ConsumerGroup
from hotlog.coordinators.group_checks import commit_code, heartbeat_code, transactional_commit_code, who_lives
from hotlog.coordinators.group_handles import Commits, Session
from hotlog.coordinators.group_kind import GroupKind, is_empty, is_unused
from hotlog.coordinators.group_log import GroupLog
from hotlog.coordinators.group_types import Code, CommitCheck, Group, State
from hotlog.coordinators.keyed_log import Producer, Told
from hotlog.coordinators.offset_records import STRING_BYTES_MAX, GroupKey, Key, OffsetKey, OffsetValue, Value, subscribed_topics
from hotlog.coordinators.shard import Memory, Shard
from hotlog.world.ports import Clock

LOOKED_AT_ONCE = 256  # groups or offsets, in one turn of the loop
EXPIRY_INTERVAL_MS = 600_000  # Kafka's offsets.retention.check.interval.ms

Entry = tuple[Key, Value | None]
Place = tuple[str, int]  # topic, partition


class Commit(NamedTuple):
    """One partition of an OffsetCommit; leader epoch -1 if not said."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int
    metadata: str | None


class OffsetRules(NamedTuple):
    """What may be committed: `partitions_of` a topic there are, bytes of metadata; and the id of a topic."""

    partitions_of: Callable[[str], int]
    metadata_bytes_max: int
    topic_id_of: Callable[[str], UUID | None]


class Committer(NamedTuple):
    """Who commits: a member, as of its generation or epoch (-1: a simple consumer), by this version of OffsetCommit (None: in a transaction)."""

    member_id: str
    instance_id: str | None
    generation: int
    version: int | None


class GroupShard(Shard[AnyGroup, Key, Value]):
    """The groups of one partition."""

    log: GroupLog

    def __init__(self, log: GroupLog, kind: GroupKind, clock: Clock, memory: Memory) -> None:
        super().__init__(log, kind, clock, memory)
        self._to_look_at: list[str] = []  # groups, for offsets that nobody wants any more
        self._look_again_ms = 0

    # Members

    def session_of(self, group_id: str, member_id: str, instance_id: str | None, generation: int) -> Session | None:
        """Of a member whose Heartbeat is answered NONE; None if it is not, or not at once."""
        live = self._live.get(group_id)
        if live is None or not isinstance(live.state, Group):
            return None
        if heartbeat_code(live.state, member_id, instance_id, generation) is not Code.NONE:
            return None
        return Session(live, live.state.members[member_id].session)

    # Offsets

    async def commit(
        self,
        group_id: str,
        commits: Sequence[Commit],
        by: Committer,
        *,
        unknown: Code,
        rules: OffsetRules,
    ) -> dict[Place, Code]:
        """OffsetCommit: a code for each (topic, partition); `unknown` where a member names a group that is not there."""
        codes: dict[Place, Code] = {}
        for at in range(0, max(len(commits), 1), LOOKED_AT_ONCE):  # no offsets at all is a heartbeat still
            if at:
                await self.give_way()
            some = commits[at : at + LOOKED_AT_ONCE]
            code = unknown if by.generation >= 0 else Code.NONE
            if self.state(group_id) is not None:  # looked at again: a group moves on between two slices
                code = self._commit_refusal(group_id, by, commits, rules)
            if code is not Code.NONE:
                codes.update({(commit.topic, commit.partition): code for commit in some})
                continue
            entries: list[Entry] = []
            codes.update(self._checked(group_id, some, rules, entries))
            if entries:
                self.make(group_id)
                # In use from now on: its expiry must not pass a commit that waits for the disk.
                self.log.ages.put(group_id, self._clock.now_ms())
                await self.log.append(entries)
        return codes

    async def commit_in_transaction(
        self,
        group_id: str,
        commits: Sequence[Commit],
        producer: Producer,
        by: Committer,
        *,
        rules: OffsetRules,
    ) -> dict[Place, Code]:
        """TxnOffsetCommit: a code for each (topic, partition).  The offsets are shown when the transaction of `producer` is committed."""
        group = self.state(group_id)
        if group is not None:
            code = _commit_code(group, by, commits, rules)
        else:
            code = Code.ILLEGAL_GENERATION if by.generation >= 0 else Code.NONE
        if code is not Code.NONE:
            return {(commit.topic, commit.partition): code for commit in commits}
        entries: list[Entry] = []
        codes = dict(self._checked(group_id, commits, rules, entries))
        if entries:
            self.make(group_id)
            self.log.ages.put(group_id, self._clock.now_ms())
            await self.log.append(entries, producer)
        return codes

    def commits_of(self, group_id: str, by: Committer, topic: str, partition: int, rules: OffsetRules) -> Commits | None:
        """Of one partition, where an OffsetCommit is answered NONE; None if it is not, or not at once."""
        live = self._live.get(group_id)
        if live is None or _commit_code(live.state, by, (Commit(topic, partition, 0, -1, None),), rules) is not Code.NONE:
            return None
        if not 0 <= partition < rules.partitions_of(topic):
            return None
        member = who_lives(live.state, by.member_id, Code.NONE) if isinstance(live.state, Group) else None
        metadata_bytes_max = min(rules.metadata_bytes_max, STRING_BYTES_MAX)
        return Commits(self, live, OffsetKey(group_id, topic, partition), member.session if member else None, metadata_bytes_max)

    def commit_now(self, key: OffsetKey, offset: int, leader_epoch: int, metadata: str, told: Told) -> bool | None:
        """Write one offset; see `Commits.add`."""
        now_ms = self._clock.now_ms()
        is_done = self.log.append_now(key, OffsetValue(offset, leader_epoch, metadata, now_ms), told)
        if is_done is not None:
            self.make(key.group_id)
            self.log.ages.put(key.group_id, now_ms)
        return is_done

    def _commit_refusal(self, group_id: str, by: Committer, commits: Sequence[Commit], rules: OffsetRules) -> Code:
        state = self.state(group_id)
        if isinstance(state, ConsumerGroup):
            return _commit_code(state, by, commits, rules)
        token = self.token()
        event = CommitCheck(token=token, member_id=by.member_id, instance_id=by.instance_id, generation=by.generation)
        code: Code = self.ask_now(group_id, token, event)
        return code

    def _checked(
        self, group_id: str, commits: Sequence[Commit], rules: OffsetRules, entries: list[Entry]
    ) -> Iterator[tuple[Place, Code]]:
        """A code for each; what is to be written is added to `entries`."""
        metadata_max = min(rules.metadata_bytes_max, STRING_BYTES_MAX)
        now_ms = self._clock.now_ms()
        for commit in commits:
            metadata = commit.metadata or ""
            place = (commit.topic, commit.partition)
            if not 0 <= commit.partition < rules.partitions_of(commit.topic):
                yield place, Code.UNKNOWN_TOPIC_OR_PARTITION
            elif len(metadata.encode("utf-8", "replace")) > metadata_max:
                yield place, Code.OFFSET_METADATA_TOO_LARGE
            else:
                value = OffsetValue(commit.offset, commit.leader_epoch, metadata, now_ms)
                entries.append((OffsetKey(group_id, *place), value))
                yield place, Code.NONE

    async def delete_offsets(self, group_id: str, places: Sequence[Place], rules: OffsetRules) -> dict[Place, Code]:
        """OffsetDelete (KIP-496): not for topics that a member still subscribes to."""
        codes: dict[Place, Code] = {}
        for at in range(0, len(places), LOOKED_AT_ONCE):
            if at:
                await self.give_way()
            some = places[at : at + LOOKED_AT_ONCE]
            refusal, topics = self._delete_refusal(group_id)
            gone: list[Entry] = []
            known = self.log.offsets(group_id)
            for place in some:
                if refusal is not Code.NONE:
                    codes[place] = refusal
                elif not 0 <= place[1] < rules.partitions_of(place[0]):
                    codes[place] = Code.UNKNOWN_TOPIC_OR_PARTITION
                else:
                    is_subscribed = topics is None or place[0] in topics
                    codes[place] = Code.GROUP_SUBSCRIBED_TO_TOPIC if is_subscribed else Code.NONE
                if codes[place] is Code.NONE and place in known:
                    gone.append((OffsetKey(group_id, *place), None))
            await self.log.append(gone)
        self.note_records_gone(group_id)
        return codes

    def _delete_refusal(self, group_id: str) -> tuple[Code, frozenset[str] | None]:
        """Why no offset of the group may be deleted, or else those of which topics may not (None: of none)."""
        group = self.state(group_id)
        if group is None:
            return (Code.NONE if self.log.has(group_id) else Code.GROUP_ID_NOT_FOUND), frozenset()
        if is_empty(group):
            return Code.NONE, frozenset()
        if isinstance(group, ConsumerGroup):
            return Code.NONE, frozenset(group.topics())
        if group.protocol_type != "consumer":  # what its members use cannot be told
            return Code.NON_EMPTY_GROUP, frozenset()
        return Code.NONE, subscribed_topics(group)

    async def forget_topic(self, topic: str) -> None:
        """A topic was deleted: its offsets mean nothing any more."""
        looked_at = 0
        for group_id in self.log.owners():
            known = list(self.log.offsets(group_id))
            gone: list[Entry] = [(OffsetKey(group_id, *place), None) for place in known if place[0] == topic]
            if gone:
                await self.log.append(gone)
                self.note_records_gone(group_id)
            looked_at += len(known)
            if looked_at >= LOOKED_AT_ONCE:
                looked_at = 0
                await asyncio.sleep(0)

    # Groups

    async def delete(self, group_id: str) -> Code:
        """DeleteGroups: only a group without members."""
        group = self.state(group_id)
        if group is None and not self.log.has(group_id):
            return Code.GROUP_ID_NOT_FOUND
        if group is not None and not is_empty(group):
            return Code.NON_EMPTY_GROUP
        return Code.NONE if await self._forget(group_id, lambda: self.state(group_id) is group) else Code.NON_EMPTY_GROUP

    async def _forget(self, group_id: str, may_go_on: Callable[[], bool]) -> bool:
        """Delete all records of a group in slices, itself the last, and then the group; False if it may not `go_on` meanwhile."""
        before = self.state(group_id)
        keys = self.log.keys(group_id)
        keys.sort(key=_forgotten_at)
        for at in range(0, len(keys), LOOKED_AT_ONCE):
            if at:
                await self.give_way()
            if not may_go_on():
                return False
            some = keys[at : at + LOOKED_AT_ONCE]
            await self.log.append([(key, None) for key in some if self.log.value(group_id, key) is not None])
        self.drop(group_id, before)  # unless somebody joined meanwhile
        return True

    async def tick(self, now_ms: int, retention_ms: int) -> bool:
        """One bounded piece of upkeep; whether there was any.  Groups that are not in use, and were not for `retention_ms`, are forgotten.

        Raises:
            StorageFailed, DiskFull: tried again by the next call.
        """
        has_swept = self.sweep(LOOKED_AT_ONCE)
        has_expired = await self._expire(now_ms, now_ms - retention_ms)
        await self._expire_unwanted(now_ms, now_ms - retention_ms)
        return self.log.keep_short() or has_expired or has_swept

    async def _expire(self, now_ms: int, before_ms: int) -> bool:
        """Look at the groups that may be past retention, a bounded number of them."""
        ages = self.log.ages
        if not ages.is_due(before_ms):
            return False
        taken = ages.take_due(before_ms, LOOKED_AT_ONCE)
        for group_id, newest_ms in taken:
            if self.log.has(group_id):  # put back also if it expires now: that may fail
                ages.put(group_id, newest_ms)

        def is_past(group_id: str) -> bool:
            newest_ms = ages.newest_ms(group_id)
            return newest_ms is not None and newest_ms < before_ms and not self._is_in_use(group_id)

        for group_id, _ in taken:
            if is_past(group_id):
                await self._forget(group_id, partial(is_past, group_id))
            elif self._is_in_use(group_id):
                ages.put(group_id, now_ms)
        return True

    async def _expire_unwanted(self, now_ms: int, before_ms: int) -> None:
        """Forget offsets of topics that a group in use does not subscribe to any more and that were committed before; some groups in turn."""
        if not self._to_look_at and now_ms >= self._look_again_ms:
            self._look_again_ms = now_ms + EXPIRY_INTERVAL_MS
            self._to_look_at = self.log.owners()
        looked_at = 0
        while self._to_look_at and looked_at < LOOKED_AT_ONCE:
            group_id = self._to_look_at.pop()
            looked_at += 1
            wanted = _wanted_topics(self.state(group_id))
            if wanted is None:
                continue
            offsets = self.log.offsets(group_id)
            looked_at += len(offsets)
            old = [
                OffsetKey(group_id, *place)
                for place, value in offsets.items()
                if place[0] not in wanted and value.commit_ms < before_ms
            ]
            gone: list[Entry] = [(key, None) for key in old if not self.log.is_pending(group_id, key)]
            if gone:
                await self.log.append(gone)

    def _is_in_use(self, group_id: str) -> bool:
        if self.log.has_pending(group_id):
            return True
        group = self.state(group_id)
        return group is not None and not is_unused(group)


def _commit_code(group: AnyGroup, by: Committer, commits: Iterable[Commit], rules: OffsetRules) -> Code:
    if isinstance(group, Group):
        check = commit_code if by.version is not None else transactional_commit_code
        return check(group, by.member_id, by.instance_id, by.generation)
    places = ((rules.topic_id_of(commit.topic), commit.partition) for commit in commits)
    return checks.commit_code(group, by.member_id, by.generation, by.version, places)


def _wanted_topics(group: AnyGroup | None) -> Collection[str] | None:
    """Topics that members subscribe to; None where offsets go with the whole group, or that cannot be told."""
    if group is None or is_unused(group):
        return None
    if isinstance(group, ConsumerGroup):
        return group.topics()
    return subscribed_topics(group) if group.state is State.STABLE else None


def _forgotten_at(key: Key) -> int:
    """The place of a record in the order in which a group is forgotten: offsets first, the group itself last."""
    if isinstance(key, ConsumerKey):
        return 1 + FORGOTTEN_IN.index(key.kind)
    return 1 + len(FORGOTTEN_IN) if isinstance(key, GroupKey) else 0


def all_groups(shards: Iterable[GroupShard]) -> Iterator[AnyGroup]:
    """Every group that has members or records, by id."""
    found: dict[str, AnyGroup] = {}
    for shard in shards:
        found.update(shard.states())
        for group_id in shard.log.owners():
            if group_id not in found:
                found[group_id] = Group(group_id=group_id)
    for group_id in sorted(found):
        yield found[group_id]
