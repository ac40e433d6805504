"""The periodic jobs of a node: one row a worker.

To add one: write its file (something with `async def tick(self) -> bool`; True: there is more to do at once) and its row in WORKERS.  The
schedule calls it in a broker, `Life.beat` in the simulator, and the metric `hotlog_worker_ticks_total` counts it by its name.

Invariants: a row makes its own part out of `Parts`, all of which are there; no row knows another one; a worker of the cold tier does
nothing on a node without one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from compaction.cleaner import Cleaner
from compaction.cold_cleaner import ColdCleaner
from compaction.cold_worker import ColdWorker
from compaction.reaper import Reaper
from compaction.reconcile import Reconciler
from compaction.scrub_worker import Scrubber
from compaction.sights import Sights
from compaction.trusted_clock import KeptClock
from compaction.worker import RetentionWorker
from controller.metadata import Metadata, State
from hotlog.broker.broker import Broker
from hotlog.broker.ends_notes import EndsNotes
from hotlog.broker.group_lag import GroupLag
from hotlog.broker.topic_series import TopicSeries
from hotlog.kernel.beats import Beat
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.log.manager import LogManager
from hotlog.observe.store_probe import StoreProbe
from hotlog.world.ports import ObjectStore, World
from tiering.cost.book import load_book
from tiering.cost.meter import Meter
from tiering.store.health import StoreHealth
from tiering.tier import ColdTier

Tick = Callable[[], Awaitable[bool]]
Seconds = Callable[[Settings], float]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a node consists of once it is open.  `store` is gated: nothing is written to one that was not examined."""

    settings: Settings  # as started with; `broker.settings` are those of now
    world: World
    metrics: Metrics
    data_dir: str
    meter: Meter
    store: ObjectStore
    store_health: StoreHealth
    metadata: Metadata
    logs: LogManager
    broker: Broker
    trusted: KeptClock

    def settings_now(self) -> Settings:
        return self.broker.settings

    def grace_ms(self) -> int:
        return self.broker.settings.number("hotlog.garbage.grace.ms")


class Worker(NamedTuple):
    """`tick_of` makes the worker and gives its tick; `interval_s` says how often it is due, from the settings of the start."""

    name: str
    tick_of: Callable[[Parts], Tick]
    interval_s: Seconds


def beats_of(parts: Parts) -> list[Beat]:
    """Every worker of a node, made, in the order of the table."""
    return [Beat(worker.name, worker.tick_of(parts), worker.interval_s(parts.settings)) for worker in WORKERS]


def every(seconds: float) -> Seconds:
    return lambda settings: seconds


def set_by(key: str, *, seconds_max: float = float("inf")) -> Seconds:
    """As often as a setting in ms says, or every `seconds_max`: a worker with long rounds looks often whether one is due, if any ever is."""

    def interval_s(settings: Settings) -> float:
        interval_ms = settings.number(key)
        return min(interval_ms / 1000, seconds_max) if interval_ms > 0 else seconds_max

    return interval_s


def cold(tick_of: Callable[[Parts, ColdTier], Tick]) -> Callable[[Parts], Tick]:
    """A worker of the cold tier."""

    async def nothing_to_do() -> bool:
        return False

    return lambda parts: nothing_to_do if parts.broker.tier is None else tick_of(parts, parts.broker.tier)


# How the rows make their parts


def _logs(parts: Parts) -> Tick:
    async def tick() -> bool:
        await parts.logs.space.look()
        return await parts.logs.tick()

    return tick


def _copy(parts: Parts, tier: ColdTier) -> Tick:
    async def tick() -> bool:
        return parts.broker.is_ready and await tier.tick_copy()

    return tick


def _retention(parts: Parts) -> Tick:
    return RetentionWorker(
        parts.broker.hosted,
        clock=parts.world.clock,
        settings=parts.settings_now,
        metrics=parts.metrics,
        trusted=parts.trusted,
    ).tick


def _scrub(parts: Parts) -> Tick:
    world = parts.world
    return Scrubber(
        parts.broker.hosted, clock=world.clock, disk=world.disk, settings=parts.settings_now, metrics=parts.metrics
    ).tick


def _cleaner(parts: Parts) -> Tick:
    world = parts.world
    return Cleaner(
        parts.broker.hosted, clock=world.clock, disk=world.disk, entropy=world.entropy, settings=parts.settings_now,
        metrics=parts.metrics, trusted=parts.trusted.trusted,
    ).tick  # fmt: skip


def _cold_cleaner(parts: Parts, tier: ColdTier) -> Tick:
    world = parts.world
    cleaner = ColdCleaner(
        parts.store, disk=world.disk, clock=world.clock, entropy=world.entropy, settings=parts.settings_now,
        folder=f"{parts.data_dir}/cold-cleaning", now_ms=parts.trusted.trusted.now_ms,
        provider=load_book().provider(parts.settings.text("hotlog.compaction.prices")),
    )  # fmt: skip
    return ColdWorker(
        parts.broker.hosted, cleaner, clock=world.clock, disk=world.disk, settings=parts.settings_now, metrics=parts.metrics
    ).tick


def _reaper(parts: Parts, tier: ColdTier) -> Tick:
    return Reaper(tier, parts.store, metrics=parts.metrics, trusted=parts.trusted.trusted, grace_ms=parts.grace_ms).tick


def _reconcile(parts: Parts, tier: ColdTier) -> Tick:
    world, metadata = parts.world, parts.metadata
    reconciler = Reconciler(
        tier,
        parts.store,
        clock=world.clock,
        trusted=parts.trusted.trusted,
        metrics=parts.metrics,
        grace_ms=parts.grace_ms,
        interval_s=lambda: parts.broker.settings.number("hotlog.reconcile.interval.ms") / 1000,
        sights=Sights(world.disk, f"{parts.data_dir}/orphan-sights"),
    )

    async def tick() -> bool:  # fenced: who has the place now does it
        return metadata.state is not State.FENCED and await reconciler.tick()

    return tick


def _meter(parts: Parts) -> Tick:
    async def tick() -> bool:
        await parts.meter.save()
        return False

    return tick


WORKERS = (
    Worker("log", _logs, every(1.0)),
    Worker("series", lambda parts: TopicSeries(parts.broker, parts.metrics).tick, every(5.0)),
    Worker("broker", lambda parts: parts.broker.tick, every(5.0)),
    Worker("groups", lambda parts: parts.broker.groups.tick, every(5.0)),
    Worker("transactions", lambda parts: parts.broker.transactions.tick, every(5.0)),
    Worker("hanging-transactions", lambda parts: parts.broker.hanging.tick, every(5.0)),
    Worker("store", lambda parts: StoreProbe(parts.world.store, parts.store_health).tick, every(5.0)),
    Worker("group-lag", lambda parts: GroupLag(parts.broker, parts.metrics).tick, every(10.0)),
    Worker("ends", lambda parts: EndsNotes(parts.broker).tick, every(5.0)),
    Worker("copy", cold(_copy), set_by("remote.log.manager.task.interval.ms")),
    Worker("retention", _retention, set_by("log.retention.check.interval.ms")),
    Worker("cleaner", _cleaner, set_by("log.cleaner.backoff.ms", seconds_max=5.0)),
    Worker("cold-cleaner", cold(_cold_cleaner), every(30.0)),
    Worker("scrub", _scrub, set_by("hotlog.scrub.interval.ms", seconds_max=10.0)),
    Worker("reaper", cold(_reaper), lambda settings: min(60.0, settings.number("hotlog.garbage.grace.ms") / 1000 + 1)),
    Worker("reconcile", cold(_reconcile), set_by("hotlog.reconcile.interval.ms", seconds_max=60.0)),
    Worker("meter", _meter, every(10.0)),
)
