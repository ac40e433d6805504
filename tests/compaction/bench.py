"""A bucket with real manifests in it, for the workers' tests: rows with objects, garbage, orphans; in virtual time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple
from uuid import UUID

from compaction.reconcile import Reconciler
from compaction.sights import Sights
from compaction.trusted_clock import TrustedClock
from controller.founding import found_cluster
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.metrics import Metrics
from tests.sim.bucket import Bucket
from tests.sim.clock import HOUR_MS, SimClock
from tests.sim.entropy import SimEntropy, stream
from tests.sim.fuse import Fuse
from tests.sim.loop import SimLoop, run
from tests.sim.store import SimStore
from tests.sim.trace import Trace
from tiering.cache.footers import FooterCache
from tiering.manifest.edits import append, blank
from tiering.manifest.root import Entry, Manifest
from tiering.manifest.store import ManifestMeans, ManifestStore
from tiering.manifest.tree import Node
from tiering.objects.keys import PartitionKeys, segment_name

GRACE_MS = 24 * HOUR_MS
INTERVAL_S = 3600.0
PID = PartitionId(UUID(int=7), 0)


class Manifests(NamedTuple):
    """A cold tier as the reconciler sees it; all partitions are attached, or none."""

    cluster_id: str
    manifest_of: Callable[[PartitionId], ManifestStore]
    is_hosted: bool

    def get(self, pid: PartitionId) -> object | None:
        return pid if self.is_hosted else None


class Bench:
    """One cluster's bucket."""

    def __init__(self, loop: SimLoop, cluster_id: str) -> None:
        self.loop = loop
        self.clock = SimClock(loop)
        self.store_clock = SimClock(loop)
        self.bucket = Bucket(self.store_clock, stream(0, "store"))
        self.entropy = SimEntropy(0)
        self.metrics = Metrics()
        self.store = SimStore(self.bucket, Trace(loop), Fuse())
        self.cluster_id = cluster_id

    @classmethod
    async def open(cls, loop: SimLoop) -> Bench:
        bench = cls(loop, "")
        bench.cluster_id = await found_cluster(bench.store, None, bench.clock, bench.entropy)
        return bench

    def keys(self, pid: PartitionId = PID) -> PartitionKeys:
        return PartitionKeys(self.cluster_id, pid)

    def means(self) -> ManifestMeans:
        pages: FooterCache[str, Node] = FooterCache(1 << 24, lambda page: page.memory_bytes)
        return ManifestMeans(store=self.store, clock=self.clock, entropy=self.entropy, grace_ms=GRACE_MS, pages=pages)

    def manifest(self, pid: PartitionId = PID) -> ManifestStore:
        return ManifestStore(self.means(), self.keys(pid), topic="t")

    async def fill(
        self, count: int, *, pid: PartitionId = PID, epoch: int = 3, timestamps: Callable[[int], int] | None = None
    ) -> ManifestStore:
        """A manifest with `count` more rows of ten offsets and 1,000 log bytes, each with an object."""
        store = self.manifest(pid)
        await store.load()
        for _ in range(count):
            base = max(store.view.end_offset, 0) if store.view is not None else 0
            now_ms = self.clock.now_ms()
            stamp = timestamps(base) if timestamps else now_ms
            row = Entry(
                base_offset=base, end_offset=base + 10, epoch=epoch, nonce=self.entropy.uuid().hex, object="", object_start=0,
                object_end=1100, log_bytes=1000, records=10, min_timestamp=stamp, max_timestamp=stamp, max_timestamp_offset=base, appended_ms=stamp, closed_ms=max(stamp, 0),
                created_ms=now_ms, epochs=((epoch, base),), aborted=0, storage_class="STANDARD", crc=1,
            )  # fmt: skip
            await self.store.put(self.keys(pid).object(row.name), b"x" * 1100)
            await store.settle()
            await store.commit(
                lambda root, _, row=row: append(root, row, epoch=epoch),  # type: ignore[misc]
                create=lambda: blank(pid, "t", epoch=epoch, created_ms=0),
            )
        return store

    async def orphan(self, base: int, *, epoch: int = 3, pid: PartitionId = PID) -> str:
        """An uploaded segment that nobody committed."""
        key = self.keys(pid).object(segment_name(base, epoch, self.entropy.uuid().hex))
        await self.store.put(key, b"orphan")
        return key

    def reconciler(self, *, cluster_id: str = "", hosted: bool = True, sights: Sights | None = None) -> Reconciler:
        return Reconciler(
            Manifests(cluster_id or self.cluster_id, self.manifest, hosted),
            self.store,
            clock=self.clock,
            trusted=TrustedClock(self.clock),
            metrics=self.metrics,
            grace_ms=lambda: GRACE_MS,
            interval_s=lambda: INTERVAL_S,
            sights=sights,
        )

    async def root(self, pid: PartitionId = PID) -> Manifest:
        view = await self.manifest(pid).load()
        assert view is not None
        return view


def with_bench(body: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    logging.getLogger("compaction").setLevel(logging.CRITICAL)

    async def main(loop: SimLoop) -> None:
        bench = await Bench.open(loop)
        await body(bench)
        assert bench.bucket.violations == []

    run(main)
