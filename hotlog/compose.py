"""The only composition root: settings and a world in, a node out.  The simulator calls it too.

Start order: metadata (it names the cluster), hot logs, cold tier, what is hosted, then the listener; stop order is the reverse.

Invariants: no component makes another one; nothing here knows whether the world is real; every periodic job is a tick listed in `beats`.
"""

from __future__ import annotations

import contextlib
import logging

from compaction.reaper import Reaper
from compaction.reconcile import Reconciler
from compaction.scrub_worker import Scrubber
from compaction.sights import Sights
from compaction.trusted_clock import KeptClock, store_time_ms
from compaction.worker import RetentionWorker
from controller.founding import read_cluster
from controller.metadata import Metadata, State
from hotlog.broker.broker import Broker
from hotlog.broker.ends_notes import note_ends, note_ends_at_last
from hotlog.broker.takeover import Takeover
from hotlog.front.connections import Connections
from hotlog.front.dispatch import Dispatch
from hotlog.front.listener import Listener
from hotlog.kernel.beats import Beat
from hotlog.kernel.errors import Corrupt, HotlogError, UnknownVersion
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.log.manager import LogManager
from hotlog.observe.group_lag import Ends, measure
from hotlog.observe.health import Health
from hotlog.world.ports import World
from tiering.cost.meter import Meter
from tiering.manifest.store import ManifestStore
from tiering.objects.keys import PartitionKeys
from tiering.store.check import Examination
from tiering.store.gated import GatedStore
from tiering.store.health import StoreHealth
from tiering.store.resilient import ResilientStore
from tiering.tier import ColdTier

LOG = logging.getLogger(__name__)
METER_SAVE_S = 10.0
BROKER_TICK_S = 5.0
GROUPS_TICK_S = 5.0
ENDS_TICK_S = 5.0
STORE_TICK_S = 5.0
PROBE_SECONDS_MAX = 10.0
LOG_TICK_S = 1.0
GROUP_LAG_S = 10.0
REAP_S = 60.0
RECONCILE_S = 60.0  # a pass begins every hotlog.reconcile.interval.ms; this is how soon one is noticed to be due
SCRUB_S = 10.0  # likewise, for hotlog.scrub.interval.ms


class Node:
    """One broker with its workers.  Made by `build_node`; `start` brings it up, `close` down."""

    def __init__(
        self,
        settings: Settings,
        world: World,
        *,
        metrics: Metrics,
        data_dir: str,
        meter: Meter,
        has_store_clock: bool = False,
        is_adopting: bool = False,
        store_health: StoreHealth | None = None,
    ) -> None:
        self.settings = settings
        self.world = world
        self.metrics = metrics
        self.meter = meter
        self._data_dir = data_dir
        self._has_store_clock = has_store_clock
        self._store_health = store_health or StoreHealth(world.clock)
        probe = world.store.bind(purpose="meta")
        self._probe = probe.within(PROBE_SECONDS_MAX) if isinstance(probe, ResilientStore) else probe
        self._examination = Examination(world.store, quick=True, entropy=world.entropy)
        self.metadata = Metadata(
            world.store,
            clock=world.clock,
            disk=world.disk,
            entropy=world.entropy,
            directory=f"{data_dir}/metadata",
            settings=settings,
            examine=self._examine_store,
            take_over=Takeover(
                node_id=settings.number("node.id"),
                is_adopting=is_adopting,
                ends=lambda: self.metadata.ends,
                directory_id=lambda: self.logs.directory_id,
                tiered_end=self._tiered_end,
            ),
        )
        self.logs = LogManager(world.clock, world.disk, world.entropy, settings, metrics, f"{data_dir}/log")
        # The metadata has the store as it is: it examines it, and writes first.
        self._store = GatedStore(world.store, lambda: self.metadata.state is not State.OFFLINE)
        self.tier: ColdTier | None = None
        self._broker: Broker | None = None
        self._produce_requests = 0  # as last looked at
        self._told_topics: set[str] = set()  # that may have series
        self._listener: Listener | None = None
        self._retention: RetentionWorker | None = None
        self._scrubber: Scrubber | None = None
        self._reaper: Reaper | None = None
        self._reconciler: Reconciler | None = None

    @property
    def broker(self) -> Broker:
        assert self._broker is not None, "open() comes first"
        return self._broker

    async def open(self) -> None:
        """Everything but the listener: metadata, logs, cold tier, hosted partitions, workers.

        A store that answers must keep its promises (tiering.store.check); one that does not answer is no reason to refuse hot data.

        Raises:
            ForeignStore, Invalid: the store or the data directory is another cluster's, or the store is not safe to use;
            StoreUnavailable at the very first start.
        """
        world, settings = self.world, self.settings
        cluster_id = await self.logs.claim()
        try:
            await self.meter.load()
        except (Corrupt, UnknownVersion) as damage:  # the meter informs, it never decides
            LOG.warning("the cost meter begins anew: %s", damage)
        await self.metadata.open(cluster_id)
        if settings.flag("remote.log.storage.system.enable"):
            self.tier = self._make_tier()
        self._broker = Broker(
            settings=settings,
            clock=world.clock,
            disk=world.disk,
            entropy=world.entropy,
            metrics=self.metrics,
            logs=self.logs,
            metadata=self.metadata,
            tier=self.tier,
        )
        await self._broker.start()
        self._make_workers(self._broker)

    async def _examine_store(self) -> None:
        (await self._examination.report()).require()

    async def _tiered_end(self, pid: PartitionId) -> int:
        """For who asks before there is a tier."""
        world = self.world
        manifest = ManifestStore(
            world.store, PartitionKeys(self.metadata.cluster_id, pid), clock=world.clock, entropy=world.entropy, disk=world.disk
        )
        view = await manifest.load()
        return 0 if view is None or view.is_deleted else max(view.end_offset, 0)

    def _make_tier(self) -> ColdTier:
        world = self.world
        return ColdTier(
            store=self._store,
            clock=world.clock,
            disk=world.disk,
            entropy=world.entropy,
            settings=self.settings,
            metrics=self.metrics,
            cache_dir=f"{self._data_dir}/cache",
            cluster_id=self.metadata.cluster_id,
        )

    def _make_workers(self, broker: Broker) -> None:
        world = self.world
        kept = KeptClock(
            world.clock, world.disk, f"{self._data_dir}/trusted-clock", self._store_time_ms if self._has_store_clock else None
        )
        self._retention = RetentionWorker(
            broker.hosted,
            clock=world.clock,
            settings=lambda: broker.settings,
            metrics=self.metrics,
            trusted=kept,
            is_tiering=self.tier is not None,
        )
        self._scrubber = Scrubber(
            broker.hosted, clock=world.clock, disk=world.disk, settings=lambda: broker.settings, metrics=self.metrics
        )
        tier = self.tier
        if tier is None:
            return

        def grace_ms() -> int:
            return broker.settings.number("hotlog.garbage.grace.ms")

        self._reaper = Reaper(tier, self._store, metrics=self.metrics, trusted=kept.trusted, grace_ms=grace_ms)
        self._reconciler = Reconciler(
            self._store,
            self.metadata.cluster_id,
            clock=world.clock,
            trusted=kept.trusted,
            metrics=self.metrics,
            manifest_of=tier.manifest_of,
            is_hosted=lambda pid: tier.get(pid) is not None,
            grace_ms=grace_ms,
            interval_s=lambda: broker.settings.number("hotlog.reconcile.interval.ms") / 1000,
            sights=Sights(world.disk, f"{self._data_dir}/orphan-sights"),
        )

    async def _store_time_ms(self) -> int:
        return await store_time_ms(self._store, self.metadata.cluster_id, self.world.entropy)

    async def start(self, host: str, port: int, *, told_host: str = "") -> tuple[str, int]:
        """Open, then listen; return the address really bound.

        `told_host` is what clients are told instead of `host` where advertised.listeners is not set: a wildcard is no address to go to.
        """
        await self.open()
        listener = self._listener = Listener(
            Connections(self.broker, Dispatch(self.metrics), self.settings, self.metrics, self.world.clock)
        )
        told = self.settings.advertised()
        self.broker.advertised = told or (told_host or host, port)
        bound = await listener.start(host, port)
        self.broker.advertised = told or (told_host or bound[0], bound[1])
        return bound

    async def close(self) -> None:
        """Stop taking requests, flush, close.  What was acknowledged does not depend on it."""
        if self._listener is not None:
            await self._listener.close()
        if self._broker is not None:
            await self._broker.close()
            await note_ends_at_last(self._broker)
        await self.meter.save()

    def beats(self) -> list[Beat]:
        """Every periodic job of this node; intervals are looked at again at each tick where a setting can change."""
        copy_s = self.settings.number("remote.log.manager.task.interval.ms") / 1000
        check_s = self.settings.number("log.retention.check.interval.ms") / 1000
        scrub_s = self.settings.number("hotlog.scrub.interval.ms") / 1000
        return [
            Beat("log", self._tick_logs, LOG_TICK_S),
            Beat("broker", self._tick_broker, BROKER_TICK_S),
            Beat("groups", self._tick_groups, GROUPS_TICK_S),
            Beat("store", self._tick_store, STORE_TICK_S),
            Beat("group-lag", self._tick_group_lag, GROUP_LAG_S),
            Beat("ends", self._tick_ends, ENDS_TICK_S),
            Beat("copy", self._tick_copy, copy_s),
            Beat("retention", self._tick_retention, check_s),
            Beat("scrub", self._tick_scrub, min(SCRUB_S, scrub_s) if scrub_s > 0 else SCRUB_S),
            Beat("reaper", self._tick_reaper, min(REAP_S, self.settings.number("hotlog.garbage.grace.ms") / 1000 + 1)),
            Beat(
                "reconcile", self._tick_reconcile, min(RECONCILE_S, self.settings.number("hotlog.reconcile.interval.ms") / 1000)
            ),
            Beat("meter", self._tick_meter, METER_SAVE_S),
        ]

    @property
    def is_serving(self) -> bool:
        return self._broker is not None and self._broker.is_ready

    def health(self) -> Health:
        """Why this node does not serve, and what is wrong though it does."""
        if not self.is_serving:
            return Health(refusing=("starting",))
        refusing = [f"log {log.tp} failed: {log.failed}" for log in self.logs.all() if log.failed is not None]
        if self.logs.space.full:
            refusing.append(self.logs.space.full.reason)
        if self.metadata.state is State.FENCED:
            refusing.append(f"metadata changes are refused until restart: {self.metadata.fenced_because}")
        degraded = [reason for reason in (self._store_health.trouble, self.broker.ids_refused.reason) if reason]
        if self.metadata.state is State.OFFLINE:
            why = self.metadata.offline_because or "it has not answered yet"
            degraded.append(f"metadata cannot change and nothing is copied until the object store was examined: {why}")
        return Health(tuple(refusing), tuple(degraded))

    def feel_lag(self, late_s: float) -> None:
        """Have replays give way when the loop is late and somebody produces."""
        if self.tier is None or self._broker is None:
            return
        before, self._produce_requests = self._produce_requests, self._broker.produce_requests
        self.tier.reader.chunks.rate.feel(late_s, has_produced=self._produce_requests > before)

    async def refresh_metrics(self) -> None:
        """Set the gauges that are derived from state; many partitions are looked at in pieces."""
        with contextlib.suppress(OSError):
            self.metrics.disk_free_bytes.set(self.world.disk.free_bytes(self.logs.directory))
        self.metrics.store_up.set(self._store_health.is_up)
        self.metrics.request_bytes.set(self._listener.connections.held_bytes if self._listener is not None else 0)
        sizes, damaged = await self.logs.by_topic()
        for gauge, values in ((self.metrics.log_size_bytes, sizes), (self.metrics.damaged_segments, damaged)):
            gauge.clear()  # a deleted topic has no size
            for topic, value in values.items():
                gauge.labels(topic).set(value)

    # Ticks

    async def _tick_logs(self) -> bool:
        await self.logs.space.look()
        return await self.logs.tick()

    def _forget_topics(self) -> None:
        """Drop the series of deleted topics, once nothing of theirs is to be removed any more."""
        assert self._broker is not None
        busy = {*self._broker.image.topics} | {topic.name for topic in self._broker.image.doomed.values()}
        if self.tier is not None:
            busy |= self.tier.deleted_topics()
        if gone := self._told_topics - busy:
            self.metrics.forget_topics(gone)
        self._told_topics = busy

    async def _tick_broker(self) -> bool:
        if self.is_serving:
            self._forget_topics()
        return self._broker is not None and await self._broker.tick()

    async def _tick_groups(self) -> bool:
        return self._broker is not None and await self._broker.groups.tick()

    async def _tick_group_lag(self) -> bool:
        broker = self._broker
        if broker is None or not self.is_serving:
            return False
        groups = broker.groups

        def offsets_of(group: str) -> dict[tuple[str, int], int]:
            try:
                return {place: value.offset for place, value in groups.offsets(group).items()}
            except HotlogError:  # given up meanwhile
                return {}

        def ends_of(topic: str, index: int) -> Ends | None:
            partition = broker.partition(topic, index)
            return None if partition is None else Ends(partition.log.local_log_start_offset, partition.log.high_watermark)

        self.metrics.group_lag.rows = await measure(groups.kept_ids(), offsets_of, ends_of)
        return False

    async def _tick_store(self) -> bool:
        """Ask the store whether it is there, if nobody else has lately."""
        if self._store_health.wants_probe:
            with contextlib.suppress(HotlogError):
                await read_cluster(self._probe)
        return False

    async def _tick_ends(self) -> bool:
        return self._broker is not None and await note_ends(self._broker)

    async def _tick_copy(self) -> bool:
        return self.tier is not None and self.is_serving and await self.tier.tick_copy()

    async def _tick_retention(self) -> bool:
        return self._retention is not None and await self._retention.tick()

    async def _tick_scrub(self) -> bool:
        return self._scrubber is not None and await self._scrubber.tick()

    async def _tick_reaper(self) -> bool:
        return self._reaper is not None and await self._reaper.tick()

    async def _tick_reconcile(self) -> bool:
        if self._reconciler is None or self.metadata.state is State.FENCED:  # who has the place now does it
            return False
        return await self._reconciler.tick()

    async def _tick_meter(self) -> bool:
        await self.meter.save()
        return False


def build_node(
    settings: Settings,
    world: World,
    *,
    metrics: Metrics,
    data_dir: str,
    meter: Meter,
    has_store_clock: bool = False,
    is_adopting: bool = False,
    store_health: StoreHealth | None = None,
) -> Node:
    """Wire one node.

    Args:
        data_dir: holds log/, metadata/, cache/.
        has_store_clock: the store's clock is not this machine's.
        store_health: what the store's calls tell (None: nothing is told).
        is_adopting: what another data directory of this node has and the store has not may be given up.
    """
    return Node(
        settings,
        world,
        metrics=metrics,
        data_dir=data_dir,
        meter=meter,
        has_store_clock=has_store_clock,
        is_adopting=is_adopting,
        store_health=store_health,
    )
