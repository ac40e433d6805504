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

from hotlog.coordinators.group_draft import Draft, chosen
from hotlog.coordinators.group_types import (
    JOIN_TIMER,
    MEMBER_BYTES,
    NEW_MEMBER_JOIN_MS_MAX,
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
    NewMemberDue,
    Protocols,
    State,
    Stored,
    Sync,
    SyncDue,
    Synced,
    member_timer,
    protocol_bytes,
)


def step(group: Group, event: Event, limits: Limits) -> tuple[Group, list[Effect]]:
    """The one entrance."""
    draft = _Step(group, limits)
    _HANDLERS[type(event)](draft, event)
    return draft.group, draft.effects


class _Step(Draft):
    """What each event does."""

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
        replaced = event.instance_id
        size = sum(member.size for member in others if replaced is None or member.instance_id != replaced)
        if size + MEMBER_BYTES + protocol_bytes(event.protocols) > self.limits.bytes_max:
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
        self.effects.append(Arm(member_timer(member_id), NEW_MEMBER_JOIN_MS_MAX, NewMemberDue(member_id)))
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
        if self.group.state is State.STABLE and chosen(members.values()) == self.group.protocol:
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

    # Rebalance

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
        size = sum(map(len, event.assignments.values()))
        if size and size + sum(member.size for member in group.members.values()) > self.limits.bytes_max:
            return Code.UNKNOWN_SERVER_ERROR  # as Kafka where its record is too large
        return Code.REBALANCE_IN_PROGRESS if group.state is State.PREPARING else Code.NONE

    def stored(self, event: Stored) -> None:
        group = self.group
        if group.state is not State.COMPLETING or event.generation != group.generation or not group.is_storing:
            return
        if not event.is_ok:
            for member in group.members.values():
                self.tell_waiting(member, Code.COORDINATOR_NOT_AVAILABLE)
                self.arm_session(member)
            self.put(*(replace(m, assignment=b"", join_token=None, sync_token=None) for m in group.members.values()))
            self.prepare()
            return
        self.set(state=State.STABLE, is_storing=False)
        synced = [member for member in group.members.values() if member.sync_token is not None]
        self.put(*(replace(member, sync_token=None) for member in synced))
        for member in synced:
            assert member.sync_token is not None
            self.reply(member.sync_token, self.synced(member))
            self.arm_session(member)
        self.effects.append(Disarm(SYNC_TIMER))  # who never synced is caught by its session

    def sync_due(self, event: SyncDue) -> None:
        """The leader never assigned: whoever did not sync goes, and the rest tries again."""
        if self.group.state is not State.COMPLETING or self.group.is_storing:
            return
        self.drop(*(member for member in self.group.members.values() if member.sync_token is None))
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

    def new_member_due(self, event: NewMemberDue) -> None:
        member = self.group.members.get(event.member_id)
        if member is not None and member.join_token is not None:
            self.drop(member)
            self.after_drop(True)


def _common(members: list[Member], protocols: Protocols) -> bool:
    """Whether some protocol is known to all."""
    names = {name for name, _ in protocols}
    for member in members:
        names &= {name for name, _ in member.protocols}
    return bool(names)


_HANDLERS: dict[type, Callable[[_Step, Any], None]] = {
    Join: _Step.join,
    Sync: _Step.sync,
    Heartbeat: _Step.heartbeat,
    Leave: _Step.leave,
    MemberDue: _Step.member_due,
    NewMemberDue: _Step.new_member_due,
    JoinDue: _Step.join_due,
    SyncDue: _Step.sync_due,
    Stored: _Step.stored,
}
