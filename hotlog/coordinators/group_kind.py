"""Classic groups as a kind of machine that a shard drives (hotlog.coordinators.shard.Kind).

Invariants: pure, but for the limits, which are the broker's at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from hotlog.coordinators.effects import Effect
from hotlog.coordinators.group import step
from hotlog.coordinators.group_types import Event, Group, Limits, Revived, State, Stored
from hotlog.coordinators.keyed_log import KeyedLog
from hotlog.coordinators.offset_records import GroupKey, GroupValue, Key, Value

GROUP_BYTES, PENDING_BYTES = 4096, 512  # what a group, and an id that was given out, take beside what members say, about


class GroupKind:
    """A classic group."""

    def __init__(self, limits: Callable[[], Limits]) -> None:
        self._limits = limits

    def fresh(self, owner: str) -> Group:
        return Group(group_id=owner)

    def revived(self, owner: str, stored: KeyedLog[Key, Value]) -> tuple[Group, Iterable[Effect]] | None:
        """The group as it was last stored; its members have one session to show up."""
        value = stored.value(owner, GroupKey(owner))
        if not isinstance(value, GroupValue):
            return None
        return self.step(value.group, Revived())

    def step(self, state: Group, event: Event) -> tuple[Group, Sequence[Effect]]:
        return step(state, event, self._limits())

    def entries(self, state: Group, now_ms: int) -> Sequence[tuple[Key, Value | None]]:
        return [(GroupKey(state.group_id), GroupValue(state, now_ms))]

    def stored(self, state: Group, is_ok: bool) -> Event:
        return Stored(state.generation, is_ok)

    def is_at_rest(self, state: Group) -> bool:
        return state.state is State.EMPTY and not state.pending

    def size(self, state: Group) -> int:
        held = state.size + state.assigned_size + PENDING_BYTES * len(state.pending)
        return held + GROUP_BYTES + len(state.group_id) if held else 0
