"""A consumer group under test with the clients that are in it: they do what the protocol asks of clients, and hold partitions as clients do.

The log is what the group wrote: it can be read again, and a write may fail.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from controller.image import ClusterImage, PartitionImage, TopicImage
from hotlog.coordinators.consumer.draft import rejoin_timer, revoke_timer, sync_timer
from hotlog.coordinators.consumer.machine import AnyGroup
from hotlog.coordinators.consumer.revival import revived_group
from hotlog.coordinators.consumer.values import Beat, Beaten, ConsumerGroup, Resolved, Rules
from hotlog.coordinators.effects import Arm, Disarm, Effect, Many, Reply, Store, Write
from hotlog.coordinators.group_kind import GroupKind
from hotlog.coordinators.group_types import Code, Group, Limits, member_timer
from hotlog.coordinators.offset_records import GroupCodec, GroupKey, Key, Value

LIMITS = Limits(session_ms_min=10, session_ms_max=60_000, initial_delay_ms=0, members_max=100, bytes_max=1_000_000)
PARTITION = PartitionImage(replicas=(), leader=0, leader_epoch=0)  # type: ignore[arg-type]


def topic_id(name: str, life: int = 0) -> UUID:
    return UUID(bytes=name.encode().ljust(15, b"\0") + bytes([life]))


def image_of(offset: int, /, **partitions: int) -> ClusterImage:
    """Topics with so many partitions."""
    topics = {
        name: TopicImage(topic_id=topic_id(name), name=name, partitions=(PARTITION,) * count, configs={}, created_ms=0)
        for name, count in partitions.items()
    }
    return ClusterImage(offset=offset, topics=topics)


class Stage:
    """One group."""

    def __init__(self, image: ClusterImage | None = None, **rules: object) -> None:
        self.image = image if image is not None else image_of(1, t=4)
        self.now_ms = 1_000_000
        self.resolved: dict[str, Resolved] = {}
        self._changes = rules
        self.kind = GroupKind(lambda: LIMITS, self.rules)
        self.group: AnyGroup = self.kind.fresh("g")
        self.log: dict[Key, Value] = {}
        self.timers: dict[object, Arm] = {}
        self.answers: dict[object, object] = {}
        self.writes_fail = False
        self._tokens = 0

    def rules(self, group_id: str) -> Rules:
        rules = Rules(
            session_ms=45_000, heartbeat_ms=5_000, assignment_interval_ms=0, members_max=100, assignors=("uniform", "range"),
            may_upgrade=True, may_downgrade=True, limits=LIMITS, image=self.image, resolved=self.resolved, now_ms=self.now_ms,
        )  # fmt: skip
        return rules._replace(**self._changes)  # type: ignore[arg-type]

    @property
    def consumer(self) -> ConsumerGroup:
        assert isinstance(self.group, ConsumerGroup)
        return self.group

    @property
    def classic(self) -> Group:
        assert isinstance(self.group, Group)
        return self.group

    def token(self) -> int:
        self._tokens += 1
        return self._tokens

    def send(self, event: object) -> list[Effect]:
        """One step and what it asks for; a write that fails takes the group back."""
        self.group, effects = self.kind.step(self.group, event)
        flat = [one for effect in effects for one in (effect.each() if isinstance(effect, Many) else (effect,))]
        for effect in flat:
            match effect:
                case Reply(token, result):
                    assert token not in self.answers, "only once"
                    self.answers[token] = result
                case Arm(key):
                    self.timers[key] = effect
                case Disarm(key):
                    self.timers.pop(key, None)
                case Write(entries, token, result, refusal):
                    if entries and self.writes_fail:
                        self.revive()
                    else:
                        self.append(entries)
                    if token is not None:
                        self.answers[token] = refusal if entries and self.writes_fail else result
                case Store(value, is_awaited):
                    self.append(self.kind.entries(value, self.now_ms))
                    if is_awaited:
                        self.send(self.kind.stored(value, True))
        return flat

    def append(self, entries: Iterable[tuple[Key, Value | None]]) -> None:
        """What is written is written as bytes."""
        codec = GroupCodec()
        for key, value in entries:
            decoded = codec.decode_key(codec.encode_key(key))
            assert decoded == key
            if value is None:
                self.log.pop(key, None)
                continue
            raw = codec.encode_value(value)
            self.log[key] = codec.decode_value(key, raw if isinstance(raw, bytes) else b"".join(raw))

    def revive(self) -> None:
        """As after a crash: only what was written is left."""
        self.timers.clear()
        found = self.kind.revived("g", self)  # type: ignore[arg-type]
        self.group, effects = found if found is not None else (self.kind.fresh("g"), [])
        self.timers.update((effect.key, effect) for effect in effects if isinstance(effect, Arm))

    def keys(self, owner: str) -> list[Key]:
        return list(self.log)

    def value(self, owner: str, key: Key) -> Value | None:
        return self.log.get(key)

    def fire(self, key: object) -> None:
        self.send(self.timers.pop(key).event)

    def ask(self, event: object) -> object:
        self.send(event)
        return self.answers.get(event.token)  # type: ignore[attr-defined]

    def check(self) -> None:
        """What holds after every step."""
        if isinstance(self.group, Group):
            if self.group.members:
                assert GroupKey("g") in self.log or self.group.generation == 0 or self.group.state.value != "Stable"
            return
        group = self.group
        found = revived_group("g", self.log, self.rules("g"))
        assert found is not None or group.epoch == 0
        if found is not None:
            again = found[0]
            for name in (
                "epoch", "hash", "assignment_epoch", "members", "targets", "regexes", "static", "subscriptions", "classic", "known_by", "size",
            ):  # fmt: skip
                mine, read = getattr(group, name), getattr(again, name)
                if name == "known_by":
                    mine, read = ({key: count for key, count in each.items() if count} for each in (mine, read))
                assert mine == read, f"{name} is not what was written"
            assert {key: owners for key, owners in group.owners.items() if owners} == again.owners
        held: set[tuple[UUID, int]] = set()
        for member in group.members.values():
            for place in member.current.held():
                assert place not in held, "a partition has one owner"
                held.add(place)
            assert member_timer(member.member_id) in self.timers, "every member has a session"
            assert member.current.epoch <= group.epoch
            assert (revoke_timer(member.member_id) in self.timers) == (
                member.current.state.name == "UNREVOKED" and member.said.classic is None and member.current.epoch >= 0
            )
        assert group.assignment_epoch <= group.epoch
        for key in self.timers:
            assert key in {
                make(member_id) for member_id in group.members for make in (member_timer, revoke_timer, rejoin_timer, sync_timer)
            }


@dataclass
class Client:
    """A member of the new protocol as a client knows it."""

    stage: Stage
    member_id: str
    topics: tuple[str, ...] = ("t",)
    regex: str | None = None
    instance_id: str | None = None
    assignor: str | None = None
    epoch: int = 0
    held: dict[UUID, set[int]] = field(default_factory=dict)
    is_in: bool = False
    revokes: bool = True  # at once
    target: dict[UUID, set[int]] = field(default_factory=dict)
    has_missed: bool = False  # an answer; it asks for all again

    def beat(self, *, is_lost: bool = False, is_full: bool = False) -> Beaten:
        """One heartbeat; `is_lost`: its answer does not come."""
        is_joining = self.epoch == 0
        is_full = is_full or is_joining or self.has_missed
        self.has_missed = is_lost
        event = Beat(
            token=self.stage.token(), member_id=self.member_id, epoch=self.epoch, instance_id=self.instance_id, rack_id=None,
            rebalance_ms=10_000 if is_full else -1, topics=self.topics if is_full else None,
            regex=self.regex if is_full else None, assignor=self.assignor if is_full else None,
            owned={} if is_joining else {key: frozenset(indexes) for key, indexes in self.held.items()},
            client_id="c", client_host="/h",
        )  # fmt: skip
        answer = self.stage.ask(event)
        assert isinstance(answer, Beaten)
        if not is_lost:
            self.hear(answer)
        return answer

    def hear(self, answer: Beaten) -> None:
        if answer.code in (Code.FENCED_MEMBER_EPOCH, Code.UNKNOWN_MEMBER_ID, Code.GROUP_ID_NOT_FOUND):
            self.lose()
            return
        if answer.code is not Code.NONE:
            return
        assert answer.epoch >= self.epoch, "an epoch never goes back"
        self.epoch, self.is_in = answer.epoch, True
        if answer.assignment is not None:
            self.target = {key: set(indexes) for key, indexes in answer.assignment.items()}
        if self.revokes:
            self.held = {key: set(indexes) for key, indexes in self.target.items()}

    def lose(self) -> None:
        """It gives up all, and joins anew."""
        self.held, self.target, self.epoch, self.is_in = {}, {}, 0, False

    def leave(self, *, is_static: bool = False) -> Beaten:
        event = Beat(
            token=self.stage.token(), member_id=self.member_id, epoch=-2 if is_static else -1, instance_id=self.instance_id, rack_id=None,
            rebalance_ms=-1, topics=None, regex=None, assignor=None, owned=None, client_id="c", client_host="/h",
        )  # fmt: skip
        self.lose()
        answer = self.stage.ask(event)
        assert isinstance(answer, Beaten)
        return answer

    def subscribe(self, *topics: str) -> Beaten:
        self.topics = topics
        return self.beat(is_full=True)

    @property
    def count(self) -> int:
        return sum(map(len, self.held.values()))


def settle(stage: Stage, *clients: Client) -> int:
    """Beat in turn until nothing changes; how many rounds that took."""
    for round_number in range(50):
        stage.now_ms += 5_000
        before = stage.group
        for client in clients:
            client.beat()
            stage.check()
        if stage.group == before:
            return round_number
    raise AssertionError("the group does not come to rest")
