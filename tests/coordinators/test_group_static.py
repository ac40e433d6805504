"""Static members (KIP-345): they come back without a rebalance, and only one of a name is let in."""

from __future__ import annotations

from hotlog.coordinators.group_types import JOIN_TIMER, Code, State
from tests.coordinators.story import Story


def test_a_static_member_comes_back_without_a_rebalance() -> None:
    story = Story()
    old = story.joined(story.join(instance="i1")).member_id
    story.sync(old, instance="i1", assignments={old: b"mine"})
    story.stored()
    back = story.joined(story.join(instance="i1"))
    assert (back.code, back.generation, back.skip_assignment) == (Code.NONE, 1, True)
    assert back.member_id != old
    assert story.group.state is State.STABLE
    assert story.synced(story.sync(back.member_id, instance="i1")).assignment == b"mine"
    assert story.heartbeat(old, instance="i1") is Code.FENCED_INSTANCE_ID
    assert story.joined(story.join(old, instance="i1")).code is Code.FENCED_INSTANCE_ID
    assert story.stores[-1].value.static == {"i1": back.member_id}


def test_an_old_client_that_led_is_told_of_the_old_leader() -> None:
    story = Story()
    old = story.joined(story.join(instance="i1")).member_id
    story.sync(old, instance="i1", assignments={old: b"mine"})
    story.stored()
    back = story.joined(story.join(instance="i1", skip=False))
    assert (back.leader, back.members) == (old, ())


def test_an_administrator_removes_a_static_member_by_its_instance() -> None:
    story = Story()
    story.join(instance="i1")
    assert story.leave(("", "i1")).members == (("", "i1", Code.NONE),)
    assert story.group.members == {}
    assert story.leave(("", "i1")).members == (("", "i1", Code.UNKNOWN_MEMBER_ID),)


def test_a_static_member_that_is_away_keeps_its_place() -> None:
    story = Story()
    away = story.joined(story.join(instance="i1")).member_id
    story.sync(away, instance="i1", assignments={away: b"mine"})
    story.stored()
    token = story.join(instance="i2")
    story.fire(JOIN_TIMER)
    assert away in story.group.members
    assert story.joined(token).leader == story.joined(token).member_id, "who leads must be here"
