"""Consumer groups of the new protocol, by what their clients see (KIP-848)."""

from __future__ import annotations

import pytest

from hotlog.coordinators.consumer.draft import revoke_timer
from hotlog.coordinators.consumer.values import Resolved
from hotlog.coordinators.group_types import Code, member_timer
from tests.coordinators.consumer.stage import Client, Stage, image_of, settle, topic_id

T = topic_id("t")


def test_one_member_gets_everything_at_once_and_leaves() -> None:
    stage = Stage()
    client = Client(stage, "a")
    answer = client.beat()
    assert (answer.code, answer.epoch, answer.heartbeat_ms) == (Code.NONE, 2, 5_000)
    assert client.held == {T: {0, 1, 2, 3}}
    assert stage.consumer.state == "Stable"
    assert client.beat().assignment is None, "nothing is told twice"
    assert client.beat(is_full=True).assignment is not None, "who asks for all is told all"
    left = client.leave()
    assert (left.code, left.epoch, left.member_id) == (Code.NONE, -1, "a")
    assert stage.consumer.state == "Empty"
    stage.check()
    assert not stage.timers


def test_partitions_are_revoked_before_they_are_given() -> None:
    stage = Stage()
    first, second = Client(stage, "a"), Client(stage, "b")
    first.beat()
    answer = second.beat()
    assert answer.epoch == 3
    assert second.held == {}, "the first has them all still"
    first.revokes = False
    assert first.beat().epoch == 2, "it keeps its epoch until it gave up what it has to"
    assert first.target == {T: {0, 1}}
    assert second.beat().assignment is None
    assert first.beat().epoch == 2
    first.held = first.target
    assert first.beat().epoch == 3
    second.beat()
    assert second.held == {T: {2, 3}}
    assert stage.consumer.state == "Stable"


def test_who_does_not_revoke_in_time_is_gone() -> None:
    stage = Stage()
    first, second = Client(stage, "a", revokes=False), Client(stage, "b")
    first.beat()
    first.held = first.target
    second.beat()
    first.beat()
    stage.fire(revoke_timer("a"))
    stage.check()
    second.beat()
    assert second.count == 4
    assert first.beat().code is Code.UNKNOWN_MEMBER_ID


def test_a_session_that_ends_frees_partitions() -> None:
    stage = Stage()
    first, second = Client(stage, "a"), Client(stage, "b")
    settle(stage, first, second)
    stage.fire(member_timer("a"))
    stage.check()
    assert second.beat().epoch > 3
    settle(stage, second)
    assert second.count == 4


def test_epochs_fence() -> None:
    stage = Stage()
    client = Client(stage, "a")
    client.beat()
    client.epoch = 5
    answer = client.beat()
    assert answer.code is Code.FENCED_MEMBER_EPOCH
    assert answer.message is not None
    assert "greater member epoch (5)" in answer.message
    assert client.beat().epoch == 2, "it joins anew, as what it is"
    assert Client(stage, "b", epoch=1).beat().code is Code.UNKNOWN_MEMBER_ID
    assert Client(Stage(), "a", epoch=1).beat().code is Code.GROUP_ID_NOT_FOUND


def test_an_answer_that_was_lost_is_asked_for_again() -> None:
    stage = Stage()
    first, second = Client(stage, "a"), Client(stage, "b")
    settle(stage, first, second)
    second.leave()
    before = first.epoch
    first.beat(is_lost=True)
    assert first.epoch == before
    answer = first.beat()
    assert (answer.code, first.epoch) == (Code.NONE, before + 1)
    first.beat(is_full=True)
    assert first.count == 4


def test_a_static_member_comes_back_to_what_it_had() -> None:
    stage = Stage()
    first, second = Client(stage, "a", instance_id="i"), Client(stage, "b", instance_id="j")
    settle(stage, first, second)
    held, epoch = first.held, stage.consumer.epoch
    assert Client(stage, "c", instance_id="i").beat().code is Code.UNRELEASED_INSTANCE_ID
    left = first.leave(is_static=True)
    assert (left.code, left.epoch) == (Code.NONE, -2)
    assert second.beat().assignment is None, "nothing moves"
    again = Client(stage, "c", instance_id="i")
    again.beat()
    assert (again.held, stage.consumer.epoch) == (held, epoch)
    assert Client(stage, "a", instance_id="i", epoch=2).beat().code is Code.FENCED_INSTANCE_ID
    assert Client(stage, "a", instance_id="nobody", epoch=2).beat().code is Code.UNKNOWN_MEMBER_ID
    stage.check()
    again.leave(is_static=True)
    stage.fire(member_timer("c"))
    settle(stage, second)
    assert second.count == 4, "until its session ends"


def test_topics_that_grow_come_or_go_are_divided_anew() -> None:
    stage = Stage()
    first, second = Client(stage, "a", ("t", "u")), Client(stage, "b", ("t", "u"))
    settle(stage, first, second)
    assert first.count + second.count == 4
    stage.image = image_of(2, t=4, u=2)
    settle(stage, first, second)
    assert (first.count, second.count) == (3, 3)
    stage.image = image_of(3, t=8, u=2)
    settle(stage, first, second)
    assert (first.count, second.count) == (5, 5)
    epoch = stage.consumer.epoch
    stage.image = image_of(4, t=8, u=2, other=3)
    settle(stage, first, second)
    assert stage.consumer.epoch == epoch, "what nobody wants changes nothing"
    stage.image = image_of(5, u=2)
    settle(stage, first, second)
    assert (first.held, second.held) in (
        ({topic_id("u"): {0}}, {topic_id("u"): {1}}),
        ({topic_id("u"): {1}}, {topic_id("u"): {0}}),
    )


def test_a_subscription_that_changes_moves_only_what_it_must() -> None:
    stage = Stage(image_of(1, t=4, u=4))
    first, second = Client(stage, "a"), Client(stage, "b")
    settle(stage, first, second)
    before = first.held
    second.subscribe("u")
    settle(stage, first, second)
    assert before[T] < first.held[T] == {0, 1, 2, 3}
    assert second.held == {topic_id("u"): {0, 1, 2, 3}}


def test_a_regular_expression_is_a_subscription() -> None:
    stage = Stage(image_of(1, alpha=2, beta=2, gamma=2))
    stage.resolved["(al|be).*"] = Resolved(("alpha", "beta"), 1, 0)
    client = Client(stage, "a", (), "(al|be).*")
    settle(stage, client)
    assert set(client.held) == {topic_id("alpha"), topic_id("beta")}
    stage.image = image_of(2, alpha=2, beta=2, gamma=2, album=1)
    stage.resolved["(al|be).*"] = Resolved(("album", "alpha", "beta"), 2, 0)
    settle(stage, client)
    assert client.count == 5
    client.regex, client.topics = "", ("gamma",)
    client.beat(is_full=True)
    settle(stage, client)
    assert client.held == {topic_id("gamma"): {0, 1}}
    assert not stage.consumer.regexes


def test_a_group_has_a_largest_size() -> None:
    stage = Stage(members_max=2)
    first, second = Client(stage, "a"), Client(stage, "b")
    settle(stage, first, second)
    assert Client(stage, "c").beat().code is Code.GROUP_MAX_SIZE_REACHED
    assert first.beat().code is Code.NONE


def test_targets_are_not_computed_more_often_than_allowed() -> None:
    stage = Stage(assignment_interval_ms=1_000)
    clients = [Client(stage, f"m{number}") for number in range(4)]
    for client in clients:
        client.beat()
    group = stage.consumer
    assert (group.epoch, group.assignment_epoch, group.state) == (5, 2, "Assigning")
    stage.now_ms += 999
    clients[0].beat()
    assert stage.consumer.assignment_epoch == 2
    stage.now_ms += 1
    clients[0].beat()
    assert stage.consumer.assignment_epoch == 5
    settle(stage, *clients)
    assert {client.count for client in clients} == {1}


def test_most_members_choose_the_assignor() -> None:
    stage = Stage(image_of(1, t=4, u=4))
    clients = [
        Client(stage, f"m{number}", ("t", "u"), assignor=name) for number, name in enumerate(["range", "range", "uniform"])
    ]
    settle(stage, *clients)
    assert sorted(len(client.held[T]) for client in clients) == [1, 1, 2]
    assert all(client.held[T] == client.held[topic_id("u")] for client in clients), "the same of both topics"


def test_what_the_log_does_not_take_never_was() -> None:
    stage = Stage()
    first, second = Client(stage, "a"), Client(stage, "b")
    first.beat()
    stage.writes_fail = True
    before = stage.group
    assert second.beat().code is Code.COORDINATOR_NOT_AVAILABLE
    assert stage.consumer.members.keys() == {"a"}
    assert (stage.consumer.epoch, stage.consumer.targets) == (before.epoch, before.targets)  # type: ignore[union-attr]
    assert first.beat().code is Code.NONE
    stage.writes_fail = False
    settle(stage, first, second)
    assert (first.count, second.count) == (2, 2)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_group_is_read_from_its_log(count: int) -> None:
    stage = Stage(image_of(1, t=10))
    clients = [Client(stage, f"m{number}") for number in range(count)]
    settle(stage, *clients)
    held = [client.held for client in clients]
    stage.revive()
    stage.check()
    settle(stage, *clients)
    assert [client.held for client in clients] == held


def test_an_old_epoch_is_taken_once() -> None:
    stage = Stage()
    first, second = Client(stage, "a"), Client(stage, "b")
    settle(stage, first, second)
    epoch = first.epoch
    for name in ("c", "d"):
        Client(stage, name).beat()
        first.beat(is_lost=True)
        first.held = {T: set(sorted(first.held[T])[:1])}
        first.beat(is_lost=True)
    assert stage.consumer.members["a"].current.epoch > epoch + 1
    assert first.beat().code is Code.FENCED_MEMBER_EPOCH, "two epochs ago"
    settle(stage, first, second)
    held = {key: set(indexes) for key, indexes in first.held.items()}
    second.leave()
    before = first.epoch
    first.beat(is_lost=True)
    first.held = {T: {0, 1, 2, 3}}
    stage.now_ms += 5_000
    assert first.epoch == before
    stage_held = stage.consumer.members["a"].current.assigned[T]
    if set(stage_held) != {0, 1, 2, 3}:
        assert first.beat().code is Code.FENCED_MEMBER_EPOCH, "it says that it has more than it was given"
    del held
