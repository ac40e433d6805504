"""Tries to join the cluster, one after the other and beside serving: the store may be late by hours.

Invariants: one try is under way at most; each caller says how long it waits; after some tries that failed there are pauses, which double.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from hotlog.kernel.errors import OutcomeUnknown, Retry, StoreRefused
from hotlog.world.ports import Clock

JOIN_SECONDS_MAX = 60.0  # of one try
JOIN_FREELY_S = 16.0  # the first four tries may follow each other as ticks come; then the wait doubles
JOIN_AGAIN_S_MAX = 60.0


class Joining:
    """`attempt` joins, or raises; Retry, OutcomeUnknown and TimeoutError are weather, anything else ends it."""

    def __init__(self, attempt: Callable[[], Awaitable[None]], clock: Clock) -> None:
        self.because = ""  # what the last try met
        self.is_refused = False  # whether the store will not serve us as things are
        self._attempt = attempt
        self._clock = clock
        self._task: asyncio.Task[bool] | None = None
        self._failures = 0
        self._again_at = 0.0

    @property
    def is_under_way(self) -> bool:
        return self._task is not None

    @property
    def is_due(self) -> bool:
        """Whether a look at it makes sense now."""
        return self._task is not None or self._clock.monotonic() >= self._again_at

    async def wait(self, seconds: float | None) -> None:
        """Let the try under way, or a new one, go on for as long; it is not cancelled by that."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._try(), name="join the cluster")
        await asyncio.wait([self._task], timeout=seconds)

    def ended_well(self) -> bool:
        """Whether the try under way has ended well; it is forgotten once it has ended.  Raises what ended it."""
        task = self._task
        if task is None or not task.done():
            return False
        self._task = None
        return task.result()

    async def _try(self) -> bool:
        """One try; False if the store gave no answer (yet)."""
        try:
            async with asyncio.timeout(JOIN_SECONDS_MAX):
                await self._attempt()
        except (Retry, OutcomeUnknown, TimeoutError) as weather:
            self.is_refused = isinstance(weather, StoreRefused)
            self.because = str(weather) or f"not done in {JOIN_SECONDS_MAX:.0f} s"
            self._failures += 1
            self._again_at = self._clock.monotonic() + min(2.0**self._failures - JOIN_FREELY_S, JOIN_AGAIN_S_MAX)
            return False
        self.because, self._failures = "", 0
        return True

    async def close(self) -> None:
        """End the try under way where it is."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
