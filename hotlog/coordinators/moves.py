"""How groups and their members may move from state to state: the tables that docs/groups.md is drawn from.

Invariants: pure; a classic group and a member move in no other way (asserted where they move); a group of the new protocol, whose state follows from its
epochs and members, goes one or more of these moves in one step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from hotlog.coordinators.consumer.values import GroupState, MemberState
from hotlog.coordinators.group_types import State

S = TypeVar("S")
Moves = Mapping[tuple[S, S], str]

CLASSIC_GROUP: Moves[State] = {
    (State.EMPTY, State.PREPARING): "a member joins",
    (State.PREPARING, State.COMPLETING): "all members joined, or had their time",
    (State.PREPARING, State.EMPTY): "nobody is left",
    (State.COMPLETING, State.STABLE): "the leader's assignment is in the log",
    (State.COMPLETING, State.PREPARING): "a member joins, leaves or is gone",
    (State.STABLE, State.PREPARING): "a member joins, leaves or is gone",
}
CONSUMER_GROUP: Moves[str] = {
    (GroupState.EMPTY, GroupState.ASSIGNING): "a member joins",
    (GroupState.ASSIGNING, GroupState.RECONCILING): "the target is computed",
    (GroupState.RECONCILING, GroupState.STABLE): "every member is at the target's epoch",
    (GroupState.RECONCILING, GroupState.ASSIGNING): "members, subscriptions or topics change",
    (GroupState.STABLE, GroupState.ASSIGNING): "members, subscriptions or topics change",
    (GroupState.ASSIGNING, GroupState.EMPTY): "nobody is left",
    (GroupState.RECONCILING, GroupState.EMPTY): "nobody is left",
    (GroupState.STABLE, GroupState.EMPTY): "nobody is left",
    (GroupState.STABLE, GroupState.RECONCILING): "a member drops what it does not want any more",
}
CONSUMER_MEMBER: Moves[MemberState] = {
    (MemberState.STABLE, MemberState.UNREVOKED): "it has to give partitions up",
    (MemberState.STABLE, MemberState.UNRELEASED): "others have to give up what it is to get",
    (MemberState.UNREVOKED, MemberState.STABLE): "it gave them up, and all that it is to get is free",
    (MemberState.UNREVOKED, MemberState.UNRELEASED): "it gave them up, others have not",
    (MemberState.UNRELEASED, MemberState.STABLE): "all that it is to get is free",
    (MemberState.UNRELEASED, MemberState.UNREVOKED): "the target moved on",
    (MemberState.UNKNOWN, MemberState.STABLE): "it has nothing any more",
    (MemberState.UNKNOWN, MemberState.UNRELEASED): "it has nothing any more",
}
