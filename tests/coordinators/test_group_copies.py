"""A rebalance of many members costs as much as there are members, not their square: what is copied is counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from hotlog.coordinators import group_draft
from hotlog.coordinators.effects import Many, Reply
from hotlog.coordinators.group import step
from hotlog.coordinators.group_types import Event, Group, Heartbeat, Join, Joined, Leave, State, Stored, Sync
from tests.coordinators.story import LIMITS, RANGE

MANY = LIMITS._replace(members_max=100_000, bytes_max=1 << 30)


class Copies:
    """A group that is driven as a shard drives it, and how many entries were copied."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.group = Group(group_id="g")
        self.copied = 0
        self.answers: dict[object, Any] = {}
        original = group_draft.copied

        def counted(mapping: Mapping[Any, Any]) -> dict[Any, Any]:
            self.copied += len(mapping)
            return original(mapping)

        monkeypatch.setattr(group_draft, "copied", counted)

    def send(self, event: Event) -> None:
        self.group, effects = step(self.group, event, MANY)
        for effect in effects:
            for one in effect.each() if isinstance(effect, Many) else (effect,):
                if isinstance(one, Reply):
                    self.answers[one.token] = one.result

    def join(self, token: int, member_id: str, *, known: bool = False) -> None:
        self.send(
            Join(
                token=token, member_id=member_id, fresh_id=f"m{token}", instance_id=None, client_id="c", client_host="h",
                session_timeout_ms=1_000, rebalance_timeout_ms=1_000, protocol_type="consumer", protocols=RANGE, needs_known_id=known,
                can_skip_assignment=False,
            )
        )  # fmt: skip


@pytest.mark.parametrize("known", [False, True])
def test_copies_of_a_rebalance_grow_with_the_members(monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    costs: dict[int, int] = {}
    for count in (250, 2_000):
        copies = Copies(monkeypatch)
        for number in range(count):
            copies.join(number, "", known=known)
            if known:
                copies.join(10_000 + number, copies.answers[number].member_id, known=True)
        for number, member_id in enumerate(list(copies.group.members)):  # whoever is in already comes again
            copies.join(20_000 + number, member_id)
        assert copies.group.state is State.COMPLETING
        members, leader = list(copies.group.members), copies.group.leader
        for number, member_id in enumerate(members):
            plan = {each: b"all" for each in members} if member_id == leader else {}
            sync = Sync(
                token=30_000 + number, member_id=member_id, instance_id=None, generation=copies.group.generation, protocol_type=None,
                protocol=None, assignments=plan,
            )  # fmt: skip
            copies.send(sync)
        copies.send(Stored(copies.group.generation, True))
        assert copies.group.state is State.STABLE
        for number, member_id in enumerate(members):
            copies.send(
                Heartbeat(token=40_000 + number, member_id=member_id, instance_id=None, generation=copies.group.generation)
            )
        for number, member_id in enumerate(members):
            copies.send(Leave(token=50_000 + number, members=((member_id, None),)))
        assert copies.group.state is State.EMPTY
        costs[count] = copies.copied
    assert costs[2_000] < 12 * costs[250], costs
    assert costs[2_000] < 40 * 2_000, costs


def test_who_keeps_a_group_keeps_it_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = Copies(monkeypatch)
    for number in range(5):
        copies.join(number, "")
    before = copies.group.kept()
    members = dict(before.members)
    copies.join(9, "")
    assert before.members == members
    assert len(copies.group.members) == len(members) + 1


def test_an_event_that_changes_nothing_leaves_the_group_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = Copies(monkeypatch)
    for number in range(3):
        copies.join(number, "")
    before = copies.group
    copies.send(Heartbeat(token=7, member_id="nobody", instance_id=None, generation=1))
    assert copies.group is before
    copied = copies.copied
    copies.join(8, "")
    assert copies.copied == copied, "and what it may change in place"
    assert isinstance(copies.answers.get(0), Joined | None)
