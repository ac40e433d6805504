"""Deletes what manifests list as garbage, once its time has come.

Deletion takes two commits with a grace in between: first a row leaves and its object is listed as garbage with the time before which it
must stay (retention, replacement, orphans, topic deletion); a tick of this worker later deletes exactly the listed objects and commits
the list without them.  A stop in between repeats a delete, which harms nothing.

Partitions of a topic are reaped together: their objects go by requests of KEYS_PER_DELETE keys, their commits AT_ONCE at a time, and the
manifests of a deleted topic, each looked at once more, by one request as well.  Where such a request fails, its partitions are reaped one a
tick until that goes well: one that the store refuses holds up no other.

Invariants: only keys that a committed root lists as garbage are deleted, never "all that is not listed"; never before their time by a
clock that cannot jump ahead (compaction.trusted_clock); a deleted topic's manifest goes last; a tick deletes for PARTITIONS_MAX partitions.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from compaction.trusted_clock import TrustedClock
from hotlog.kernel.errors import Corrupt, HotlogError, PreconditionFailed, Retry
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.metrics import Metrics
from hotlog.world.ports import ObjectStore
from tiering.manifest.garbage import clear_garbage, doomed_before, folded_before, is_due, is_finished, names_of, unfolded
from tiering.manifest.root import Garbage
from tiering.manifest.store import ManifestStore
from tiering.manifest.tree import NeedPage, Node

LOG = logging.getLogger(__name__)
PARTITIONS_MAX = 256  # reaped in one tick
AT_ONCE = 16  # commits and looks at newest roots
KEYS_PER_DELETE = 1000  # as S3 takes them


class Manifests(Protocol):
    """Who knows the manifests that may list garbage (tiering.tier.ColdTier)."""

    def manifests(self) -> Sequence[ManifestStore]: ...
    def forget(self, pid: PartitionId) -> None: ...


class Doomed(NamedTuple):
    """What of one partition may go now: `items` of its garbage list, and the keys of their objects."""

    manifest: ManifestStore
    items: tuple[Garbage, ...]
    keys: list[str]


async def doomed_of(manifest: ManifestStore, now_ms: int, grace_ms: int) -> Doomed:
    """What `manifest.view` condemned before `now_ms`, at most one step of it; what an index page stands for is listed page by page first.

    Raises:
        Corrupt: the page that names doomed objects is damaged.  StoreUnavailable: it cannot be read.
    """
    while manifest.view is not None and folded_before(manifest.view, now_ms) and not doomed_before(manifest.view, now_ms):
        await manifest.commit(lambda root, pages: unfolded(root, pages, now_ms=now_ms, not_before_ms=now_ms + grace_ms))
    view = manifest.view
    items = doomed_before(view, now_ms) if view is not None else ()
    if view is None or not items:
        return Doomed(manifest, (), [])
    pages: dict[str, Node] = {}
    while True:
        try:
            return Doomed(manifest, items, [manifest.keys.object(name) for name in names_of(view, items, pages)])
        except NeedPage as need:
            pages[need.ref.name] = await manifest.node(need.ref)


async def delete_objects(store: ObjectStore, topic: str, keys: Sequence[str]) -> None:
    """Delete objects of one topic, each thousand with a deadline of its own: pages name a thousand each."""
    bound = store.bind(topic=topic or None, purpose="retention")
    for first in range(0, len(keys), KEYS_PER_DELETE):
        await bound.delete(keys[first : first + KEYS_PER_DELETE])


async def clear(doomed: Doomed, *, now_ms: int, grace_ms: int) -> None:
    """Commit the garbage list without what was deleted."""
    items = doomed.items
    await doomed.manifest.commit(lambda root, _: clear_garbage(root, items, not_before_ms=now_ms + grace_ms))


async def reap(store: ObjectStore, manifest: ManifestStore, *, now_ms: int, grace_ms: int) -> int:
    """Delete what `manifest.view` condemned before `now_ms`, at most one step of it; return how many objects that was.

    Raises:
        StoreUnavailable, OutcomeUnknown: some may be deleted; they stay listed until a later try.
        Corrupt: the page that names doomed objects is damaged: they stay.
    """
    doomed = await doomed_of(manifest, now_ms, grace_ms)
    if not doomed.items or manifest.view is None:
        return 0
    await delete_objects(store, manifest.view.topic, doomed.keys)
    await clear(doomed, now_ms=now_ms, grace_ms=grace_ms)
    return len(doomed.keys)


class Reaper:
    """Reaps the manifests that a broker knows.

    Args:
        grace_ms: `hotlog.garbage.grace.ms` as it is now.
    """

    def __init__(
        self, tier: Manifests, store: ObjectStore, *, metrics: Metrics, trusted: TrustedClock, grace_ms: Callable[[], int]
    ) -> None:
        self._tier = tier
        self._store = store
        self._metrics = metrics
        self._trusted = trusted
        self._grace_ms = grace_ms
        self._queue: deque[ManifestStore] = deque()
        self._alone: set[PartitionId] = set()  # were in a request that failed
        self._measured: set[str] = set()

    async def tick(self) -> bool:
        """Reap up to PARTITIONS_MAX partitions; True if there are more to look at in this round."""
        if not self._queue:
            self._queue.extend(self._tier.manifests())
            await self._measure()
        now_ms = self._trusted.now_ms()
        together: dict[str, list[ManifestStore]] = {}
        for _ in range(min(PARTITIONS_MAX, len(self._queue))):
            manifest = self._queue.popleft()
            view = manifest.view
            if view is None or not (is_due(view, now_ms) or is_finished(view)):
                continue
            if manifest.keys.pid in self._alone:
                if await self._reap(manifest, now_ms):
                    self._alone.discard(manifest.keys.pid)
                    self._look_again(manifest, now_ms)
                break
            together.setdefault(view.topic, []).append(manifest)
        for topic, manifests in together.items():
            await self._reap_together(topic, manifests, now_ms)
        return bool(self._queue)

    def _look_again(self, manifest: ManifestStore, now_ms: int) -> None:
        if manifest.view is not None and is_due(manifest.view, now_ms):
            self._queue.append(manifest)

    async def _reap_together(self, topic: str, manifests: Sequence[ManifestStore], now_ms: int) -> None:
        """Reap partitions of one topic: their objects, then what their roots say of them, then the roots of a deleted topic."""
        self._metrics.remote_delete_requests.labels(topic).inc(len(manifests))
        doomed: list[Doomed] = []
        for manifest in manifests:
            try:
                doomed.append(await doomed_of(manifest, now_ms, self._grace_ms()))
            except HotlogError as failure:
                self._failed(manifest.keys.pid, topic, failure)
        try:
            await delete_objects(self._store, topic, [key for one in doomed for key in one.keys])
        except HotlogError as failure:
            self._set_apart(doomed, topic, failure)
            return
        gate = asyncio.Semaphore(AT_ONCE)
        settled = await asyncio.gather(*(self._settle(one, topic, now_ms, gate) for one in doomed))
        last = [one for one, may_go in zip(doomed, settled, strict=True) if may_go]
        try:
            for first in range(0, len(last), KEYS_PER_DELETE):
                keys = [one.manifest.keys.manifest for one in last[first : first + KEYS_PER_DELETE]]
                await self._store.bind(topic=topic or None, purpose="manifest").delete(keys)
        except HotlogError as failure:
            self._set_apart(last, topic, failure)
            return
        for one in last:
            one.manifest.gone()
            self._tier.forget(one.manifest.keys.pid)
        if count := sum(len(one.keys) for one in doomed):
            LOG.info("%s: %d objects of %d partitions deleted after their grace", topic, count, len(doomed))

    async def _settle(self, doomed: Doomed, topic: str, now_ms: int, gate: asyncio.Semaphore) -> bool:
        """The objects are deleted: return whether the manifest itself may go too; if not, take them off its garbage list."""
        manifest = doomed.manifest
        async with gate:
            try:
                view = manifest.view
                if view is not None and is_finished(view, doomed.items) and await self._may_go(doomed):
                    return True
                if manifest.view is None:
                    self._tier.forget(manifest.keys.pid)
                elif doomed.items:
                    await clear(doomed, now_ms=now_ms, grace_ms=self._grace_ms())
                    self._look_again(manifest, now_ms)
            except HotlogError as failure:
                self._failed(manifest.keys.pid, topic, failure)
        return False

    @staticmethod
    async def _may_go(doomed: Doomed) -> bool:
        try:
            return await doomed.manifest.may_go(doomed.items)
        except PreconditionFailed:
            return False  # somebody condemned more meanwhile

    def _set_apart(self, doomed: Sequence[Doomed], topic: str, failure: HotlogError) -> None:
        for one in doomed:
            self._alone.add(one.manifest.keys.pid)
            self._queue.append(one.manifest)
        self._failed(doomed[0].manifest.keys.pid, topic, failure)

    async def _measure(self) -> None:
        """Delete lag by topic, from the manifests as they are: objects that expired and are not deleted yet."""
        lags: dict[str, list[int]] = {topic: [] for topic in sorted(self._measured)}
        for number, manifest in enumerate(list(self._queue), 1):
            if number % PARTITIONS_MAX == 0:
                await asyncio.sleep(0)
            if manifest.view is not None and (manifest.view.garbage or manifest.view.topic in lags):
                lags.setdefault(manifest.view.topic, []).extend(item.size for item in manifest.view.garbage)
        for topic, sizes in lags.items():
            self._metrics.remote_delete_lag_bytes.labels(topic).set(sum(sizes))
            self._metrics.remote_delete_lag_segments.labels(topic).set(len(sizes))
        self._measured = {topic for topic, sizes in lags.items() if sizes}

    async def _reap(self, manifest: ManifestStore, now_ms: int) -> bool:
        """Whether it went well; if not, the next round tries again."""
        pid = manifest.keys.pid
        topic = manifest.view.topic if manifest.view is not None else ""
        self._metrics.remote_delete_requests.labels(topic).inc()
        try:
            count = await reap(self._store, manifest, now_ms=now_ms, grace_ms=self._grace_ms())
            if count:
                LOG.info("%s: %d objects deleted after their grace", pid, count)
            if manifest.view is not None and is_finished(manifest.view):
                await manifest.remove()
            if manifest.view is None:
                self._tier.forget(pid)
            return True
        except HotlogError as failure:
            self._failed(pid, topic, failure)
        return False

    def _failed(self, pid: PartitionId, topic: str, failure: HotlogError) -> None:
        self._metrics.remote_delete_errors.labels(topic).inc()
        if isinstance(failure, Retry):
            LOG.info("%s: garbage stays for now: %s", pid, failure)
            return
        if isinstance(failure, Corrupt):
            self._metrics.corruption.labels("manifest").inc()
        LOG.warning("%s: garbage stays: %s", pid, failure)
