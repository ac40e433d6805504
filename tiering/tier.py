"""The cold tier of a broker: partitions attached to their manifests, copies under leases, reads handed to the cold reader.

A tick (`tick_copy`) loads manifests that are not loaded yet, plans over all partitions (tiering.upload.plan), starts copies while there are
free slots, and waits a moment for one to end.  A copy that overstays its lease is abandoned to its own task; others go on.

Invariants: the store being away delays, it never fails an attach, a produce or a hot read; what `view` says is committed; at most
remote.log.manager.copier.thread.pool.size copies at once, one per partition; the hot log hears of a tiered end only from a committed view.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from hotlog.kernel.errors import Corrupt, HotlogError, UnknownVersion
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.world.pacing import ByteRate
from hotlog.world.ports import Clock, Disk, Entropy, ObjectStore
from hotlog.world.tasks import TaskScope
from tiering.cold_partition import ColdPartition, Lag
from tiering.manifest.edits import mark_deleted
from tiering.manifest.store import ManifestMeans, ManifestStore
from tiering.objects.keys import PartitionKeys
from tiering.read.reader import ColdReader
from tiering.upload.copier import Copier, CopyTarget, HotLog, Lease
from tiering.upload.plan import CopyPlan, boundary_problem, covered_until, plan_copy, uncovered

__all__ = ["ColdPartition", "ColdTier"]

LOG = logging.getLogger("hotlog.tier")
TICK_SECONDS_MAX = 1.0  # a tick waits at most this long for a copy to end
ATTACH_SECONDS_MAX = 1.0  # how long attaches of one round wait for their manifests before they let the hot tier serve alone
LOADS_MAX = 32
COPIES_PER_FLIGHT_MAX = 16
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.5, 30.0  # remote.log.manager.task.retry.backoff.(max.)ms
YIELD_EVERY = 256  # partitions looked at before the event loop gets a turn


class _Flight(NamedTuple):
    """A copy under way."""

    cold: ColdPartition
    lease: Lease
    task: asyncio.Task[None]


class ColdTier:
    """All partitions' cold tiers of one broker."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        clock: Clock,
        disk: Disk,
        entropy: Entropy,
        settings: Settings,
        metrics: Metrics,
        cache_dir: str | None,
        cluster_id: str,
    ) -> None:
        self.cluster_id = cluster_id
        self._store, self._clock, self._disk, self._entropy = store, clock, disk, entropy
        self._metrics = metrics
        self._settings = settings
        self.reader = ColdReader(store=store, clock=clock, disk=disk, settings=settings, metrics=metrics, cache_dir=cache_dir)
        self._rate = ByteRate(clock, settings.number("remote.log.manager.copy.max.bytes.per.second"))
        self._copier = Copier(
            store=store, clock=clock, disk=disk, entropy=entropy, metrics=metrics, rate=self._rate,
            store_seconds_max=settings.number("hotlog.store.total.timeout.ms") / 1000, copied=self.reader.copied,
        )  # fmt: skip
        self._partitions: dict[PartitionId, ColdPartition] = {}
        self._deleted: dict[PartitionId, ManifestStore] = {}
        self._left: dict[PartitionId, ManifestStore] = {}  # detached ones that have a root: a delete need not read it first
        self._flights: dict[PartitionId, _Flight] = {}
        self._loads: dict[PartitionId, asyncio.Task[None]] = {}
        self._scope = TaskScope("cold-tier")
        self._is_stopped = False  # for good: nothing is loaded, copied or shown any more, but what is behind is still measured
        self._store_away = False
        self._attach_until: float | None = None  # the end of a round of attaches, by the monotonic clock
        self._is_crowded = False  # more partitions are due than there are free slots
        self._gauged: set[str] = set()

    async def start(self) -> None:
        await self.reader.load_disk()

    async def close(self) -> None:
        """Stop copying (what was uploaded and not committed is an orphan) and reading."""
        for flight in self._flights.values():
            flight.lease.revoke()
        await self._scope.cancel()
        self._flights.clear()
        self._loads.clear()
        await self.reader.close()

    def reconfigure(self, settings: Settings) -> None:
        """Take over dynamic settings: copy rate, copies at once, grace; those of cold reads."""
        self._settings = settings
        self._rate.change(settings.number("remote.log.manager.copy.max.bytes.per.second"))
        self.reader.reconfigure(settings)

    def doom_ms(self) -> int:
        """When an object that is doomed now may be deleted, ms since the epoch."""
        return self._clock.now_ms() + self._settings.number("hotlog.garbage.grace.ms")

    # -- partitions

    def get(self, pid: PartitionId) -> ColdPartition | None:
        return None if self._is_stopped else self._partitions.get(pid)

    def partitions(self) -> list[ColdPartition]:
        return [] if self._is_stopped else list(self._partitions.values())

    def manifests(self) -> list[ManifestStore]:
        """Every manifest that may list garbage: attached partitions, and deleted ones until they are `forget`-ed."""
        if self._is_stopped:
            return []
        return [cold.manifest for cold in self._partitions.values()] + list(self._deleted.values())

    def deleted_topics(self) -> set[str]:
        """Topics that are deleted and still have something in the store."""
        return {manifest.view.topic for manifest in self._deleted.values() if manifest.view is not None}

    def forget(self, pid: PartitionId) -> None:
        """A deleted partition's manifest object is gone."""
        self._deleted.pop(pid, None)

    def manifest_of(self, pid: PartitionId, topic: str = "") -> ManifestStore:
        """A manifest by id, attached or not; not loaded yet."""
        return ManifestStore(
            ManifestMeans(
                store=self._store, clock=self._clock, entropy=self._entropy, disk=self._disk,
                grace_ms=self._settings.number("hotlog.garbage.grace.ms"), pages=self.reader.shelf.pages,
            ),
            PartitionKeys(self.cluster_id, pid), topic=topic, is_hosted=lambda: pid in self._partitions,
        )  # fmt: skip

    async def tiered_range(self, pid: PartitionId) -> tuple[int, int] | None:
        """[log start, end) of what the store has, read from the store; None when it has nothing.

        For a broker that has no local log of a partition: the new log must begin at `end`, with `log start` as its log start.
        """
        view = await self.manifest_of(pid).load()
        if view is None or view.is_deleted or view.end_offset < 0:
            return None
        return view.readable_start_offset, view.end_offset

    def begin_attaches(self) -> None:
        """A round of attaches begins: all of them together wait ATTACH_SECONDS_MAX, so that hot data is not served later the more there is."""
        self._attach_until = self._clock.monotonic() + ATTACH_SECONDS_MAX

    async def attach(
        self, pid: PartitionId, topic: str, log: HotLog, *, leader_epoch: int, is_new: bool = False
    ) -> ColdPartition:
        """Take on a partition; waits a moment for its manifest.  Without an answer it comes back not `ready`; ticks go on trying.

        `is_new`: this process made the topic, so that the store can have nothing of it, and is not asked.
        """
        assert not self._is_stopped, "nothing is attached to a store that was left"
        old = self._partitions.get(pid)
        if old is not None:
            await self.detach(pid)
        target = CopyTarget(PartitionKeys(self.cluster_id, pid), topic, log, leader_epoch, self.manifest_of(pid, topic))
        cold = self._partitions[pid] = ColdPartition(self, target)
        known = (old, self._deleted.pop(pid, None), self._left.pop(pid, None))
        if is_new and not any(known):
            cold.ready, cold.loaded_at = True, self._clock.monotonic()
        elif len(self._loads) < LOADS_MAX:
            await asyncio.wait([self._start_load(cold)], timeout=0 if self._store_away else self._attach_wait_s())
        return cold

    def _attach_wait_s(self) -> float:
        until, now = self._attach_until, self._clock.monotonic()
        return ATTACH_SECONDS_MAX if until is None else max(0.0, until - now)

    async def detach(self, pid: PartitionId) -> None:
        """Give a partition up: no commit of a copy under way will count."""
        cold = self._partitions.pop(pid, None)
        if cold is not None and cold.view is not None:
            self._left[pid] = cold.manifest
        self._abandon(pid)
        load = self._loads.pop(pid, None)
        if load is not None:
            load.cancel()

    async def stop(self) -> None:
        """Have nothing more to do with the store.  How far copying is behind goes on to be measured: it will not catch up by itself."""
        self._is_stopped = True
        for pid in list(self._flights):
            self._abandon(pid)
        loads, self._loads = list(self._loads.values()), {}
        for load in loads:
            load.cancel()

    async def delete_topic_partition(self, pid: PartitionId) -> None:
        """Mark the manifest deleted: all its objects are garbage from now on; the manifest itself goes last.  Repeatable.

        Raises:
            StoreUnavailable, OutcomeUnknown: ask again.
        """
        await self.detach(pid)
        manifest = self._deleted.get(pid) or self._left.pop(pid, None) or self.manifest_of(pid)
        if manifest.view is None and await manifest.load() is None:
            return
        now_ms, not_before_ms = self._clock.now_ms(), self.doom_ms()
        await manifest.commit(lambda root, _: mark_deleted(root, now_ms=now_ms, not_before_ms=not_before_ms))
        self._deleted[pid] = manifest

    # -- loading

    def _start_load(self, cold: ColdPartition) -> asyncio.Task[None]:
        task = self._loads.get(cold.pid)
        if task is None:
            task = self._loads[cold.pid] = self._scope.spawn(self._load_quietly(cold))
        return task

    async def _load_quietly(self, cold: ColdPartition) -> None:
        try:
            was_ready = cold.ready
            await self.load(cold)
            self._store_away = False
            if not was_ready:
                cold.failures = 0
        except (Corrupt, UnknownVersion) as refusal:
            cold.damage = refusal
            self._fail(cold, refusal)
            if isinstance(refusal, Corrupt):
                self._metrics.corruption.labels("manifest").inc()
        except (HotlogError, OSError) as weather:
            self._store_away = True
            self._fail(cold, weather)
        finally:
            self._loads.pop(cold.pid, None)

    async def load(self, cold: ColdPartition) -> None:
        """Read the manifest and hold the hot log against it."""
        view = await cold.manifest.load()
        cold.loaded_at = self._clock.monotonic()
        cold.target.revives = cold.target.revives or (not cold.ready and view is not None and view.is_deleted)
        self._judge(cold)
        cold.ready, cold.damage = True, None

    def _judge(self, cold: ColdPartition) -> None:
        """Hold the hot log against the committed root: what does not fit stops copying and is said aloud, once."""
        log, root = cold.log, cold.manifest.view
        problem = boundary_problem(
            root, leader_epoch=cold.leader_epoch, revives=cold.target.revives, log_start_offset=log.log_start_offset,
            local_start_offset=log.local_log_start_offset, log_end_offset=log.log_end_offset,
        )  # fmt: skip
        if problem and problem != cold.problem:
            LOG.error("%s-%d (%s): nothing is copied: %s", cold.topic, cold.pid.partition, cold.pid, problem)
            self._metrics.corruption.labels("boundary").inc()
        cold.problem = problem
        if not problem and cold.view is not None and cold.view.end_offset >= 0:
            log.set_tiered_end(cold.view.end_offset)
            # A stop between the commit of a log start and its local checkpoint: the commit counts, and clients must not be told less.
            log.advance_log_start(min(cold.view.log_start_offset, log.high_watermark))

    def _fail(self, cold: ColdPartition, failure: Exception) -> None:
        """Try again later: the wait doubles, with jitter, up to RETRY_SECONDS_MAX."""
        cold.failures += 1
        wait = min(RETRY_SECONDS_MIN * 2 ** min(cold.failures - 1, 10), RETRY_SECONDS_MAX)
        cold.retry_at = self._clock.monotonic() + wait * self._entropy.uniform(0.8, 1.2)
        log = LOG.error if isinstance(failure, Corrupt) else LOG.info
        log("%s-%d: cold tier, failure %d: %s", cold.topic, cold.pid.partition, cold.failures, failure)

    # -- copying

    async def tick_copy(self) -> bool:
        """One bounded piece of upload work; True while there is more (copies or loads under way, or segments due)."""
        self._reap()
        due = await self._look()
        slots = self._settings.number("remote.log.manager.copier.thread.pool.size") - len(self._flights)
        self._is_crowded = len(due) > max(slots, 0)
        for cold, plan in due[: max(slots, 0)]:
            self._launch(cold, plan)
        is_busy = bool(self._flights or self._loads)
        await self._wait()
        self._reap()
        return is_busy or self._is_crowded

    async def _look(self) -> list[tuple[ColdPartition, CopyPlan]]:
        """Loads that are due are started; copies that are due come back, oldest segment first; lags are measured."""
        now, now_ms, due = self._clock.monotonic(), self._clock.now_ms(), []
        refresh_seconds = max(600.0, self._settings.number("hotlog.garbage.grace.ms") / 4000)
        for index, cold in enumerate(list(self._partitions.values()), 1):
            if index % YIELD_EVERY == 0:
                await asyncio.sleep(0)
            self._measure(cold)
            if self._is_stopped:
                continue
            if (
                (not cold.ready or now - cold.loaded_at > refresh_seconds)
                and len(self._loads) < LOADS_MAX
                and cold.retry_at <= now
            ):
                self._start_load(cold)
            if cold.ready:
                if self._has_gap(cold) and cold.retry_at <= now:
                    self._fly(cold, lambda lease, cold=cold: self._close_gap(cold, lease))  # type: ignore[misc]
                plan = self._plan(cold, now_ms)
                if plan is not None and cold.retry_at <= now:
                    due.append((cold, plan))
        await self._gauge(now_ms)
        due.sort(key=lambda pair: (pair[1].segment.closed_ms, pair[0].pid))
        return due

    @staticmethod
    def _measure(cold: ColdPartition) -> None:
        """How far copying is behind, whether or not it can go on; while nothing is known of the store, all that is closed counts."""
        log, view = cold.log, cold.view
        cold.lag = Lag()
        # Nothing closed is uncovered: the common case, without looking at segments.  Or nothing is to be copied.
        if log.active.base_offset > covered_until(view, log.log_start_offset) and not log.config.is_compacted:
            todo = uncovered(view, log.segments(), log.log_start_offset)
            cold.lag = Lag(sum(one.size for one in todo), len(todo), min((one.closed_ms for one in todo), default=0))

    def _plan(self, cold: ColdPartition, now_ms: int) -> CopyPlan | None:
        if not cold.lag.segments:
            return None
        if cold.problem:
            self._judge(cold)  # DeleteRecords may have settled it
        return None if cold.problem or cold.pid in self._flights else self._next(cold, now_ms)

    @staticmethod
    def _next(cold: ColdPartition, now_ms: int) -> CopyPlan | None:
        log, view = cold.log, cold.view
        plan = plan_copy(
            view, log.segments(), log.config,
            # A power loss may take back what is not on the device; the store must not have it then, or offsets are given out twice.
            readable_end=min(log.high_watermark, log.last_stable_offset, log.recovery_point),
            log_start_offset=log.log_start_offset, now_ms=now_ms,
        )  # fmt: skip
        return plan if isinstance(plan, CopyPlan) else None

    def _launch(self, cold: ColdPartition, plan: CopyPlan) -> None:
        self._fly(cold, lambda lease: self._copy(cold, plan, lease))

    def _fly(self, cold: ColdPartition, work: Callable[[Lease], Coroutine[Any, Any, None]]) -> None:
        lease = Lease(self._clock)
        self._flights[cold.pid] = _Flight(cold, lease, self._scope.spawn(work(lease)))

    def _has_gap(self, cold: ColdPartition) -> bool:
        """Whether offsets that clients may ask for are in no tier: a log that began anew behind what the store has."""
        log, view = cold.log, cold.view
        if view is None or view.end_offset < 0 or cold.problem or cold.pid in self._flights:
            return False
        return max(view.end_offset, log.log_start_offset) < log.local_log_start_offset

    async def _close_gap(self, cold: ColdPartition, lease: Lease) -> None:
        """Say so in the manifest now, not with the next copy: until then readers would stand at the gap."""
        try:
            await self._copier.claim(cold.target)
            lease.check()
            await self._copier.record_hole(cold.target, cold.log.local_log_start_offset, "given up with the disk that had them")
            cold.failures, cold.retry_at = 0, 0.0
        except (HotlogError, OSError) as failure:
            await self._copy_failed(cold, failure)

    async def _copy(self, cold: ColdPartition, plan: CopyPlan, lease: Lease) -> None:
        """Copy `plan`, then go on with the same partition while nobody waits for the slot: a look over all is not free."""
        try:
            for _ in range(COPIES_PER_FLIGHT_MAX):
                await self._copier.copy(cold.target, plan, lease)
                LOG.debug(
                    "%s-%d: offsets [%d, %d) are in the store",
                    cold.topic,
                    cold.pid.partition,
                    plan.start_offset,
                    plan.segment.end_offset,
                )
                cold.failures, cold.retry_at = 0, 0.0
                following = None if self._is_crowded else self._next(cold, self._clock.now_ms())
                if following is None:
                    break
                plan = following
        except (HotlogError, OSError) as failure:
            await self._copy_failed(cold, failure)

    async def _copy_failed(self, cold: ColdPartition, failure: Exception) -> None:
        self._metrics.remote_copy_errors.labels(cold.topic).inc()
        self._fail(cold, failure)
        if isinstance(failure, Corrupt):
            self._metrics.corruption.labels("copy").inc()
        try:
            await self.load(cold)  # what is committed may differ from what was believed
        except (HotlogError, OSError) as weather:
            LOG.info("%s: manifest not reloaded: %s", cold.pid, weather)

    async def _wait(self) -> None:
        """Until a copy or load ends, a lease runs out, or TICK_SECONDS_MAX."""
        tasks = [flight.task for flight in self._flights.values()] + list(self._loads.values())
        if not tasks:
            return
        left = [seconds for flight in self._flights.values() if (seconds := flight.lease.seconds_left) is not None]
        await asyncio.wait(tasks, timeout=max(0.0, min([TICK_SECONDS_MAX, *left])), return_when=asyncio.FIRST_COMPLETED)

    def _reap(self) -> None:
        """Take ended copies off the list and abandon those that overstayed."""
        for pid, flight in list(self._flights.items()):
            left = flight.lease.seconds_left
            if flight.task.done():
                del self._flights[pid]
            elif left is not None and left <= 0:
                self._abandon(pid)
                self._metrics.remote_copy_errors.labels(flight.cold.topic).inc()
                self._fail(flight.cold, TimeoutError("a copy overstayed its lease and was abandoned"))

    def _abandon(self, pid: PartitionId) -> None:
        flight = self._flights.pop(pid, None)
        if flight is not None:
            flight.lease.revoke()
            flight.task.cancel()  # nobody waits for it: it may hang

    # -- metrics

    async def _gauge(self, now_ms: int) -> None:
        """Gauges by topic from the state just looked at (never latched)."""
        sums: dict[str, _Sum] = {topic: _Sum() for topic in self._gauged}
        partitions = list(self._partitions.values())  # also of a store that was left
        for index, cold in enumerate(partitions, 1):
            if index % YIELD_EVERY == 0:
                await asyncio.sleep(0)
            sums.setdefault(cold.topic, _Sum()).add(cold)
        for index, (topic, found) in enumerate(sums.items(), 1):
            if index % YIELD_EVERY == 0:
                await asyncio.sleep(0)
            m = self._metrics
            m.remote_copy_lag_bytes.labels(topic).set(found.lag_bytes)
            m.remote_copy_lag_segments.labels(topic).set(found.lag_segments)
            m.oldest_untiered_seconds.labels(topic).set(max(0, now_ms - (found.oldest_ms or now_ms)) / 1000)
            if not found.is_known:
                continue  # what the store has is not known
            m.remote_log_size_bytes.labels(topic).set(found.size_bytes)
            m.remote_metadata_count.labels(topic).set(found.rows)
        self._gauged = {cold.topic for cold in partitions}


class _Sum:
    """What the gauges of a topic say.  `oldest_ms` 0: nothing waits."""

    __slots__ = ("is_known", "lag_bytes", "lag_segments", "oldest_ms", "rows", "size_bytes")

    def __init__(self) -> None:
        self.lag_bytes = self.lag_segments = self.oldest_ms = self.size_bytes = self.rows = 0
        self.is_known = True

    def add(self, cold: ColdPartition) -> None:
        lag = cold.lag
        if lag.segments:
            self.lag_bytes += lag.size
            self.lag_segments += lag.segments
            self.oldest_ms = min(self.oldest_ms or lag.oldest_ms, lag.oldest_ms)
        self.is_known = self.is_known and cold.ready
        if cold.ready and cold.view is not None:
            self.size_bytes += cold.size_bytes
            self.rows += cold.view.totals.rows
