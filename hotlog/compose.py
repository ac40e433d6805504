"""The only composition root: settings and a world in, an open node out.  The simulator and the tests call it too.

Start order: metadata (it names the cluster), hot logs, cold tier, what is hosted, workers; then `Node.listen`.  Stop order is the reverse.

Invariants: a component that uses another one is given it here, and makes only its own parts; nothing here knows whether the world
is real; a node exists once it is open, and then every part of it is there; its workers are the table in hotlog.workers.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import NamedTuple

from compaction.trusted_clock import KeptClock, store_time_ms
from controller.metadata import Metadata, State
from controller.peers import ALONE, Peers
from hotlog.answers.metadata_bytes import MetadataBytes
from hotlog.broker.broker import Broker
from hotlog.broker.ends_notes import note_ends_at_last
from hotlog.broker.takeover import Takeover
from hotlog.front.connections import Connections
from hotlog.front.dispatch import Dispatch
from hotlog.front.listeners import Listeners
from hotlog.kernel.addresses import Endpoint, advertised_addresses
from hotlog.kernel.errors import Corrupt, HotlogError, UnknownVersion
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.log.manager import LogManager
from hotlog.observe.health import STARTING, Health
from hotlog.workers import Parts, beats_of
from hotlog.world.ports import ObjectStore, World
from tiering.cost.meter import Meter
from tiering.manifest.store import ManifestMeans, ManifestStore
from tiering.objects.keys import PartitionKeys
from tiering.store.check import Examination
from tiering.store.gated import GatedStore
from tiering.store.health import StoreHealth
from tiering.tier import ColdTier

LOG = logging.getLogger(__name__)


class Instruments(NamedTuple):
    """What measures a node.  Made before it: its store tells them of each call from the first one on."""

    metrics: Metrics
    meter: Meter
    store_health: StoreHealth


async def open_node(
    settings: Settings,
    world: World,
    instruments: Instruments,
    *,
    data_dir: str,
    has_store_clock: bool = False,
    is_adopting: bool = False,
    peers: Peers = ALONE,
) -> Node:
    """A node that serves whoever is in this process; `Node.listen` lets clients in.

    A store that answers must keep its promises (tiering.store.check); one that does not answer is no reason to refuse hot data.

    Args:
        data_dir: holds log/, metadata/, cache/.
        has_store_clock: the store's clock is not this machine's.
        is_adopting: what another data directory of this node has and the store has not may be given up.
        peers: the way to other nodes.

    Raises:
        ForeignStore, Invalid: the store or the data directory is another cluster's, or the store is not safe to use;
        StoreUnavailable at the very first start.
    """
    metrics, meter, store_health = instruments
    logs = LogManager(world.clock, world.disk, world.entropy, settings, metrics, f"{data_dir}/log")
    metadata = _metadata(settings, world, logs, data_dir=data_dir, is_adopting=is_adopting, peers=peers)
    # The metadata has the store as it is: it examines it, and writes first.
    store = GatedStore(world.store, lambda: metadata.state is not State.OFFLINE)
    directory_cluster_id = await logs.claim()
    try:
        await meter.load()
    except (Corrupt, UnknownVersion) as damage:  # the meter informs, it never decides
        LOG.warning("the cost meter begins anew: %s", damage)
    try:
        await metadata.open(directory_cluster_id)
    except Exception:
        await _quietly_saved(meter)
        raise
    broker = Broker(
        settings=settings,
        clock=world.clock,
        disk=world.disk,
        entropy=world.entropy,
        metrics=metrics,
        logs=logs,
        metadata=metadata,
        tier=_tier(settings, world, store, metadata.cluster_id, metrics=metrics, data_dir=data_dir),
    )

    async def store_now_ms() -> int:
        return await store_time_ms(store, metadata.cluster_id, world.entropy)

    parts = Parts(
        settings=settings,
        world=world,
        metrics=metrics,
        data_dir=data_dir,
        meter=meter,
        store=store,
        store_health=store_health,
        metadata=metadata,
        logs=logs,
        broker=broker,
        trusted=KeptClock(world.clock, world.disk, f"{data_dir}/trusted-clock", store_now_ms if has_store_clock else None),
    )
    try:
        await broker.start()
    except Exception:
        await Node(parts).close_anyway()
        raise
    if broker.tier is not None:
        broker.tier.begin_copies()
    return Node(parts)


def _metadata(settings: Settings, world: World, logs: LogManager, *, data_dir: str, is_adopting: bool, peers: Peers) -> Metadata:
    examination = Examination(world.store, quick=True, entropy=world.entropy)

    async def examine() -> None:
        (await examination.report()).require()

    async def tiered_end(pid: PartitionId) -> int:
        """For who asks before there is a tier."""
        keys = PartitionKeys(metadata.cluster_id, pid)
        manifest = ManifestStore(
            ManifestMeans(store=world.store, clock=world.clock, entropy=world.entropy, disk=world.disk), keys
        )
        view = await manifest.load()
        return 0 if view is None or view.is_deleted else max(view.end_offset, 0)

    metadata = Metadata(
        world,
        directory=f"{data_dir}/metadata",
        settings=settings,
        peers=peers,
        examine=examine,
        take_over=Takeover(
            node_id=settings.number("node.id"),
            is_adopting=is_adopting,
            ends=lambda: metadata.ends,
            directory_id=lambda: logs.directory_id,
            tiered_end=tiered_end,
        ),
    )
    return metadata


def _tier(
    settings: Settings, world: World, store: ObjectStore, cluster_id: str, *, metrics: Metrics, data_dir: str
) -> ColdTier | None:
    if not settings.flag("remote.log.storage.system.enable"):
        return None
    return ColdTier(
        store=store,
        clock=world.clock,
        disk=world.disk,
        entropy=world.entropy,
        settings=settings,
        metrics=metrics,
        cache_dir=f"{data_dir}/cache",
        cluster_id=cluster_id,
    )


async def _quietly_saved(meter: Meter) -> None:
    try:
        await meter.save()
    except OSError as failure:
        LOG.error("the cost meter was not saved: %s", failure)


class Node:
    """One broker with its workers, open.  Made by `open_node`."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.broker = parts.broker
        self.beats = beats_of(parts)
        connections = Connections(parts.broker, Dispatch(parts.metrics), parts.settings, parts.metrics, parts.world.clock)
        self._listeners = Listeners(connections, parts.world.network)
        self._produce_requests = 0  # as last looked at

    @property
    def metadata(self) -> Metadata:
        return self.parts.metadata

    async def listen(self, endpoints: Sequence[Endpoint], *, machine_name: str = "") -> list[Endpoint]:
        """Let clients in; return the endpoints as they are really bound.

        `machine_name` is what clients are told where a listener is on every address and advertised.listeners does not name it: a wildcard
        is no address to go to.
        """
        listed = self.parts.settings.advertised()
        self.broker.advertised = advertised_addresses(endpoints, listed, machine_name)
        bound = await self._listeners.listen(endpoints)
        self.broker.advertised = advertised_addresses(bound, listed, machine_name)
        return bound

    async def close(self) -> None:
        """Stop taking requests, flush, close.  What was acknowledged does not depend on it."""
        await self._listeners.close()
        await self.broker.close()
        await note_ends_at_last(self.broker)
        await self.parts.meter.save()

    async def close_anyway(self) -> None:
        """Close; what goes wrong with it is told, and left for the next start."""
        try:
            await self.close()
        except (OSError, HotlogError) as failure:  # a full disk, a store that is away: no news that needs a traceback
            LOG.error("stopping did not end cleanly (%s); the next start recovers", failure)
        except Exception:
            LOG.exception("stopping did not end cleanly; the next start recovers")

    def health(self) -> Health:
        """Why this node does not serve, and what is wrong though it does."""
        parts = self.parts
        if not self.broker.is_ready:
            return STARTING
        refusing = [f"log {log.tp} failed: {log.failed}" for log in parts.logs.all() if log.failed is not None]
        if parts.logs.space.full:
            refusing.append(parts.logs.space.full.reason)
        if self.metadata.state is State.FENCED:
            refusing.append(f"metadata changes are refused until restart: {self.metadata.fenced_because}")
        degraded = [reason for reason in (parts.store_health.trouble, self.broker.ids_refused.reason) if reason]
        if self.metadata.state is State.OFFLINE:
            why = self.metadata.offline_because or "it has not answered yet"
            degraded.append(f"metadata cannot change and nothing is copied until the object store was examined: {why}")
        return Health(tuple(refusing), tuple(degraded))

    def feel_lag(self, late_s: float) -> None:
        """Have replays give way when the loop is late and somebody produces."""
        tier = self.broker.tier
        if tier is None:
            return
        before, self._produce_requests = self._produce_requests, self.broker.produce_requests
        tier.reader.chunks.rate.feel(late_s, has_produced=self._produce_requests > before)

    async def refresh_metrics(self) -> None:
        """Set the gauges that are derived from state; many partitions are looked at in pieces."""
        parts, metrics = self.parts, self.parts.metrics
        with contextlib.suppress(OSError):
            metrics.disk_free_bytes.set(parts.world.disk.free_bytes(parts.logs.directory))
        metrics.store_up.set(parts.store_health.is_up)
        metrics.request_bytes.set(self._listeners.connections.held_bytes)
        metrics.metadata_kept_bytes.set(self.broker.kept[MetadataBytes].size)
        sizes, damaged = await parts.logs.by_topic()
        for gauge, values in ((metrics.log_size_bytes, sizes), (metrics.damaged_segments, damaged)):
            gauge.clear()  # a deleted topic has no size
            for topic, value in values.items():
                gauge.labels(topic).set(value)
