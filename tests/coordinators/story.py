"""A group under test: what it answers, its timers, and what it writes."""

from __future__ import annotations

from hotlog.coordinators.effects import Arm, Disarm, Effect, Many, Reply, Store
from hotlog.coordinators.group import step
from hotlog.coordinators.group_types import (
    Event,
    Group,
    Heartbeat,
    Join,
    Joined,
    Leave,
    Left,
    Limits,
    State,
    Stored,
    Sync,
    Synced,
)

LIMITS = Limits(session_ms_min=10, session_ms_max=60_000, initial_delay_ms=0, members_max=100, bytes_max=1_000_000)
RANGE = (("range", b"meta"), ("roundrobin", b"rr"))


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
        """One step; its effects, each for itself."""
        before = self.group.kept()
        self.group, effects = step(self.group, event, self.limits)
        assert self.group.generation >= before.generation
        flat = [one for effect in effects for one in (effect.each() if isinstance(effect, Many) else (effect,))]
        for effect in flat:
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
        return flat

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
