"""The worker that cleans the store's part of compacted topics that this broker hosts (cold_cleaner.py does a pass).

Invariants: one pass at a time; a partition that fails or does not pay is left alone until there is more to clean, or time has passed, and never
stops the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from compaction.cold_cleaner import ColdCleaner, ColdPass, ColdTarget
from hotlog.kernel.errors import Corrupt, HotlogError
from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.log.index import AbortedTransaction
from hotlog.partitions.partition import Partition
from hotlog.partitions.upkeep import Upkeep
from hotlog.world.ports import Clock, Disk

LOG = logging.getLogger(__name__)
LOOKED_AT_ONCE = 256  # partitions, in one turn of the loop
AGAIN_S = 600.0  # a partition that failed, or did not pay
GROWN = 1.25  # or earlier, once so much more is dirty


class Waiting(NamedTuple):
    """A partition that is left alone."""

    until: float
    dirty_bytes: int


class ColdWorker:
    """Cleans what the store has of the partitions that a broker hosts.

    Args:
        hosted: the partitions, asked at each tick.
    """

    def __init__(
        self,
        hosted: Callable[[], Sequence[Partition]],
        cleaner: ColdCleaner,
        *,
        clock: Clock,
        disk: Disk,
        settings: Callable[[], Settings],
        metrics: Metrics,
    ) -> None:
        self._hosted = hosted
        self._cleaner = cleaner
        self._clock = clock
        self._disk = disk
        self._settings = settings
        self._metrics = metrics
        self._waiting: dict[TopicPartition, Waiting] = {}

    async def tick(self) -> bool:
        """One pass over one partition, if one is due; True if it was carried out."""
        if not self._settings().flag("log.cleaner.enable"):
            return False
        for number, partition in enumerate(self._hosted(), 1):
            if number % LOOKED_AT_ONCE == 0:
                await asyncio.sleep(0)
            target = self._target(partition)
            if target is not None and await self._try(partition.tp, target):
                return True
        here = {partition.tp for partition in self._hosted()} if self._waiting else set()
        self._waiting = {tp: waiting for tp, waiting in self._waiting.items() if tp in here}
        return False

    def _target(self, partition: Partition) -> ColdTarget | None:
        upkeep = Upkeep(partition)
        manifests, epoch = upkeep.manifest, upkeep.store_epoch
        if not partition.config.is_compacted or not upkeep.is_sound or manifests is None or epoch is None:
            return None
        view = manifests.view
        if view is None or view.is_deleted or view.epoch != epoch or view.end_offset <= view.cleaned_end:
            return None
        return ColdTarget(
            manifests=manifests, topic=partition.tp.topic, config=partition.config, epoch=epoch, aborted=self._aborted(upkeep)
        )

    def _aborted(self, upkeep: Upkeep) -> Callable[[int, int], Awaitable[Sequence[AbortedTransaction]]]:
        async def aborted(start: int, end: int) -> Sequence[AbortedTransaction]:
            return await self._disk.run(upkeep.clean.aborted, start, end)

        return aborted

    async def _try(self, tp: TopicPartition, target: ColdTarget) -> bool:
        """Whether a pass was carried out; failures are told and left for later."""
        try:
            found = await self._cleaner.dirt_of(target)
            dirty = found[0].dirty_bytes if found is not None else 0
            waiting = self._waiting.get(tp)
            if waiting is not None and self._clock.monotonic() < waiting.until and dirty < waiting.dirty_bytes * GROWN:
                return False
            done = await self._cleaner.clean(target)
        except Corrupt as damage:
            self._metrics.corruption.labels("cold-cleaner").inc()
            LOG.error("cleaning of %s in the store stops: %s", tp, damage)
        except (HotlogError, OSError) as failure:
            LOG.warning("cleaning of %s in the store failed and is tried again: %s", tp, failure)
        else:
            return self._told(tp, done)
        self._waiting[tp] = Waiting(self._clock.monotonic() + AGAIN_S, 1 << 62)
        return False

    def _told(self, tp: TopicPartition, done: ColdPass | None) -> bool:
        if done is None:
            return False
        price = done.price
        if done.changed and not price.pays:
            self._waiting[tp] = Waiting(self._clock.monotonic() + AGAIN_S, done.dirt.dirty_bytes)
            LOG.info(
                "%s is not cleaned in the store: %d bytes would go, for $%.6f of requests and traffic, and save $%.6f",
                tp, price.freed_bytes, price.cost, price.saving,
            )  # fmt: skip
            return False
        self._waiting.pop(tp, None)
        self._metrics.cleaned_bytes.labels("read").inc(price.read_bytes)
        self._metrics.cleaned_bytes.labels("written").inc(price.written_bytes)
        LOG.info(
            "%s was cleaned in the store up to offset %d: %d bytes were freed, for $%.6f; they would have cost $%.6f",
            tp, done.end, price.freed_bytes, price.cost, price.saving,
        )  # fmt: skip
        return True
