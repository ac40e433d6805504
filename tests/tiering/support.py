"""Parts of the tiering tests: a faulty store over a real one, a broker-less world of real logs and a real tier."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from unittest.mock import patch
from uuid import UUID

from hotlog.kernel.ids import PartitionId, TopicPartition
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog
from hotlog.world.ports import STANDARD, ObjectStore
from hotlog.world.posix import PosixDisk, SystemEntropy
from tests.log.support import T0, append, batch, kill
from tests.support.clocks import HandClock
from tests.support.faulty_store import Faults, FaultyStore, Killed
from tests.tools.patience import PATIENT_STORE, SOON_S
from tiering.manifest.root import PAGE_LEVEL_MAX, Entry, Manifest, PageRef, find_offset, join_totals, totals_of
from tiering.manifest.spill import SpillPlan
from tiering.manifest.store import ManifestStore
from tiering.objects.keys import PartitionKeys
from tiering.store import open_store
from tiering.tier import ColdPartition, ColdTier

CLUSTER = "kL9cluster_id-0123456A"
TOPIC_ID = UUID("00112233-4455-6677-8899-aabbccddeeff")
PID = PartitionId(TOPIC_ID, 0)
TP = TopicPartition("clicks", 0)
KEYS = PartitionKeys(CLUSTER, PID)


def settings(**given: object) -> Settings:
    """Settings by name with _ for the dots; small caches, a patient store."""
    values = PATIENT_STORE | {name.replace("_", "."): str(value) for name, value in given.items()}
    values.setdefault("hotlog.cache.disk.bytes", "0")
    values.setdefault("hotlog.disk.reserve.bytes", "0")
    return Settings.resolve(values)


def tiered(**overrides: object) -> TopicConfig:
    """A tiered topic of small segments that never expire; keys with _ for the dots."""
    given = {name.replace("_", "."): str(value) for name, value in overrides.items()}
    for name, value in {"segment.bytes": "2000", "retention.ms": "-1", "local.retention.ms": "-2"}.items():
        given.setdefault(name, value)
    return TopicConfig.resolve(given)


@dataclass
class Node:
    """One life of a broker's two tiers over directories that outlive it."""

    root: Path
    faults: Faults
    store: ObjectStore
    disk: PosixDisk
    clock: HandClock
    metrics: Metrics
    logs: LogManager
    tier: ColdTier
    config: TopicConfig

    async def create(self, config: TopicConfig | None = None, tp: TopicPartition = TP) -> PartitionLog:
        return await self.logs.create(tp, TOPIC_ID, config or self.config, leader_epoch=0)

    async def attach(self, log: PartitionLog, *, leader_epoch: int = 0) -> ColdPartition:
        pid = PartitionId(log.topic_id, log.tp.partition)
        return await self.tier.attach(pid, log.tp.topic, log, leader_epoch=leader_epoch)

    async def filled(self, batches: int, *, leader_epoch: int = 0) -> tuple[PartitionLog, ColdPartition]:
        """A new log of so many batches, attached."""
        log = await self.create()
        cold = await self.attach(log, leader_epoch=leader_epoch)
        await fill(log, batches)
        return log, cold

    async def copied(self, batches: int, *, leader_epoch: int = 0) -> tuple[PartitionLog, ColdPartition]:
        """A new log of so many batches, with all that is closed of it in the store."""
        log, cold = await self.filled(batches, leader_epoch=leader_epoch)
        await self.copy_all()
        return log, cold

    def manifest(self, pid: PartitionId = PID) -> ManifestStore:
        return self.tier.manifest_of(pid)

    async def copy_all(self, ticks_max: int = 2000) -> None:
        """Tick until nothing more is due."""
        for _ in range(ticks_max):
            if not await self.tier.tick_copy():
                return
        raise AssertionError("the uploader never came to rest")

    async def objects(self) -> list[str]:
        return [info.key async for info in self.store.list(f"{CLUSTER}/data/")]


@asynccontextmanager
async def node(
    root: Path,
    *,
    faults: Faults | None = None,
    config: TopicConfig | None = None,
    clock: HandClock | None = None,
    **given: object,
) -> AsyncIterator[Node]:
    """Open (again) what lies below `root`; killed, not closed, when the body raises Killed.  An attach waits for its manifest, however
    long a busy machine takes to give it."""
    faults, disk, clock, metrics = faults or Faults(), PosixDisk(2), clock or HandClock(), Metrics()
    resolved, entropy = settings(**given), SystemEntropy()
    real = await open_store(f"file://{root}/store", settings=resolved, metrics=metrics, clock=clock, entropy=entropy, disk=disk)
    store = FaultyStore(real, faults)
    logs = LogManager(clock, disk, entropy, resolved, metrics, f"{root}/data")
    tier = ColdTier(
        store=store,
        clock=clock,
        disk=disk,
        entropy=entropy,
        settings=resolved,
        metrics=metrics,
        cache_dir=None,
        cluster_id=CLUSTER,
    )
    topic = config or tiered()
    await logs.open(config_of=lambda tp: topic)
    await tier.start()
    try:
        with patch("tiering.tier.ATTACH_SECONDS_MAX", SOON_S):
            yield Node(root, faults, store, disk, clock, metrics, logs, tier, topic)
    except Killed:
        faults.kill_at = -1
        await tier.close()
        await kill(logs)
        raise
    else:
        await tier.close()
        await logs.close()
    finally:
        await store.close()
        disk.close()


async def fill(log: PartitionLog, batches: int, *, records: int = 3, value_bytes: int = 200, start: int = 0) -> None:
    """Append `batches` batches of random (but seeded) values; timestamps rise by 10 ms a record."""
    random = Random(start)
    for number in range(start, start + batches):
        values = [random.randbytes(value_bytes) for _ in range(records)]
        append(log, batch(*values, timestamp=T0 + number * 10 * records, step=10))
    await log.flush()


def row(base: int, end: int, random: Random, *, epoch: int = 0, extreme: bool = False) -> Entry:
    """A made-up row; `extreme` makes every number as long as it can be."""
    bits = 62 if extreme else 31
    log_bytes = random.getrandbits(bits) + 1
    low, high = sorted((T0 + random.getrandbits(30), T0 + random.getrandbits(30)))
    return Entry(
        base_offset=base, end_offset=end, epoch=epoch, nonce=f"{random.getrandbits(128):032x}", object="", object_start=0, object_end=log_bytes + 300,
        log_bytes=log_bytes, records=end - base, min_timestamp=low, max_timestamp=high, max_timestamp_offset=base,
        appended_ms=high, closed_ms=high + 5, created_ms=high + 9, epochs=((epoch, base),), aborted=random.getrandbits(2),
        storage_class=STANDARD, crc=random.getrandbits(32),
    )  # fmt: skip


def fake_ref(plan: SpillPlan, random: Random) -> PageRef:
    """A reference as if the pages of `plan` had been put."""
    first = plan.rows[0].base_offset if plan.rows else plan.refs[0].start_offset
    end = plan.rows[-1].end_offset if plan.rows else plan.refs[-1].end_offset
    totals = totals_of(plan.rows) if plan.rows else join_totals(ref.totals for ref in plan.refs)
    height = 0 if plan.rows or plan.level <= PAGE_LEVEL_MAX else max(1, plan.refs[0].height + plan.keeps_pages)
    nonce = f"{random.getrandbits(128):032x}"
    return PageRef(first, first, end, nonce, plan.level, 9999, random.getrandbits(32), totals, height)


def covering(manifest: Manifest, offset: int) -> Entry:
    found = find_offset(manifest, offset)
    assert isinstance(found, Entry)
    return found
