"""Whatever happens to a consumer group: a partition is held by one client, epochs go on, and what the log says is what the group is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlog.coordinators.consumer.assignors import ASSIGNORS, Wish
from hotlog.coordinators.consumer.reconcile import reconciled
from hotlog.coordinators.consumer.values import ConsumerGroup, Current, MemberState
from hotlog.coordinators.group_types import Code, member_timer
from tests.coordinators.consumer.stage import Client, Stage, image_of, settle, topic_id

pytestmark = pytest.mark.timeout(300)  # virtual time or many examples: it ends by itself

TOPICS = ("t", "u", "v")
SUBSCRIPTIONS = st.sampled_from([("t",), ("u",), ("t", "u"), ("t", "u", "v"), ()])
MEMBERS = st.integers(0, 4)
STEPS = st.one_of(
    st.tuples(st.just("beat"), MEMBERS),
    st.tuples(st.just("lost"), MEMBERS),
    st.tuples(st.just("full"), MEMBERS),
    st.tuples(st.just("slow"), MEMBERS),  # hears what it has to give up, and takes its time
    st.tuples(st.just("revoked"), MEMBERS),
    st.tuples(st.just("leave"), MEMBERS),
    st.tuples(st.just("expire"), MEMBERS),
    st.tuples(st.just("subscribe"), MEMBERS, SUBSCRIPTIONS),
    st.tuples(st.just("topics"), st.integers(0, 6), st.integers(0, 3), st.integers(0, 3)),
    st.tuples(st.just("crash")),
    st.tuples(st.just("fail"), MEMBERS),
    st.tuples(st.just("wait"), st.integers(0, 2_000)),
)


class Run:
    """Five clients, and what was done to them."""

    def __init__(self, interval_ms: int) -> None:
        self.stage = Stage(image_of(1, t=4, u=2), assignment_interval_ms=interval_ms)
        self.clients = [
            Client(self.stage, f"m{number}", instance_id=f"i{number}" if number == 4 else None) for number in range(5)
        ]
        self.gone: set[str] = set()  # taken out by the broker, and does not know yet
        self.images = 1

    def do(self, what: str, *about: object) -> None:
        if what == "crash":
            self.stage.revive()
        elif what == "wait":
            self.stage.now_ms += about[0]  # type: ignore[operator]
        elif what == "topics":
            self.images += 1
            counts = {name: count for name, count in zip(TOPICS, about, strict=True) if count}
            self.stage.image = image_of(self.images, **counts)  # type: ignore[arg-type]
        else:
            assert isinstance(about[0], int)
            self._member(what, self.clients[about[0]], *about[1:])

    def _member(self, what: str, client: Client, *about: object) -> None:
        stage = self.stage
        if what == "leave":
            client.leave(is_static=client.instance_id is not None and bool(client.epoch))
            self.gone.discard(client.member_id)
        elif what == "expire":
            key = member_timer(client.member_id)
            if key in stage.timers:
                stage.fire(key)
                if client.is_in:
                    self.gone.add(client.member_id)
        elif what == "revoked":
            client.held = {key: set(indexes) for key, indexes in client.target.items()}
        elif what == "fail":
            stage.writes_fail = True
            answer = client.beat()
            stage.writes_fail = False
            assert answer.code is not Code.NONE or isinstance(stage.group, ConsumerGroup)
        elif what == "subscribe":
            client.topics = about[0]  # type: ignore[assignment]
            client.beat(is_full=True)
        else:
            client.revokes = what != "slow"
            client.beat(is_lost=what == "lost", is_full=what == "full")
            client.revokes = True
        if not client.is_in:
            self.gone.discard(client.member_id)

    def check(self) -> None:
        self.stage.check()
        held: set[object] = set()
        for client in self.clients:
            if client.member_id in self.gone:
                continue
            for key, indexes in client.held.items():
                for index in indexes:
                    assert (key, index) not in held, f"{index} of {key} is held twice"
                    held.add((key, index))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([0, 1_000]), st.lists(STEPS, max_size=40))
def test_a_partition_is_held_by_one_client_whatever_happens(interval_ms: int, steps: list[tuple[str, ...]]) -> None:
    run = Run(interval_ms)
    for step in steps:
        run.do(*step)
        run.check()
    for _ in range(2):  # a static member that was fenced learns of it by the first round
        for key in [key for key in run.stage.timers if isinstance(key, tuple) and key[0] == "member"]:
            if key[1] not in {client.member_id for client in run.clients if client.is_in}:
                run.stage.fire(key)  # who is not there any more is gone some time
        settle(run.stage, *run.clients)
    image = run.stage.image
    wanted = {name for client in run.clients for name in client.topics if name in image.topics}
    every = {(topic_id(name), index) for name in wanted for index in range(len(image.topics[name].partitions))}
    held = [(key, index) for client in run.clients for key, indexes in client.held.items() for index in indexes]
    assert sorted(held) == sorted(every)
    assert run.stage.consumer.state == "Stable"


WISHES = st.dictionaries(
    st.sampled_from([f"m{number}" for number in range(6)]),
    st.tuples(
        st.sets(st.sampled_from(TOPICS)),
        st.dictionaries(st.sampled_from(TOPICS), st.frozensets(st.integers(0, 9), max_size=5), max_size=3),
    ),
    min_size=1,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(ASSIGNORS)), WISHES, st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)))
def test_every_partition_has_one_member_that_wants_it(name: str, wishes: dict, sizes: tuple[int, int, int]) -> None:  # type: ignore[type-arg]
    counts = {topic_id(topic): size for topic, size in zip(TOPICS, sizes, strict=True)}
    members = {
        member: Wish(None, frozenset(map(topic_id, topics)), {topic_id(topic): had for topic, had in before.items()})
        for member, (topics, before) in wishes.items()
    }
    given_to = ASSIGNORS[name](members, counts)
    assert given_to.keys() == members.keys()
    held = [(key, index) for parts in given_to.values() for key, indexes in parts.items() for index in indexes]
    wanted = set().union(*(wish.topics for wish in members.values()))
    assert sorted(held) == sorted((key, index) for key in wanted for index in range(counts[key]))
    for member, parts in given_to.items():
        assert parts.keys() <= members[member].topics
    if name == "uniform" and len({wish.topics for wish in members.values()}) == 1:
        loads = [sum(map(len, parts.values())) for parts in given_to.values()]
        assert max(loads) - min(loads) <= 1
    if name == "range":
        for key in wanted:
            shares = [len(given_to[member].get(key, ())) for member, wish in members.items() if key in wish.topics]
            assert max(shares) - min(shares) <= 1
    reversed_input = dict(reversed(list(members.items())))
    assert ASSIGNORS[name](reversed_input, counts) == given_to, "the order of members says nothing"


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(1, 60), st.integers(0, 11))
def test_uniform_moves_no_more_than_it_must(members: int, partitions: int, leaves: int) -> None:
    key = topic_id("t")
    wishes = {f"m{number:02}": Wish(None, frozenset({key}), {}) for number in range(members)}
    before = ASSIGNORS["uniform"](wishes, {key: partitions})
    after_wishes = {
        name: wish._replace(before={topic: frozenset(parts) for topic, parts in before[name].items()})
        for name, wish in wishes.items()
    }
    assert ASSIGNORS["uniform"](after_wishes, {key: partitions}) == before, "nothing moves where nothing changed"
    after_wishes.pop(f"m{leaves:02}", None)
    if not after_wishes:
        return
    after = ASSIGNORS["uniform"](after_wishes, {key: partitions})
    for name in after_wishes:
        assert before[name].get(key, set()) <= after[name].get(key, set()), "who stays keeps what it has"


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.integers(0, 5), st.integers(1, 4)),
    st.frozensets(st.integers(0, 5)),
    st.frozensets(st.integers(0, 5)),
    st.one_of(st.none(), st.frozensets(st.integers(0, 5))),
    st.booleans(),
)
def test_a_member_never_gets_what_another_has(
    had: dict[int, int], target: frozenset[int], others: frozenset[int], owned: frozenset[int] | None, has_changed: bool
) -> None:
    key = topic_id("t")
    others -= had.keys()
    current = Current(epoch=4, previous_epoch=4, assigned={key: had} if had else {})
    moved = reconciled(
        current, "me", epoch=5, target={key: target}, owned=None if owned is None else {key: owned}, wanted={key},
        has_changed=has_changed, owner=lambda topic, index: "other" if index in others else "me" if index in had else None,
    )  # fmt: skip
    now = set(moved.assigned.get(key, {}))
    assert now <= target
    assert not now & others
    assert moved.epoch in (4, 5)
    gives_up = set(had) - target
    still = gives_up if owned is None else gives_up & owned
    if still:
        assert (moved.state, moved.epoch) == (MemberState.UNREVOKED, 4)
        assert set(moved.revoking[key]) == gives_up
    else:
        assert moved.epoch == 5
        assert now == target - others
        assert (moved.state is MemberState.STABLE) == (not target & others)
