"""Groups as a kind of machine that a shard drives (hotlog.coordinators.shard.Kind): classic ones, those of the new protocol, and how one becomes
the other.

Invariants: pure, but for the limits and rules, which are the broker's and the group's at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hotlog.coordinators.consumer import classic_members, machine
from hotlog.coordinators.consumer.machine import AnyGroup, Machine
from hotlog.coordinators.consumer.migration import forgotten, upgrade
from hotlog.coordinators.consumer.revival import revived_group
from hotlog.coordinators.consumer.values import (
    JOIN_EPOCH,
    Beat,
    Beaten,
    ConsumerGroup,
    MemberSyncDue,
    Refused,
    RejoinDue,
    RevokeDue,
    Rules,
)
from hotlog.coordinators.effects import Disarm, Effect, Reply, Write
from hotlog.coordinators.group import step
from hotlog.coordinators.group_types import (
    Code,
    Group,
    Heartbeat,
    Join,
    Leave,
    Limits,
    Revived,
    State,
    Stored,
    Sync,
    member_timer,
)
from hotlog.coordinators.keyed_log import KeyedLog
from hotlog.coordinators.offset_records import GroupKey, GroupValue, Key, Value

GROUP_BYTES, PENDING_BYTES = 4096, 512  # what a group, and an id that was given out, take beside what members say, about
CLASSIC_REQUESTS = (Join, Sync, Heartbeat, Leave)
CONSUMER_TIMERS = (RevokeDue, RejoinDue, MemberSyncDue)


class GroupKind:
    """A group of either protocol."""

    def __init__(self, limits: Callable[[], Limits], rules: Callable[[str], Rules]) -> None:
        self._limits = limits
        self._rules = rules

    def fresh(self, owner: str) -> AnyGroup:
        return Group(group_id=owner)

    def revived(self, owner: str, stored: KeyedLog[Key, Value]) -> tuple[AnyGroup, Iterable[Effect]] | None:
        """The group as it was last stored; its members have one session to show up."""
        value = stored.value(owner, GroupKey(owner))
        if isinstance(value, GroupValue):
            return step(value.group, Revived(), self._limits())
        keys = stored.keys(owner)
        return revived_group(owner, {key: stored.value(owner, key) for key in keys}, self._rules(owner))

    def step(self, state: AnyGroup, event: Any) -> tuple[AnyGroup, Sequence[Effect]]:
        if isinstance(state, ConsumerGroup):
            return self._consumer_step(state, event)
        if isinstance(event, Beat):
            return self._met(state, event)
        if isinstance(event, CONSUMER_TIMERS):  # of what the group was before
            return state, []
        return step(state, event, self._limits())

    def _consumer_step(self, state: ConsumerGroup, event: Any) -> tuple[AnyGroup, Sequence[Effect]]:
        if isinstance(event, Join) and not state.members:  # nobody is left of the new protocol
            group, effects = step(Group(group_id=state.group_id), event, self._limits())
            if not group.members and not group.pending:
                return state, effects
            return group, [Write(forgotten(state), None, None, None), *effects]
        if isinstance(event, CLASSIC_REQUESTS):
            return classic_members.step(state, event, self._rules(state.group_id))
        return machine.step(state, event, self._rules(state.group_id))

    def _met(self, group: Group, event: Beat) -> tuple[AnyGroup, Sequence[Effect]]:
        """A member of the new protocol asks for a classic group, or one that is not there yet."""
        met = Machine(ConsumerGroup(group_id=group.group_id), self._rules(group.group_id))
        try:
            if event.epoch != JOIN_EPOCH:
                raise Refused(Code.GROUP_ID_NOT_FOUND, f"Group {group.group_id} is not a consumer group.")
            if group.state is not State.EMPTY:
                upgrade(group, met)
            else:
                met.entries += [(GroupKey(group.group_id), None)] if group.protocol_type is not None else []
                met.effects += [Disarm(member_timer(pending)) for pending in sorted(group.pending)]
            answer = met.beat(event)
        except Refused as refused:
            return group, [Reply(event.token, Beaten(refused.code, str(refused)))]
        return met.outcome(event.token, answer, Beaten(Code.COORDINATOR_NOT_AVAILABLE))

    def entries(self, state: AnyGroup, now_ms: int) -> Sequence[tuple[Key, Value | None]]:
        assert isinstance(state, Group), "what is new of a group of the new protocol is written as it comes about"
        return [(GroupKey(state.group_id), GroupValue(state, now_ms))]

    def stored(self, state: AnyGroup, is_ok: bool) -> Any:
        assert isinstance(state, Group)
        return Stored(state.generation, is_ok)

    def is_at_rest(self, state: AnyGroup) -> bool:
        return is_unused(state)

    def size(self, state: AnyGroup) -> int:
        pending = PENDING_BYTES * len(state.pending) + state.assigned_size if isinstance(state, Group) else 0
        held = state.size + pending
        return held + GROUP_BYTES + len(state.group_id) if held else 0


def is_empty(group: AnyGroup) -> bool:
    """Whether it has no members."""
    return group.state is State.EMPTY if isinstance(group, Group) else not group.members


def is_unused(group: AnyGroup) -> bool:
    """Whether it has no members and expects none."""
    return is_empty(group) and not (isinstance(group, Group) and group.pending)
