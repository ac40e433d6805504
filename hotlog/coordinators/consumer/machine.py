"""A consumer group of the new protocol as a state machine: an event goes in, the next group, what is to be written and the answer come out.

    EMPTY --join--> ASSIGNING --target computed--> RECONCILING --all members at the target's epoch--> STABLE
      ^                 ^                               |                                                |
      |   nobody left   +------- members or topics change: the group's epoch goes up --------------------+
      +-----------------+

A heartbeat does all there is to do: it takes over what the member says, computes the target where the group's epoch is ahead of it, and brings the
member nearer to its target.  Answers wait until what was written is committed; where the log does not take it, the group is again what the log says.

Protocol: KIP-848; KIP-1101 (hash of topics), KIP-1251 (epochs of partitions), KIP-1263 (how often targets are computed).  Behaviour as
org.apache.kafka.coordinator.group.modern.consumer.

Invariants: pure; an event that is refused changes nothing; epochs never go back; a heartbeat that has nothing to tell costs the same for a group of
many members.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hotlog.coordinators.consumer.draft import Draft, revoke_timer
from hotlog.coordinators.consumer.migration import downgraded, may_downgrade
from hotlog.coordinators.consumer.reconcile import is_within
from hotlog.coordinators.consumer.records import Kind
from hotlog.coordinators.consumer.values import (
    JOIN_EPOCH,
    LEAVE_EPOCH,
    LEAVE_STATIC_EPOCH,
    Beat,
    Beaten,
    ConsumerGroup,
    Current,
    Member,
    MemberSyncDue,
    Parts,
    Refused,
    RejoinDue,
    RevokeDue,
    Rules,
    Said,
)
from hotlog.coordinators.effects import Disarm, Effect, Reply, Token, Write
from hotlog.coordinators.group_types import Code, Group, MemberDue

AnyGroup = Group | ConsumerGroup
Outcome = tuple[AnyGroup, list[Effect]]


def step(group: ConsumerGroup, event: Any, rules: Rules) -> Outcome:
    """The one entrance for members of the new protocol; see `classic_members.step` for those of the old one."""
    handler = _HANDLERS.get(type(event))
    if handler is None:  # a timer of what the group was before
        return group, []
    machine, token = Machine(group, rules), getattr(event, "token", None)
    try:
        answer = handler(machine, event)
    except Refused as refused:
        return group, [Reply(token, Beaten(refused.code, str(refused)))]
    return machine.outcome(token, answer, Beaten(Code.COORDINATOR_NOT_AVAILABLE))


class Machine(Draft):
    """What each event does.  `turned`: the group is a classic one from now on."""

    turned: Group | None = None

    def outcome(self, token: Token | None, answer: Any, refusal: Any) -> Outcome:
        """What an event came to: `answer` once it is written, `refusal` if the log does not take it."""
        write = Write(tuple(self.entries), token, answer, refusal)
        return (self.turned if self.turned is not None else self.group), [*self.effects, write]

    # Heartbeats

    def beat(self, event: Beat) -> Beaten:
        if event.epoch in (LEAVE_EPOCH, LEAVE_STATIC_EPOCH):
            return self.leave(event)
        self.check_room(event.member_id)
        if event.instance_id is None:
            member = self.dynamic(event.member_id, event.epoch, event.owned)
        else:
            member = self.static(event, event.instance_id)
        return self.beaten(event, member)

    def beaten(self, event: Beat, member: Member) -> Beaten:
        """The heartbeat of a member that may beat."""
        old, before = member.said, member.current
        member = replace(member, said=_said(event, old))
        has_topics = member.said.topics != old.topics
        has_regex = member.said.regex != old.regex
        if member.said != old or member.member_id not in self.group.members:
            self.put(member)
        if has_regex:
            self.forget_regexes()
            self.resolve_new(member.said.regex)
        self.look_around(has_changed=has_topics or has_regex)
        if self.is_target_due:
            self.retarget()
        member = self.reconcile(member, event.owned, has_changed=has_topics or has_regex)
        self.arm_session(member)
        is_told = event.epoch == JOIN_EPOCH or event.is_full or member.current.assigned != before.assigned
        return Beaten(
            Code.NONE,
            member_id=member.member_id,
            epoch=member.current.epoch,
            heartbeat_ms=self.rules.heartbeat_ms,
            assignment=member.current.assigned if is_told else None,
        )

    def check_room(self, member_id: str) -> None:
        """Raises Refused: the group has no place for one more (group.consumer.max.size)."""
        members_max = self.rules.members_max
        if len(self.group.members) >= members_max and member_id not in self.group.members:
            message = f"The consumer group has reached its maximum capacity of {members_max} members."
            raise Refused(Code.GROUP_MAX_SIZE_REACHED, message)
        if self.group.size > self.rules.limits.bytes_max and member_id not in self.group.members:
            raise Refused(Code.GROUP_MAX_SIZE_REACHED, "The members of the group say more than hotlog.group.max.bytes allows.")

    def resolve_new(self, regex: str) -> None:
        """An expression that no other member has."""
        if regex and regex not in self.group.regexes and regex in self.rules.resolved:
            self.resolve(regex, self.rules.resolved[regex])

    def dynamic(self, member_id: str, epoch: int, owned: Parts | None) -> Member:
        """The member, a new one if it joins."""
        member = self.group.members.get(member_id)
        if member is None:
            if epoch != JOIN_EPOCH:
                raise self.unknown(member_id)
            return Member(member_id=member_id, said=Said())
        _check_epoch(member, epoch, owned)
        return member

    def static(self, event: Beat, instance_id: str) -> Member:
        """The member of an instance; one that joins takes the place of one that left (epoch -2)."""
        known = self.group.members.get(self.group.static.get(instance_id, ""))
        if event.epoch == JOIN_EPOCH:
            if known is None:
                return Member(member_id=event.member_id, said=Said())
            if known.said.classic is None and known.current.epoch != LEAVE_STATIC_EPOCH:
                raise Refused(
                    Code.UNRELEASED_INSTANCE_ID,
                    f"Static member {event.member_id} with instance id {instance_id} cannot join the group because the instance id is"
                    f" owned by {known.member_id} member.",
                )
            return self.replaced(known, event.member_id)
        found = self.of_instance(instance_id, event.member_id)
        _check_epoch(found, event.epoch, event.owned)
        return found

    def replaced(self, old: Member, member_id: str) -> Member:
        """The same member under another id."""
        target = self.group.target(old.member_id)
        self.remove(old)
        member = Member(member_id=member_id, said=old.said, current=replace(old.current, epoch=0, previous_epoch=0))
        self.put(member)
        self.own("targets")[member_id] = target
        self.write(Kind.TARGET, target, member_id)
        return member

    def of_instance(self, instance_id: str, member_id: str) -> Member:
        """Raises Refused: no member has the instance id, or another one."""
        known = self.group.members.get(self.group.static.get(instance_id, ""))
        if known is None:
            raise Refused(Code.UNKNOWN_MEMBER_ID, f"Instance id {instance_id} is unknown.")
        if known.member_id != member_id:
            message = f"Static member {member_id} with instance id {instance_id} was fenced by member {known.member_id}."
            raise Refused(Code.FENCED_INSTANCE_ID, message)
        return known

    def unknown(self, member_id: str) -> Refused:
        return Refused(Code.UNKNOWN_MEMBER_ID, f"Member {member_id} is not a member of group {self.group.group_id}.")

    # Leaving

    def leave(self, event: Beat) -> Beaten:
        if event.instance_id is None:
            member = self.group.members.get(event.member_id)
            if member is None:
                raise self.unknown(event.member_id)
        else:
            member = self.of_instance(event.instance_id, event.member_id)
        if event.epoch == LEAVE_STATIC_EPOCH and event.instance_id is not None:  # it will be back
            current = replace(member.current, epoch=LEAVE_STATIC_EPOCH, revoking={})
            self.put(replace(member, current=current))
            self.effects.append(Disarm(revoke_timer(member.member_id)))
        else:
            self.fence(member)
        return Beaten(Code.NONE, member_id=event.member_id, epoch=event.epoch)

    def fence(self, *gone: Member) -> None:
        """Members are gone; if only members of the classic protocol are left, the group becomes a classic one."""
        if not gone:
            return
        if may_downgrade(self.group, self.rules, gone):
            self.turned, effects = downgraded(self, gone, must_rebalance=True)
            self.effects += effects
            return
        self.remove(*gone)
        self.forget_regexes()
        self.bump()

    def due(self, event: MemberDue | RejoinDue | MemberSyncDue) -> None:
        """A member did not do in time what it had to."""
        member = self.group.members.get(event.member_id)
        if member is not None:
            self.fence(member)

    def revoke_due(self, event: RevokeDue) -> None:
        member = self.group.members.get(event.member_id)
        if member is not None and member.current.epoch == event.epoch:
            self.fence(member)


def _check_epoch(member: Member, epoch: int, owned: Parts | None) -> None:
    """Raises Refused: it is not the member's.  The one before is, as long as the answer with the new one may have been lost."""
    known: Current = member.current
    if epoch in (JOIN_EPOCH, known.epoch):
        return
    if epoch < known.epoch and epoch == known.previous_epoch and is_within(owned, known.assigned):
        return
    word = "greater" if epoch > known.epoch else "smaller"
    raise Refused(
        Code.FENCED_MEMBER_EPOCH,
        f"The consumer group member has a {word} member epoch ({epoch}) than the one known by the group coordinator ({known.epoch})."
        " The member must abandon all its partitions and rejoin.",
    )


def _said(event: Beat, old: Said) -> Said:
    """What the member says now, and what it said before."""
    said = Said(
        instance_id=event.instance_id if event.instance_id is not None else old.instance_id,
        rack_id=event.rack_id if event.rack_id is not None else old.rack_id,
        client_id=event.client_id,
        client_host=event.client_host,
        topics=event.topics if event.topics is not None else old.topics,
        regex=event.regex if event.regex is not None else old.regex,
        rebalance_ms=event.rebalance_ms if event.rebalance_ms != -1 else old.rebalance_ms,
        assignor=event.assignor if event.assignor is not None else old.assignor,
    )
    return old if said == old else said


_HANDLERS: dict[type, Callable[[Machine, Any], Any]] = {
    Beat: Machine.beat,
    MemberDue: Machine.due,
    RejoinDue: Machine.due,
    MemberSyncDue: Machine.due,
    RevokeDue: Machine.revoke_due,
}
