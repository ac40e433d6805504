"""Runs the state machines of one partition, of whatever kind: it has the futures of waiting requests, the timers and the keyed log.

    elected() -> step(...), ask(...), ask_now(...) -> resigned()

A kind of coordinator gives a pure `step`; this module carries out what it asks for.

Invariants: a machine changes only through `step`; nothing comes between a step and its effects, but that effects of thousands of members are
carried out in slices, before those of the next step; writes of one machine reach the log in the order of its steps; after `resigned` no
timer runs, nobody waits, and the memory is free.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from hotlog.coordinators.effects import Arm, Disarm, Do, Effect, Many, Reply, Reverted, Store, Token, Write
from hotlog.coordinators.keyed_log import KeyedLog
from hotlog.coordinators.tenure import NotCoordinator
from hotlog.coordinators.timers import Timers
from hotlog.kernel.errors import HotlogError
from hotlog.world.ports import Clock

LOG = logging.getLogger(__name__)
CARRIED_OUT_AT_ONCE = 32  # effects of a `Many`, in one turn of the loop: each may wake a request that is then answered

S = TypeVar("S")
K = TypeVar("K")
V = TypeVar("V")


class Kind(Protocol[S, K, V]):
    """A kind of machine, such as a consumer group: pure."""

    def fresh(self, owner: str) -> S:
        """One that nothing happened to."""

    def revived(self, owner: str, stored: KeyedLog[K, V]) -> tuple[S, Iterable[Effect]] | None:
        """One as it was last stored, and the timers that it runs under; None if only other records of the owner are there."""

    def step(self, state: S, event: Any) -> tuple[S, Sequence[Effect]]: ...

    def entries(self, state: S, now_ms: int) -> Sequence[tuple[K, V | None]]:
        """What a Store writes."""

    def stored(self, state: S, is_ok: bool) -> Any:
        """The event that tells the outcome of a Store that is awaited."""

    def is_at_rest(self, state: S) -> bool:
        """Whether it need not be kept unless there are records of it."""

    def size(self, state: S) -> int:
        """Bytes of memory beside its records, about; 0 at rest."""


class Memory:
    """Bytes that all machines of a node hold, about."""

    def __init__(self) -> None:
        self.total = 0


class Live(Generic[S]):
    """A machine with what drives it."""

    __slots__ = ("is_over", "left", "order", "owner", "reverted", "size", "state", "timers")

    def __init__(self, owner: str, state: S, due: Callable[[Live[S], Any], None]) -> None:
        self.owner = owner
        self.state = state
        self.timers = Timers(lambda event: due(self, event))
        self.order = asyncio.Lock()  # of its writes
        self.reverted = 0  # how often it became again what the log says; a Write of before is void
        self.left: deque[Effect | Iterator[Effect]] = (
            deque()
        )  # effects not carried out yet; what one step asked for, and what came since
        self.size = 0
        self.is_over = False  # it is not the owner's machine any more


class Shard(Generic[S, K, V]):
    """The machines that one partition keeps."""

    def __init__(self, log: KeyedLog[K, V], kind: Kind[S, K, V], clock: Clock, memory: Memory) -> None:
        self.log = log
        self._kind = kind
        self._clock = clock
        self._memory = memory
        self._live: dict[str, Live[S]] = {}
        self._waiting: dict[Token, asyncio.Future[Any]] = {}
        self._tokens = itertools.count()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._changed: dict[str, None] = {}  # owners that may have come to rest

    # Life

    async def elected(self) -> None:
        """Read the partition, and set every machine in it going.

        Raises:
            Corrupt, StorageFailed: it cannot be read.  NotCoordinator: resigned meanwhile.
        """
        await self.log.replay()
        for at, owner in enumerate(self.log.owners(), 1):
            found = self._kind.revived(owner, self.log)
            if found is not None:
                state, effects = found
                live = self._live[owner] = Live(owner, state, self._step)
                self._note_size(live)
                self._perform(live, list(effects))
            if at % CARRIED_OUT_AT_ONCE == 0:
                await self.give_way()

    def resigned(self) -> None:
        """This node coordinates the partition no more: whoever waits is told NotCoordinator, and all memory is given back."""
        self.log.tenure.end()
        for task in reversed(list(self._tasks)):
            task.cancel()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(self.log.tenure.error())
        lives, self._live = self._live, {}
        for live in lives.values():
            self._let_go(live)
        self._changed.clear()

    async def settled(self) -> None:
        """Until the writes that `resigned` cancelled have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def give_way(self) -> None:
        """Between two slices of something long: let others have their turn.

        Raises:
            NotCoordinator: resigned meanwhile; what is not here any more says nothing about the group.
        """
        await asyncio.sleep(0)
        if self.log.tenure.is_over:
            raise self.log.tenure.error()

    # What there is

    def state(self, owner: str) -> S | None:
        """The owner's machine as it is now."""
        live = self._live.get(owner)
        return live.state if live is not None else None

    def states(self) -> Mapping[str, S]:
        """All machines by owner, as they are now."""
        return {owner: live.state for owner, live in self._live.items()}

    def make(self, owner: str) -> None:
        """Have a machine for the owner, one that nothing happened to if there is none."""
        if owner not in self._live:
            self._live[owner] = Live(owner, self._kind.fresh(owner), self._step)
        self._changed[owner] = None

    def note_records_gone(self, owner: str) -> None:
        """The owner may have no record any more."""
        self._changed[owner] = None

    def drop(self, owner: str, state: S | None) -> None:
        """Forget a machine at rest, unless it is not the `state` that was looked at any more."""
        live = self._live.get(owner)
        if live is not None and live.state is state:
            del self._live[owner]
            self._let_go(live)

    def sweep(self, count_max: int) -> bool:
        """Look at up to `count_max` machines that changed and forget those that are at rest and have no record; whether there are more."""
        for owner in list(islice(self._changed, count_max)):
            del self._changed[owner]
            live = self._live.get(owner)
            if live is not None and self._is_nothing(live):
                self.drop(owner, live.state)
        return bool(self._changed)

    def _is_nothing(self, live: Live[S]) -> bool:
        is_idle = not live.timers and not live.left
        return is_idle and self._kind.is_at_rest(live.state) and not self.log.has(live.owner)

    def _let_go(self, live: Live[S]) -> None:
        live.timers.clear()
        live.left.clear()
        self._memory.total -= live.size
        live.size = 0
        live.is_over = True

    # Steps

    def token(self) -> Token:
        """A token that was never used here."""
        return next(self._tokens)

    def step(self, owner: str, event: Any) -> None:
        """Something happened to the owner's machine, which is made if there is none."""
        self.make(owner)
        self._step(self._live[owner], event)

    async def ask(self, owner: str, token: Token, event: Any) -> Any:
        """The same for an event that is answered sooner or later.

        Raises:
            NotCoordinator: resigned meanwhile; it may have happened.
        """
        if self.log.tenure.is_over:
            raise self.log.tenure.error()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        try:
            self.step(owner, event)
            return await future
        finally:
            self._waiting.pop(token, None)

    def ask_now(self, owner: str, token: Token, event: Any) -> Any:
        """The same for an event that is answered in the same step, of a machine that is there."""
        live = self._live[owner]
        answer, others = None, []
        for effect in self._stepped(live, event):
            if isinstance(effect, Reply) and effect.token == token:
                answer = effect.result
            else:
                others.append(effect)
        self._perform(live, others)
        assert answer is not None, f"{type(event).__name__} is answered at once"
        return answer

    def _step(self, live: Live[S], event: Any) -> None:
        self._perform(live, self._stepped(live, event))

    def _stepped(self, live: Live[S], event: Any) -> Sequence[Effect]:
        before = live.state
        live.state, effects = self._kind.step(before, event)
        if live.state is not before:
            self._note_size(live)
        self._changed[live.owner] = None
        return effects

    def _note_size(self, live: Live[S]) -> None:
        size = self._kind.size(live.state)
        self._memory.total += size - live.size
        live.size = size

    # Effects

    def _perform(self, live: Live[S], effects: Sequence[Effect]) -> None:
        if live.left:
            live.left.extend(effects)
            return
        for at, effect in enumerate(effects):
            if isinstance(effect, Many):
                live.left.extend(effects[at:])
                self._go_on(live)
                return
            self._carry_out(live, effect)

    def _go_on(self, live: Live[S]) -> None:
        """Carry out a slice of what is left."""
        for _ in range(CARRIED_OUT_AT_ONCE):
            effect = _next(live.left)
            if effect is None:
                return
            self._carry_out(live, effect)
        asyncio.get_running_loop().call_soon(self._go_on, live)

    def _carry_out(self, live: Live[S], effect: Effect) -> None:
        match effect:
            case Reply(token, result):
                future = self._waiting.pop(token, None)
                if future is not None and not future.done():
                    future.set_result(result)
            case Arm(key, delay_ms, event):
                live.timers.arm(key, delay_ms, event)
            case Disarm(key):
                live.timers.disarm(key)
            case Store(value, is_awaited):
                self._spawn(self._store(live, value, is_awaited))
            case Do(what):
                self._spawn(self._do(live, what))
            case Write(entries, token, result) if not entries and not live.order.locked():
                self._carry_out(live, Reply(token, result))
            case Write():
                self._spawn(self._write(live, effect, live.reverted))

    async def _store(self, live: Live[S], state: S, is_awaited: bool) -> None:
        is_ok = True
        async with live.order:
            try:
                await self.log.append(self._kind.entries(state, self._clock.now_ms()))
            except NotCoordinator:
                return
            except (HotlogError, OSError) as problem:
                LOG.warning("%s of %s could not be stored: %s", live.owner, self.log.log.name, problem)
                is_ok = False
        if is_awaited:
            self._step(live, self._kind.stored(state, is_ok))

    async def _do(self, live: Live[S], what: Any) -> None:
        event = await self.done(what)
        if not self.log.tenure.is_over:
            self._step(live, event)

    async def done(self, what: Any) -> Any:
        """Do what a machine asked for by a `Do`; the event that tells it the outcome.  A kind that asks for anything overrides this."""
        raise NotImplementedError(what)

    async def _write(self, live: Live[S], write: Write, reverted: int) -> None:
        answer = write.refusal
        async with live.order:
            if live.reverted == reverted:  # what it was made from is what the log says, or will say
                try:
                    await self.log.append(write.entries, is_whole=True)
                    answer = write.result
                except NotCoordinator:
                    return
                except (HotlogError, OSError) as problem:
                    LOG.warning("%s of %s could not be stored: %s", live.owner, self.log.log.name, problem)
                    self._revert(live)
        self._carry_out(live, Reply(write.token, answer))

    def _revert(self, live: Live[S]) -> None:
        """What the log did not take never was: the machine is what was stored of it."""
        live.reverted += 1
        _, told = self._kind.step(live.state, Reverted())
        self._perform(live, told)
        live.timers.clear()
        found = self._kind.revived(live.owner, self.log)
        live.state, effects = found if found is not None else (self._kind.fresh(live.owner), ())
        self._note_size(live)
        self._changed[live.owner] = None
        self._perform(live, list(effects))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))


def _next(left: deque[Effect | Iterator[Effect]]) -> Effect | None:
    """The next effect in order, taken from what is left."""
    while left:
        first = left[0]
        if isinstance(first, Many):
            left[0] = first = first.each()
        if not isinstance(first, Iterator):
            left.popleft()
            return first
        effect = next(first, None)
        if effect is not None:
            return effect
        left.popleft()
    return None
