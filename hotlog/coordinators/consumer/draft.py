"""A consumer group while one event is applied to it: the moves that events share, and what they write.

Invariants: pure; `entries` are what takes the group from what it was to what it is, in the order in which Kafka writes them; only what an event
touches is copied.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from uuid import UUID

from hotlog.coordinators.consumer.assignors import ASSIGNORS, Wish
from hotlog.coordinators.consumer.reconcile import reconciled
from hotlog.coordinators.consumer.records import ConsumerKey, ConsumerValue, GroupEpoch, Kind, TargetEpoch
from hotlog.coordinators.consumer.values import (
    ConsumerGroup,
    Current,
    Member,
    MemberState,
    Parts,
    Refused,
    Resolved,
    RevokeDue,
    Rules,
    Said,
    Subscription,
    Target,
    owned_size,
)
from hotlog.coordinators.effects import Arm, Disarm, Effect
from hotlog.coordinators.group_types import Code, MemberDue, member_timer
from hotlog.coordinators.offset_records import Key, Value

NOTHING = Current()


def revoke_timer(member_id: str) -> tuple[str, str]:
    return ("revoke", member_id)


def rejoin_timer(member_id: str) -> tuple[str, str]:
    return ("rejoin", member_id)


def sync_timer(member_id: str) -> tuple[str, str]:
    return ("sync", member_id)


class Draft:
    """The group so far, the effects, and what is to be written."""

    def __init__(self, group: ConsumerGroup, rules: Rules) -> None:
        self.group = group
        self.rules = rules
        self.effects: list[Effect] = []
        self.entries: list[tuple[Key, Value | None]] = []
        self._own: set[str] = set()
        self._own_topics: set[UUID] = set()

    # Small moves

    def set(self, **changes: Any) -> None:
        self.group = replace(self.group, **changes)

    def own(self, name: str) -> dict[Any, Any]:
        """A mapping of the group, copied once in a step, to change in place."""
        if name not in self._own:
            self._own.add(name)
            self.set(**{name: dict(getattr(self.group, name))})
        mapping: dict[Any, Any] = getattr(self.group, name)
        return mapping

    def write(self, kind: Kind, value: ConsumerValue | None, name: str = "") -> None:
        self.entries.append((ConsumerKey(self.group.group_id, kind, name), value))

    # Members

    def put(self, member: Member) -> None:
        """Take over a member as it is now, and write what is new of it."""
        member_id = member.member_id
        old = self.group.members.get(member_id)
        if old is None or old.said != member.said:
            self.write(Kind.MEMBER, member.said, member_id)
            if old is not None:
                self._count(old.said, -1, member_id)
            self._count(member.said, 1, member_id)
        before = old.current if old is not None else NOTHING
        if before != member.current:
            self.write(Kind.CURRENT, member.current, member_id)
            self._release(before)
            self._take(member.current, member_id)
        self.own("members")[member_id] = member

    def remove(self, *gone: Member) -> None:
        """Take members out; the rest is as it was."""
        for member in gone:
            member_id = member.member_id
            self.write(Kind.CURRENT, None, member_id)
            self.write(Kind.TARGET, None, member_id)
            self.write(Kind.MEMBER, None, member_id)
            self._release(member.current)
            self._count(member.said, -1, member_id)
            del self.own("members")[member_id]
            self.own("targets").pop(member_id, None)
            for timer in (member_timer(member_id), revoke_timer(member_id), rejoin_timer(member_id), sync_timer(member_id)):
                self.effects.append(Disarm(timer))
        self.set(rejoining=self.group.rejoining.difference(member.member_id for member in gone))

    def forget_regexes(self) -> None:
        """Expressions that nobody has any more."""
        had = {regex for _, regex in self.group.subscriptions}
        for regex in [regex for regex in self.group.regexes if regex not in had]:
            self.write(Kind.REGEX, None, regex)
            del self.own("regexes")[regex]

    def _count(self, said: Said, by: int, member_id: str) -> None:
        subscriptions, key = self.own("subscriptions"), (said.topics, said.regex)
        subscriptions[key] = subscriptions.get(key, 0) + by
        if not subscriptions[key]:
            del subscriptions[key]
        self.set(size=self.group.size + by * said.size, classic=self.group.classic + by * (said.classic is not None))
        for name in {name for name, _ in said.classic.protocols} if said.classic is not None else ():
            known_by = self.own("known_by")
            known_by[name] = known_by.get(name, 0) + by
        if said.instance_id is not None:
            if by > 0:
                self.own("static")[said.instance_id] = member_id
            elif self.group.static.get(said.instance_id) == member_id:
                del self.own("static")[said.instance_id]

    def _owners_of(self, topic_id: UUID) -> dict[int, str]:
        owners = self.own("owners")
        if topic_id not in self._own_topics:
            self._own_topics.add(topic_id)
            owners[topic_id] = dict(owners.get(topic_id, {}))
        found: dict[int, str] = owners[topic_id]
        return found

    def _release(self, current: Current) -> None:
        for topic_id, index in current.held():
            del self._owners_of(topic_id)[index]
        self.set(size=self.group.size - owned_size(current))

    def _take(self, current: Current, member_id: str) -> None:
        for topic_id, index in current.held():
            owners = self._owners_of(topic_id)
            assert index not in owners, f"partition {index} of {topic_id} is {owners[index]}'s"
            owners[index] = member_id
        self.set(size=self.group.size + owned_size(current))

    def arm_session(self, member: Member) -> None:
        """A member was heard of."""
        session_ms = member.said.classic.session_ms if member.said.classic is not None else self.rules.session_ms
        self.effects.append(Arm(member_timer(member.member_id), session_ms, MemberDue(member.member_id)))

    # Epochs

    def bump(self) -> None:
        """The target must be computed anew."""
        value = topics_hash(self.group, self.rules)
        self.set(epoch=self.group.epoch + 1, hash=value, seen=self.rules.image.offset)
        self.write(Kind.GROUP, GroupEpoch(self.group.epoch, value))

    def look_around(self, *, has_changed: bool) -> None:
        """A new epoch if the subscriptions `has_changed`, or the topics have."""
        image, group = self.rules.image, self.group
        if has_changed or group.assignment_epoch == 0:
            self.bump()
            return
        if group.seen == image.offset:
            return
        touched = image.touched_since(group.seen) if group.seen >= 0 else None
        is_same = touched is not None and not group.regexes and touched.isdisjoint(group.topics())
        has_matched = not is_same and self._match_again()
        if has_matched or (not is_same and topics_hash(self.group, self.rules) != group.hash):
            self.bump()
        else:
            self.set(seen=image.offset)

    def _match_again(self) -> bool:
        """Whether an expression matches other topics than before."""
        has_changed = False
        for regex, before in self.group.regexes.items():
            found = self.rules.resolved.get(regex, before)
            if found.topics != before.topics:
                self.resolve(regex, found)
                has_changed = True
        return has_changed

    def resolve(self, regex: str, found: Resolved) -> None:
        """Take over what an expression matches."""
        self.write(Kind.REGEX, found, regex)
        self.own("regexes")[regex] = found

    # Targets

    @property
    def is_target_due(self) -> bool:
        """Whether the target is to be computed: not more often than group.consumer.assignment.interval.ms (KIP-1263)."""
        group, rules = self.group, self.rules
        if group.epoch <= group.assignment_epoch:
            return False
        elapsed_ms = rules.now_ms - group.assigned_ms
        return group.assignment_epoch == 0 or not 0 <= elapsed_ms < rules.assignment_interval_ms

    def retarget(self) -> None:
        """Compute what each member is to have, and write what is new."""
        group, topics = self.group, self.rules.image.topics
        ids: dict[Subscription, frozenset[UUID]] = {}
        wishes: dict[str, Wish] = {}
        for member_id, member in group.members.items():
            key = (member.said.topics, member.said.regex)
            if key not in ids:
                ids[key] = self.wanted(member.said)
            wishes[member_id] = Wish(member.said.instance_id, ids[key], group.target(member_id).parts)
        counts = {topics[name].topic_id: len(topics[name].partitions) for name in group.topics() if name in topics}
        given = ASSIGNORS[self.assignor](wishes, counts)
        for member_id in wishes:
            target = Target({topic_id: frozenset(indexes) for topic_id, indexes in given[member_id].items()})
            if group.targets.get(member_id) != target:
                self.own("targets")[member_id] = target
                self.write(Kind.TARGET, target, member_id)
        self.set(assignment_epoch=group.epoch, assigned_ms=self.rules.now_ms)
        self.write(Kind.TARGET_EPOCH, TargetEpoch(group.epoch, self.rules.now_ms))

    @property
    def assignor(self) -> str:
        """What most members ask for, or the broker's first."""
        return preferred(self.group.members.values(), self.rules.assignors)

    def wanted(self, said: Said) -> frozenset[UUID]:
        """Ids of the topics that a member wants and that are there."""
        topics = self.rules.image.topics
        return frozenset(topics[name].topic_id for name in self.group.topics_of(said) if name in topics)

    def reconcile(self, member: Member, owned: Parts | None, *, has_changed: bool) -> Member:
        """Bring a member nearer to its target; it as it is then."""
        group, member_id = self.group, member.member_id
        if not has_changed and member.current.is_reconciled_to(group.assignment_epoch):
            return member
        if member.current.state is MemberState.UNKNOWN and (owned is None or any(owned.values())):
            raise Refused(
                Code.FENCED_MEMBER_EPOCH,
                "The consumer group member is in a unknown state. The member must abandon all its partitions and rejoin.",
            )
        current = reconciled(
            member.current,
            member_id,
            epoch=group.assignment_epoch,
            target=group.target(member_id).parts,
            owned=owned,
            wanted=self.wanted(member.said),
            has_changed=has_changed,
            owner=group.owner,
        )
        if current == member.current:
            return member
        member = replace(member, current=current)
        self.put(member)
        if member.said.classic is None:
            timer = revoke_timer(member_id)
            is_revoking = current.state is MemberState.UNREVOKED
            due = Arm(timer, member.said.rebalance_ms, RevokeDue(member_id, current.epoch))
            self.effects.append(due if is_revoking else Disarm(timer))
        return member


def preferred(members: Iterable[Member], assignors: tuple[str, ...]) -> str:
    """The assignor that most of `members` ask for; the first one if none does."""
    asked = Counter(member.said.assignor for member in members if member.said.assignor in assignors)
    found = asked.most_common(1)
    return found[0][0] or assignors[0] if found else assignors[0]


def topics_hash(group: ConsumerGroup, rules: Rules) -> int:
    """Of the topics that the group wants as they are now: which are there, and how many partitions they have; 0 if there is none."""
    topics = rules.image.topics
    found = [topics[name] for name in sorted(group.topics()) if name in topics]
    if not found:
        return 0
    whole = hashlib.blake2b(digest_size=8)
    for topic in found:
        whole.update(topic.topic_id.bytes + len(topic.partitions).to_bytes(4) + topic.name.encode() + b"\0")
    return int.from_bytes(whole.digest(), signed=True) or 1
