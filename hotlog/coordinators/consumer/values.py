"""What a consumer group of the new protocol (KIP-848) is, what happens to it, and what it answers: values only.

Three epochs: the group's goes up when members or topics change, the assignment's follows when a target was computed for it, and each
member's follows when it has come to its target.  Members and assignments are made of the very values that the log keeps of them
(`Said`, `Current`, `Target`).

Invariants: frozen; a partition has one owner, which has it assigned or has yet to revoke it; what is counted (`owners`, `static`,
`subscriptions`, `classic`, `size`) is that of `members`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import NamedTuple
from uuid import UUID

from controller.image import ClusterImage
from hotlog.coordinators.effects import Token
from hotlog.coordinators.group_types import MEMBER_BYTES, Code, Limits, Protocols, protocol_bytes

Parts = Mapping[UUID, frozenset[int]]  # partitions by topic id
Owned = Mapping[UUID, Mapping[int, int]]  # by topic id: partition -> the epoch at which it was assigned (KIP-1251)

JOIN_EPOCH, LEAVE_EPOCH, LEAVE_STATIC_EPOCH = 0, -1, -2  # a member's epoch in a heartbeat
FIRST_EPOCH = 1  # of a group that nobody has joined yet, as Kafka's
PROTOCOL_TYPE = "consumer"
PARTITION_BYTES, TOPIC_BYTES = 128, 256  # what each takes in memory, about


class MemberState(IntEnum):
    """Where a member stands on the way to its target; numbers as in Kafka's records."""

    STABLE = 1  # it has what it is to have, or all of it that was free
    UNREVOKED = 2  # it must give partitions up first
    UNRELEASED = 3  # it waits for partitions that others have not given up
    UNKNOWN = 127


class GroupState:
    """The names that ConsumerGroupDescribe and ListGroups tell."""

    EMPTY = "Empty"
    ASSIGNING = "Assigning"
    RECONCILING = "Reconciling"
    STABLE = "Stable"


class Classic(NamedTuple):
    """What a member that speaks the classic protocol said with JoinGroup."""

    session_ms: int
    protocols: Protocols


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a member says of itself.  `topics` sorted, each once; `regex` "" if it has none."""

    instance_id: str | None = None
    rack_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    topics: tuple[str, ...] = ()
    regex: str = ""
    rebalance_ms: int = -1
    assignor: str | None = None
    classic: Classic | None = None

    @cached_property
    def size(self) -> int:
        """Bytes of memory, about."""
        texts = (self.instance_id or "", self.rack_id or "", self.client_id, self.client_host, self.regex, *self.topics)
        held = protocol_bytes(self.classic.protocols) if self.classic is not None else 0
        return MEMBER_BYTES + held + sum(map(len, texts)) + TOPIC_BYTES * len(self.topics)


@dataclass(frozen=True, kw_only=True)
class Current:
    """What a member has: `assigned` is its to use, `revoking` it has yet to give up."""

    epoch: int = 0
    previous_epoch: int = 0  # the answer that told it of `epoch` may have been lost
    state: MemberState = MemberState.STABLE
    assigned: Owned = field(default_factory=dict)
    revoking: Owned = field(default_factory=dict)

    def is_reconciled_to(self, epoch: int) -> bool:
        """Whether nothing is left to do to be at the target of `epoch`."""
        return self.state is MemberState.STABLE and self.epoch == epoch

    def held(self) -> Iterable[tuple[UUID, int]]:
        """Every partition that nobody else may have now."""
        for parts in (self.assigned, self.revoking):
            for topic_id, indexes in parts.items():
                for index in indexes:
                    yield topic_id, index


class Target(NamedTuple):
    """What a member is to have."""

    parts: Parts


class Resolved(NamedTuple):
    """Topics that a regular expression matched (sorted), in the image of this version, at this time (wall ms)."""

    topics: tuple[str, ...]
    version: int
    at_ms: int


@dataclass(frozen=True, kw_only=True)
class Member:
    """One member."""

    member_id: str
    said: Said
    current: Current = field(default_factory=Current)


NO_TARGET = Target({})
Subscription = tuple[tuple[str, ...], str]  # names, regular expression


@dataclass(frozen=True, kw_only=True)
class ConsumerGroup:
    """One group.  `seen` is the offset of the image that `hash` was computed from last, -1 none."""

    group_id: str
    epoch: int = FIRST_EPOCH
    hash: int = 0
    assignment_epoch: int = 0
    assigned_ms: int = 0  # when the target was computed; wall ms
    seen: int = -1
    members: Mapping[str, Member] = field(default_factory=dict)
    targets: Mapping[str, Target] = field(default_factory=dict)
    regexes: Mapping[str, Resolved] = field(default_factory=dict)
    owners: Mapping[UUID, Mapping[int, str]] = field(default_factory=dict)  # member by topic and partition
    static: Mapping[str, str] = field(default_factory=dict)  # member id by group.instance.id
    subscriptions: Mapping[Subscription, int] = field(default_factory=dict)  # how many members have it
    classic: int = 0  # members that speak the classic protocol
    known_by: Mapping[str, int] = field(default_factory=dict)  # how many of them know a protocol
    rejoining: frozenset[str] = frozenset()  # classic members that were told to join again
    size: int = 0  # bytes of all members, about

    @property
    def state(self) -> str:
        """As Kafka names it."""
        if not self.members:
            return GroupState.EMPTY
        if self.epoch > self.assignment_epoch:
            return GroupState.ASSIGNING
        is_stable = all(member.current.is_reconciled_to(self.assignment_epoch) for member in self.members.values())
        return GroupState.STABLE if is_stable else GroupState.RECONCILING

    def owner(self, topic_id: UUID, index: int) -> str | None:
        """Who has a partition, or has yet to give it up."""
        return self.owners.get(topic_id, {}).get(index)

    def target(self, member_id: str) -> Target:
        """What a member is to have."""
        return self.targets.get(member_id, NO_TARGET)

    def topics_of(self, said: Said) -> tuple[str, ...]:
        """Names of the topics that a member wants: those that it names, and those that its expression matched."""
        if not said.regex or said.regex not in self.regexes:
            return said.topics
        matched = self.regexes[said.regex].topics
        return matched if not said.topics else tuple(sorted({*said.topics, *matched}))

    def topics(self) -> set[str]:
        """Names of the topics that any member wants."""
        wanted: set[str] = set()
        for names, regex in self.subscriptions:
            wanted.update(names)
            if regex in self.regexes:
                wanted.update(self.regexes[regex].topics)
        return wanted


class Rules(NamedTuple):
    """What the settings allow and what there is.  Times in ms; `resolved` says what expressions match in `image`,
    those at least that the group and the event have; `limits` are those of classic groups."""

    session_ms: int
    heartbeat_ms: int
    assignment_interval_ms: int
    members_max: int
    assignors: tuple[str, ...]
    may_upgrade: bool
    may_downgrade: bool
    limits: Limits
    image: ClusterImage
    resolved: Mapping[str, Resolved]
    now_ms: int


# Events


@dataclass(frozen=True, kw_only=True)
class BeatRequest:
    """What a member says with ConsumerGroupHeartbeat; None: as it was."""

    member_id: str
    epoch: int
    instance_id: str | None
    rack_id: str | None
    rebalance_ms: int  # -1: as it was
    topics: tuple[str, ...] | None
    regex: str | None
    assignor: str | None
    owned: Parts | None
    client_id: str
    client_host: str

    @property
    def is_full(self) -> bool:
        """Whether it says all that there is to say: it wants to be told its assignment."""
        has_subscription = self.topics is not None or self.regex is not None
        return self.rebalance_ms != -1 and has_subscription and self.owned is not None


@dataclass(frozen=True, kw_only=True)
class Beat(BeatRequest):
    """ConsumerGroupHeartbeat.  A group that does not exist is made by a member that joins."""

    token: Token


class RevokeDue(NamedTuple):
    """A member has had its time to give partitions up, since it was at `epoch`."""

    member_id: str
    epoch: int


class RejoinDue(NamedTuple):
    """A classic member was told to join again and did not."""

    member_id: str


class MemberSyncDue(NamedTuple):
    """A classic member joined and did not ask for its assignment."""

    member_id: str


# Answers


class Beaten(NamedTuple):
    """Answer to a Beat; `assignment` None: as it was."""

    code: Code
    message: str | None = None
    member_id: str | None = None
    epoch: int = 0
    heartbeat_ms: int = 0
    assignment: Owned | None = None


class Refused(Exception):
    """An event that changes nothing, and why."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def owned_size(current: Current) -> int:
    """Bytes of memory that what a member has takes, about."""
    return PARTITION_BYTES * sum(len(indexes) for parts in (current.assigned, current.revoking) for indexes in parts.values())
