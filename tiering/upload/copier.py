"""Copies one closed segment to the store and commits it: claim, prove, upload, commit, then tell the log.

Steps and what a crash leaves: before the upload nothing; after it an orphan object (never listed, found by reconciliation); after the
commit a row whose local copy may go.  The next try uses a new nonce, so a half-done one never has to be cleaned before going on.

Invariants: the manifest is claimed with the leader epoch before the first upload; a row is committed only by the holder of a lease that was
not revoked, and only for bytes that were proven; the log hears of an end offset only after its commit; an object that was uploaded while
its commit is in doubt is committed again as the same row, never uploaded twice.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from hotlog.kernel.errors import Corrupt, Fenced, NotFound, PreconditionFailed, UnknownVersion
from hotlog.kernel.limits import MiB
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.topic_config import TopicConfig
from hotlog.world.pacing import ByteRate
from hotlog.world.ports import STANDARD, Buffer, Clock, Disk, Entropy, ObjectStore
from tiering.manifest.edits import Edit, append, blank, claim, record_hole
from tiering.manifest.root import ENTRIES_HARD_MAX, Entry, Manifest
from tiering.manifest.store import ManifestStore
from tiering.objects.keys import PartitionKeys
from tiering.objects.segment import FooterParts, Trailer, build_footer, pack_aborted, parse_aborted, parse_leader_epochs
from tiering.upload.plan import Backlog, CopyPlan, LocalSegment
from tiering.upload.scan import ScanRange, SegmentScan, SegmentSource, scan_segment

LOG = logging.getLogger("hotlog.tier")
PENDING_MS_MAX = 60 * 60 * 1000  # an uncommitted object may be condemned as an orphan later on: then rather upload again
SNAPSHOT_EVERY = 16  # objects of a backlog: the newest has the producers, and one in so many of those before
SLOWEST_BYTES_PER_SECOND = 1 * MiB  # an upload slower than this on the whole is taken for hung


class HotLog(Protocol):
    """What of hotlog.log's PartitionLog the tier uses."""

    config: TopicConfig
    when_rolled: Callable[[], None]  # called when a segment was closed and is on the device

    @property
    def log_start_offset(self) -> int: ...
    @property
    def log_end_offset(self) -> int: ...
    @property
    def high_watermark(self) -> int: ...
    @property
    def last_stable_offset(self) -> int: ...
    @property
    def cleaned_end(self) -> int: ...
    @property
    def has_gaps(self) -> bool: ...
    @property
    def recovery_point(self) -> int: ...
    @property
    def local_log_start_offset(self) -> int: ...
    def closed_above(self, offset: int) -> Backlog | None: ...
    def touch(self) -> None: ...
    def set_tiered_end(self, offset: int) -> None: ...
    def advance_log_start(self, offset: int) -> None: ...
    def producer_snapshot_bytes(self, end_offset: int) -> Awaitable[bytes]: ...
    def leader_epoch_bytes(self, end_offset: int) -> bytes: ...


class Lease:
    """The right to commit one copy.  `begin` starts its time; after `revoke` the holder's result counts for nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.is_revoked = False
        self._deadline: float | None = None

    def begin(self, seconds: float) -> None:
        self._deadline = self._clock.monotonic() + seconds

    def pause(self) -> None:
        """Waiting for the copy rate is not the store's fault."""
        self._deadline = None

    def revoke(self) -> None:
        self.is_revoked = True

    @property
    def seconds_left(self) -> float | None:
        """None while the copy waits for the copy rate (that wait is not the store's fault)."""
        return None if self._deadline is None else self._deadline - self._clock.monotonic()

    def check(self) -> None:
        """Raise Fenced if the lease was taken away."""
        if self.is_revoked:
            raise Fenced("this copy took too long; its lease was given away")


@dataclass(slots=True)
class CopyTarget:
    """A partition as the uploader needs it.  `pending` is a row whose object is in the store and whose commit is in doubt; `bare` is how many
    objects went since the last one with a snapshot of the producers."""

    keys: PartitionKeys
    topic: str
    log: HotLog
    leader_epoch: int
    manifest: ManifestStore
    pending: Entry | None = None
    revives: bool = False
    bare: int = 0


class Copier:
    """Executes CopyPlans."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        clock: Clock,
        disk: Disk,
        entropy: Entropy,
        metrics: Metrics,
        rate: ByteRate,
        store_seconds_max: float,
        copied: Callable[[PartitionKeys, Entry, bytes], Awaitable[None]],
    ) -> None:
        self._store = store
        self._clock = clock
        self._disk = disk
        self._entropy = entropy
        self._metrics = metrics
        self._rate = rate
        self._store_seconds_max = store_seconds_max
        self._copied = copied

    async def copy(self, target: CopyTarget, plan: CopyPlan, lease: Lease) -> Manifest:
        """Copy and commit one segment; return the root that has it.

        Raises:
            Fenced: a newer leader or a deleted topic: stop copying.
            Corrupt: the local segment is damaged: it stays local and is reported.
            PreconditionFailed, StoreUnavailable, OutcomeUnknown, OSError: try again later (load() first).
        """
        self._metrics.remote_copy_requests.labels(target.topic).inc()
        lease.pause()
        await self._rate.pace(plan.segment.size)
        lease.begin(4 * self._store_seconds_max + plan.segment.size / SLOWEST_BYTES_PER_SECOND)
        await self.claim(target)
        if plan.hole:
            await self.record_hole(target, plan.start_offset, plan.hole)
        await self._settle(target)
        entry = target.pending
        if entry is None or not self._still_good(entry, plan):
            entry = await self._upload(target, plan, lease)
        target.pending = entry
        view = await self._commit(target, entry, lease)
        target.pending = None
        self._metrics.remote_copy_bytes.labels(target.topic).inc(entry.size)
        target.log.set_tiered_end(view.end_offset)
        return view

    async def _settle(self, target: CopyTarget) -> None:
        """Do the spills that are due; a page that cannot be read keeps no segment from the store as long as the root has room for its row."""
        try:
            await target.manifest.settle()
        except (Corrupt, UnknownVersion, NotFound) as damage:
            view = target.manifest.view
            if view is None or len(view.entries) >= ENTRIES_HARD_MAX:
                raise
            self._metrics.corruption.labels("manifest").inc()
            LOG.error("the manifest of %s cannot be tidied: %s", target.topic, damage)

    def _still_good(self, entry: Entry, plan: CopyPlan) -> bool:
        is_young = 0 <= self._clock.now_ms() - entry.created_ms <= PENDING_MS_MAX
        return is_young and (entry.base_offset, entry.end_offset) == (plan.start_offset, plan.segment.end_offset)

    async def claim(self, target: CopyTarget) -> Manifest:
        """Make sure that this leader's epoch holds the manifest; make the first one."""
        view, epoch = target.manifest.view, target.leader_epoch
        if view is not None and view.epoch == epoch and not view.is_deleted and view.topic == target.topic:
            return view
        edit: Edit = partial(_claim, epoch, target.topic, target.revives)
        make = partial(blank, target.keys.pid, target.topic, epoch=epoch, created_ms=self._clock.now_ms())
        view = await target.manifest.commit(edit, create=make)
        target.revives = False
        return view

    async def record_hole(self, target: CopyTarget, start_offset: int, reason: str) -> None:
        """Offsets [manifest end, `start_offset`) are in neither tier: said aloud, and recorded so that readers can go on behind them."""
        view = target.manifest.view
        assert view is not None
        LOG.error("%s: offsets [%d, %d) are in no tier: %s", target.keys.pid, view.end_offset, start_offset, reason)
        self._metrics.corruption.labels("hole").inc()
        await target.manifest.commit(
            lambda manifest, _: record_hole(
                manifest, start_offset, reason, epoch=target.leader_epoch, now_ms=self._clock.now_ms()
            )
        )

    async def _commit(self, target: CopyTarget, entry: Entry, lease: Lease) -> Manifest:
        def edit(manifest: Manifest, _: object) -> Manifest:
            lease.check()  # each time that it is tried: who has the place now may be copying
            return append(manifest, entry, epoch=target.leader_epoch)

        try:
            return await target.manifest.commit(edit)
        except (PreconditionFailed, Fenced):
            target.pending = None  # it can never be committed: the object is an orphan now
            raise

    async def _upload(self, target: CopyTarget, plan: CopyPlan, lease: Lease) -> Entry:
        segment = plan.segment
        want = ScanRange(segment.base_offset, plan.start_offset, segment.end_offset, segment.size, target.log.has_gaps)
        try:
            scan = await scan_segment(self._disk, segment.log_path, want)
            parts = await self._footer_parts(target, segment, scan)
        except Corrupt as damage:
            self._require_there(target, plan, damage)
            raise
        nonce, now_ms = self._entropy.uuid().hex, self._clock.now_ms()
        about = Trailer(
            pid=target.keys.pid, base_offset=scan.base_offset, end_offset=scan.end_offset, epoch=target.leader_epoch,
            nonce=nonce, log_bytes=scan.log_bytes, log_crc=scan.log_crc, records=scan.records, created_ms=now_ms,
        )  # fmt: skip
        footer = build_footer(parts, about)
        entry = Entry(
            base_offset=scan.base_offset, end_offset=scan.end_offset, epoch=target.leader_epoch, nonce=nonce,
            object="", object_start=0, object_end=scan.log_bytes + len(footer), log_bytes=scan.log_bytes, records=scan.records, min_timestamp=scan.min_timestamp,
            max_timestamp=scan.max_timestamp, max_timestamp_offset=scan.max_timestamp_offset,
            appended_ms=segment.first_append_ms, closed_ms=segment.closed_ms, created_ms=now_ms, epochs=scan.epochs,
            aborted=len(parse_aborted(parts.aborted)), storage_class=STANDARD, crc=scan.log_crc,
        )  # fmt: skip
        lease.check()
        store = self._store.bind(topic=target.topic, purpose="upload")
        source = SegmentSource(self._disk, scan, footer)
        try:
            await store.put_source(target.keys.object(entry.name), source, storage_class=entry.storage_class)
        except Corrupt as damage:
            self._require_there(target, plan, damage)
            raise
        await self._copied(target.keys, entry, footer)
        return entry

    @staticmethod
    def _require_there(target: CopyTarget, plan: CopyPlan, damage: Corrupt) -> None:
        """Raise PreconditionFailed if the segment is another one by now: log compaction replaced it under the copy, so nothing is damaged."""
        backlog = target.log.closed_above(plan.start_offset)
        if backlog is None or backlog.oldest != plan.segment:
            raise PreconditionFailed(
                f"the segment at offset {plan.segment.base_offset} was replaced while it was copied"
            ) from damage

    async def _footer_parts(self, target: CopyTarget, segment: LocalSegment, scan: SegmentScan) -> FooterParts:
        aborted = parse_aborted(await self._disk.run(self._read_if_there, segment.txnindex_path))
        epochs = target.log.leader_epoch_bytes(scan.end_offset)
        _hold_against(parse_leader_epochs(epochs), scan)
        return FooterParts(
            offset_index=scan.offset_index,
            time_index=scan.time_index,
            aborted=pack_aborted([row for row in aborted if row.last_offset >= scan.base_offset]),
            producer_snapshot=await self._producers(target, scan.end_offset),
            leader_epochs=epochs,
            chunk_crcs=scan.chunk_crcs,
        )

    @staticmethod
    async def _producers(target: CopyTarget, end_offset: int) -> bytes:
        """The snapshot of the producers, once a batch of uploads: the next object's stands for those before it."""
        target.bare += 1
        if target.bare < SNAPSHOT_EVERY and target.log.closed_above(end_offset) is not None:
            return b""
        target.bare = 0
        return await target.log.producer_snapshot_bytes(end_offset)

    def _read_if_there(self, path: str) -> Buffer:
        return self._disk.read(path) if self._disk.exists(path) else b""


def _hold_against(known: Sequence[tuple[int, int]], scan: SegmentScan) -> None:
    """Raise Corrupt if a batch has another leader epoch than the checkpoint: it lies outside the CRC, and one of the two has rotted."""
    for epoch, start in scan.epochs:
        expected = next((entry for entry, first in reversed(known) if first <= start), epoch)
        if epoch != expected:
            raise Corrupt(
                f"{scan.path}: the batch at offset {start} has leader epoch {epoch}, the leader epoch checkpoint says {expected}"
            )


def _claim(epoch: int, topic: str, revives: bool, manifest: Manifest, _pages: object) -> Manifest:
    return claim(manifest, epoch, topic, revive=revives)
