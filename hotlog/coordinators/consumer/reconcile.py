"""One member on the way to its target: what it may have now, what it has to give up first, and at which epoch it is.  Pure.

    STABLE --target moved--> UNREVOKED --gave up--> UNRELEASED --all is free--> STABLE
       |                                                ^                          ^
       +-- nothing to give up, others still have some --+                          |
       +-- nothing to give up, all is free ----------------------------------------+

A member keeps its epoch until it gave up what it has to; then it is at the target's, and gets what is free.

Invariants: nothing that somebody else has is given; what is taken stays this member's until it says that it has it no more, or is gone; an
epoch never goes back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from uuid import UUID

from hotlog.coordinators.consumer.values import Current, MemberState, Owned, Parts
from hotlog.coordinators.moves import CONSUMER_MEMBER

Owner = Callable[[UUID, int], str | None]


def reconciled(
    current: Current,
    member_id: str,
    *,
    epoch: int,
    target: Parts,
    owned: Parts | None,
    wanted: Collection[UUID],
    has_changed: bool,
    owner: Owner,
) -> Current:
    """The next of a member whose target at `epoch` is `target`.  `owned` is what it says that it has (None: as before), `wanted` the topics that it
    subscribes to, `has_changed` whether they are others than before."""
    if current.state is MemberState.STABLE and current.epoch == epoch:
        return _without_unwanted(current, owned, wanted) if has_changed else current
    if current.state is MemberState.UNREVOKED and _has_any(owned, current.revoking):
        return _without_unwanted(current, owned, wanted) if has_changed else current
    return _next(current, member_id, epoch, target, owned, wanted, owner)


def _has_any(owned: Parts | None, parts: Owned) -> bool:
    """Whether the member still has some of `parts`; who does not say has."""
    if owned is None:
        return True
    return any(index in parts.get(topic_id, ()) for topic_id, indexes in owned.items() for index in indexes)


def _without_unwanted(current: Current, owned: Parts | None, wanted: Collection[UUID]) -> Current:
    """Whose subscription has changed has topics no more that it does not want."""
    unwanted = {topic_id: indexes for topic_id, indexes in current.assigned.items() if topic_id not in wanted}
    if not unwanted:
        return current
    kept = {topic_id: indexes for topic_id, indexes in current.assigned.items() if topic_id in wanted}
    revoking = {topic_id: dict(indexes) for topic_id, indexes in current.revoking.items()}
    for topic_id, indexes in unwanted.items():
        revoking.setdefault(topic_id, {}).update(indexes)
    if _has_any(owned, revoking):
        return _moved(current, current.epoch, MemberState.UNREVOKED, kept, revoking)
    return _moved(current, current.epoch, current.state, kept, current.revoking)


def _next(
    current: Current, member_id: str, epoch: int, target: Parts, owned: Parts | None, wanted: Collection[UUID], owner: Owner
) -> Current:
    kept: dict[UUID, dict[int, int]] = {}
    revoking: dict[UUID, dict[int, int]] = {}
    given: dict[UUID, dict[int, int]] = {}
    is_waiting = False
    for topic_id in {**target, **current.assigned}:
        due = target.get(topic_id, frozenset()) if topic_id in wanted else frozenset()
        had = current.assigned.get(topic_id, {})
        for index, since in had.items():
            (kept if index in due else revoking).setdefault(topic_id, {})[index] = since
        for index in due:
            if index not in had:
                has_owner = owner(topic_id, index)
                if has_owner is None or has_owner == member_id:
                    given.setdefault(topic_id, {})[index] = epoch
                else:
                    is_waiting = True
    if revoking and _has_any(owned, revoking):
        return _moved(current, current.epoch, MemberState.UNREVOKED, kept, revoking)
    for topic_id, indexes in given.items():
        kept.setdefault(topic_id, {}).update(indexes)
    return _moved(current, epoch, MemberState.UNRELEASED if is_waiting else MemberState.STABLE, kept, {})


def _moved(current: Current, epoch: int, state: MemberState, assigned: Owned, revoking: Owned) -> Current:
    assert current.state is state or (current.state, state) in CONSUMER_MEMBER, f"a member went from {current.state} to {state}"
    moved = replace(current, epoch=epoch, previous_epoch=current.epoch, state=state, assigned=assigned, revoking=revoking)
    return current if moved == current else moved


def parts_of(owned: Owned) -> dict[UUID, frozenset[int]]:
    """The same without the epochs."""
    return {topic_id: frozenset(indexes) for topic_id, indexes in owned.items()}


def is_within(parts: Parts | None, owned: Owned) -> bool:
    """Whether a member says what it has, and that is no more than `owned`."""
    return parts is not None and all(index in owned.get(topic_id, ()) for topic_id, indexes in parts.items() for index in indexes)


def assigned_at(parts: Mapping[UUID, Collection[int]], epoch: int) -> dict[UUID, dict[int, int]]:
    """`parts` as they are had since `epoch`."""
    return {topic_id: dict.fromkeys(sorted(indexes), epoch) for topic_id, indexes in parts.items()}
