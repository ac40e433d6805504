"""What must hold of a group whatever happens to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hotlog.coordinators.group import step
from hotlog.coordinators.group_types import JOIN_TIMER, SYNC_TIMER, Code, JoinDue, MemberDue, State, Stored, SyncDue, group_of
from tests.coordinators.story import LIMITS, RANGE, Story

pytestmark = pytest.mark.timeout(300)  # many examples: it ends by itself


@given(st.integers(1, 5))
def test_a_step_never_changes_the_group_it_was_given(count: int) -> None:
    story = Story()
    story.stable(count)
    before = story.group
    copy = replace(before, members=dict(before.members))
    step(before, JoinDue(), LIMITS)
    step(before, MemberDue(next(iter(before.members))), LIMITS)
    assert before == copy


@pytest.mark.parametrize("key", [JOIN_TIMER, SYNC_TIMER])
def test_stray_timers_change_nothing_when_stable(key: str) -> None:
    story = Story()
    story.stable(2)
    before = story.group
    story.send(JoinDue() if key == JOIN_TIMER else SyncDue())
    assert story.group == before


def test_who_leaves_before_the_next_assignment_is_not_counted_twice() -> None:
    story = Story()
    leader, other = sorted(story.stable(2), key=lambda member: member != story.group.leader)
    story.join(leader)
    story.join(other)
    assert story.group.state is State.COMPLETING
    assert story.group.assigned_size == sum(map(len, story.group.assignments.values())) > 0
    story.leave((other, None))
    assert (story.group.assigned_size, story.group.assignments) == (0, {})


MEMBERS = st.sampled_from(["", "c-1", "c-2", "c-3", "c-4", "c-9", "c-12"])
INSTANCES = st.sampled_from([None, None, "i1", "i2"])


class GroupRules(RuleBasedStateMachine):
    """Anybody does anything at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.story = Story(LIMITS._replace(initial_delay_ms=30, members_max=6))

    @rule(member=MEMBERS, instance=INSTANCES, known=st.booleans(), protocols=st.sampled_from([RANGE, RANGE[:1], (("x", b""),)]))
    def join(self, member, instance, known, protocols) -> None:
        self.story.join(member, instance=instance, known=known, protocols=protocols)

    @rule(member=MEMBERS, instance=INSTANCES, late=st.sampled_from([0, 0, 0, 1]))
    def sync(self, member, instance, late) -> None:
        group = self.story.group
        self.story.sync(
            member, instance=instance, generation=group.generation - late, assignments={m: b"a" for m in group.members}
        )

    @rule(is_ok=st.booleans(), late=st.sampled_from([0, 0, 1]))
    def stored(self, is_ok, late) -> None:
        self.story.send(Stored(self.story.group.generation - late, is_ok))

    @rule(member=MEMBERS, instance=INSTANCES)
    def heartbeat(self, member, instance) -> None:
        assert self.story.heartbeat(member, instance=instance) in Code

    @rule(member=MEMBERS, instance=INSTANCES)
    def leave(self, member, instance) -> None:
        self.story.leave((member, instance))

    @rule(pick=st.integers(0, 20))
    def due(self, pick) -> None:
        if self.story.timers:
            self.story.fire(sorted(self.story.timers, key=str)[pick % len(self.story.timers)])

    @rule(event=st.sampled_from([JoinDue(), SyncDue(), MemberDue("c-1"), MemberDue("gone")]))
    def stray(self, event) -> None:
        self.story.send(event)

    @invariant()
    def holds(self) -> None:
        story, group = self.story, self.story.group
        members = list(group.members.values())
        assert not set(group.joining) & set(group.syncing)
        assert set(group.joining) | set(group.syncing) | set(group.assignments) <= set(group.members)
        waiting = [*group.joining.values(), *group.syncing.values()]
        assert set(waiting) == story.asked - set(story.answers), "who is not answered waits, and nobody else"
        assert not group.pending.keys() & group.members.keys()
        assert len(group.static) == sum(m.instance_id is not None for m in members)
        counted = group_of("g", members, group.assignments)
        assert (group.static, group.known_by) == (counted.static, counted.known_by)
        assert (group.size, group.assigned_size) == (counted.size, counted.assigned_size)
        if group.state is State.EMPTY:
            assert not members
        if members:
            assert group.leader in group.members
        if group.state in (State.STABLE, State.COMPLETING):
            assert not group.joining
            assert group.protocol in {name for name, _ in members[0].protocols}
        if group.state is State.STABLE:
            assert not group.syncing
        if group.state is State.PREPARING:
            assert not group.syncing
            assert JOIN_TIMER in story.timers, "a rebalance always ends"
        if group.state is State.COMPLETING and not group.is_storing:
            assert SYNC_TIMER in story.timers
        for member_id in group.pending:
            assert ("member", member_id) in story.timers, "an id given out is taken back in time"


GroupRules.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_whatever_happens_nobody_waits_for_ever = GroupRules.TestCase
