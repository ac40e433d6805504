"""Deadlines and retries without a store and without waiting: a loop whose time jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

import pytest

from hotlog.kernel.errors import Corrupt, Invalid, NotFound, OutcomeUnknown, PreconditionFailed, StoreRefused, StoreUnavailable
from hotlog.kernel.limits import MiB
from tests.support.clocks import LoopClock
from tiering.store.resilient import Policy, Retrier


class JumpingLoop(asyncio.SelectorEventLoop):
    """Sleeps take no real time."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.now


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(0)
        self._loop.now += timeout
        return super().select(0)


class Jitter:
    """Always the longest pause, and a note of each."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def uuid(self) -> UUID:
        raise AssertionError("not used")

    def uniform(self, low: float, high: float) -> float:
        self.pauses.append(high)
        return high

    def bytes(self, count: int) -> bytes:
        raise AssertionError("not used")


class Played:
    """A call that plays outcomes in turn; the last one again and again."""

    def __init__(self, *outcomes: object) -> None:
        self.outcomes = list(outcomes)
        self.calls = 0

    async def __call__(self) -> object:
        outcome = self.outcomes[min(self.calls, len(self.outcomes) - 1)]
        self.calls += 1
        if outcome == "hang":
            await asyncio.Event().wait()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


AWAY = StoreUnavailable("503")
DEFAULT = Policy()


def play(story: Callable[[Retrier, Jitter], Coroutine[Any, Any, None]], policy: Policy = DEFAULT) -> float:
    """Run the story; the virtual seconds it took."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        jitter = Jitter()

        async def main() -> None:
            await story(Retrier(policy, LoopClock(), jitter), jitter)

        runner.run(main())
        return runner.get_loop().time()


def test_success_needs_one_call() -> None:
    async def story(retrier: Retrier, jitter: Jitter) -> None:
        call = Played("done")
        assert await retrier.run("x", call) == "done"
        assert (call.calls, jitter.pauses) == (1, [])

    assert play(story) == 0.0


def test_pauses_grow_and_are_bounded() -> None:
    async def story(retrier: Retrier, jitter: Jitter) -> None:
        call = Played(*[AWAY] * 9, "done")
        assert await retrier.run("x", call) == "done"
        assert jitter.pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]

    play(story)


def test_the_total_deadline_ends_it() -> None:
    async def story(retrier: Retrier, jitter: Jitter) -> None:
        with pytest.raises(StoreUnavailable, match="503"):
            await retrier.run("x", Played(AWAY))

    assert 100 < play(story) <= 120


def test_attempts_that_hang_are_cut_and_repeated() -> None:
    async def story(retrier: Retrier, jitter: Jitter) -> None:
        call = Played("hang", "hang", "done")
        assert await retrier.run("x", call) == "done"
        assert call.calls == 3

    assert play(story) == pytest.approx(30 + 0.2 + 30 + 0.4)


def test_a_call_that_always_hangs_ends_at_the_total_deadline() -> None:
    async def story(retrier: Retrier, jitter: Jitter) -> None:
        with pytest.raises(StoreUnavailable, match="no answer"):
            await retrier.run("x", Played("hang"))

    assert play(story) <= 120.0


def test_deadlines_can_be_shortened_but_not_stretched() -> None:
    async def story(retrier: Retrier, jitter: Jitter) -> None:
        with pytest.raises(StoreUnavailable):
            await retrier.within(7.0).run("x", Played("hang"))
        assert asyncio.get_running_loop().time() == 7.0
        assert retrier.within(1e9).policy == retrier.policy

    play(story)


def test_the_reason_of_the_last_fair_attempt_is_told() -> None:
    async def story(retrier: Retrier, jitter: Jitter) -> None:
        with pytest.raises(StoreUnavailable, match="503"):
            await retrier.run("x", Played(AWAY, "hang"))

    play(story, Policy(attempt=10, total=5, pause_base=0.1))


def test_large_transfers_get_longer() -> None:
    async def story(retrier: Retrier, jitter: Jitter) -> None:
        with pytest.raises(StoreUnavailable):
            await retrier.run("x", Played("hang"), moved=600 * MiB)

    assert play(story) == pytest.approx(720, abs=100)


@pytest.mark.parametrize("error", [NotFound("x"), PreconditionFailed("x"), Corrupt("x"), Invalid("x"), StoreRefused("403")])
def test_what_cannot_get_better_is_not_repeated(error: Exception) -> None:
    async def story(retrier: Retrier, jitter: Jitter) -> None:
        call = Played(error)
        with pytest.raises(type(error)):
            await retrier.run("x", call)
        assert call.calls == 1

    assert play(story) == 0.0


def test_a_conditional_call_that_hangs_is_in_doubt_and_not_repeated() -> None:
    async def story(retrier: Retrier, jitter: Jitter) -> None:
        call = Played("hang", "done")
        with pytest.raises(OutcomeUnknown, match="no answer"):
            await retrier.run("x", call, conditional=True)
        assert call.calls == 1

    assert play(story) == 30.0


def test_doubt_is_paced() -> None:
    """The caller reads back and tries again in a loop: each doubt waits a little first."""

    async def story(retrier: Retrier, jitter: Jitter) -> None:
        with pytest.raises(OutcomeUnknown):
            await retrier.run("x", Played(OutcomeUnknown("502")), conditional=True)
        assert jitter.pauses == [0.1]

    assert play(story) == pytest.approx(0.1)


@pytest.mark.parametrize("lost", [PreconditionFailed("412"), NotFound("404")])
def test_a_lost_race_after_a_failed_attempt_is_in_doubt(lost: Exception) -> None:
    async def story(retrier: Retrier, jitter: Jitter) -> None:
        with pytest.raises(OutcomeUnknown, match="after an attempt that failed"):
            await retrier.run("x", Played(AWAY, lost), conditional=True)
        with pytest.raises(type(lost)):
            await retrier.run("x", Played(lost), conditional=True)
        with pytest.raises(type(lost)):
            await retrier.run("x", Played(AWAY, lost))

    play(story)


def test_cancellation_passes_through_at_once() -> None:
    async def story(retrier: Retrier, jitter: Jitter) -> None:
        task = asyncio.ensure_future(retrier.run("x", Played("hang")))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert play(story) == 1.0
