"""Joining a group: who is let in, under which protocol, and how many."""

from __future__ import annotations

import pytest

from hotlog.coordinators.group_types import JOIN_TIMER, NEW_MEMBER_JOIN_MS_MAX, Code, Revived, State, Stored, member_timer
from tests.coordinators.story import LIMITS, Story


def test_one_member_joins_syncs_and_is_stable() -> None:
    story = Story()
    joined = story.joined(story.join())
    assert (joined.code, joined.generation, joined.leader, joined.protocol) == (Code.NONE, 1, joined.member_id, "range")
    assert joined.members == ((joined.member_id, None, b"meta"),)
    token = story.sync(joined.member_id, assignments={joined.member_id: b"all"})
    assert token not in story.answers, "nothing is told before it is durable"
    assert story.stores[-1].is_awaited
    story.stored()
    assert story.synced(token).assignment == b"all"
    assert story.group.state is State.STABLE
    assert story.heartbeat(joined.member_id) is Code.NONE


def test_a_second_member_makes_the_first_rejoin() -> None:
    story = Story()
    (first,) = story.stable(1)
    second = story.join()
    assert second not in story.answers
    assert story.heartbeat(first) is Code.REBALANCE_IN_PROGRESS
    again = story.join(first)
    assert story.joined(again).generation == story.joined(second).generation == 2
    assert story.joined(again).leader == first
    assert len(story.joined(again).members) == 2
    assert story.joined(second).members == ()


def test_the_protocol_all_know_and_most_prefer_is_chosen() -> None:
    story = Story()
    first = story.joined(story.join(protocols=(("range", b""), ("sticky", b"")))).member_id
    token = story.join(protocols=(("sticky", b""), ("range", b"")))
    story.join(first, protocols=(("sticky", b""), ("range", b"")))
    assert story.joined(token).protocol == "sticky"
    assert story.joined(story.join(protocols=(("other", b""),))).code is Code.INCONSISTENT_GROUP_PROTOCOL
    assert story.joined(story.join(kind="connect")).code is Code.INCONSISTENT_GROUP_PROTOCOL
    assert story.joined(story.join(protocols=())).code is Code.INCONSISTENT_GROUP_PROTOCOL


def test_session_timeouts_are_bounded() -> None:
    story = Story()
    assert story.joined(story.join(session_ms=9)).code is Code.INVALID_SESSION_TIMEOUT
    assert story.joined(story.join(session_ms=60_001)).code is Code.INVALID_SESSION_TIMEOUT


def test_member_id_required_then_taken() -> None:
    story = Story()
    first = story.joined(story.join(known=True))
    assert first.code is Code.MEMBER_ID_REQUIRED
    assert story.group.members == {}
    assert story.joined(story.join(first.member_id, known=True)).code is Code.NONE
    given_out = story.joined(story.join(known=True)).member_id
    story.fire(("member", given_out))
    assert story.joined(story.join(given_out, known=True)).code is Code.UNKNOWN_MEMBER_ID


def test_an_id_that_was_given_out_goes_when_it_leaves() -> None:
    story = Story()
    given_out = story.joined(story.join(known=True)).member_id
    assert story.leave((given_out, None)).members == ((given_out, None, Code.NONE),)
    assert not story.group.pending
    assert member_timer(given_out) not in story.timers
    assert story.joined(story.join(given_out, known=True)).code is Code.UNKNOWN_MEMBER_ID


@pytest.mark.parametrize("comes", [True, False])
def test_a_rebalance_waits_for_an_id_that_was_given_out_until_it_comes_or_its_session_ends(comes: bool) -> None:
    story = Story()
    (first,) = story.stable(1)
    given_out = story.joined(story.join(known=True)).member_id
    again = story.join(first)
    assert again not in story.answers, "somebody is about to come: one rebalance is enough"
    if comes:
        assert story.joined(story.join(given_out, known=True)).generation == 2
    else:
        story.fire(member_timer(given_out))
    assert story.joined(again).generation == 2
    assert len(story.joined(again).members) == 1 + comes


def test_the_first_rebalance_waits_for_more_members_but_not_for_ever() -> None:
    story = Story(LIMITS._replace(initial_delay_ms=3000))
    first = story.join(rebalance_ms=5000)
    assert first not in story.answers
    assert story.timers[JOIN_TIMER].delay_ms == 3000
    second = story.join(rebalance_ms=5000)
    story.fire(JOIN_TIMER)
    assert second not in story.answers, "somebody came: it is put off once more"
    assert story.timers[JOIN_TIMER].delay_ms == 2000
    story.fire(JOIN_TIMER)
    assert story.joined(first).generation == story.joined(second).generation == 1


def test_the_group_has_a_largest_size() -> None:
    story = Story(LIMITS._replace(members_max=2))
    story.stable(2)
    assert story.joined(story.join()).code is Code.GROUP_MAX_SIZE_REACHED


def test_a_group_that_is_larger_than_it_may_be_now_shrinks_to_who_rejoins_first() -> None:
    """group.max.size was lowered, and the group read again: as Kafka, a rebalance decides."""
    story = Story()
    members = story.stable(4)
    story.limits = LIMITS._replace(members_max=2)
    story.send(Revived())
    assert story.group.state is State.PREPARING
    assert story.heartbeat(members[0]) is Code.REBALANCE_IN_PROGRESS
    first, second = story.join(members[2]), story.join(members[0])
    for late in (members[1], members[3]):
        refused = story.joined(story.join(late))
        assert (refused.code, refused.member_id) == (Code.GROUP_MAX_SIZE_REACHED, "")
        assert late not in story.group.members
    assert story.joined(first).generation == story.joined(second).generation == 5, "nobody else is waited for"
    assert story.joined(story.join()).code is Code.GROUP_MAX_SIZE_REACHED


def test_a_static_member_of_a_full_group_has_to_wait_for_its_place_as_in_kafka() -> None:
    story = Story(LIMITS._replace(members_max=1))
    old = story.joined(story.join(instance="i")).member_id
    assert story.joined(story.join(instance="i")).code is Code.GROUP_MAX_SIZE_REACHED
    story.fire(member_timer(old))
    assert story.joined(story.join(instance="i")).code is Code.NONE


def test_what_members_say_has_a_bound_for_each_group() -> None:
    story = Story(LIMITS._replace(bytes_max=10_000, initial_delay_ms=3000))
    large = (("range", b"x" * 6_000),)
    first = story.join(protocols=large)
    refused = story.join(protocols=large)
    assert story.answers[refused].code is Code.GROUP_MAX_SIZE_REACHED
    assert len(story.group.members) == 1
    many = story.join(protocols=tuple(("range", b"") for _ in range(100)))
    assert story.answers[many].code is Code.GROUP_MAX_SIZE_REACHED
    story.send(story.timers[JOIN_TIMER].event)
    member_id = story.answers[first].member_id
    again = story.join(member_id, protocols=(("range", b"y" * 6_000),))  # what is replaced does not count
    assert story.answers[again].code is Code.NONE


def test_a_new_member_whose_first_join_is_never_answered_does_not_stay() -> None:
    """Its client may have gone, and asked again as another one: nobody sees it (Kafka's five minutes)."""
    story = Story()
    leader = story.answers[story.join()].member_id
    story.sync(leader, assignments={leader: b""})
    story.send(Stored(story.group.generation, True))
    waits = story.join()  # the leader does not come back for this rebalance
    gone = next(key for key, token in story.group.joining.items() if token == waits)
    assert story.timers[member_timer(gone)].delay_ms == NEW_MEMBER_JOIN_MS_MAX
    story.send(story.timers[member_timer(gone)].event)
    assert gone not in story.group.members
    assert story.answers[waits].code is Code.UNKNOWN_MEMBER_ID
    stays = story.join()
    answer = story.join(leader)
    assert story.answers[answer].code is story.answers[stays].code is Code.NONE
    assert all(story.timers[member_timer(key)].delay_ms < NEW_MEMBER_JOIN_MS_MAX for key in story.group.members)
