"""The retention worker: asks the planner about each partition and does what it says.

Order: seal the active segment if nothing in it is kept; commit the new log start to the manifest; then the local log start; then local
files.  A stop in between leaves either nothing done or garbage that later ticks remove.  Objects are only doomed here; the reaper deletes
them.  When the store is away, what is past total retention leaves the local disk all the same: the manifest
follows as soon as it can be reached, since the local log start is durable.

Invariants: every decision is `plan_retention`'s; all that is due in a round is done in that round, a tick of TICK_S after the other, several
partitions at a time, and local files no faster than DROPPED_BYTES_PER_SECOND; a partition that fails is tried again in the next round and
never stops the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from compaction.cold_view import cold_of
from compaction.retention import Cold, Local, Piece, Plan, plan_retention
from compaction.trusted_clock import AGREEMENT_MS, KeptClock, TrustedClock, store_time_ms
from hotlog.kernel.errors import Corrupt, HotlogError, Invalid, OutcomeUnknown, StoreUnavailable
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.limits import GiB
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.kernel.topic_config import TopicConfig
from hotlog.partitions.partition import Partition
from hotlog.partitions.upkeep import Upkeep
from hotlog.world.pacing import ByteRate
from hotlog.world.ports import Clock
from hotlog.world.tasks import TaskScope
from tiering.manifest.edits import advance_start
from tiering.manifest.root import Manifest
from tiering.manifest.store import ManifestMeans, ManifestStore
from tiering.objects.keys import PartitionKeys

LOG = logging.getLogger(__name__)
TICK_S = 1.0  # how long a tick works at a round
AT_ONCE = 16  # partitions that are looked at or changed beside each other: most of a change is waiting for the store
LOOKED_AT_ONCE = 256  # partitions and local segments, in one turn of the loop
DROPS_AT_ONCE = 2  # partitions whose local files go: disk threads are left for those who write
DROPPED_BYTES_PER_SECOND = 8 * GiB


def local_of(partition: Partition) -> Local:
    """The local log as the planner sees it."""
    pieces = [
        Piece(info.base_offset, info.end_offset, info.size, info.max_timestamp, info.closed_ms)
        for info in Upkeep(partition).segments()
    ]
    return Local(pieces, partition.committed_end)


class RetentionWorker:
    """Retention of the partitions that a broker hosts.

    Args:
        hosted: the partitions, asked at the start of each round.
        settings: the broker's settings as they are now (log.retention.check.interval.ms).
        trusted: the clock that deletion goes by.
    """

    def __init__(
        self,
        hosted: Callable[[], Sequence[Partition]],
        *,
        clock: Clock,
        settings: Callable[[], Settings],
        metrics: Metrics,
        trusted: KeptClock | TrustedClock,
    ) -> None:
        self._hosted = hosted
        self._clock = clock
        self._settings = settings
        self._metrics = metrics
        self._kept = trusted if isinstance(trusted, KeptClock) else None
        self._trusted = trusted.trusted if isinstance(trusted, KeptClock) else trusted
        self._queue: deque[Partition] = deque()
        self._dropping = asyncio.Semaphore(DROPS_AT_ONCE)
        self._rate = ByteRate(clock, DROPPED_BYTES_PER_SECOND)
        self._round_due = clock.monotonic()

    async def tick(self) -> bool:
        """Work at this round for TICK_S; True if there is more of it.

        A round begins every log.retention.check.interval.ms.
        """
        if not self._queue:
            if self._clock.monotonic() < self._round_due:
                return False
            self._round_due = self._clock.monotonic() + self._settings().number("log.retention.check.interval.ms") / 1000
            self._queue.extend(self._hosted())
            if self._kept is not None:
                await self._kept.confirm()
                await self._kept.save()
        until = self._clock.monotonic() + TICK_S
        async with TaskScope("retention") as scope:
            for _ in range(min(AT_ONCE, len(self._queue))):
                scope.spawn(self._work(until))
        return bool(self._queue)

    async def _work(self, until: float) -> None:
        """Take partitions of the round one after another, as one of AT_ONCE who do."""
        looked_at = 0
        while self._queue and self._clock.monotonic() < until:
            partition = self._queue.popleft()
            looked_at += 1 + Upkeep(partition).segment_count
            if await self._try(partition) or looked_at >= LOOKED_AT_ONCE // AT_ONCE:
                looked_at = 0
                await asyncio.sleep(0)

    async def _try(self, partition: Partition) -> bool:
        """Whether something was changed; failures are told and left for the next round."""
        try:
            return await self._keep(partition)
        except (StoreUnavailable, OutcomeUnknown) as weather:
            LOG.warning("retention of %s waits for the store: %s", partition.tp, weather)
        except Corrupt as damage:
            self._metrics.corruption.labels("manifest").inc()
            LOG.error("retention of %s stops: %s", partition.tp, damage)
        except (HotlogError, OSError) as failure:
            LOG.warning("retention of %s failed and is tried again: %s", partition.tp, failure)
        except Exception:  # of one partition: the others of the round go on
            LOG.exception("retention of %s failed and is tried again", partition.tp)
        return True

    async def plan(self, partition: Partition) -> Plan:
        """What retention would do with `partition` now."""
        manifest, now_ms = Upkeep(partition).manifest, self._trusted.now_ms()
        view: Cold | None = None
        if manifest is not None:
            view = await cold_of(manifest, manifest.view, partition.config, now_ms)
        return plan_retention(
            view,
            local_of(partition),
            partition.config,
            now_ms=now_ms,
            log_start_offset=partition.log_start_offset,
            is_tiered=Upkeep(partition).is_tiered,
        )

    async def _keep(self, partition: Partition) -> bool:
        upkeep = Upkeep(partition)
        if not upkeep.is_sound:
            return False
        plan = await self.plan(partition)
        upkeep.block_appends(_BLOCKED if plan.blocks_appends else None)
        if plan.roll and plan.log_start_offset == partition.log_end_offset:
            upkeep.roll(self._clock.now_ms())
        changed = await self._move_start(partition, plan)
        if plan.local_drop_offset > upkeep.segments()[0].base_offset:
            async with self._dropping:
                await self._rate.pace(plan.local_bytes)
                await upkeep.drop_local(plan.local_drop_offset)
            changed = True
        if plan.dropped_bytes:
            LOG.warning("%s: %d bytes past total retention left before they could be copied", partition.tp, plan.dropped_bytes)
        return changed

    @staticmethod
    async def _move_start(partition: Partition, plan: Plan) -> bool:
        target = plan.log_start_offset
        if plan.is_slowed:
            LOG.warning(
                "%s: more than a quarter is past retention; %d bytes go in this round",
                partition.tp,
                plan.cold_bytes + plan.local_bytes,
            )
        before = partition.log_start_offset
        changed = await Upkeep(partition).expire(target, goes_without_store=plan.dropped_bytes > 0)
        if partition.log_start_offset > before:
            LOG.info(
                "%s: records below offset %d are past retention: %d segments (%d bytes) of the store, %d bytes local",
                partition.tp, target, plan.cold_entries, plan.cold_bytes, plan.local_bytes,
            )  # fmt: skip
        return changed


_BLOCKED = "total retention by size is reached by data that cannot be copied to the store (hotlog.untiered.overflow=block)"


async def retain_cold(store: ManifestStore, config: TopicConfig, *, now_ms: int, grace_ms: int) -> Plan | None:
    """Apply total retention to one partition from its bucket alone; None if it has no manifest or was deleted.

    Fenced by the conditional commit: whoever else moves the start meanwhile, the larger one stays.

    Raises:
        Corrupt, StoreUnavailable, OutcomeUnknown.
    """
    view: Manifest | None = await store.load()
    if view is None or view.is_deleted:
        return None
    total: Plan | None = None
    while True:
        plan = plan_retention(
            await cold_of(store, view, config, now_ms), None, config,
            now_ms=now_ms, log_start_offset=view.log_start_offset, is_tiered=True,
        )  # fmt: skip
        total = plan if total is None else _added(total, plan)
        if plan.log_start_offset <= view.log_start_offset:
            return total
        slowed = plan.is_slowed
        view = await store.commit(
            lambda root, pages, start=plan.log_start_offset: advance_start(root, start, pages, not_before_ms=now_ms + grace_ms)  # type: ignore[misc]
        )
        if slowed:  # the rest is the next round's
            return total


def _added(first: Plan, then: Plan) -> Plan:
    return replace(
        then,
        cold_entries=first.cold_entries + then.cold_entries,
        cold_bytes=first.cold_bytes + then.cold_bytes,
    )


async def run_retention(
    means: ManifestMeans,
    cluster_id: str,
    partitions: Sequence[tuple[PartitionId, str, TopicConfig]],
    *,
    trusted: TrustedClock,
    told: Callable[[PartitionId, Plan], None] = lambda pid, plan: None,
) -> int:
    """`hotlog worker retention`: one round over the cold tier without a broker; returns how many partitions failed.

    Args:
        means: with a cache of pages, since each step of a long retention goes down the same way.
        partitions: (id, topic name, settings), from the cluster's metadata.
        told: called with what was done to each partition.
    Raises:
        Invalid: this machine's clock and the store's disagree by more than AGREEMENT_MS: deleting by either could be a mistake.
        StoreUnavailable.
    """
    theirs_ms, ours_ms = await store_time_ms(means.store, cluster_id, means.entropy), means.clock.now_ms()
    if abs(theirs_ms - ours_ms) > AGREEMENT_MS:
        raise Invalid(
            f"this machine's clock says {ours_ms} ms since 1970, the object store's {theirs_ms}; they may differ by {AGREEMENT_MS} ms:"
            " nothing is deleted until they agree"
        )
    failed = 0
    for pid, topic, config in partitions:
        manifests = ManifestStore(means, PartitionKeys(cluster_id, pid), topic=topic)
        try:
            plan = await retain_cold(manifests, config, now_ms=trusted.now_ms(), grace_ms=means.grace_ms)
        except HotlogError as failure:
            LOG.error("retention of %s-%d failed: %s", topic, pid.partition, failure)
            failed += 1
            continue
        if plan is not None:
            told(pid, plan)
    return failed
