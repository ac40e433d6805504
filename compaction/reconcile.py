"""The reconciler: lists the bucket, compares it with the manifests, condemns orphans, aborts stale uploads, reports what is missing.

It deletes nothing of a partition itself: an orphan is written into its partition's manifest as garbage, from where the reaper takes it after the
grace.  That commit is also the fence against a very late writer: a row whose object is garbage is refused (tiering.manifest.edits.append).

Invariants: works only in a bucket whose marker names this cluster; condemns only against the generation it has judged; per partition and
pass no more than the root has room for; nothing is concluded from what a listing lacks without asking for the object itself.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple, Protocol

from compaction.orphans import Judge, Verdict
from compaction.reaper import KEYS_PER_DELETE, reap
from compaction.sights import Sights
from compaction.trusted_clock import TrustedClock
from controller.founding import read_cluster
from hotlog.kernel.errors import (
    Corrupt,
    ForeignStore,
    HotlogError,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    Retry,
    UnknownVersion,
)
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.metrics import Metrics
from hotlog.world.ports import Clock, ObjectInfo, ObjectStore
from tiering.manifest.edits import mark_garbage
from tiering.manifest.garbage import is_finished
from tiering.manifest.root import GARBAGE_OBJECTS_MAX, GarbageObject, Manifest
from tiering.manifest.store import ManifestStore
from tiering.manifest.tree import Node, Nodes
from tiering.objects.keys import ParsedKey, data_prefix, parse_key
from tiering.store.check import CHECK_PREFIX

LOG = logging.getLogger(__name__)
KEYS_MAX = 2_000  # of one partition, judged in one tick
MISSING_MAX = 16  # objects asked for by name in one tick
PAGES_KEPT = 32  # more than lie on the ways to one offset


class Group(NamedTuple):
    """Listed objects of one partition, in order; `is_whole` if these are all of them."""

    pid: PartitionId
    objects: list[tuple[ParsedKey, ObjectInfo]]
    is_whole: bool


class Manifests(Protocol):
    """Who knows the cluster's manifests (tiering.tier.ColdTier)."""

    cluster_id: str

    def manifest_of(self, pid: PartitionId) -> ManifestStore: ...

    def get(self, pid: PartitionId) -> object | None:
        """The partition, if this broker keeps its manifest itself; if not, a deleted topic's garbage is reaped by the reconciler."""
        ...


class Reconciler:
    """One pass over the bucket per `interval_s`, in ticks.

    Args:
        grace_ms, interval_s: settings as they are now.
        sights: what earlier passes saw (of earlier processes too, where it is kept in a file).
    """

    def __init__(
        self,
        manifests: Manifests,
        store: ObjectStore,
        *,
        clock: Clock,
        trusted: TrustedClock,
        metrics: Metrics,
        grace_ms: Callable[[], int],
        interval_s: Callable[[], float],
        sights: Sights | None = None,
    ) -> None:
        self._store = store.bind(purpose="reconcile")
        self._manifests = manifests
        self._cluster_id = manifests.cluster_id
        self._prefix = data_prefix(manifests.cluster_id)
        self._clock = clock
        self._trusted = trusted
        self._metrics = metrics
        self._grace_ms = grace_ms
        self._interval_s = interval_s
        self._pass_due = clock.monotonic()
        self._listing: AsyncIterator[Group] | None = None
        self._sights = sights or Sights()
        self._found: Counter[Verdict] = Counter()

    async def tick(self) -> bool:
        """Judge one partition (or a part of a large one); True while the pass goes on.

        Raises:
            ForeignStore: the bucket is not this cluster's.  StoreUnavailable: the pass begins anew when it is due again.
        """
        if self._listing is None:
            if self._clock.monotonic() < self._pass_due:
                return False
            self._pass_due = self._clock.monotonic() + self._interval_s()
            await self._check_marker()
            self._sights.begin()
            for prefix in (self._prefix, CHECK_PREFIX):
                await self._abort_uploads(prefix)
            await self._collect_checks()
            self._listing, self._found = self._groups(), Counter()
        try:
            group = await anext(self._listing, None)
        except HotlogError:
            self._listing = None
            raise
        if group is None:
            await self._end_pass()
            return False
        await self._judge_group(group)
        return True

    async def _check_marker(self) -> None:
        try:
            found = await read_cluster(self._store)
        except NotFound:
            raise ForeignStore("the object store has no cluster marker: nothing in it is touched") from None
        if found != self._cluster_id:
            raise ForeignStore(f"the object store belongs to cluster {found}, not {self._cluster_id}: nothing in it is touched")

    async def _abort_uploads(self, prefix: str) -> None:
        """Abort uploads below `prefix` that an earlier pass saw and that are older than the grace."""
        now_ms = self._trusted.now_ms()
        async for upload in self._store.list_uploads(prefix):
            is_old = self._is_old(f"{upload.key}?{upload.upload_id}", "", now_ms)
            if is_old and now_ms - upload.started_ms >= self._grace_ms():
                LOG.info("aborting the upload %s of %s, left since %d", upload.upload_id, upload.key, upload.started_ms)
                await self._store.abort_upload(upload)

    async def _collect_checks(self) -> None:
        """Delete what examinations of the store left (a lost answer, a kill): nobody refers to it.  By listing, so only what is old."""
        now_ms = self._trusted.now_ms()
        old = []
        async for info in self._store.list(CHECK_PREFIX):
            if self._is_old(info.key, info.etag, now_ms) and now_ms - info.modified_ms >= self._grace_ms():
                old.append(info.key)
            if len(old) == KEYS_MAX:
                break  # the next pass goes on
        for start in range(0, len(old), KEYS_PER_DELETE):
            await self._store.delete(old[start : start + KEYS_PER_DELETE])

    def _is_old(self, name: str, etag: str, now_ms: int) -> bool:
        """Note that `name` is unreferenced; whether it was so already half an interval ago (passes are an interval apart, or less)."""
        apart_ms = int(self._interval_s() * 1000 / 2)
        is_old = self._sights.is_old(name, etag, now_ms=now_ms, apart_ms=apart_ms)
        self._sights.note(name, etag, now_ms)
        return is_old

    async def _groups(self) -> AsyncIterator[Group]:
        """Listed objects, partition by partition, at most KEYS_MAX together; what is not ours is left alone."""
        objects: list[tuple[ParsedKey, ObjectInfo]] = []
        is_first = True
        async for info in self._store.list(self._prefix):
            key = parse_key(info.key)
            if key is None:
                continue
            is_other = bool(objects) and key.pid != objects[0][0].pid
            if is_other or len(objects) >= KEYS_MAX:
                yield Group(objects[0][0].pid, objects, is_first and is_other)
                objects, is_first = [], is_other
            objects.append((key, info))
        if objects:
            yield Group(objects[0][0].pid, objects, is_first)

    async def _end_pass(self) -> None:
        self._listing = None
        await self._sights.end()
        for verdict in (Verdict.YOUNG, Verdict.NEWER, Verdict.UNCLAIMED, Verdict.ORPHAN):
            self._metrics.orphans.labels(verdict.value).set(self._found[verdict])
        if self._found[Verdict.UNCLAIMED]:
            LOG.warning("%d objects belong to partitions without a manifest; they are left alone", self._found[Verdict.UNCLAIMED])

    async def _judge_group(self, group: Group) -> None:
        manifest = self._manifests.manifest_of(group.pid)
        try:
            root = await manifest.load()  # after the listing: what was committed meanwhile counts
            judge, pages = Judge(root), dict[str, Node]()
            orphans = [one for one in group.objects if await self._verdict(manifest, judge, *one, pages) is Verdict.ORPHAN]
            if root is not None:
                if group.is_whole:
                    await self._report_missing(manifest, judge, [key.name for key, _ in group.objects])
                await self._condemn(manifest, root, orphans)
                await self._bury(manifest, group)
        except Corrupt as damage:
            self._metrics.corruption.labels("manifest").inc()
            LOG.error("%s is not reconciled: %s", group.pid, damage)
        except UnknownVersion as newer:
            LOG.warning("%s is not reconciled: %s", group.pid, newer)
        except (Retry, OutcomeUnknown, PreconditionFailed) as weather:
            LOG.info("%s is reconciled in the next pass: %s", group.pid, weather)

    async def _verdict(
        self, manifest: ManifestStore, judge: Judge, key: ParsedKey, info: ObjectInfo, pages: dict[str, Node]
    ) -> Verdict:
        """`pages` are those read for this group; keys come by offset, so the last few are enough."""
        while (ref := judge.page_needed(key, pages)) is not None:
            pages[ref.name] = await manifest.node(ref)
            while len(pages) > PAGES_KEPT:
                del pages[next(iter(pages))]
        now_ms = self._trusted.now_ms()
        verdict = judge.verdict(key, info, pages, now_ms=now_ms, grace_ms=self._grace_ms(), seen_before=False)
        if verdict is Verdict.YOUNG and self._is_old(info.key, info.etag, now_ms):
            verdict = judge.verdict(key, info, pages, now_ms=now_ms, grace_ms=self._grace_ms(), seen_before=True)
        self._found[verdict] += 1
        return verdict

    async def _report_missing(self, manifest: ManifestStore, judge: Judge, listed: list[str]) -> None:
        """A live object that a listing lacks is asked for by name: a missing one is lost data, and said so."""
        for name in judge.missing_names(listed)[:MISSING_MAX]:
            key = manifest.keys.object(name)
            try:
                await self._store.head(key)
            except NotFound:
                self._metrics.corruption.labels("missing-object").inc()
                LOG.error("object %s is missing from the store though the manifest of %s refers to it", key, manifest.keys.pid)

    async def _condemn(self, manifest: ManifestStore, root: Manifest, orphans: list[tuple[ParsedKey, ObjectInfo]]) -> None:
        room = GARBAGE_OBJECTS_MAX - len(root.garbage)
        if not orphans or room <= 0:
            return
        not_before_ms = self._clock.now_ms() + self._grace_ms()
        items = [GarbageObject(key.name, info.size, not_before_ms) for key, info in orphans[:room]]

        def edit(newest: Manifest, _: Nodes) -> Manifest:
            if newest.generation != root.generation:
                raise PreconditionFailed(f"manifest of {root.pid} moved on from generation {root.generation} while it was judged")
            return mark_garbage(newest, items)

        await manifest.commit(edit)
        for item in items:
            LOG.warning("orphan %s of %d bytes is condemned", manifest.keys.object(item.name), item.size)

    async def _bury(self, manifest: ManifestStore, group: Group) -> None:
        """A deleted topic whose broker is gone: reap it here, the manifest last and only when nothing else is listed."""
        view = manifest.view
        if view is None or not view.is_deleted or self._manifests.get(group.pid) is not None:
            return
        await reap(self._store, manifest, now_ms=self._trusted.now_ms(), grace_ms=self._grace_ms())
        if manifest.view is not None and is_finished(manifest.view) and group.is_whole and len(group.objects) == 1:
            await manifest.remove()
