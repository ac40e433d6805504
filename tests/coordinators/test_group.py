"""The group machine: stories of joins, syncs, deaths, and what must hold whatever happens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hotlog.coordinators.group import step
from hotlog.coordinators.group_types import (
    JOIN_TIMER,
    NEW_MEMBER_JOIN_MS_MAX,
    SYNC_TIMER,
    Arm,
    Code,
    Disarm,
    Effect,
    Event,
    Group,
    Heartbeat,
    Join,
    JoinDue,
    Joined,
    Leave,
    Left,
    Limits,
    MemberDue,
    Reply,
    State,
    Store,
    Stored,
    Sync,
    SyncDue,
    Synced,
    member_timer,
)

LIMITS = Limits(session_ms_min=10, session_ms_max=60_000, initial_delay_ms=0, members_max=100, bytes_max=1_000_000)
RANGE = (("range", b"meta"), ("roundrobin", b"rr"))

pytestmark = pytest.mark.timeout(300)  # virtual time or many examples: it ends by itself


class Story:
    """A group, what it answered, its timers, and what it wrote."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.group = Group(group_id="g")
        self.limits = limits
        self.answers: dict[object, object] = {}
        self.asked: set[object] = set()
        self.timers: dict[object, Arm] = {}
        self.stores: list[Store] = []
        self._tokens = 0

    def send(self, event: Event) -> list[Effect]:
        before = self.group
        self.group, effects = step(self.group, event, self.limits)
        assert self.group.generation >= before.generation
        for effect in effects:
            match effect:
                case Reply(token, result):
                    assert token in self.asked, "only what was asked is answered"
                    assert token not in self.answers, "and only once"
                    self.answers[token] = result
                case Arm(key):
                    self.timers[key] = effect
                case Disarm(key):
                    self.timers.pop(key, None)
                case Store():
                    self.stores.append(effect)
        return effects

    def ask(self, event: Event) -> object:
        self.asked.add(event.token)  # type: ignore[union-attr]
        self.send(event)
        return self.answers.get(event.token)  # type: ignore[union-attr]

    def token(self) -> int:
        self._tokens += 1
        return self._tokens

    def join(
        self,
        member_id: str = "",
        *,
        instance: str | None = None,
        protocols=RANGE,
        known: bool = False,
        kind: str = "consumer",
        session_ms: int = 1000,
        rebalance_ms: int = 5000,
        skip: bool = True,
        client: str = "c",
    ):
        token = self.token()
        event = Join(
            token=token, member_id=member_id, fresh_id=f"{client}-{token}", instance_id=instance, client_id=client, client_host="/h",
            session_timeout_ms=session_ms, rebalance_timeout_ms=rebalance_ms, protocol_type=kind, protocols=protocols,
            needs_known_id=known, can_skip_assignment=skip,
        )  # fmt: skip
        self.ask(event)
        return token

    def sync(
        self,
        member_id: str,
        *,
        generation: int | None = None,
        assignments=None,
        instance: str | None = None,
        protocol: str | None = None,
    ):
        token = self.token()
        event = Sync(
            token=token, member_id=member_id, instance_id=instance,
            generation=self.group.generation if generation is None else generation,
            protocol_type=None, protocol=protocol, assignments=assignments or {},
        )  # fmt: skip
        self.ask(event)
        return token

    def heartbeat(self, member_id: str, *, generation: int | None = None, instance: str | None = None) -> object:
        generation = self.group.generation if generation is None else generation
        return self.ask(Heartbeat(token=self.token(), member_id=member_id, instance_id=instance, generation=generation))

    def leave(self, *members: tuple[str, str | None]) -> Left:
        answer = self.ask(Leave(token=self.token(), members=members))
        assert isinstance(answer, Left)
        return answer

    def fire(self, key: object) -> None:
        self.send(self.timers.pop(key).event)

    def stored(self, is_ok: bool = True) -> None:
        self.send(Stored(self.group.generation, is_ok))

    def joined(self, token: int) -> Joined:
        answer = self.answers[token]
        assert isinstance(answer, Joined)
        return answer

    def synced(self, token: int) -> Synced:
        answer = self.answers[token]
        assert isinstance(answer, Synced)
        return answer

    def stable(self, count: int = 2, **options) -> list[str]:
        """Bring `count` members to a stable generation; return their ids."""
        members: list[str] = []
        for _ in range(count):
            tokens = [self.join(**options)]
            tokens += [self.join(member, **options) for member in members]
            members = [self.joined(token).member_id for token in tokens]
        leader = self.group.leader
        assert leader is not None
        waiting = [self.sync(member) for member in members if member != leader]
        waiting.append(self.sync(leader, assignments={member: member.encode() for member in members}))
        self.stored()
        assert self.group.state is State.STABLE
        assert {self.synced(token).assignment for token in waiting} == {member.encode() for member in members}
        return members


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
    assert story.group.pending == frozenset()
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
    assert story.stores[-1].group.members == {}
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
    assert story.group.members[first].assignment == b""


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
    assert story.stores[-1].group.static == {"i1": back.member_id}


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


def test_the_group_has_a_largest_size() -> None:
    story = Story(LIMITS._replace(members_max=2))
    story.stable(2)
    assert story.joined(story.join()).code is Code.GROUP_MAX_SIZE_REACHED


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
        assert all(m.join_token is None or m.sync_token is None for m in members)
        waiting = [t for m in members for t in (m.join_token, m.sync_token) if t is not None]
        assert set(waiting) == story.asked - set(story.answers), "who is not answered waits, and nobody else"
        assert not group.pending & set(group.members)
        assert len(group.static) == sum(m.instance_id is not None for m in members)
        if group.state is State.EMPTY:
            assert not members
        if members:
            assert group.leader in group.members
        if group.state in (State.STABLE, State.COMPLETING):
            assert all(m.join_token is None for m in members)
            assert group.protocol in {name for name, _ in members[0].protocols}
        if group.state is State.STABLE:
            assert all(m.sync_token is None for m in members)
        if group.state is State.PREPARING:
            assert all(m.sync_token is None for m in members)
            assert JOIN_TIMER in story.timers, "a rebalance always ends"
        if group.state is State.COMPLETING and not group.is_storing:
            assert SYNC_TIMER in story.timers
        for member_id in group.pending:
            assert ("member", member_id) in story.timers, "an id given out is taken back in time"


GroupRules.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_whatever_happens_nobody_waits_for_ever = GroupRules.TestCase


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


def test_an_assignment_beyond_the_bound_is_refused_as_a_record_too_large() -> None:
    story = Story(LIMITS._replace(bytes_max=10_000))
    joined = story.answers[story.join()]
    synced = story.answers[story.sync(joined.member_id, assignments={joined.member_id: b"x" * 9_000})]
    assert synced.code is Code.UNKNOWN_SERVER_ERROR
    assert story.group.members[joined.member_id].assignment == b""
    assert story.stores == []


def test_a_new_member_whose_first_join_is_never_answered_does_not_stay() -> None:
    """Its client may have gone, and asked again as another one: nobody sees it (Kafka's five minutes)."""
    story = Story()
    leader = story.answers[story.join()].member_id
    story.sync(leader, assignments={leader: b""})
    story.send(Stored(story.group.generation, True))
    waits = story.join()  # the leader does not come back for this rebalance
    gone = next(key for key, member in story.group.members.items() if member.join_token == waits)
    assert story.timers[member_timer(gone)].delay_ms == NEW_MEMBER_JOIN_MS_MAX
    story.send(story.timers[member_timer(gone)].event)
    assert gone not in story.group.members
    assert story.answers[waits].code is Code.UNKNOWN_MEMBER_ID
    stays = story.join()
    answer = story.join(leader)
    assert story.answers[answer].code is story.answers[stays].code is Code.NONE
    assert all(story.timers[member_timer(key)].delay_ms < NEW_MEMBER_JOIN_MS_MAX for key in story.group.members)
