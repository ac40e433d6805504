"""Groups that change from the classic protocol to the new one while they are used, and back (KIP-848)."""

from __future__ import annotations

import pytest

from hotlog.coordinators.consumer import embedded
from hotlog.coordinators.consumer.values import ConsumerGroup
from hotlog.coordinators.group_types import Code, Group, Heartbeat, Join, Joined, Leave, Left, State, Sync, Synced, member_timer
from hotlog.kernel.errors import Invalid
from tests.coordinators.consumer.stage import Client, Stage, image_of, settle, topic_id

T = topic_id("t")
SUBSCRIPTION = b"\0\1\0\0\0\1\0\1t\xff\xff\xff\xff\0\0\0\0"
RANGE = (("range", SUBSCRIPTION),)


class Old:
    """A member of the classic protocol, by one request at a time."""

    def __init__(self, stage: Stage, protocols: tuple[tuple[str, bytes], ...] = RANGE, instance_id: str | None = None) -> None:
        self.stage, self.protocols, self.instance_id = stage, protocols, instance_id
        self.member_id, self.generation, self.token = "", -1, 0
        self.held: set[int] = set()

    def join(self, **about: object) -> Joined | None:
        """The answer, if it comes at once."""
        self.token = self.stage.token()
        fields: dict[str, object] = {
            "token": self.token, "fresh_id": f"c-{self.token}", "member_id": self.member_id, "instance_id": self.instance_id,
            "client_id": "c", "client_host": "/h", "session_timeout_ms": 1_000, "rebalance_timeout_ms": 5_000,
            "protocol_type": "consumer", "protocols": self.protocols, "needs_known_id": False, "can_skip_assignment": False,
        }  # fmt: skip
        answer = self.stage.ask(Join(**{**fields, **about}))  # type: ignore[arg-type]
        return self.joined(answer) if isinstance(answer, Joined) else None

    def joined(self, answer: object) -> Joined:
        assert isinstance(answer, Joined)
        if answer.code is Code.NONE:
            self.member_id, self.generation = answer.member_id, answer.generation
        return answer

    def sync(self, plan: dict[str, bytes] | None = None) -> Synced | None:
        event = Sync(
            token=self.stage.token(), member_id=self.member_id, instance_id=self.instance_id, generation=self.generation,
            protocol_type="consumer", protocol="range", assignments=plan or {},
        )  # fmt: skip
        answer = self.stage.ask(event)
        if isinstance(answer, Synced) and answer.code is Code.NONE:
            self.held = set(embedded.assignment(answer.assignment).parts.get("t", ()))
        return answer if isinstance(answer, Synced) else None

    def heartbeat(self) -> Code:
        event = Heartbeat(
            token=self.stage.token(), member_id=self.member_id, instance_id=self.instance_id, generation=self.generation
        )
        answer = self.stage.ask(event)
        assert isinstance(answer, Code)
        return answer

    def leave(self) -> Left:
        answer = self.stage.ask(Leave(token=self.stage.token(), members=((self.member_id, self.instance_id),)))
        assert isinstance(answer, Left)
        return answer

    def go_on(self) -> None:
        """What a consumer does at a heartbeat: it joins again if it shall, saying what it keeps."""
        if self.heartbeat() is Code.REBALANCE_IN_PROGRESS:
            self.join(protocols=(("range", said(self.held)),))
            self.sync()


def said(held: set[int]) -> bytes:
    """A subscription that says what the member has."""
    owned = (
        b"\0\0\0\1\0\1t" + len(held).to_bytes(4) + b"".join(index.to_bytes(4) for index in sorted(held)) if held else b"\0\0\0\0"
    )
    return SUBSCRIPTION[:-4] + owned


def alone(stage: Stage) -> Old:
    """A stable classic group of one."""
    old = Old(stage)
    old.join()
    old.sync({old.member_id: embedded.encode_assignment(1, {"t": range(4)})})
    assert (stage.classic.state, old.held) == (State.STABLE, {0, 1, 2, 3})
    return old


def both(stage: Stage, old: Old, new: Client) -> None:
    """Until both are at rest."""
    for _ in range(10):
        stage.now_ms += 5_000
        new.beat()
        stage.check()
        old.go_on()
        stage.check()


def test_a_new_member_makes_the_group_a_new_one_and_the_old_member_stays() -> None:
    stage = Stage()
    old, new = alone(stage), Client(stage, "n")
    assert new.beat().code is Code.NONE
    group = stage.consumer
    assert group.members.keys() == {old.member_id, "n"}
    assert new.held == {}, "the old one has them all still"
    stage.check()
    assert old.heartbeat() is Code.REBALANCE_IN_PROGRESS
    both(stage, old, new)
    assert (len(old.held), new.count) == (2, 2)
    assert old.held.isdisjoint(new.held[T])
    assert stage.consumer.state == "Stable"


def test_the_last_new_member_makes_it_a_classic_one() -> None:
    stage = Stage()
    old, new = alone(stage), Client(stage, "n")
    both(stage, old, new)
    epoch = stage.consumer.epoch
    new.leave()
    assert stage.classic.state is State.PREPARING
    assert stage.classic.generation == epoch, "the epoch goes on as the generation"
    assert old.heartbeat() is Code.REBALANCE_IN_PROGRESS
    joined = old.join()
    assert joined is not None
    assert (joined.code, joined.generation, joined.leader) == (Code.NONE, epoch + 1, old.member_id)
    stage.revive()
    assert stage.classic.members.keys() == {old.member_id}, "so it is in the log"


def test_a_new_member_whose_session_ends_makes_it_a_classic_one_too() -> None:
    stage = Stage()
    old, new = alone(stage), Client(stage, "n")
    both(stage, old, new)
    stage.fire(member_timer("n"))
    assert stage.classic.members.keys() == {old.member_id}
    assert new.beat().code is Code.GROUP_ID_NOT_FOUND
    assert new.beat().code is Code.NONE, "and joins anew"
    assert isinstance(stage.group, ConsumerGroup)


def test_who_waits_while_a_group_changes_is_told_to_join_again() -> None:
    stage = Stage()
    first, second = alone(stage), Old(stage)
    assert second.join() is None, "it waits for the first"
    Client(stage, "n").beat()
    answer = stage.answers[second.token]
    assert isinstance(answer, Joined)
    assert answer.code is Code.REBALANCE_IN_PROGRESS
    assert first.heartbeat() is Code.REBALANCE_IN_PROGRESS


def test_an_old_member_that_does_not_join_again_is_gone() -> None:
    stage = Stage()
    old, new = alone(stage), Client(stage, "n")
    new.beat()
    assert old.heartbeat() is Code.REBALANCE_IN_PROGRESS
    stage.fire(("rejoin", old.member_id))
    settle(stage, new)
    assert new.count == 4


def test_an_old_member_that_does_not_sync_is_gone() -> None:
    stage = Stage()
    old, new = alone(stage), Client(stage, "n")
    new.beat()
    old.join()
    stage.fire(("sync", old.member_id))
    settle(stage, new)
    assert new.count == 4


def test_an_old_static_member_takes_the_place_of_a_new_one() -> None:
    stage = Stage()
    new = Client(stage, "n", instance_id="i")
    settle(stage, new)
    old = Old(stage, instance_id="i")
    joined = old.join()
    assert joined is not None
    assert joined.code is Code.NONE
    assert stage.classic.static == {"i": old.member_id}, "nobody is left who speaks the new protocol"
    assert stage.classic.state is State.STABLE
    old.sync()
    assert old.held == {0, 1, 2, 3}, "and it has what that one had"


@pytest.mark.parametrize(
    ("rules", "protocols", "kind", "plan"),
    [
        ({"may_upgrade": False}, RANGE, "consumer", b""),
        ({}, (("default", b""),), "connect", b""),
        ({}, (("range", b"junk"),), "consumer", b""),
        ({"members_max": 0}, RANGE, "consumer", b""),
        ({}, RANGE, "consumer", embedded.encode_assignment(1, {"t": [0]})[:-4] + b"\0\0\0\1x"),
        ({}, RANGE, "consumer", b"junk"),
    ],
    ids=["forbidden", "connect", "junk", "too large", "an assignor with data of its own", "a plan that is junk"],
)
def test_a_group_that_cannot_change_stays_as_it_is(
    rules: dict[str, object], protocols: tuple[tuple[str, bytes], ...], kind: str, plan: bytes
) -> None:
    stage = Stage(**rules)
    old = Old(stage, protocols)
    old.join(protocol_type=kind)
    event = Sync(
        token=stage.token(), member_id=old.member_id, instance_id=None, generation=1, protocol_type=None, protocol=None,
        assignments={old.member_id: plan},
    )  # fmt: skip
    stage.ask(event)
    before, written = stage.classic.kept(), dict(stage.log)
    assert Client(stage, "n").beat().code is Code.GROUP_ID_NOT_FOUND
    assert stage.group == before
    assert stage.log == written


def test_a_group_may_be_forbidden_to_go_back() -> None:
    stage = Stage(may_downgrade=False)
    old, new = alone(stage), Client(stage, "n")
    both(stage, old, new)
    new.leave()
    stage.check()
    assert stage.consumer.members.keys() == {old.member_id}
    for _ in range(3):
        old.go_on()
    assert old.held == {0, 1, 2, 3}


def test_a_change_that_the_log_does_not_take_never_was() -> None:
    stage = Stage()
    old = alone(stage)
    second = Old(stage)
    assert second.join() is None
    stage.writes_fail = True
    assert Client(stage, "n").beat().code is Code.COORDINATOR_NOT_AVAILABLE
    assert stage.classic.members.keys() == {old.member_id}
    assert second.token in stage.answers, "who waited is told"


def test_empty_groups_change_without_a_trace() -> None:
    stage = Stage()
    old = alone(stage)
    old.leave()
    new = Client(stage, "n")
    new.beat()
    assert new.count == 4
    new.leave()
    assert isinstance(stage.group, ConsumerGroup)
    again = Old(stage)
    joined = again.join()
    assert joined is not None
    assert joined.code is Code.NONE
    assert isinstance(stage.group, Group)
    assert not [key for key in stage.log if type(key).__name__ == "ConsumerKey"]


def test_classic_requests_are_refused_as_in_a_classic_group() -> None:
    stage = Stage()
    old, new = alone(stage), Client(stage, "n")
    both(stage, old, new)
    other = Old(stage, (("other", SUBSCRIPTION),))
    assert other.join().code is Code.INCONSISTENT_GROUP_PROTOCOL  # type: ignore[union-attr]
    assert Old(stage).join(protocol_type="connect").code is Code.INCONSISTENT_GROUP_PROTOCOL  # type: ignore[union-attr]
    assert Old(stage).join(session_timeout_ms=1).code is Code.INVALID_SESSION_TIMEOUT  # type: ignore[union-attr]
    assert Old(stage).join(needs_known_id=True).code is Code.MEMBER_ID_REQUIRED  # type: ignore[union-attr]
    old.generation += 1
    assert old.heartbeat() is Code.ILLEGAL_GENERATION
    assert old.sync().code is Code.ILLEGAL_GENERATION  # type: ignore[union-attr]
    old.generation -= 1
    nobody = Old(stage)
    nobody.member_id, nobody.generation = "n", new.epoch
    assert nobody.heartbeat() is Code.UNKNOWN_MEMBER_ID, "it speaks the new protocol"
    assert nobody.leave().members[0][2] is Code.NONE, "but an administrator may take it out"
    assert isinstance(stage.group, Group)


@pytest.mark.parametrize("raw", [b"", b"\0", b"\xff\xff", SUBSCRIPTION[:-1], b"\0\1\x7f\xff\xff\xff"])
def test_what_consumers_say_is_not_believed(raw: bytes) -> None:
    with pytest.raises(Invalid):
        embedded.subscription(raw)


def test_what_consumers_say_is_read() -> None:
    found = embedded.subscription(said({1, 3}))
    assert (found.topics, found.owned) == (("t",), {"t": (1, 3)})
    assert embedded.assignment(embedded.encode_assignment(2, {"t": [3, 1]})) == ({"t": (1, 3)}, b"")
    image_of(1)
