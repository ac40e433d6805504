"""A consumer group as its records say it is, when a node begins to coordinate it.  Pure.

Invariants: a group without its own record is none, whatever else is left of it; every member has one session to show up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

from hotlog.coordinators.consumer.draft import Draft, revoke_timer
from hotlog.coordinators.consumer.records import ConsumerKey, GroupEpoch, Kind, TargetEpoch
from hotlog.coordinators.consumer.values import (
    ConsumerGroup,
    Current,
    Member,
    MemberState,
    Owned,
    Resolved,
    RevokeDue,
    Rules,
    Said,
    Target,
)
from hotlog.coordinators.effects import Arm, Effect
from hotlog.coordinators.offset_records import Key, Value


def revived_group(group_id: str, stored: Mapping[Key, Value | None], rules: Rules) -> tuple[ConsumerGroup, list[Effect]] | None:
    """The group, and the timers that it runs under; None if there is no such group."""
    found = stored.get(ConsumerKey(group_id, Kind.GROUP))
    if not isinstance(found, GroupEpoch):
        return None
    targeted = stored.get(ConsumerKey(group_id, Kind.TARGET_EPOCH))
    draft = Draft(ConsumerGroup(group_id=group_id, epoch=found.epoch, hash=found.hash), rules)
    if isinstance(targeted, TargetEpoch):
        draft.set(assignment_epoch=targeted.epoch, assigned_ms=targeted.at_ms)
    targets: dict[str, Target] = {}
    regexes: dict[str, Resolved] = {}
    for key, value in stored.items():
        if isinstance(key, ConsumerKey) and isinstance(value, Said):
            current = stored.get(ConsumerKey(group_id, Kind.CURRENT, key.name))
            current = _free(draft, current) if isinstance(current, Current) else Current()
            draft.put(Member(member_id=key.name, said=value, current=current))
        elif isinstance(key, ConsumerKey) and isinstance(value, Target):
            targets[key.name] = value
        elif isinstance(key, ConsumerKey) and isinstance(value, Resolved):
            regexes[key.name] = value
    members = draft.group.members
    draft.set(targets={name: target for name, target in targets.items() if name in members}, regexes=regexes)
    for member in members.values():
        draft.arm_session(member)
        if member.current.state is MemberState.UNREVOKED and member.current.epoch >= 0 and member.said.classic is None:
            due = RevokeDue(member.member_id, member.current.epoch)
            draft.effects.append(Arm(revoke_timer(member.member_id), member.said.rebalance_ms, due))
    return draft.group, draft.effects


def _free(draft: Draft, current: Current) -> Current:
    """What a member has, without what another has already: a change too large for one batch may have been cut off by a crash."""

    def free(parts: Owned) -> dict[UUID, dict[int, int]]:
        left = {
            topic_id: {index: since for index, since in indexes.items() if draft.group.owner(topic_id, index) is None}
            for topic_id, indexes in parts.items()
        }
        return {topic_id: indexes for topic_id, indexes in left.items() if indexes}

    return replace(current, assigned=free(current.assigned), revoking=free(current.revoking))
