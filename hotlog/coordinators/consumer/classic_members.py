"""Members of the classic protocol in a consumer group of the new one, while a group is on its way between the two (KIP-848).  Pure.

A classic member learns by REBALANCE_IN_PROGRESS that it has to join again; by joining it says what it has, as others do by a heartbeat; its
assignment is what SyncGroup answers.  It has no leader: the broker assigns.

Invariants: as hotlog.coordinators.consumer.machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hotlog.coordinators.consumer import embedded
from hotlog.coordinators.consumer.draft import rejoin_timer, sync_timer
from hotlog.coordinators.consumer.machine import Machine, Outcome
from hotlog.coordinators.consumer.migration import downgraded, encoded_parts
from hotlog.coordinators.consumer.reconcile import parts_of
from hotlog.coordinators.consumer.values import (
    PROTOCOL_TYPE,
    Classic,
    ConsumerGroup,
    Member,
    MemberState,
    MemberSyncDue,
    Parts,
    Refused,
    RejoinDue,
    Rules,
    Said,
)
from hotlog.coordinators.effects import Arm, Disarm, Reply
from hotlog.coordinators.group_types import Code, Heartbeat, Join, Joined, Leave, Left, Protocols, Sync, Synced
from hotlog.kernel.errors import Invalid


def step(group: ConsumerGroup, event: Any, rules: Rules) -> Outcome:
    """The one entrance: a classic request, or a Heartbeat, that is answered at once."""
    machine = ClassicMachine(group, rules)
    try:
        answer = _HANDLERS[type(event)](machine, event)
    except Refused as refused:
        return group, [Reply(event.token, _failed(event, refused.code))]
    if isinstance(event, Heartbeat):  # nothing is written
        return machine.group, [*machine.effects, Reply(event.token, answer)]
    return machine.outcome(event.token, answer, _failed(event, Code.COORDINATOR_NOT_AVAILABLE))


def _failed(event: Any, code: Code) -> Any:
    if isinstance(event, Heartbeat):
        return code
    if isinstance(event, Join):
        return Joined(code, event.member_id or (event.fresh_id if code is Code.MEMBER_ID_REQUIRED else ""))
    if isinstance(event, Sync):
        return Synced(code)
    return Left(tuple((member_id, instance_id, code) for member_id, instance_id in event.members))


class ClassicMachine(Machine):
    """What each classic request does."""

    # Join

    def join(self, event: Join) -> Joined:
        member_id = event.member_id or event.fresh_id
        limits = self.rules.limits
        if not limits.session_ms_min <= event.session_timeout_ms <= limits.session_ms_max:
            raise Refused(Code.INVALID_SESSION_TIMEOUT, "")
        self.check_room(member_id)
        self.check_protocols(event.protocol_type, event.protocols)
        if event.instance_id is None and not event.member_id and event.needs_known_id:
            raise Refused(Code.MEMBER_ID_REQUIRED, "")
        said = _subscription(event.protocols)
        existing = self.group.members.get(self.group.static.get(event.instance_id or "", ""))
        takes_over = existing is not None and may_downgrade_without(self, existing)
        member = self.joining(event, member_id)
        old = member.said
        member = replace(member, said=_as_said(event, said, old))
        has_changed = member.said.topics != old.topics or bool(old.regex)
        if member.said != old or member_id not in self.group.members:
            self.put(member)
        self.forget_regexes()
        self.look_around(has_changed=has_changed)
        if takes_over:
            if not has_changed:  # else it is told by the rebalance
                member = self.reconcile(member, self.parts(said.owned), has_changed=False)
            self.turned, effects = downgraded(self, (), must_rebalance=has_changed)
            self.effects += effects
            return self.joined(member)
        if self.is_target_due:
            self.retarget()
        member = self.reconcile(member, self.parts(said.owned), has_changed=has_changed)
        self.set(rejoining=self.group.rejoining - {member_id})
        self.effects.append(Disarm(rejoin_timer(member_id)))
        self.arm_session(member)
        self.effects.append(Arm(sync_timer(member_id), event.rebalance_timeout_ms, MemberSyncDue(member_id)))
        return self.joined(member)

    def joined(self, member: Member) -> Joined:
        assert member.said.classic is not None
        protocol = member.said.classic.protocols[0][0]
        return Joined(Code.NONE, member.member_id, member.current.epoch, PROTOCOL_TYPE, protocol)

    def joining(self, event: Join, member_id: str) -> Member:
        """The member, a new one if it is none yet; one that comes back under its instance takes the place of what it was."""
        if event.instance_id is None:
            known = self.group.members.get(member_id)
            return known if known is not None else Member(member_id=member_id, said=Said())
        known = self.group.members.get(self.group.static.get(event.instance_id, ""))
        if event.member_id:
            return self.of_instance(event.instance_id, event.member_id)
        return self.replaced(known, member_id) if known is not None else Member(member_id=member_id, said=Said())

    def check_protocols(self, protocol_type: str, protocols: Protocols) -> None:
        """Raises Refused: no protocol that all classic members know."""
        group = self.group
        is_known = protocol_type == PROTOCOL_TYPE and bool(protocols)
        if not is_known or not any(group.known_by.get(name, 0) == group.classic for name, _ in protocols):
            raise Refused(Code.INCONSISTENT_GROUP_PROTOCOL, "")

    def parts(self, owned: Any) -> Parts:
        """Partitions by the ids of their topics; those of unknown topics left out."""
        topics = self.rules.image.topics
        return {topics[name].topic_id: frozenset(indexes) for name, indexes in owned.items() if name in topics}

    # Sync, heartbeat

    def sync(self, event: Sync) -> Synced:
        member, classic = self.classic_member(event.member_id, event.instance_id, event.generation)
        protocol = classic.protocols[0][0]
        if event.protocol_type not in (None, PROTOCOL_TYPE) or event.protocol not in (None, protocol):
            raise Refused(Code.INCONSISTENT_GROUP_PROTOCOL, "")
        if self.group.epoch > member.current.epoch and member.current.state is not MemberState.UNREVOKED:
            raise Refused(Code.REBALANCE_IN_PROGRESS, "")
        self.effects.append(Disarm(sync_timer(member.member_id)))
        self.arm_session(member)
        assignment = encoded_parts(classic, parts_of(member.current.assigned), self.rules)
        return Synced(Code.NONE, event.protocol_type, event.protocol, assignment)

    def heartbeat(self, event: Heartbeat) -> Code:
        member, _ = self.classic_member(event.member_id, event.instance_id, event.generation)
        self.arm_session(member)
        current = member.current
        is_free = current.state is MemberState.UNRELEASED and not self.is_waiting(member)
        if current.epoch >= self.group.epoch and current.state is not MemberState.UNREVOKED and not is_free:
            return Code.NONE
        if member.member_id not in self.group.rejoining:  # the time that it has runs from the first answer
            self.set(rejoining=self.group.rejoining | {member.member_id})
            due = RejoinDue(member.member_id)
            self.effects.append(Arm(rejoin_timer(member.member_id), member.said.rebalance_ms, due))
        return Code.REBALANCE_IN_PROGRESS

    def is_waiting(self, member: Member) -> bool:
        """Whether another still has a partition that is to be this member's."""
        for topic_id, indexes in self.group.target(member.member_id).parts.items():
            for index in indexes:
                if self.group.owner(topic_id, index) not in (None, member.member_id):
                    return True
        return False

    def classic_member(self, member_id: str, instance_id: str | None, generation: int) -> tuple[Member, Classic]:
        """Raises Refused: there is none of these ids that speaks the classic protocol, or not at this generation."""
        if instance_id is not None:
            member = self.of_instance(instance_id, member_id)
        elif member_id in self.group.members:
            member = self.group.members[member_id]
        else:
            raise self.unknown(member_id)
        if member.said.classic is None:
            raise Refused(Code.UNKNOWN_MEMBER_ID, f"Member {member_id} does not use the classic protocol.")
        if member.current.epoch != generation:
            raise Refused(Code.ILLEGAL_GENERATION, "")
        return member, member.said.classic

    # Leave

    def leave_many(self, event: Leave) -> Left:
        """Members of either protocol are taken out, by themselves or by an administrator."""
        results, gone = [], {}
        for member_id, instance_id in event.members:
            code = Code.NONE
            try:
                if instance_id is None:
                    if member_id not in self.group.members:
                        raise self.unknown(member_id)
                    member = self.group.members[member_id]
                else:
                    known_id = self.group.static.get(instance_id, "")
                    member = self.of_instance(instance_id, member_id or known_id)
                gone[member.member_id] = member
            except Refused as refused:
                code = refused.code
            results.append((member_id, instance_id, code))
        self.fence(*gone.values())
        return Left(tuple(results))


def may_downgrade_without(machine: Machine, existing: Member) -> bool:
    """Whether the group becomes a classic one when a classic member takes the place of `existing`: all others speak that protocol."""
    group, rules = machine.group, machine.rules
    others = group.classic - (existing.said.classic is not None)
    is_last = existing.said.classic is None and others == len(group.members) - 1
    return is_last and rules.may_downgrade and len(group.members) <= rules.limits.members_max


def _subscription(protocols: Protocols) -> embedded.Subscription:
    try:
        return embedded.subscription(protocols[0][1])
    except Invalid as problem:
        raise Refused(Code.INCONSISTENT_GROUP_PROTOCOL, str(problem)) from None


def _as_said(event: Join, said: embedded.Subscription, old: Said) -> Said:
    return Said(
        instance_id=event.instance_id if event.instance_id is not None else old.instance_id,
        rack_id=said.rack_id if said.rack_id is not None else old.rack_id,
        client_id=event.client_id,
        client_host=event.client_host,
        topics=tuple(sorted(set(said.topics))),
        rebalance_ms=event.rebalance_timeout_ms,
        assignor=old.assignor,
        classic=Classic(event.session_timeout_ms, event.protocols),
    )


_HANDLERS: dict[type, Callable[[ClassicMachine, Any], Any]] = {
    Join: ClassicMachine.join,
    Sync: ClassicMachine.sync,
    Heartbeat: ClassicMachine.heartbeat,
    Leave: ClassicMachine.leave_many,
}
