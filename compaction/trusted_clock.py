"""The wall clock as far as deletion may trust it.

A wall clock that jumps forward (a mistyped date, a broken NTP source) would make retention delete everything at once.  So time for
deletion runs at most SPEED_MAX times as fast as the monotonic clock: a jump of ten minutes is absorbed in ten minutes, a jump of a year
would take a year, and an operator has as long as the error is large.  A jump back is followed at once: it only deletes later.

What the monotonic clock cannot see is a jump while the process is down.  Where the newest value is kept in a file, time for deletion goes
on from there, at most an hour later.  After a longer downtime (or the restore of an old data directory) nothing would expire for about as
long again; so where the store's clock is not this machine's, `KeptClock.confirm` asks it, and if both agree the wall is trusted again.

Invariants: never ahead of the wall clock; never faster than SPEED_MAX from one reading to the next within a process.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from hotlog.kernel.errors import NotFound, OutcomeUnknown, StoreUnavailable
from hotlog.world.ports import Clock, Disk, Entropy, ObjectStore

LOG = logging.getLogger(__name__)

SPEED_MAX = 2.0
RESTART_GAP_MS_MAX = 60 * 60 * 1000  # a longer downtime is caught up at SPEED_MAX unless the store vouches
AGREEMENT_MS = 10 * 60 * 1000
SAVE_EVERY_MS = 60_000


class TrustedClock:
    """Reads `clock`; `kept_ms` is the last value of an earlier process, if known."""

    def __init__(self, clock: Clock, kept_ms: int | None = None) -> None:
        self._clock = clock
        now = clock.now_ms()
        self._trusted_ms = float(now if kept_ms is None else min(now, kept_ms + RESTART_GAP_MS_MAX))
        self._read_at = clock.monotonic()

    def now_ms(self) -> int:
        """Wall time that may be used to delete, ms since the epoch."""
        monotonic = self._clock.monotonic()
        reach = self._trusted_ms + (monotonic - self._read_at) * 1000 * SPEED_MAX
        self._trusted_ms = min(float(self._clock.now_ms()), reach)
        self._read_at = monotonic
        return int(self._trusted_ms)

    @property
    def behind_ms(self) -> int:
        """How far the wall clock is ahead of what is trusted."""
        return self._clock.now_ms() - self.now_ms()

    def vouch(self, witness_ms: int) -> bool:
        """An independent clock says `witness_ms`; if the wall clock agrees, trust it again."""
        now = self._clock.now_ms()
        if abs(now - witness_ms) > AGREEMENT_MS:
            return False
        self._trusted_ms, self._read_at = float(now), self._clock.monotonic()
        return True


async def store_time_ms(store: ObjectStore, cluster_id: str, entropy: Entropy) -> int:
    """What time the store thinks it is: its stamp on an object written now (3 requests).

    Raises:
        StoreUnavailable, NotFound (a store that is late to show what it has).
    """
    key = f"{cluster_id}/workers/clock-{entropy.uuid().hex}"
    store = store.bind(purpose="retention")
    await store.put(key, b"written to learn the store's time\n")
    try:
        return (await store.head(key)).modified_ms
    finally:
        await store.delete([key])


class KeptClock:
    """A TrustedClock whose value survives restarts in a small file.

    `witness` tells the time of a clock that is not this machine's (`store_time_ms`); None where there is none.
    """

    def __init__(self, clock: Clock, disk: Disk, path: str, witness: Callable[[], Awaitable[int]] | None = None) -> None:
        self._disk = disk
        self._path = path
        self._witness = witness
        self._saved_ms = self._load()
        self.trusted = TrustedClock(clock, self._saved_ms)

    def _load(self) -> int | None:
        try:
            return int(self._disk.read(self._path))
        except (OSError, ValueError):  # none yet, or damaged: as after a first start
            return None

    async def confirm(self) -> None:
        """Where the wall is far ahead of what is trusted, ask the witness; without one, or while they disagree, say so and wait."""
        behind_ms = self.trusted.behind_ms
        if behind_ms <= AGREEMENT_MS:
            return
        try:
            if self._witness is not None and self.trusted.vouch(await self._witness()):
                LOG.info("the store's clock confirms this machine's; retention caught up %d s", behind_ms // 1000)
                return
        except (StoreUnavailable, OutcomeUnknown, NotFound) as weather:
            LOG.info("the store's clock could not be asked: %s", weather)
        LOG.warning(
            "this machine's clock is %d s ahead of the time that retention goes by; it catches up slowly", behind_ms // 1000
        )

    async def save(self) -> None:
        """Keep the newest value; a disk that refuses costs only this protection."""
        now = self.trusted.now_ms()
        if self._saved_ms is None or abs(now - self._saved_ms) >= SAVE_EVERY_MS:
            self._saved_ms = now
            try:
                await self._disk.run(self._disk.write_atomic, self._path, str(now).encode())
            except OSError:
                return
