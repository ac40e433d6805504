"""Does this store keep the promises a cluster rests on?  Each promise is tried, and the answer is a value with its reason.

`quick` is what a broker asks at start: the conditional writes and one race of each kind.  The whole run (`hotlog store check`) adds
read-after-write, listings, ranges, deletes and large uploads.  Promises are tried beside each other, each under a prefix of its own.

Invariants: everything is written below CHECK_PREFIX and removed again (what a lost answer or a kill leaves, compaction.reconcile collects);
only a wrong answer breaks a promise: no answer leaves it open, and it is asked again; a promise that was kept once is not asked again;
no promise is taken from documentation.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from hotlog.kernel.errors import ForeignStore, HotlogError, OutcomeUnknown, StoreUnavailable
from hotlog.world.ports import Entropy, ObjectStore
from hotlog.world.posix import SystemEntropy
from tiering.store.promises import Broken, Trial
from tiering.store.resilient import ResilientStore

CHECK_PREFIX = "check/"
QUICK_SECONDS_MAX = 10.0  # of one call
TRIALS_MAX = 3  # of one promise in one report, while answers are lost
TRIALS_KEPT = 64  # to be removed; what is older is collected by compaction.reconcile


class CheckResult(NamedTuple):
    """One promise: kept or not, with what was seen; neither if the store gave no answer (`is_known` is False)."""

    name: str
    ok: bool
    seen: str
    is_known: bool = True


class CheckReport(NamedTuple):
    """All promises that were tried."""

    results: tuple[CheckResult, ...]

    @property
    def ok(self) -> bool:
        return all(result.ok for result in self.results)

    @property
    def broken(self) -> tuple[CheckResult, ...]:
        """Promises that were seen not to be kept."""
        return tuple(result for result in self.results if result.is_known and not result.ok)

    @property
    def reachable(self) -> bool:
        """False when some promise got no answer and none was broken: then nothing is known yet."""
        return bool(self.broken) or all(result.is_known for result in self.results)

    def require(self) -> None:
        """Raise unless every promise was kept.

        Raises:
            StoreUnavailable: the store did not answer (all of it): ask again.
            ForeignStore: it breaks a promise; the message names each.
        """
        if self.broken:
            raise ForeignStore(f"the object store does not keep what Hotlog needs and is refused: {_told(self.broken)}")
        if not self.ok:
            unknown = tuple(result for result in self.results if not result.ok)
            raise StoreUnavailable(f"the object store could not be checked: {_told(unknown)}")


def _told(results: tuple[CheckResult, ...]) -> str:
    return "; ".join(f"{result.name}: {result.seen}" for result in results)


class Examination:
    """Of one store.  It may be asked as often as it takes: what was seen to be kept stays known."""

    def __init__(self, store: ObjectStore, *, quick: bool, entropy: Entropy) -> None:
        bound = store.bind(topic=None, purpose="check")
        if quick and isinstance(bound, ResilientStore):
            bound = bound.within(QUICK_SECONDS_MAX)  # who asks again anyway need not wait for all retries
        self._store = bound
        self._quick = quick
        self._entropy = entropy
        self._kept: dict[str, CheckResult] = {}
        self._trials: list[Trial] = []  # whose objects are to be removed

    async def report(self) -> CheckReport:
        """Try every promise that is not known to be kept.  Raises nothing that the store does: it is all in the report."""
        names = [name for name, _ in self._trial().promises(quick=self._quick)]
        tried = [self._try(index) for index, name in enumerate(names) if name not in self._kept]
        results = {result.name: result for result in await asyncio.gather(*tried)}
        self._kept.update({name: result for name, result in results.items() if result.ok})
        is_there = any(result.is_known for result in results.values())
        left = await self._tidy() if is_there else ()  # of a store that is away, the next report does
        told = tuple(self._kept.get(name) or results[name] for name in names)
        return CheckReport((*told, *(() if self._quick else left)))  # a start is not refused for what a check leaves behind

    def _trial(self) -> Trial:
        return Trial(self._store, f"{CHECK_PREFIX}{self._entropy.uuid().hex}/")

    async def _try(self, index: int) -> CheckResult:
        """One promise.  Where an answer was lost, it is tried anew elsewhere."""
        for tries_left in reversed(range(TRIALS_MAX)):
            trial = self._trial()
            self._trials = [*self._trials[1 - TRIALS_KEPT :], trial]
            name, promise = trial.promises(quick=self._quick)[index]
            try:
                return CheckResult(name, True, await promise())
            except Broken as broken:
                return CheckResult(name, False, str(broken))
            except StoreUnavailable as away:
                return CheckResult(name, False, str(away), is_known=False)
            except OutcomeUnknown as doubt:
                if not tries_left:
                    return CheckResult(name, False, str(doubt), is_known=False)
            except HotlogError as error:
                return CheckResult(name, False, f"{type(error).__name__}: {error}")
        raise AssertionError("the last try returns")

    async def _tidy(self) -> tuple[CheckResult, ...]:
        """Remove what the trials wrote; failing to is a result only when it fails."""
        trials, self._trials = self._trials, []
        outcomes = await asyncio.gather(*(trial.remove() for trial in trials), return_exceptions=True)
        left = []
        for trial, outcome in zip(trials, outcomes, strict=True):
            if isinstance(outcome, HotlogError):
                seen = f"{trial.prefix} could not be removed: {outcome}"
                left.append(CheckResult("clean up", False, seen, is_known=not isinstance(outcome, StoreUnavailable)))
                self._trials.append(trial)
            elif isinstance(outcome, BaseException):
                raise outcome
        return tuple(left)


async def check_store(store: ObjectStore, *, quick: bool = False, entropy: Entropy | None = None) -> CheckReport:
    """Try `store` once.  Raises nothing that the store does: it is all in the report."""
    return await Examination(store, quick=quick, entropy=entropy or SystemEntropy()).report()
