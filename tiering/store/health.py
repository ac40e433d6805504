"""Whether the store answers: told once when it stops, once when it is back, and looked at by /ready and the metrics.

A store is away when no attempt of any call has been answered for AWAY_S, and one has failed at least.  "Not found" and a lost race are
answers; a refusal of our credentials is none that helps.  One failed attempt among answered ones is weather that retries are for.

Invariants: feeding it costs no I/O and never changes what a call does; it never says that a store is there before it has answered again.
"""

from __future__ import annotations

import logging

from hotlog.kernel.condition import Condition
from hotlog.kernel.errors import OutcomeUnknown, StoreUnavailable
from hotlog.world.ports import Clock

LOG = logging.getLogger("hotlog.store")
AWAY_S = 5.0
IDLE_S = 30.0  # without a call, it is asked whether it is there
_NO_ANSWER = (StoreUnavailable, OutcomeUnknown, TimeoutError)


class StoreHealth:
    """Of one store, in this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._condition = Condition(LOG)
        self._failing_since: float | None = None
        self._heard_at = clock.monotonic()

    @property
    def is_up(self) -> bool:
        return not self._condition

    @property
    def trouble(self) -> str:
        """What is wrong with the store, with the last error; "" when nothing is."""
        return self._condition.reason

    @property
    def wants_probe(self) -> bool:
        """Whether a call should be made to see if the store is there: it failed last, or nobody has called for a while."""
        return self._failing_since is not None or self._clock.monotonic() - self._heard_at >= IDLE_S

    def saw(self, error: BaseException | None, *, began: float) -> None:
        """An attempt that began at `began` (monotonic, s) has ended."""
        now = self._clock.monotonic()
        if error is not None and not isinstance(error, _NO_ANSWER):
            if isinstance(error, Exception):
                self._answered(now)
            return  # cancelled: it says nothing
        if error is None:
            self._answered(now)
            return
        since = self._failing_since = (
            min(began, self._failing_since) if self._failing_since is not None else max(began, self._heard_at)
        )
        if self._condition or now - since >= AWAY_S:
            self._condition.begins(
                f"the object store does not serve this broker: hot data is served, nothing is copied or read from it; last error: {error}"
            )

    def _answered(self, now: float) -> None:
        since, self._failing_since, self._heard_at = self._failing_since, None, now
        if self._condition:
            self._condition.ends(f"the object store is back after {now - (since if since is not None else now):.0f} s")
