"""The metadata log as its writer has it: records in a durable order, where replacing the object `meta/head` is the commit.

    commit:  decide(image) -> records;  page and snapshot objects first, if the head is full;  then one conditional PUT of the head

A commit carries the controller's epoch.  A newer epoch in the head means that this controller was deposed: Deposed, however late
its write arrives.  A lost response is resolved by the nonce in the head (hotlog.world.register).

Invariants: records are decided on the newest image (controller.follower) and never re-ordered; page and snapshot names are fresh, so an object is
never replaced; an object is deleted only when it is in `retired` and its grace is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from controller import codec
from controller.codec import Head, Ref, Retired
from controller.follower import ATTEMPTS_MAX, Follower
from controller.image import ClusterImage, fold
from controller.keys import page_key, snapshot_key
from controller.mirror import Mirror
from controller.records import ControllerClaimed, Record
from hotlog.kernel.errors import Fenced, ForeignStore, OutcomeUnknown, PreconditionFailed, UnknownVersion
from hotlog.world.ports import Clock, Entropy, ObjectStore
from hotlog.world.register import NONCES_KEPT

Decide = Callable[[ClusterImage], Sequence[Record]]
RETIRED_GRACE_MS = 10 * 60 * 1000  # longer than any broker takes to load; one that meets a missing object reads the head again


class Deposed(Fenced):
    """Another controller has claimed the head: node `by`."""

    def __init__(self, message: str, by: int) -> None:
        super().__init__(message)
        self.by = by


class Moved(Exception):
    """The head is not the one that was decided on: decide again."""


class _Step(NamedTuple):
    """The next head and the objects that must be in the store before it."""

    head: Head
    objects: list[tuple[str, bytes]]
    image: ClusterImage


class Journal:
    """The log of one cluster.  Callers may read and commit concurrently; they take turns here."""

    def __init__(self, store: ObjectStore, mirror: Mirror, cluster_id: str, *, clock: Clock, entropy: Entropy) -> None:
        self.cluster_id = cluster_id
        self.log = Follower(store, mirror, cluster_id)  # to be read by whoever likes; its calls are made here
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._lock = asyncio.Lock()
        self._reaped: set[str] = set()

    @property
    def image(self) -> ClusterImage:
        """The newest one that was read or written here."""
        return self.log.image

    @property
    def is_in_doubt(self) -> bool:
        """Whether the outcome of the last write is unknown until the head is read."""
        return self.log.head is None

    async def load_mirror(self) -> bool:
        """Start from the local copy; False if there is none that is whole."""
        return await self.log.load_mirror()

    async def catch_up(self) -> ClusterImage:
        """Read the store's head and fold what is new.  Raises as Follower.catch_up."""
        async with self._lock:
            return await self.log.catch_up()

    async def claim(self, node_id: int, deposing: int, decide: Decide) -> int:
        """Become the controller after epoch `deposing`: raise the epoch in the head and append what `decide` says; return the epoch.

        Raises:
            Moved: nothing was written, since the head has changed; look again whether to claim.  StoreUnavailable, OutcomeUnknown.
        """
        async with self._lock:
            if self.image.controller_epoch != deposing:
                raise Moved
            epoch = deposing + 1
            await self._append([ControllerClaimed(epoch=epoch, node_id=node_id), *decide(self.image)], epoch, node_id)
            return epoch

    async def commit(self, epoch: int, decide: Decide) -> ClusterImage:
        """Append the records that `decide` makes of the newest image; return the image after them.

        `decide` is pure and may be called again after a lost race; it raises to refuse.

        Raises:
            Deposed: another controller has claimed the head.  StoreUnavailable: nothing happened.  OutcomeUnknown: it may have.
        """
        async with self._lock:
            if self.log.head is None or self.log.register.current is None:
                await self.log.catch_up()
            for _ in range(ATTEMPTS_MAX):
                self._check_epoch(self.log.head, epoch)
                records = decide(self.image)
                if not records:
                    return self.image
                try:
                    return await self._append(records, epoch, self.image.controller_id)
                except Moved:
                    await self._catch_up_or_doubt()
        raise PreconditionFailed(f"lost {ATTEMPTS_MAX} races for {self.log.register.key}")

    async def _catch_up_or_doubt(self) -> None:
        try:
            await self.log.catch_up()
        except (ForeignStore, UnknownVersion):
            self.log.head = None
            raise

    def _check_epoch(self, head: Head | None, epoch: int) -> None:
        if head is not None and head.controller_epoch > epoch:
            raise Deposed(
                f"controller epoch {epoch} of cluster {self.cluster_id} was deposed by node {head.controller_id}"
                f" at epoch {head.controller_epoch}",
                head.controller_id,
            )

    async def _append(self, records: Sequence[Record], epoch: int, node_id: int) -> ClusterImage:
        base = self.log.head
        step = self._plan(base, records, epoch, node_id)
        for key, body in step.objects:
            await self._store.put(key, body)  # a fresh name: repeating it is harmless, and an orphan is never read

        def edit(current: Head | None) -> Head:
            if current is not None:
                self._check_epoch(current, epoch)
            if (current.nonces if current else None) != (base.nonces if base else None):
                if current is None:
                    self.log.refuse_missing_head()
                raise Moved
            return replace(step.head, nonces=(self._entropy.uuid().hex, *step.head.nonces)[:NONCES_KEPT])

        try:
            committed = await self.log.register.commit(edit)
        except (OutcomeUnknown, ForeignStore, UnknownVersion):
            # The next look reads first: it finds the records if they are in, or a head that is not ours any more.
            self.log.head = None
            raise
        if committed.next_offset != step.head.next_offset:
            return await self.log.catch_up()
        self.log.adopt(committed, step.image, step.head.lineage)
        self._reaped.clear()
        await self.log.save(committed, step.objects)
        return self.image

    def _plan(self, base: Head | None, records: Sequence[Record], epoch: int, node_id: int) -> _Step:
        """The head after `records`, cutting pages and a snapshot when it would grow too large."""
        image = fold(self.image, records)
        inline = (*(base.inline if base else ()), *records)
        pages = base.pages if base else ()
        snapshot = base.snapshot if base else None
        retired = [entry for entry in (base.retired if base else ()) if entry.key not in self._reaped]
        lineage = codec.chained(self.log.lineage, records)
        objects: list[tuple[str, bytes]] = []
        if codec.inline_bytes(inline) > codec.INLINE_BYTES_MAX:
            start = image.offset - len(inline)
            for run in _runs(inline):
                ref = Ref(page_key(self.cluster_id, start, start + len(run), self._nonce()), start, start + len(run))
                objects.append((ref.key, codec.encode_page(start, run)))
                pages = (*pages, ref)
                start = ref.end
            inline = ()
        if len(pages) > codec.PAGES_MAX:
            later = self._clock.now_ms() + RETIRED_GRACE_MS
            old = [*((snapshot,) if snapshot else ()), *(page for page in pages if page.key not in dict(objects))]
            retired = [*retired, *(Retired(ref.key, later) for ref in old)][-codec.RETIRED_MAX :]
            snapshot = Ref(snapshot_key(self.cluster_id, image.offset, self._nonce()), 0, image.offset)
            objects = [(snapshot.key, codec.encode_snapshot(image, lineage))]
            pages = ()
        head = Head(
            cluster_id=self.cluster_id,
            controller_epoch=epoch,
            controller_id=node_id,
            next_offset=image.offset,
            lineage=lineage,
            inline=inline,
            pages=pages,
            snapshot=snapshot,
            retired=tuple(retired),
            nonces=base.nonces if base else (),
        )
        return _Step(head, objects, image)

    def _nonce(self) -> str:
        return self._entropy.uuid().hex[:12]

    async def reap(self) -> bool:
        """Delete retired objects whose grace is over (the next commit drops them from the head); True if some were deleted."""
        now_ms = self._clock.now_ms()
        due = [entry.key for entry in (self.log.head.retired if self.log.head else ()) if entry.not_before_ms <= now_ms]
        due = [key for key in due if key not in self._reaped]
        if due:
            await self._store.delete(due)
            self._reaped.update(due)
        return bool(due)


def _runs(records: Sequence[Record]) -> list[tuple[Record, ...]]:
    """Cut records into runs of at most PAGE_BYTES_MAX."""
    runs: list[list[Record]] = [[]]
    size = 0
    for record in records:
        bytes_more = codec.inline_bytes((record,))
        if runs[-1] and size + bytes_more > codec.PAGE_BYTES_MAX:
            runs.append([])
            size = 0
        runs[-1].append(record)
        size += bytes_more
    return [tuple(run) for run in runs]
