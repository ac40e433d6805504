"""A group while one event is applied to it: the moves that events share, and how a rebalance begins and ends (see group.py).

Invariants: pure; effects are in the order in which they must be carried out; a member is awaited in at most one of join and sync; no move
costs more for a group of many members than a copy of a dict, but for those that end or begin a rebalance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from hotlog.coordinators.effects import Arm, Disarm, Effect, Many, Reply, Store, Token
from hotlog.coordinators.group_checks import member_code
from hotlog.coordinators.group_types import (
    JOIN_TIMER,
    SYNC_TIMER,
    Code,
    Group,
    JoinDue,
    Joined,
    Lease,
    Left,
    Limits,
    Member,
    State,
    SyncDue,
    Synced,
    member_timer,
)
from hotlog.coordinators.moves import CLASSIC_GROUP

_NAMES = attrgetter("names")
_REBALANCE_MS = attrgetter("rebalance_timeout_ms")
_SIZE = attrgetter("size")


def copied(mapping: Mapping[Any, Any]) -> dict[Any, Any]:
    """What costs as much as the group is large."""
    return dict(mapping)


class Draft:
    """The group so far, and the effects."""

    def __init__(self, group: Group, limits: Limits) -> None:
        self.group = group
        self.limits = limits
        self.effects: list[Effect] = []
        self._before = group
        self._own = group.lease.take()  # mappings of the group that this step may change
        self._grown = self._grown_assigned = 0  # bytes that are not yet in group.size and group.assigned_size

    # Small moves

    def move(self, state: State) -> None:
        """Go to another state, as CLASSIC_GROUP allows."""
        before = self.group.state
        assert before is state or (before, state) in CLASSIC_GROUP, f"{self.group.group_id} went from {before} to {state}"
        self.set(state=state)

    def set(self, **changes: Any) -> None:
        self.group = replace(self.group, **changes)

    def own(self, name: str) -> dict[Any, Any]:
        """A mapping of the group to change in place, copied before unless nobody else has it."""
        if name not in self._own:
            self._own.add(name)
            self.set(**{name: copied(getattr(self.group, name))})
        mapping: dict[Any, Any] = getattr(self.group, name)
        return mapping

    def fresh(self, **mappings: dict[Any, Any]) -> None:
        """Give the group mappings that nobody else has."""
        self._own.update(mappings)
        self.set(**mappings)

    def as_it_is(self) -> Group:
        """The group so far, to be given out: no step changes it any more."""
        self._own.clear()
        return self.counted()

    def leased(self) -> Group:
        """The group as the step leaves it; the next one may go on with its mappings."""
        group = self.counted()
        if group is self._before:
            group.lease.give_back(self._own)
            return group
        return replace(group, lease=Lease(self._own))

    def counted(self) -> Group:
        if self._grown or self._grown_assigned:
            group = self.group
            self.set(size=group.size + self._grown, assigned_size=group.assigned_size + self._grown_assigned)
            self._grown = self._grown_assigned = 0
        return self.group

    def reply(self, token: Token, result: Joined | Synced | Left | Code) -> None:
        self.effects.append(Reply(token, result))

    def arm_session(self, member: Member) -> None:
        self.effects.append(member.session)

    def store(self, group: Group, *, is_awaited: bool = False) -> None:
        self.effects.append(Store(group, is_awaited))

    def check_member(self, member_id: str, instance_id: str | None) -> Code:
        """Whether these ids belong together here."""
        return member_code(self.group, member_id, instance_id)

    def is_waiting(self, member_id: str) -> bool:
        """Whether a request of the member's waits for an answer."""
        return member_id in self.group.joining or member_id in self.group.syncing

    # Members that come and go

    def put(self, member: Member) -> None:
        """Take over a member as it is now."""
        old = self.group.members.get(member.member_id)
        if old is not None:
            self._discount(old)
        self.own("members")[member.member_id] = member
        known_by = self.own("known_by")
        for name in member.names:
            known_by[name] = known_by.get(name, 0) + 1
        if member.instance_id is not None:
            self.own("static")[member.instance_id] = member.member_id
        self._grown += member.size

    def _discount(self, *members: Member) -> None:
        known_by = self.own("known_by")
        for names, count in Counter(map(_NAMES, members)).items():
            for name in names:
                known_by[name] -= count
                if not known_by[name]:
                    del known_by[name]
        self._grown -= sum(map(_SIZE, members))
        for member in members:
            if member.instance_id is not None:
                del self.own("static")[member.instance_id]

    def remove(self, *gone: Member) -> None:
        """Take members out, without a word."""
        self._discount(*gone)
        names = ("members", "joining", "syncing", "assignments")
        members, joining, syncing, assignments = [self.own(name) for name in names]
        for member in gone:
            del members[member.member_id]
            joining.pop(member.member_id, None)
            syncing.pop(member.member_id, None)
            self._grown_assigned -= len(assignments.pop(member.member_id, b""))

    def assign(self, member: Member, assignment: bytes) -> None:
        """Give a member that has no assignment one."""
        self.own("assignments")[member.member_id] = assignment
        self._grown_assigned += len(assignment)

    def drop(self, *gone: Member) -> None:
        """Forget members; their waiting requests are told."""
        if not gone:
            return
        joining, syncing = self.group.joining, self.group.syncing
        waiting = [(m.member_id, joining.get(m.member_id), syncing.get(m.member_id)) for m in gone]
        self.effects.append(TellGone(tuple(waiting)))
        self.remove(*gone)
        if self.group.leader not in self.group.members:
            self.set(leader=next(iter(self.group.members), None))

    def answer_waiting(self, member: Member, code: Code) -> None:
        """Answer what a member waits for with `code`."""
        if member.member_id in self.group.joining:
            self.reply(self.own("joining").pop(member.member_id), Joined(code, member.member_id))
        if member.member_id in self.group.syncing:
            self.reply(self.own("syncing").pop(member.member_id), Synced(code))

    def after_drop(self, dropped: bool) -> None:
        if dropped and self.group.state in (State.STABLE, State.COMPLETING):
            self.prepare()
        self.complete_if_all_joined()

    # Rebalance

    def prepare_or_complete(self) -> None:
        if self.group.state is not State.PREPARING:
            self.prepare()
        self.complete_if_all_joined()

    def prepare(self) -> None:
        """Begin a rebalance: whoever waits for an assignment must join again."""
        was_empty = self.group.state is State.EMPTY
        if self.group.state is State.COMPLETING and self.group.assignments:
            self.fresh(assignments={})
            self.set(assigned_size=0)
            self._grown_assigned = 0  # also what this step has removed
        if self.group.syncing:
            self.tell_syncing(Code.REBALANCE_IN_PROGRESS)
        self.effects.append(Disarm(SYNC_TIMER))
        self.move(State.PREPARING)
        self.set(is_storing=False, initial_ms_left=0)
        wait_ms = self.rebalance_ms()
        if was_empty and self.limits.initial_delay_ms > 0:
            first_ms = min(self.limits.initial_delay_ms, wait_ms)
            self.set(initial_ms_left=max(wait_ms - first_ms, 1), initial_grew=False)
            wait_ms = first_ms
        self.effects.append(Arm(JOIN_TIMER, wait_ms, JoinDue()))

    def rebalance_ms(self) -> int:
        """How long the most patient member waits for the others."""
        return max(map(_REBALANCE_MS, self.group.members.values()), default=0)

    def complete_if_all_joined(self) -> None:
        group = self.group
        if group.state is not State.PREPARING or group.pending or (group.initial_ms_left and group.members):
            return
        if len(group.joining) == len(group.members):
            self.complete()

    def complete(self) -> None:
        """The members of the next generation are known."""
        self.effects.append(Disarm(JOIN_TIMER))
        if len(self.group.joining) < len(self.group.members):
            joining = self.group.joining
            self.drop(*(m for m in self.group.members.values() if m.member_id not in joining and m.instance_id is None))
        members, waiting = self.group.members, self.group.joining
        if members and not waiting:  # only static members, none of them back: wait on
            self.effects.append(Arm(JOIN_TIMER, self.rebalance_ms(), JoinDue()))
            return
        self.set(generation=self.group.generation + 1, initial_ms_left=0)
        if not members:
            self.move(State.EMPTY)
            self.set(protocol=None, leader=None)
            self.store(self.as_it_is())
            return
        leader = self.group.leader if self.group.leader in waiting else next(iter(waiting))
        protocol = chosen(members.values(), self.group.known_by)
        self.move(State.COMPLETING)
        self.set(protocol=protocol, leader=leader)
        self.fresh(joining={})
        self.effects.append(TellAll(self.as_it_is(), tuple(waiting.items()), is_join=True))
        self.effects.append(Arm(SYNC_TIMER, self.rebalance_ms(), SyncDue()))

    def tell_syncing(self, code: Code) -> None:
        """Answer all who wait for an assignment."""
        waiting = tuple(self.group.syncing.items())
        self.fresh(syncing={})
        self.effects.append(TellAll(self.as_it_is(), waiting, is_join=False, code=code))


@dataclass(frozen=True)
class TellAll(Many):
    """Answer all of `waiting` (member id, token) by what `group` says of them, or with `code`, and begin their sessions anew."""

    group: Group
    waiting: tuple[tuple[str, Token], ...]
    is_join: bool
    code: Code = Code.NONE

    def each(self) -> Iterator[Reply | Arm | Disarm]:
        for member_id, token in self.waiting:
            member = self.group.members[member_id]
            yield Reply(token, self._answer(member))
            yield member.session

    def _answer(self, member: Member) -> Joined | Synced:
        if self.is_join:
            return joined(self.group, member) if self.code is Code.NONE else Joined(self.code, member.member_id)
        return synced(self.group, member) if self.code is Code.NONE else Synced(self.code)


@dataclass(frozen=True)
class TellGone(Many):
    """Tell `gone` members (id, token of a join, token of a sync) that they are none, and end their sessions."""

    gone: tuple[tuple[str, Token | None, Token | None], ...]

    def each(self) -> Iterator[Reply | Arm | Disarm]:
        for member_id, join_token, sync_token in self.gone:
            if join_token is not None:
                yield Reply(join_token, Joined(Code.UNKNOWN_MEMBER_ID, member_id))
            if sync_token is not None:
                yield Reply(sync_token, Synced(Code.UNKNOWN_MEMBER_ID))
            yield Disarm(member_timer(member_id))


def joined(group: Group, member: Member) -> Joined:
    """The current generation as this member is told it."""
    members: tuple[tuple[str, str | None, bytes], ...] = ()
    if group.leader == member.member_id:
        members = tuple([(m.member_id, m.instance_id, m.metadata(group.protocol)) for m in group.members.values()])
    return Joined(Code.NONE, member.member_id, group.generation, group.protocol_type, group.protocol, group.leader or "", members)


def synced(group: Group, member: Member) -> Synced:
    """What this member is assigned."""
    return Synced(Code.NONE, group.protocol_type, group.protocol, group.assignment(member.member_id))


def chosen(members: Collection[Member], known_by: Mapping[str, int]) -> str | None:
    """The protocol that all know and most prefer; the earlier voter's choice among equals."""
    votes: dict[str, int] = {}
    for names, count in Counter(map(_NAMES, members)).items():
        choice = next((name for name in names if known_by.get(name) == len(members)), None)
        if choice is not None:
            votes[choice] = votes.get(choice, 0) + count
    return max(votes, key=lambda name: votes[name]) if votes else None
