"""A classic consumer group as a state machine: an event goes in, the next group and a list of effects come out.

    EMPTY --join--> PREPARING --all joined, or due--> COMPLETING --leader's assignment stored--> STABLE
      ^                 ^  |                              |  ^                                      |
      |   nobody left   |  |                              |  +---------------- none ---------------+
      +-----------------+--+        <--- join, leave, expiry of a member (any of the two) ----------+

Protocol: KIP-62 (session and rebalance timeouts), KIP-134 (initial delay), KIP-345 (static members), KIP-394 (member id required),
KIP-814 (skip assignment).  Behaviour as org.apache.kafka.coordinator.group.classic.

Invariants: pure (no clock, no loop, no disk); a generation never goes back; every token that came in with a join or sync leaves in
exactly one Reply; a member is awaited in at most one of join and sync; the leader is a member whenever there are members.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hotlog.coordinators.group_types import (
    JOIN_TIMER,
    PENDING_MEMBERS_MAX,
    SYNC_TIMER,
    Arm,
    Code,
    Disarm,
    Effect,
    Event,
    Group,
    Heartbeat,
    Join,
    JoinDue,
    Joined,
    Leave,
    Left,
    Limits,
    Member,
    MemberDue,
    Protocols,
    Reply,
    State,
    Store,
    Stored,
    Sync,
    SyncDue,
    Synced,
    Token,
    member_timer,
)


def step(group: Group, event: Event, limits: Limits) -> tuple[Group, list[Effect]]:
    """The one entrance."""
    draft = _Draft(group, limits)
    _HANDLERS[type(event)](draft, event)
    return draft.group, draft.effects


class _Draft:
    """One step in the making."""

    def __init__(self, group: Group, limits: Limits) -> None:
        self.group = group
        self.limits = limits
        self.effects: list[Effect] = []

    # Small moves

    def set(self, **changes: Any) -> None:
        self.group = replace(self.group, **changes)

    def put(self, member: Member) -> None:
        self.set(members={**self.group.members, member.member_id: member})

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

    # Join

    def join(self, event: Join) -> None:
        code = self.join_refusal(event)
        if code is not Code.NONE:
            self.reply(event.token, Joined(code, event.member_id))
        elif event.member_id == "":
            self.join_new(event)
        elif event.member_id in self.group.pending:
            self.set(pending=self.group.pending - {event.member_id})
            if event.instance_id is None:
                self.add_member(event, event.member_id)
            else:  # an id of a dynamic member, and now it says that it is static: who has the instance id decides
                self.effects.append(Disarm(member_timer(event.member_id)))
                self.join_new(event)
        else:
            self.join_known(event)

    def join_refusal(self, event: Join) -> Code:
        group = self.group
        if not self.limits.session_ms_min <= event.session_timeout_ms <= self.limits.session_ms_max:
            return Code.INVALID_SESSION_TIMEOUT
        if not event.protocol_type or not event.protocols:
            return Code.INCONSISTENT_GROUP_PROTOCOL
        others = [member for member in group.members.values() if member.member_id != event.member_id]
        if others and (event.protocol_type != group.protocol_type or not _common(others, event.protocols)):
            return Code.INCONSISTENT_GROUP_PROTOCOL
        is_known = event.member_id in group.members or event.member_id in group.pending
        if not is_known and event.instance_id not in group.static:
            waiting = sum(member.join_token is not None for member in group.members.values())
            size = waiting if group.state is State.PREPARING else len(group.members)
            if size >= self.limits.members_max or len(group.pending) >= PENDING_MEMBERS_MAX:
                return Code.GROUP_MAX_SIZE_REACHED
        return Code.NONE

    def join_new(self, event: Join) -> None:
        if event.instance_id is not None:
            old_id = self.group.static.get(event.instance_id)
            if old_id is not None:
                self.replace_static(event, old_id)
            else:
                self.add_member(event, event.fresh_id)
        elif event.needs_known_id:
            self.set(pending=self.group.pending | {event.fresh_id})
            timer = member_timer(event.fresh_id)
            self.effects.append(Arm(timer, event.session_timeout_ms, MemberDue(event.fresh_id)))
            self.reply(event.token, Joined(Code.MEMBER_ID_REQUIRED, event.fresh_id))
        else:
            self.add_member(event, event.fresh_id)

    def join_known(self, event: Join) -> None:
        code = self.check_member(event.member_id, event.instance_id)
        if code is not Code.NONE:
            self.reply(event.token, Joined(code, event.member_id))
            return
        member = self.group.members[event.member_id]
        is_same = member.protocols == event.protocols
        is_leader = self.group.leader == member.member_id
        if (self.group.state is State.COMPLETING and is_same) or (self.group.state is State.STABLE and is_same and not is_leader):
            self.arm_session(member)
            self.reply(event.token, self.joined(member))
        else:
            self.rejoin(event, member)

    def rejoin(self, event: Join, member: Member) -> None:
        self.answer_waiting(member, Code.REBALANCE_IN_PROGRESS)
        self.effects.append(Disarm(member_timer(member.member_id)))
        self.put(
            replace(
                self.group.members[member.member_id],
                client_id=event.client_id,
                client_host=event.client_host,
                session_timeout_ms=event.session_timeout_ms,
                rebalance_timeout_ms=event.rebalance_timeout_ms,
                protocols=event.protocols,
                join_token=event.token,
            )
        )
        self.prepare_or_complete()

    def add_member(self, event: Join, member_id: str) -> None:
        member = Member(
            member_id=member_id,
            instance_id=event.instance_id,
            client_id=event.client_id,
            client_host=event.client_host,
            session_timeout_ms=event.session_timeout_ms,
            rebalance_timeout_ms=event.rebalance_timeout_ms,
            protocols=event.protocols,
            join_token=event.token,
        )
        self.effects.append(Disarm(member_timer(member_id)))
        if not self.group.members:
            self.set(protocol_type=event.protocol_type)
        self.put(member)
        self.set(leader=self.group.leader or member_id, initial_grew=True)
        self.prepare_or_complete()

    def replace_static(self, event: Join, old_id: str) -> None:
        """A static member came back under its instance id: it gets a new member id, and the old one is fenced (KIP-345)."""
        old = self.group.members[old_id]
        self.answer_waiting(old, Code.FENCED_INSTANCE_ID)
        self.effects.append(Disarm(member_timer(old_id)))
        was_leader = self.group.leader == old_id
        member = replace(
            old,
            member_id=event.fresh_id,
            client_id=event.client_id,
            client_host=event.client_host,
            session_timeout_ms=event.session_timeout_ms,
            rebalance_timeout_ms=event.rebalance_timeout_ms,
            protocols=event.protocols,
            join_token=None,
            sync_token=None,
        )
        members = {member.member_id if key == old_id else key: value for key, value in self.group.members.items()}
        members[member.member_id] = member
        self.set(members=members, leader=member.member_id if was_leader else self.group.leader)
        if self.group.state is State.STABLE and _chosen(members.values()) == self.group.protocol:
            self.store()
            self.arm_session(member)
            answer = self.joined(member)
            if was_leader and event.can_skip_assignment:
                answer = answer._replace(skip_assignment=True)
            elif was_leader:  # an old client must not think that it has to assign
                answer = answer._replace(leader=old_id, members=())
            self.reply(event.token, answer)
            return
        self.put(replace(member, join_token=event.token))
        self.prepare_or_complete()

    def joined(self, member: Member) -> Joined:
        """The current generation as this member is told it."""
        group = self.group
        members: tuple[tuple[str, str | None, bytes], ...] = ()
        if group.leader == member.member_id:
            members = tuple((m.member_id, m.instance_id, m.metadata(group.protocol)) for m in group.members.values())
        return Joined(
            Code.NONE, member.member_id, group.generation, group.protocol_type, group.protocol, group.leader or "", members
        )

    # Rebalance

    def prepare_or_complete(self) -> None:
        if self.group.state is not State.PREPARING:
            self.prepare()
        self.complete_if_all_joined()

    def prepare(self) -> None:
        """Begin a rebalance: whoever waits for an assignment must join again."""
        was_empty = self.group.state is State.EMPTY
        for member in list(self.group.members.values()):
            if member.sync_token is not None:
                self.answer_waiting(member, Code.REBALANCE_IN_PROGRESS)
                self.arm_session(member)
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

    def join_due(self, event: JoinDue) -> None:
        group = self.group
        if group.state is not State.PREPARING:
            return
        if group.initial_ms_left > 1 and group.initial_grew:
            wait_ms = min(self.limits.initial_delay_ms, group.initial_ms_left)
            self.set(initial_ms_left=max(group.initial_ms_left - wait_ms, 1), initial_grew=False)
            self.effects.append(Arm(JOIN_TIMER, wait_ms, JoinDue()))
            return
        self.complete()

    def complete(self) -> None:
        """The members of the next generation are known."""
        self.effects.append(Disarm(JOIN_TIMER))
        for member in list(self.group.members.values()):
            if member.join_token is None and member.instance_id is None:
                self.drop(member)
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
        self.set(state=State.COMPLETING, protocol=_chosen(members.values()), leader=leader)
        for member in present:
            token = member.join_token
            self.put(replace(member, join_token=None))
            assert token is not None
            self.reply(token, self.joined(member))
            self.arm_session(member)
        wait_ms = max(member.rebalance_timeout_ms for member in members.values())
        self.effects.append(Arm(SYNC_TIMER, wait_ms, SyncDue()))

    # Sync

    def sync(self, event: Sync) -> None:
        code = self.sync_refusal(event)
        if code is not Code.NONE:
            self.reply(event.token, Synced(code))
            return
        member = self.group.members[event.member_id]
        if self.group.state is State.STABLE:
            self.arm_session(member)
            self.reply(event.token, self.synced(member))
            return
        self.answer_waiting(member, Code.REBALANCE_IN_PROGRESS)
        self.effects.append(Disarm(member_timer(member.member_id)))
        self.put(replace(member, sync_token=event.token))
        if self.group.leader == member.member_id and not self.group.is_storing:
            self.set(is_storing=True)
            assigned = {
                key: replace(value, assignment=event.assignments.get(key, b"")) for key, value in self.group.members.items()
            }
            self.set(members=assigned)
            self.store(replace(self.group, state=State.STABLE), is_awaited=True)

    def sync_refusal(self, event: Sync) -> Code:
        group = self.group
        code = self.check_member(event.member_id, event.instance_id)
        if code is not Code.NONE:
            return code
        if event.generation != group.generation:
            return Code.ILLEGAL_GENERATION
        if (event.protocol_type is not None and event.protocol_type != group.protocol_type) or (
            event.protocol is not None and event.protocol != group.protocol
        ):
            return Code.INCONSISTENT_GROUP_PROTOCOL
        if group.state is State.EMPTY:
            return Code.UNKNOWN_MEMBER_ID
        return Code.REBALANCE_IN_PROGRESS if group.state is State.PREPARING else Code.NONE

    def synced(self, member: Member) -> Synced:
        return Synced(Code.NONE, self.group.protocol_type, self.group.protocol, member.assignment)

    def stored(self, event: Stored) -> None:
        group = self.group
        if group.state is not State.COMPLETING or event.generation != group.generation or not group.is_storing:
            return
        if not event.is_ok:
            for member in list(group.members.values()):
                self.answer_waiting(member, Code.COORDINATOR_NOT_AVAILABLE)
                self.put(replace(self.group.members[member.member_id], assignment=b""))
                self.arm_session(member)
            self.prepare()
            return
        self.set(state=State.STABLE, is_storing=False)
        for member in list(group.members.values()):
            if member.sync_token is not None:
                self.put(replace(member, sync_token=None))
                self.reply(member.sync_token, self.synced(member))
                self.arm_session(member)
        self.effects.append(Disarm(SYNC_TIMER))  # who never synced is caught by its session

    def sync_due(self, event: SyncDue) -> None:
        """The leader never assigned: whoever did not sync goes, and the rest tries again."""
        if self.group.state is not State.COMPLETING or self.group.is_storing:
            return
        for member in list(self.group.members.values()):
            if member.sync_token is None:
                self.drop(member)
        self.prepare_or_complete()

    # Heartbeat, leave, expiry

    def heartbeat(self, event: Heartbeat) -> None:
        code = self.check_member(event.member_id, event.instance_id)
        if code is Code.NONE and event.generation != self.group.generation:
            code = Code.ILLEGAL_GENERATION
        if code is Code.NONE:
            self.arm_session(self.group.members[event.member_id])
            if self.group.state is State.PREPARING:
                code = Code.REBALANCE_IN_PROGRESS
        self.reply(event.token, code)

    def leave(self, event: Leave) -> None:
        results = []
        dropped = False
        for member_id, instance_id in event.members:
            if member_id in self.group.pending:
                self.set(pending=self.group.pending - {member_id})
                self.effects.append(Disarm(member_timer(member_id)))
                results.append((member_id, instance_id, Code.NONE))
                continue
            found = member_id
            if instance_id is not None and not member_id:  # an administrator names the instance only
                found = self.group.static.get(instance_id, "")
            code = self.check_member(found, instance_id)
            if code is Code.NONE:
                self.drop(self.group.members[found])
                dropped = True
            results.append((member_id, instance_id, code))
        self.reply(event.token, Left(tuple(results)))
        self.after_drop(dropped)

    def member_due(self, event: MemberDue) -> None:
        if event.member_id in self.group.pending:
            self.set(pending=self.group.pending - {event.member_id})
            self.after_drop(False)
            return
        member = self.group.members.get(event.member_id)
        if member is not None and member.join_token is None and member.sync_token is None:
            self.drop(member)
            self.after_drop(True)

    def after_drop(self, dropped: bool) -> None:
        if dropped and self.group.state in (State.STABLE, State.COMPLETING):
            self.prepare()
        self.complete_if_all_joined()

    def drop(self, member: Member) -> None:
        """Forget a member; its waiting requests are told."""
        self.answer_waiting(member, Code.UNKNOWN_MEMBER_ID)
        self.effects.append(Disarm(member_timer(member.member_id)))
        members = {key: value for key, value in self.group.members.items() if key != member.member_id}
        leader = self.group.leader
        self.set(members=members, leader=next(iter(members), None) if leader == member.member_id else leader)

    def answer_waiting(self, member: Member, code: Code) -> None:
        """Answer what a member waits for with `code`."""
        if member.join_token is not None:
            self.reply(member.join_token, Joined(code, member.member_id))
        if member.sync_token is not None:
            self.reply(member.sync_token, Synced(code))
        self.put(replace(member, join_token=None, sync_token=None))


def _common(members: list[Member], protocols: Protocols) -> bool:
    """Whether some protocol is known to all."""
    names = {name for name, _ in protocols}
    for member in members:
        names &= {name for name, _ in member.protocols}
    return bool(names)


def _chosen(members: Any) -> str | None:
    """The protocol that all know and most prefer; the earlier voter's choice among equals."""
    listed = list(members)
    common = set.intersection(*({name for name, _ in member.protocols} for member in listed)) if listed else set()
    votes: dict[str, int] = {}
    for member in listed:
        choice = next((name for name, _ in member.protocols if name in common), None)
        if choice is not None:
            votes[choice] = votes.get(choice, 0) + 1
    return max(votes, key=lambda name: votes[name]) if votes else None


_HANDLERS: dict[type, Callable[[_Draft, Any], None]] = {
    Join: _Draft.join,
    Sync: _Draft.sync,
    Heartbeat: _Draft.heartbeat,
    Leave: _Draft.leave,
    MemberDue: _Draft.member_due,
    JoinDue: _Draft.join_due,
    SyncDue: _Draft.sync_due,
    Stored: _Draft.stored,
}
