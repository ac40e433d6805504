"""Asks the object store whether it is there, if nobody else has lately: so that /ready and the metrics know.

Invariants: one small read at a time, within PROBE_SECONDS_MAX; what comes of it is told by the store's health alone.
"""

from __future__ import annotations

import contextlib

from controller.founding import read_cluster
from hotlog.kernel.errors import HotlogError
from hotlog.world.ports import ObjectStore
from tiering.store.health import StoreHealth
from tiering.store.resilient import ResilientStore

PROBE_SECONDS_MAX = 10.0


class StoreProbe:
    """Of one store; `health` hears of the calls through the store itself."""

    def __init__(self, store: ObjectStore, health: StoreHealth) -> None:
        probe = store.bind(purpose="meta")
        self._store = probe.within(PROBE_SECONDS_MAX) if isinstance(probe, ResilientStore) else probe
        self._health = health

    async def tick(self) -> bool:
        """One question, if one is due; never more to do."""
        if self._health.wants_probe:
            with contextlib.suppress(HotlogError):
                await read_cluster(self._store)
        return False
