"""Deletes what manifests list as garbage, once its time has come.

Deletion takes two commits with a grace in between: first a row leaves and its object is listed as garbage with the time before which it
must stay (retention, replacement, orphans, topic deletion); a tick of this worker later deletes exactly the listed objects and commits
the list without them.  A stop in between repeats a delete, which harms nothing.

Invariants: only keys that a committed root lists as garbage are deleted, never "all that is not listed"; never before their time by a
clock that cannot jump ahead (compaction.trusted_clock); a deleted topic's manifest goes last; a tick deletes for one partition.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from compaction.trusted_clock import TrustedClock
from hotlog.kernel.errors import Corrupt, HotlogError, Retry
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.metrics import Metrics
from hotlog.world.ports import ObjectStore
from tiering.archive import Page
from tiering.garbage import clear_garbage, doomed_before, is_finished, names_of
from tiering.manifest_edits import NeedPage
from tiering.manifest_store import ManifestStore

LOG = logging.getLogger(__name__)
MANIFESTS_MAX = 256  # looked at in one tick
KEYS_PER_DELETE = 1000  # as S3 takes them


class Manifests(Protocol):
    """Who knows the manifests that may list garbage (tiering.tier.ColdTier)."""

    def manifests(self) -> Sequence[ManifestStore]: ...
    def forget(self, pid: PartitionId) -> None: ...


async def reap(store: ObjectStore, manifest: ManifestStore, *, now_ms: int, grace_ms: int) -> int:
    """Delete what `manifest.view` condemned before `now_ms`, at most one step of it; return how many objects that was.

    Raises:
        StoreUnavailable, OutcomeUnknown: some may be deleted; they stay listed until a later try.
        Corrupt: the page that names doomed objects is damaged: they stay.
    """
    view = manifest.view
    items = doomed_before(view, now_ms) if view is not None else ()
    if view is None or not items:
        return 0
    pages: dict[str, Page] = {}
    while True:
        try:
            names = names_of(view, items, pages)
            break
        except NeedPage as need:
            pages[need.ref.name] = await manifest.page(need.ref)
    bound = store.bind(topic=view.topic or None, purpose="retention")
    for first in range(0, len(names), KEYS_PER_DELETE):  # each with a deadline of its own: a merged page can name 10^5 objects
        await bound.delete([manifest.keys.object(name) for name in names[first : first + KEYS_PER_DELETE]])
    await manifest.commit(lambda root, _: clear_garbage(root, items, not_before_ms=now_ms + grace_ms))
    return len(names)


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
        self._measured: set[str] = set()

    async def tick(self) -> bool:
        """Reap one partition; True if there are more to look at in this round."""
        if not self._queue:
            self._queue.extend(self._tier.manifests())
            await self._measure()
        now_ms = self._trusted.now_ms()
        for _ in range(min(MANIFESTS_MAX, len(self._queue))):
            manifest = self._queue.popleft()
            view = manifest.view
            if view is None or not (doomed_before(view, now_ms) or is_finished(view)):
                continue
            if await self._reap(manifest, now_ms) and manifest.view is not None and doomed_before(manifest.view, now_ms):
                self._queue.append(manifest)
            break
        return bool(self._queue)

    async def _measure(self) -> None:
        """Delete lag by topic, from the manifests as they are: objects that expired and are not deleted yet."""
        lags: dict[str, list[int]] = {topic: [] for topic in sorted(self._measured)}
        for number, manifest in enumerate(list(self._queue), 1):
            if number % MANIFESTS_MAX == 0:
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
        except Retry as weather:
            self._metrics.remote_delete_errors.labels(topic).inc()
            LOG.info("%s: garbage stays for now: %s", pid, weather)
        except HotlogError as failure:
            self._metrics.remote_delete_errors.labels(topic).inc()
            if isinstance(failure, Corrupt):
                self._metrics.corruption.labels("manifest").inc()
            LOG.warning("%s: garbage stays: %s", pid, failure)
        return False
