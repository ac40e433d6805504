"""A classic group becomes a consumer group when a member of the new protocol joins it, and one again when the last of them leaves (KIP-848).  Pure.

group.consumer.migration.policy says which of the two is allowed.

Invariants: members keep their ids and partitions; the generation goes on as the epoch, and back; who waits for an answer is told to join again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from hotlog.coordinators.consumer import embedded
from hotlog.coordinators.consumer.draft import Draft, rejoin_timer, revoke_timer, sync_timer, topics_hash
from hotlog.coordinators.consumer.reconcile import assigned_at
from hotlog.coordinators.consumer.records import FORGOTTEN_IN, NAMED, ConsumerKey, GroupEpoch, Kind, TargetEpoch
from hotlog.coordinators.consumer.values import (
    PROTOCOL_TYPE,
    Classic,
    ConsumerGroup,
    Current,
    Member,
    Parts,
    Refused,
    Rules,
    Said,
    Target,
)
from hotlog.coordinators.effects import Disarm, Effect
from hotlog.coordinators.group_draft import Draft as ClassicDraft
from hotlog.coordinators.group_draft import TellAll, chosen
from hotlog.coordinators.group_types import JOIN_TIMER, SYNC_TIMER, Code, Group, State, group_of, member_timer
from hotlog.coordinators.group_types import Member as ClassicMember
from hotlog.coordinators.offset_records import GroupKey, GroupValue, Key, Value
from hotlog.kernel.errors import Invalid

if TYPE_CHECKING:
    from uuid import UUID


# To the new protocol


def upgrade(group: Group, draft: Draft) -> None:
    """Make a `draft` of nothing the consumer group that `group` becomes: what that writes, and who is told.

    Raises:
        Refused: it may not, or cannot.
    """
    rules = draft.rules
    _check_upgrade(group, rules)
    draft.entries.append((GroupKey(group.group_id), None))
    draft.effects += map(Disarm, (JOIN_TIMER, SYNC_TIMER, *map(member_timer, sorted(group.pending))))
    for waiting, is_join in ((group.joining, True), (group.syncing, False)):
        if waiting:
            draft.effects.append(TellAll(group, tuple(waiting.items()), is_join=is_join, code=Code.REBALANCE_IN_PROGRESS))
    taken: dict[UUID, set[int]] = {}
    members, targets = [], {}
    for classic in group.members.values():
        member, parts = _as_consumer(group, classic, rules, taken)
        members.append(member)
        targets[member.member_id] = Target(parts)
    for member in members:
        draft.put(Member(member_id=member.member_id, said=member.said))
    draft.set(epoch=group.generation, hash=topics_hash(draft.group, rules), seen=rules.image.offset)
    draft.write(Kind.GROUP, GroupEpoch(draft.group.epoch, draft.group.hash))
    for member_id, target in targets.items():
        draft.write(Kind.TARGET, target, member_id)
    draft.set(targets=targets, assignment_epoch=group.generation)
    draft.write(Kind.TARGET_EPOCH, TargetEpoch(group.generation, 0))
    for member in members:
        draft.put(member)
        draft.arm_session(member)


def _check_upgrade(group: Group, rules: Rules) -> None:
    name = group.group_id
    if not rules.may_upgrade:
        why = "online upgrade is disabled"
    elif group.protocol_type != PROTOCOL_TYPE:
        why = "the group does not use the consumer embedded protocol"
    elif len(group.members) > rules.members_max:
        why = "the group size exceeds the consumer group maximum size"
    else:
        return
    raise Refused(Code.GROUP_ID_NOT_FOUND, f"Cannot upgrade classic group {name} to consumer group because {why}.")


def _as_consumer(group: Group, classic: ClassicMember, rules: Rules, taken: dict[UUID, set[int]]) -> tuple[Member, Parts]:
    """A member as the new protocol has it, and its partitions; those that another has already are not its."""
    protocol = group.protocol if group.protocol in classic.names else classic.names[0]
    refusal = f"Cannot upgrade classic group {group.group_id} to consumer group because "
    try:
        said = embedded.subscription(classic.metadata(protocol))
        given = embedded.assignment(group.assignment(classic.member_id))
    except Invalid:
        raise Refused(Code.GROUP_ID_NOT_FOUND, refusal + "the embedded consumer protocol is malformed.") from None
    if given.user_data:
        raise Refused(
            Code.GROUP_ID_NOT_FOUND,
            refusal
            + "an unsupported custom assignor is in use. Please refer to the documentation or switch to a default assignor before"
            " re-attempting the upgrade.",
        )
    parts: dict[UUID, frozenset[int]] = {}
    for topic, indexes in given.parts.items():
        known = rules.image.topics.get(topic)
        if known is not None:
            free = frozenset(indexes).difference(taken.setdefault(known.topic_id, set()))
            taken[known.topic_id] |= free
            if free:
                parts[known.topic_id] = free
    member = Member(
        member_id=classic.member_id,
        said=Said(
            instance_id=classic.instance_id,
            rack_id=said.rack_id,
            client_id=classic.client_id,
            client_host=classic.client_host,
            topics=tuple(sorted(set(said.topics))),
            rebalance_ms=classic.rebalance_timeout_ms,
            classic=Classic(classic.session_timeout_ms, classic.protocols),
        ),
        current=Current(epoch=group.generation, previous_epoch=group.generation, assigned=assigned_at(parts, group.generation)),
    )
    return member, parts


# And back


def may_downgrade(group: ConsumerGroup, rules: Rules, gone: Collection[Member]) -> bool:
    """Whether all who are left without `gone` speak the classic protocol, and the settings allow a classic group of them."""
    left = len(group.members) - len(gone)
    classic = group.classic - sum(member.said.classic is not None for member in gone)
    return 0 < left == classic and rules.may_downgrade and left <= rules.limits.members_max


def downgraded(draft: Draft, gone: Collection[Member], *, must_rebalance: bool) -> tuple[Group, list[Effect]]:
    """The classic group that a consumer group becomes without `gone`; what that writes goes to `draft`."""
    group = draft.group
    draft.entries += forgotten(group)
    left = [member for member in group.members.values() if member not in gone]
    members = [_as_classic(member) for member in left]
    known_by: dict[str, int] = {}
    for classic in members:
        for name in classic.names:
            known_by[name] = known_by.get(name, 0) + 1
    assignments = {member.member_id: _assignment(member, group.target(member.member_id).parts, draft.rules) for member in left}
    classic_group = group_of(
        group.group_id,
        members,
        assignments,
        state=State.STABLE,
        generation=group.epoch,
        protocol_type=PROTOCOL_TYPE,
        protocol=chosen(members, known_by),
        leader=members[0].member_id,
    )
    draft.entries.append((GroupKey(group.group_id), GroupValue(classic_group, draft.rules.now_ms)))
    effects: list[Effect] = []
    for member_id in group.members:
        effects += map(Disarm, (revoke_timer(member_id), rejoin_timer(member_id), sync_timer(member_id), member_timer(member_id)))
    effects += [classic.session for classic in members]
    if not must_rebalance:
        return classic_group, effects
    rebalance = ClassicDraft(classic_group, draft.rules.limits)
    rebalance.prepare()
    return rebalance.as_it_is(), effects + rebalance.effects


def _as_classic(member: Member) -> ClassicMember:
    said = member.said
    assert said.classic is not None
    return ClassicMember(
        member_id=member.member_id,
        instance_id=said.instance_id,
        client_id=said.client_id,
        client_host=said.client_host,
        session_timeout_ms=said.classic.session_ms,
        rebalance_timeout_ms=said.rebalance_ms,
        protocols=said.classic.protocols,
    )


def _assignment(member: Member, parts: Parts, rules: Rules) -> bytes:
    assert member.said.classic is not None
    return encoded_parts(member.said.classic, parts, rules)


def encoded_parts(classic: Classic, parts: Parts, rules: Rules) -> bytes:
    """Partitions as a classic member is told them, in the version that it speaks."""
    by_id = rules.image.topics_by_id
    named = {by_id[topic_id].name: indexes for topic_id, indexes in parts.items() if topic_id in by_id}
    try:
        version = embedded.subscription(classic.protocols[0][1]).version
    except Invalid:
        version = 0
    return embedded.encode_assignment(version, named)


def forgotten(group: ConsumerGroup) -> list[tuple[Key, Value | None]]:
    """Tombstones of all records of a group."""
    names = {Kind.REGEX: list(group.regexes), Kind.TARGET: list(group.targets)}
    return [
        (ConsumerKey(group.group_id, kind, name), None)
        for kind in FORGOTTEN_IN
        if kind is not Kind.PARTITIONS
        for name in (names.get(kind, list(group.members)) if kind in NAMED else [""])
    ]
