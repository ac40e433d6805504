"""Drives group machines: futures for waiting requests, loop timers, writes to the log.

Invariants: a group changes only through `step`; effects are carried out in their order, and nothing comes between a step and its effects;
writes of one group reach the log in the order of their steps.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from hotlog.coordinators.group import step
from hotlog.coordinators.group_types import (
    Arm,
    Disarm,
    Effect,
    Event,
    Group,
    Heartbeat,
    Leave,
    Limits,
    MemberDue,
    Reply,
    State,
    Store,
    Stored,
    Token,
    member_timer,
)
from hotlog.coordinators.offset_log import OffsetLog
from hotlog.coordinators.offset_records import GroupKey, GroupValue
from hotlog.kernel.errors import HotlogError
from hotlog.world.ports import Clock

LOG = logging.getLogger(__name__)
GROUP_BYTES, PENDING_BYTES = 4096, 512  # what a group, and an id that was given out, take beside what members say, about


@dataclass
class Live:
    """A group with what drives it."""

    group: Group
    table: OffsetLog
    timers: dict[Hashable, asyncio.TimerHandle] = field(default_factory=dict)
    store_order: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_nothing(self) -> bool:
        """Whether the group was only ever asked for: no members, no ids given out, no record."""
        group = self.group
        is_idle = group.state is State.EMPTY and not group.pending and not self.timers
        return is_idle and not self.table.has(group.group_id)


class MemberBytes:
    """Bytes of memory that all groups with members hold, about."""

    def __init__(self) -> None:
        self.total = 0
        self._of: dict[str, int] = {}

    def note(self, group: Group) -> None:
        """The members of a group changed, or the ids that it gave out."""
        now = sum(member.size + len(member.assignment) for member in group.members.values()) + PENDING_BYTES * len(group.pending)
        if now:
            now += GROUP_BYTES + len(group.group_id)
        self.total += now - self._of.pop(group.group_id, 0)
        if now:
            self._of[group.group_id] = now


class GroupDriver:
    """All live groups of this node."""

    def __init__(self, limits: Callable[[], Limits], clock: Clock) -> None:
        self.live: dict[str, Live] = {}
        self.member_bytes = MemberBytes()
        self._limits = limits
        self._clock = clock
        self._waiting: dict[Token, asyncio.Future[Any]] = {}
        self._tokens = itertools.count()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._changed: dict[str, None] = {}  # groups that may have become nothing

    async def close(self) -> None:
        """Stop timers and writes; waiting requests are cancelled."""
        for live in self.live.values():
            for timer in live.timers.values():
                timer.cancel()
            live.timers.clear()
        for task in reversed(list(self._tasks)):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for future in self._waiting.values():
            future.cancel()
        self._waiting.clear()

    def token(self) -> Token:
        """A token that was never used."""
        return next(self._tokens)

    def made(self, group_id: str, table: OffsetLog) -> Live:
        """The live group, a new one if there is none."""
        live = self.live.get(group_id)
        if live is None:
            live = self.live[group_id] = Live(Group(group_id=group_id), table)
        self._changed[group_id] = None
        return live

    def drop(self, live: Live) -> None:
        """Forget a group without members."""
        for timer in live.timers.values():
            timer.cancel()
        del self.live[live.group.group_id]

    def changed(self, group_id: str) -> None:
        """Records of the group are gone."""
        self._changed[group_id] = None

    def sweep(self, count_max: int) -> bool:
        """Look at up to `count_max` groups that changed and forget those that became nothing; whether there are more to look at."""
        for group_id in list(islice(self._changed, count_max)):
            del self._changed[group_id]
            live = self.live.get(group_id)
            if live is not None and live.is_nothing:
                self.drop(live)
        return bool(self._changed)

    def revive(self, group_id: str, value: GroupValue, table: OffsetLog) -> None:
        """A group as it was when it was last stored; its members have one session to show up."""
        live = self.live[group_id] = Live(value.group, table)
        self.member_bytes.note(value.group)
        for member in value.group.members.values():
            self.arm(live, Arm(member_timer(member.member_id), member.session_timeout_ms, MemberDue(member.member_id)))

    def take(self, live: Live, event: Event) -> None:
        """One step and its effects; a plain function, so nothing comes in between."""
        before = live.group
        live.group, effects = step(before, event, self._limits())
        if live.group.members is not before.members or live.group.pending is not before.pending:
            self.member_bytes.note(live.group)
        self._changed[live.group.group_id] = None
        for effect in effects:
            self._carry_out(live, effect)

    def _carry_out(self, live: Live, effect: Effect) -> None:
        match effect:
            case Reply(token, result):
                future = self._waiting.pop(token, None)
                if future is not None and not future.done():
                    future.set_result(result)
            case Arm():
                self.arm(live, effect)
            case Disarm(key):
                timer = live.timers.pop(key, None)
                if timer is not None:
                    timer.cancel()
            case Store(group, is_awaited):
                self._spawn(self._store(live, group, is_awaited))

    def arm(self, live: Live, effect: Arm) -> None:
        old = live.timers.pop(effect.key, None)
        if old is not None:
            old.cancel()

        def due() -> None:
            live.timers.pop(effect.key, None)
            self.take(live, effect.event)

        live.timers[effect.key] = asyncio.get_running_loop().call_later(effect.delay_ms / 1000, due)

    async def _store(self, live: Live, group: Group, is_awaited: bool) -> None:
        is_ok = True
        async with live.store_order:
            try:
                await live.table.append([(GroupKey(group.group_id), GroupValue(group, self._clock.now_ms()))])
            except (HotlogError, OSError) as problem:
                LOG.warning("group %s generation %d could not be stored: %s", group.group_id, group.generation, problem)
                is_ok = False
        if is_awaited:
            self.take(live, Stored(group.generation, is_ok))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def ask(self, live: Live, token: Token, event: Event) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        self.take(live, event)
        try:
            return await future
        finally:
            self._waiting.pop(token, None)

    def ask_now(self, live: Live, token: Token, event: Heartbeat | Leave) -> Any:
        """For events that are answered in the same step."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        self.take(live, event)
        return future.result()
