"""Rebalances of a group: who takes part, assignments, generations, and members that go."""

from __future__ import annotations

import pytest

from hotlog.coordinators.group_types import JOIN_TIMER, SYNC_TIMER, Code, State, Stored
from tests.coordinators.story import LIMITS, Story


def test_who_does_not_rejoin_in_time_is_out() -> None:
    story = Story()
    first, second = story.stable(2)
    third = story.join()
    story.join(first)
    story.fire(JOIN_TIMER)
    assert second not in story.group.members
    assert story.joined(third).generation == 3
    assert story.heartbeat(second) is Code.UNKNOWN_MEMBER_ID


def test_a_dead_member_starts_a_rebalance() -> None:
    story = Story()
    first, second = story.stable(2)
    story.fire(("member", second))
    assert story.group.state is State.PREPARING
    assert story.heartbeat(first) is Code.REBALANCE_IN_PROGRESS
    token = story.join(first)
    assert [member for member, _, _ in story.joined(token).members] == [first]


def test_the_last_to_leave_empties_the_group_and_that_is_written() -> None:
    story = Story()
    (first,) = story.stable(1)
    assert story.leave((first, None)).members == ((first, None, Code.NONE),)
    assert (story.group.state, story.group.generation, story.group.protocol) == (State.EMPTY, 2, None)
    assert story.stores[-1].value.members == {}
    assert story.leave((first, None)).members == ((first, None, Code.UNKNOWN_MEMBER_ID),)


def test_generations_fence() -> None:
    story = Story()
    first, _ = story.stable(2)
    assert story.heartbeat(first, generation=1) is Code.ILLEGAL_GENERATION
    assert story.synced(story.sync(first, generation=1)).code is Code.ILLEGAL_GENERATION
    assert story.synced(story.sync("nobody")).code is Code.UNKNOWN_MEMBER_ID
    assert story.synced(story.sync(first, protocol="sticky")).code is Code.INCONSISTENT_GROUP_PROTOCOL


def test_a_follower_that_asks_again_gets_the_same_generation() -> None:
    story = Story()
    members = story.stable(2)
    follower = next(member for member in members if member != story.group.leader)
    token = story.join(follower)
    assert story.joined(token).generation == story.group.generation
    assert story.group.state is State.STABLE
    assert story.synced(story.sync(follower)).assignment == follower.encode()


def test_a_leader_that_rejoins_rebalances() -> None:
    story = Story()
    story.stable(2)
    assert story.group.leader is not None
    story.join(story.group.leader)
    assert story.group.state is State.PREPARING


def test_a_failed_write_makes_all_try_again() -> None:
    story = Story()
    first = story.joined(story.join()).member_id
    token = story.sync(first, assignments={first: b"x"})
    story.stored(is_ok=False)
    assert story.synced(token).code is Code.COORDINATOR_NOT_AVAILABLE
    assert story.group.state is State.PREPARING
    assert story.group.assignment(first) == b""


def test_a_write_of_an_old_generation_changes_nothing() -> None:
    story = Story()
    first = story.joined(story.join()).member_id
    story.sync(first, assignments={first: b"x"})
    second = story.join()
    before = story.group
    story.send(Stored(1, True))
    assert story.group == before
    assert second not in story.answers


@pytest.mark.parametrize("is_ok", [True, False])
def test_a_write_of_an_old_generation_says_nothing_of_the_one_under_way(is_ok: bool) -> None:
    story = Story()
    first = story.joined(story.join()).member_id
    story.sync(first, assignments={first: b"old"})
    story.join()
    story.join(first)
    waiting = story.sync(first, assignments={first: b"new"})
    before = story.group
    story.send(Stored(1, is_ok))
    assert story.group == before
    assert waiting not in story.answers
    story.stored()
    assert story.group.state is State.STABLE
    assert story.synced(waiting).assignment == b"new"


def test_a_leader_that_never_assigns_is_dropped() -> None:
    story = Story()
    first = story.joined(story.join()).member_id
    second_token = story.join()
    story.join(first)
    second = story.joined(second_token).member_id
    waiting = story.sync(second)
    story.fire(SYNC_TIMER)
    assert list(story.group.members) == [second]
    assert story.synced(waiting).code is Code.REBALANCE_IN_PROGRESS
    assert story.joined(story.join(second)).leader == second


def test_an_assignment_beyond_the_bound_is_refused_as_a_record_too_large() -> None:
    story = Story(LIMITS._replace(bytes_max=10_000))
    joined = story.answers[story.join()]
    synced = story.answers[story.sync(joined.member_id, assignments={joined.member_id: b"x" * 9_000})]
    assert synced.code is Code.UNKNOWN_SERVER_ERROR
    assert story.group.assignment(joined.member_id) == b""
    assert story.stores == []


def test_assignments_are_withdrawn_when_a_rebalance_is_broken_off_and_kept_until_then() -> None:
    """As Kafka's DescribeGroups tells them."""
    story = Story()
    first, second = story.stable(2)
    token = story.join(first, protocols=(("range", b"new"),))
    assert story.group.assignment(second) == second.encode(), "while members rejoin"
    story.join(second)
    assert story.joined(token).code is Code.NONE
    assert story.group.assignment(second) == second.encode(), "while the leader assigns"
    story.leave((second, None))
    assert story.group.assignments == {}
