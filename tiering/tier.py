"""The cold tier of a broker: partitions attached to their manifests, copies under leases, reads handed to the cold reader.

A partition is looked at when something about it changed (`stir`: it rolled a segment, its manifest or its settings changed, a copy ended) or when
its time has come: a try after a failure, a manifest that is to be read again.  From `begin_copies` on that happens by itself; the tick
(`tick_copy`) looks at what is behind or not known yet, in case something was missed, and tells the gauges.

Invariants: the store being away delays, it never fails an attach, a produce or a hot read; what `view` says is committed; at most
remote.log.manager.copier.thread.pool.size copies at once, one per partition; the hot log hears of a tiered end only from a committed view;
a partition in which nothing happens costs nothing.
"""

from __future__ import annotations

import asyncio
import logging

from hotlog.kernel.errors import Corrupt, HotlogError, UnknownVersion
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.world.pacing import ByteRate
from hotlog.world.ports import Clock, Disk, Entropy, ObjectStore
from hotlog.world.tasks import TaskScope
from tiering.attention import LOOKED_AT_ONCE, Attention
from tiering.cold_partition import ColdPartition
from tiering.flights import Flights, Owner, has_gap
from tiering.lags import Lags
from tiering.manifest.edits import mark_deleted
from tiering.manifest.store import ManifestMeans, ManifestStore
from tiering.objects.keys import PartitionKeys
from tiering.read.reader import ColdReader
from tiering.upload.copier import Copier, CopyTarget, HotLog
from tiering.upload.plan import boundary_problem

__all__ = ["ColdPartition", "ColdTier"]

LOG = logging.getLogger("hotlog.tier")
TICK_SECONDS_MAX = 1.0  # a tick waits at most this long for a copy to end
ATTACH_SECONDS_MAX = 1.0  # how long attaches of one round wait for their manifests before they let the hot tier serve alone
LOADS_MAX = 32
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.5, 30.0  # remote.log.manager.task.retry.backoff.(max.)ms


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
        self._scope = TaskScope("cold-tier")
        copier = Copier(
            store=store, clock=clock, disk=disk, entropy=entropy, metrics=metrics, rate=self._rate,
            store_seconds_max=settings.number("hotlog.store.total.timeout.ms") / 1000, copied=self.reader.copied,
        )  # fmt: skip
        self.flights = Flights(copier, clock, metrics, self._scope, Owner(self._slots, self._fail, self._copy_failed, self.stir))
        self._lags = Lags(metrics)
        self._partitions: dict[PartitionId, ColdPartition] = {}
        self._unready: dict[PartitionId, ColdPartition] = {}  # of them, those whose manifest is not known yet
        self._behind: dict[PartitionId, ColdPartition] = {}  # those with something to copy, whether or not it can be copied
        self._deleted: dict[PartitionId, ManifestStore] = {}
        self._left: dict[PartitionId, ManifestStore] = {}  # detached ones that have a root: a delete need not read it first
        self._loads: dict[PartitionId, asyncio.Task[None]] = {}
        self._to_load: dict[PartitionId, ColdPartition] = {}  # in line
        self.attention = Attention()
        self._runner: asyncio.Task[None] | None = None
        self._is_stopped = False  # for good: nothing is loaded, copied or shown any more, but what is behind is still measured
        self._store_away = False
        self._attach_until: float | None = None  # the end of a round of attaches, by the monotonic clock

    async def start(self) -> None:
        await self.reader.load_disk()

    async def close(self) -> None:
        """Stop copying (what was uploaded and not committed is an orphan) and reading."""
        self.flights.revoke_all()
        await self._scope.cancel()
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

    def keeps(self, cold: ColdPartition) -> bool:
        """Whether `cold` is attached; after the end nothing is attached any more, nor given up."""
        return self._is_stopped or self._partitions.get(cold.pid) is cold

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
        target.manifest.on_change = log.when_rolled = cold.stir
        known = (old, self._deleted.pop(pid, None), self._left.pop(pid, None))
        if is_new and not any(known):
            target.manifest.assume_absent()
            cold.ready, cold.loaded_at = True, self._clock.monotonic()
            self.stir(cold)
            return cold
        self._unready[pid] = cold
        self.stir(cold)
        if len(self._loads) < LOADS_MAX:
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
        self.attention.forget(pid)
        for waiting in (self._unready, self._behind, self._to_load):
            waiting.pop(pid, None)
        self.flights.drop(pid)
        self._lags.forget(pid)
        load = self._loads.pop(pid, None)
        if load is not None:
            load.cancel()

    async def stop(self) -> None:
        """Have nothing more to do with the store.  How far copying is behind goes on to be measured: it will not catch up by itself."""
        self._is_stopped = True
        self.flights.drop_all()
        self._to_load.clear()
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
                cold.failures, cold.retry_at = 0, 0.0
        except (Corrupt, UnknownVersion) as refusal:
            cold.damage = refusal
            self._fail(cold, refusal)
            if isinstance(refusal, Corrupt):
                self._metrics.corruption.labels("manifest").inc()
        except (HotlogError, OSError) as weather:
            self._store_away = True
            self._fail(cold, weather)
        except Exception as bug:  # told, and tried again as late as anything else that failed
            LOG.exception("loading the manifest of %s-%d failed", cold.topic, cold.pid.partition)
            self._fail(cold, bug)
        finally:
            if self._loads.get(cold.pid) is asyncio.current_task():
                del self._loads[cold.pid]
            self.stir(cold)
            if self._to_load:
                self.stir(self._to_load.pop(next(iter(self._to_load))))

    async def load(self, cold: ColdPartition) -> None:
        """Read the manifest and hold the hot log against it."""
        view = await cold.manifest.load()
        cold.loaded_at = self._clock.monotonic()
        cold.target.revives = cold.target.revives or (not cold.ready and view is not None and view.is_deleted)
        self._judge(cold)
        cold.ready, cold.damage = True, None
        self._unready.pop(cold.pid, None)

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
        if problem:
            log.touch()  # it may have to begin anew
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

    # -- looking

    def stir(self, cold: ColdPartition) -> None:
        """Something about `cold` changed: look at it soon."""
        if self._partitions.get(cold.pid) is cold:
            self.attention.stir(cold)

    def _look_at(self, cold: ColdPartition, now: float) -> None:
        """Measure how far it is behind; begin what is due of it, and note when to look again."""
        self._lags.measure(cold)
        if self._is_stopped:
            return
        if cold.lag.segments or has_gap(cold):
            self._behind[cold.pid] = cold
        else:
            self._behind.pop(cold.pid, None)
        is_due = cold.retry_at <= now
        refresh_at = cold.loaded_at + max(600.0, self._settings.number("hotlog.garbage.grace.ms") / 4000) if cold.ready else 0.0
        if is_due and refresh_at <= now:
            self._load_soon(cold)
        if cold.ready and is_due and cold.pid in self._behind:
            if cold.problem:
                self._judge(cold)  # DeleteRecords may have settled it
            self.flights.consider(cold)
        self.attention.wake_at(cold, cold.retry_at if not is_due else refresh_at if refresh_at > now else now + RETRY_SECONDS_MAX)

    def _load_soon(self, cold: ColdPartition) -> None:
        if len(self._loads) < LOADS_MAX:
            self._start_load(cold)
        elif cold.pid not in self._loads:
            self._to_load[cold.pid] = cold

    def _advance(self) -> bool:
        """Look at what was stirred, a bounded number; begin what there is room for.  True if more is to be looked at."""
        now = self._clock.monotonic()
        for cold in self.attention.due(now):
            self.stir(cold)
        self.flights.abandon_overdue()
        for cold in self.attention.take_some():
            self._look_at(cold, now)
        if not self._is_stopped:
            self.flights.launch()
        return bool(self.attention)

    async def _look_at_all(self) -> None:
        is_more = True
        while is_more:
            is_more = self._advance()
            await asyncio.sleep(0)

    def begin_copies(self) -> None:
        """From now on copies begin when there is something to copy, without a tick."""
        if self._runner is None:
            self._runner = self._scope.spawn(self._run())

    async def _run(self) -> None:
        while True:
            self.attention.begin_wait()
            try:
                await self._look_at_all()
            except Exception:  # the tick and the next event go on
                LOG.exception("a look at what is to be copied failed")
                await asyncio.sleep(TICK_SECONDS_MAX)
            await self.attention.wait(self._clock.monotonic(), TICK_SECONDS_MAX if len(self.flights) else None)

    async def tick_copy(self) -> bool:
        """Look at all that is behind or unknown; tell the gauges; wait a moment.  True while there is more to copy or to load."""
        for cold in [*self._unready.values(), *self._behind.values()]:
            self.stir(cold)
        await self._look_at_all()
        self._lags.all_behind()
        is_more = True
        while is_more:
            is_more = self._lags.tell(self._clock.now_ms(), LOOKED_AT_ONCE)
            await asyncio.sleep(0)
        is_busy = bool(len(self.flights) or self._loads)
        await self._wait()
        return is_busy or self.flights.is_crowded

    async def _wait(self) -> None:
        """Until a copy or load ends, a lease runs out, or TICK_SECONDS_MAX."""
        tasks = [*self.flights.tasks, *self._loads.values()]
        if tasks:
            left = self.flights.seconds_left
            timeout = TICK_SECONDS_MAX if left is None else max(0.0, min(TICK_SECONDS_MAX, left))
            await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

    def _slots(self) -> int:
        return self._settings.number("remote.log.manager.copier.thread.pool.size")

    async def _copy_failed(self, cold: ColdPartition, failure: Exception) -> None:
        self._metrics.remote_copy_errors.labels(cold.topic).inc()
        self._fail(cold, failure)
        if isinstance(failure, Corrupt):
            self._metrics.corruption.labels("copy").inc()
        try:
            await self.load(cold)  # what is committed may differ from what was believed
        except (HotlogError, OSError) as weather:
            LOG.info("%s: manifest not reloaded: %s", cold.pid, weather)
