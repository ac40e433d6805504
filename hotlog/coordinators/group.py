"""A classic consumer group as a state machine: an event goes in, the next group and a list of effects come out.

    EMPTY --join--> PREPARING --all joined, or due--> COMPLETING --leader's assignment stored--> STABLE
      ^                 ^  |                              |  ^                                      |
      |   nobody left   |  |                              |  +---------------- none ---------------+
      +-----------------+--+        <--- join, leave, expiry of a member (any of the two) ----------+

Protocol: KIP-62 (session and rebalance timeouts), KIP-134 (initial delay), KIP-345 (static members), KIP-394 (member id required),
KIP-814 (skip assignment).  Behaviour as org.apache.kafka.coordinator.group.classic.

Invariants: pure (no clock, no loop, no disk); a generation never goes back; every token that came in with a join or sync leaves in
exactly one Reply; a member is awaited in at most one of join and sync; the leader is a member whenever there are members; the group that
goes in is used up (Group.kept for who needs it); an event costs the same for a group of many members, but for those that begin or end a
rebalance and the first one after them, which copies what was given out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hotlog.coordinators.effects import Arm, Disarm, Effect, Reverted
from hotlog.coordinators.group_checks import commit_code, heartbeat_code, who_lives
from hotlog.coordinators.group_draft import Draft, chosen, joined, synced
from hotlog.coordinators.group_types import (
    JOIN_TIMER,
    MEMBER_BYTES,
    NEW_MEMBER_JOIN_MS_MAX,
    PENDING_MEMBERS_MAX,
    SYNC_TIMER,
    Code,
    CommitCheck,
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
    Revived,
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
    return draft.leased(), draft.effects


class _Step(Draft):
    """What each event does."""

    # Join

    def join(self, event: Join) -> None:
        code = self.join_refusal(event)
        if code is Code.NONE and self.is_full(event):
            self.reply(event.token, Joined(Code.GROUP_MAX_SIZE_REACHED, ""))
            if event.member_id in self.group.members:  # the group was larger than it may be now
                self.drop(self.group.members[event.member_id])
                self.complete_if_all_joined()
        elif code is not Code.NONE:
            self.reply(event.token, Joined(code, event.member_id))
        elif event.member_id == "":
            self.join_new(event)
        elif event.member_id in self.group.pending:
            del self.own("pending")[event.member_id]
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
        known = group.members.get(event.member_id)
        others = len(group.members) - (known is not None)
        if others and (event.protocol_type != group.protocol_type or not self.is_common(event.protocols, known, others)):
            return Code.INCONSISTENT_GROUP_PROTOCOL
        is_new = known is None and event.member_id not in group.pending and event.instance_id not in group.static
        if is_new and len(group.pending) >= PENDING_MEMBERS_MAX:
            return Code.GROUP_MAX_SIZE_REACHED
        replaced = {event.member_id, group.static.get(event.instance_id or "", "")}
        bytes_of_others = group.size - sum(group.members[key].size for key in replaced if key in group.members)
        if bytes_of_others + MEMBER_BYTES + protocol_bytes(event.protocols) > self.limits.bytes_max:
            return Code.GROUP_MAX_SIZE_REACHED
        return Code.NONE

    def is_full(self, event: Join) -> bool:
        """Whether the group has no place for who asks (group.max.size).  While members rejoin, the first of them have the places; a static
        member that comes back asks for one more, as in Kafka."""
        group = self.group
        if group.state is State.PREPARING:
            return event.member_id not in group.joining and len(group.joining) >= self.limits.members_max
        return event.member_id not in group.members and len(group.members) >= self.limits.members_max

    def is_common(self, protocols: Protocols, known: Member | None, others: int) -> bool:
        """Whether all others know one of `protocols`; `known` is who asks, as a member so far."""
        own = known.names if known is not None else ()
        known_by = self.group.known_by
        return any(known_by.get(name, 0) - (name in own) == others for name, _ in protocols)

    def join_new(self, event: Join) -> None:
        if event.instance_id is not None:
            old_id = self.group.static.get(event.instance_id)
            if old_id is not None:
                self.replace_static(event, old_id)
            else:
                self.add_member(event, event.fresh_id)
        elif event.needs_known_id:
            self.own("pending")[event.fresh_id] = None
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
            self.reply(event.token, joined(self.group, member))
        else:
            self.rejoin(event, member)

    def rejoin(self, event: Join, member: Member) -> None:
        self.answer_waiting(member, Code.REBALANCE_IN_PROGRESS)
        self.effects.append(Disarm(member_timer(member.member_id)))
        self.put(_as_said(event, member.member_id, member.instance_id))
        self.own("joining")[member.member_id] = event.token
        self.prepare_or_complete()

    def add_member(self, event: Join, member_id: str) -> None:
        self.effects.append(Arm(member_timer(member_id), NEW_MEMBER_JOIN_MS_MAX, NewMemberDue(member_id)))
        if not self.group.members:
            self.set(protocol_type=event.protocol_type)
        self.put(_as_said(event, member_id, event.instance_id))
        self.own("joining")[member_id] = event.token
        self.set(leader=self.group.leader or member_id, initial_grew=True)
        self.prepare_or_complete()

    def replace_static(self, event: Join, old_id: str) -> None:
        """A static member came back under its instance id: it gets a new member id, and the old one is fenced (KIP-345)."""
        old = self.group.members[old_id]
        self.answer_waiting(old, Code.FENCED_INSTANCE_ID)
        self.effects.append(Disarm(member_timer(old_id)))
        was_leader = self.group.leader == old_id
        assignment = self.group.assignments.get(old_id)
        self.remove(old)
        member = _as_said(event, event.fresh_id, event.instance_id)
        self.put(member)
        if assignment is not None:
            self.assign(member, assignment)
        if was_leader:
            self.set(leader=member.member_id)
        group = self.group
        if group.state is State.STABLE and chosen(group.members.values(), group.known_by) == group.protocol:
            self.store(self.as_it_is())
            self.arm_session(member)
            answer = joined(self.group, member)
            if was_leader and event.can_skip_assignment:
                answer = answer._replace(skip_assignment=True)
            elif was_leader:  # an old client must not think that it has to assign
                answer = answer._replace(leader=old_id, members=())
            self.reply(event.token, answer)
            return
        self.own("joining")[member.member_id] = event.token
        self.prepare_or_complete()

    # Rebalance

    def revived(self, event: Revived) -> None:
        for member in self.group.members.values():
            self.arm_session(member)
        if len(self.group.members) > self.limits.members_max:
            self.prepare()

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
            self.reply(event.token, synced(self.group, member))
            return
        self.answer_waiting(member, Code.REBALANCE_IN_PROGRESS)
        self.effects.append(Disarm(member_timer(member.member_id)))
        self.own("syncing")[member.member_id] = event.token
        if self.group.leader == member.member_id and not self.group.is_storing:
            assigned = {key: data for key, data in event.assignments.items() if key in self.group.members}
            self.fresh(assignments=assigned)
            self.set(is_storing=True, assigned_size=sum(map(len, assigned.values())))
            self.store(replace(self.as_it_is(), state=State.STABLE), is_awaited=True)

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
        if size and size + group.size > self.limits.bytes_max:
            return Code.UNKNOWN_SERVER_ERROR  # as Kafka where its record is too large
        return Code.REBALANCE_IN_PROGRESS if group.state is State.PREPARING else Code.NONE

    def stored(self, event: Stored) -> None:
        group = self.group
        if group.state is not State.COMPLETING or event.generation != group.generation or not group.is_storing:
            return
        if not event.is_ok:
            for member in group.members.values():
                if member.member_id not in group.syncing:
                    self.arm_session(member)
            self.tell_syncing(Code.COORDINATOR_NOT_AVAILABLE)
            self.fresh(assignments={})
            self.set(assigned_size=0)
            self.prepare()
            return
        self.move(State.STABLE)
        self.set(is_storing=False)
        self.tell_syncing(Code.NONE)
        self.effects.append(Disarm(SYNC_TIMER))  # who never synced is caught by its session

    def sync_due(self, event: SyncDue) -> None:
        """The leader never assigned: whoever did not sync goes, and the rest tries again."""
        if self.group.state is not State.COMPLETING or self.group.is_storing:
            return
        syncing = self.group.syncing
        self.drop(*(member for member in self.group.members.values() if member.member_id not in syncing))
        self.prepare_or_complete()

    # Heartbeat, leave, expiry

    def heartbeat(self, event: Heartbeat) -> None:
        code = heartbeat_code(self.group, event.member_id, event.instance_id, event.generation)
        if code is Code.NONE or code is Code.REBALANCE_IN_PROGRESS:
            self.arm_session(self.group.members[event.member_id])
        self.reply(event.token, code)

    def commit_check(self, event: CommitCheck) -> None:
        code = commit_code(self.group, event.member_id, event.instance_id, event.generation)
        member = who_lives(self.group, event.member_id, code)
        if member is not None:
            self.arm_session(member)
        self.reply(event.token, code)

    def leave(self, event: Leave) -> None:
        results = []
        dropped = False
        for member_id, instance_id in event.members:
            if member_id in self.group.pending:
                del self.own("pending")[member_id]
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
            del self.own("pending")[event.member_id]
            self.after_drop(False)
            return
        member = self.group.members.get(event.member_id)
        if member is not None and not self.is_waiting(event.member_id):
            self.drop(member)
            self.after_drop(True)

    def reverted(self, event: Reverted) -> None:
        for member in self.group.members.values():
            self.answer_waiting(member, Code.COORDINATOR_NOT_AVAILABLE)

    def new_member_due(self, event: NewMemberDue) -> None:
        member = self.group.members.get(event.member_id)
        if member is not None and event.member_id in self.group.joining:
            self.drop(member)
            self.after_drop(True)


def _as_said(event: Join, member_id: str, instance_id: str | None) -> Member:
    """The member that asks."""
    return Member(
        member_id=member_id,
        instance_id=instance_id,
        client_id=event.client_id,
        client_host=event.client_host,
        session_timeout_ms=event.session_timeout_ms,
        rebalance_timeout_ms=event.rebalance_timeout_ms,
        protocols=event.protocols,
    )


_HANDLERS: dict[type, Callable[[_Step, Any], None]] = {
    Join: _Step.join,
    Sync: _Step.sync,
    Heartbeat: _Step.heartbeat,
    Leave: _Step.leave,
    CommitCheck: _Step.commit_check,
    MemberDue: _Step.member_due,
    NewMemberDue: _Step.new_member_due,
    JoinDue: _Step.join_due,
    SyncDue: _Step.sync_due,
    Stored: _Step.stored,
    Revived: _Step.revived,
    Reverted: _Step.reverted,
}
