"""One step of a group in the making: the moves that its events share, and the rebalance they begin and end (see group.py).

Invariants: pure; effects are in the order in which they must be carried out; a member is awaited in at most one of join and sync.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hotlog.coordinators.group_types import (
    JOIN_TIMER,
    SYNC_TIMER,
    Arm,
    Code,
    Disarm,
    Effect,
    Group,
    JoinDue,
    Joined,
    Left,
    Limits,
    Member,
    MemberDue,
    Reply,
    State,
    Store,
    SyncDue,
    Synced,
    Token,
    member_timer,
)


class Draft:
    """The group so far, and the effects."""

    def __init__(self, group: Group, limits: Limits) -> None:
        self.group = group
        self.limits = limits
        self.effects: list[Effect] = []

    # Small moves

    def set(self, **changes: Any) -> None:
        self.group = replace(self.group, **changes)

    def put(self, *members: Member) -> None:
        """Take over members as they are now: all in one go, each call copies the group's members."""
        self.set(members={**self.group.members, **{member.member_id: member for member in members}})

    def reply(self, token: Token, result: Joined | Synced | Left | Code) -> None:
        self.effects.append(Reply(token, result))

    def arm_session(self, member: Member) -> None:
        self.effects.append(Arm(member_timer(member.member_id), member.session_timeout_ms, MemberDue(member.member_id)))

    def store(self, group: Group | None = None, *, is_awaited: bool = False) -> None:
        self.effects.append(Store(group or self.group, is_awaited))

    def check_member(self, member_id: str, instance_id: str | None) -> Code:
        """Whether these ids belong together here."""
        if instance_id is not None:
            known = self.group.static.get(instance_id)
            if known is None:
                return Code.UNKNOWN_MEMBER_ID
            if known != member_id:
                return Code.FENCED_INSTANCE_ID
        return Code.NONE if member_id in self.group.members else Code.UNKNOWN_MEMBER_ID

    def joined(self, member: Member) -> Joined:
        """The current generation as this member is told it."""
        group = self.group
        members: tuple[tuple[str, str | None, bytes], ...] = ()
        if group.leader == member.member_id:
            members = tuple((m.member_id, m.instance_id, m.metadata(group.protocol)) for m in group.members.values())
        return Joined(
            Code.NONE, member.member_id, group.generation, group.protocol_type, group.protocol, group.leader or "", members
        )

    def synced(self, member: Member) -> Synced:
        return Synced(Code.NONE, self.group.protocol_type, self.group.protocol, member.assignment)

    # Members that go

    def drop(self, *gone: Member) -> None:
        """Forget members; their waiting requests are told."""
        for member in gone:
            self.tell_waiting(member, Code.UNKNOWN_MEMBER_ID)
            self.effects.append(Disarm(member_timer(member.member_id)))
        ids = {member.member_id for member in gone}
        members = {key: value for key, value in self.group.members.items() if key not in ids}
        leader = self.group.leader
        self.set(members=members, leader=next(iter(members), None) if leader in ids else leader)

    def answer_waiting(self, member: Member, code: Code) -> None:
        """Answer what a member waits for with `code`."""
        self.tell_waiting(member, code)
        self.put(replace(member, join_token=None, sync_token=None))

    def tell_waiting(self, member: Member, code: Code) -> None:
        if member.join_token is not None:
            self.reply(member.join_token, Joined(code, member.member_id))
        if member.sync_token is not None:
            self.reply(member.sync_token, Synced(code))

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
        synced = [member for member in self.group.members.values() if member.sync_token is not None]
        for member in synced:
            self.tell_waiting(member, Code.REBALANCE_IN_PROGRESS)
            self.arm_session(member)
        self.put(*(replace(member, join_token=None, sync_token=None) for member in synced))
        self.effects.append(Disarm(SYNC_TIMER))
        self.set(state=State.PREPARING, is_storing=False, initial_ms_left=0)
        wait_ms = max((member.rebalance_timeout_ms for member in self.group.members.values()), default=0)
        if was_empty and self.limits.initial_delay_ms > 0:
            first_ms = min(self.limits.initial_delay_ms, wait_ms)
            self.set(initial_ms_left=max(wait_ms - first_ms, 1), initial_grew=False)
            wait_ms = first_ms
        self.effects.append(Arm(JOIN_TIMER, wait_ms, JoinDue()))

    def complete_if_all_joined(self) -> None:
        group = self.group
        if group.state is not State.PREPARING or group.pending or (group.initial_ms_left and group.members):
            return
        if all(member.join_token is not None for member in group.members.values()):
            self.complete()

    def complete(self) -> None:
        """The members of the next generation are known."""
        self.effects.append(Disarm(JOIN_TIMER))
        self.drop(*(m for m in self.group.members.values() if m.join_token is None and m.instance_id is None))
        members = self.group.members
        present = [member for member in members.values() if member.join_token is not None]
        if members and not present:  # only static members, none of them back: wait on
            wait_ms = max(member.rebalance_timeout_ms for member in members.values())
            self.effects.append(Arm(JOIN_TIMER, wait_ms, JoinDue()))
            return
        self.set(generation=self.group.generation + 1, initial_ms_left=0)
        if not members:
            self.set(state=State.EMPTY, protocol=None, leader=None)
            self.store()
            return
        leader = self.group.leader
        if leader is None or leader not in members or members[leader].join_token is None:
            leader = present[0].member_id
        self.set(state=State.COMPLETING, protocol=chosen(members.values()), leader=leader)
        self.put(*(replace(member, join_token=None) for member in present))
        for member in present:
            assert member.join_token is not None
            self.reply(member.join_token, self.joined(member))
            self.arm_session(member)
        wait_ms = max(member.rebalance_timeout_ms for member in members.values())
        self.effects.append(Arm(SYNC_TIMER, wait_ms, SyncDue()))


def chosen(members: Any) -> str | None:
    """The protocol that all know and most prefer; the earlier voter's choice among equals."""
    listed = list(members)
    common = set.intersection(*({name for name, _ in member.protocols} for member in listed)) if listed else set()
    votes: dict[str, int] = {}
    for member in listed:
        choice = next((name for name, _ in member.protocols if name in common), None)
        if choice is not None:
            votes[choice] = votes.get(choice, 0) + 1
    return max(votes, key=lambda name: votes[name]) if votes else None
