"""The metadata log: records in a durable order, where replacing the object `meta/head` is the commit.

    commit:  decide(image) -> records;  page and snapshot objects first, if the head is full;  then one conditional PUT of the head

A commit carries the controller's epoch.  A newer epoch in the head means that this controller was deposed: Fenced, however late
its write arrives.  A lost response is resolved by the nonce in the head (hotlog.world.register).

Invariants: `image` is the fold of exactly the records that the store's head covered when it was last read or written; records are
decided on the newest image and never re-ordered; page and snapshot names are fresh, so an object is never replaced; an object is
deleted only when it is in `retired` and its grace is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from controller import codec
from controller.codec import Head, HeadCodec, Ref, Retired
from controller.image import ClusterImage, fold
from controller.keys import head_key, page_key, snapshot_key
from controller.mirror import Mirror
from controller.records import ControllerClaimed, Record
from hotlog.kernel.errors import Corrupt, Fenced, ForeignStore, NotFound, OutcomeUnknown, PreconditionFailed
from hotlog.world.ports import Clock, Entropy, ObjectStore
from hotlog.world.register import NONCES_KEPT, Register

Decide = Callable[[ClusterImage], Sequence[Record]]
ATTEMPTS_MAX = 8
RETIRED_GRACE_MS = 10 * 60 * 1000  # longer than any broker takes to load; one that meets a missing object reads the head again


class _Moved(Exception):
    """The head is not the one the records were decided on."""


class _Step(NamedTuple):
    """The next head and the objects that must be in the store before it."""

    head: Head
    objects: list[tuple[str, bytes]]
    image: ClusterImage


class Journal:
    """The log of one cluster.  Callers may commit concurrently; commits are serialised here."""

    def __init__(self, store: ObjectStore, mirror: Mirror, cluster_id: str, *, clock: Clock, entropy: Entropy) -> None:
        self.cluster_id = cluster_id
        self.image = ClusterImage()
        self.head: Head | None = None
        self._lineage = codec.NO_LINEAGE
        self._store = store
        self._mirror = mirror
        self._clock = clock
        self._entropy = entropy
        self._register: Register[Head] = Register(store, head_key(cluster_id), HeadCodec())
        self._lock = asyncio.Lock()
        self._reaped: set[str] = set()

    # Reading

    async def load_mirror(self) -> bool:
        """Start from the local copy; False if there is none that is whole."""
        head = await self._mirror.head()
        if head is None or head.cluster_id != self.cluster_id:
            return False
        try:
            await self._follow(head, self._mirror_object)
        except (Corrupt, NotFound):
            self._forget()
            return False
        return True

    async def catch_up(self) -> ClusterImage:
        """Read the store's head and fold what is new."""
        async with self._lock:
            return await self._catch_up()

    async def _catch_up(self) -> ClusterImage:
        for attempt in range(ATTEMPTS_MAX):
            version = await self._register.load()
            if version.value is None:
                self._refuse_missing_head()
                return self.image
            try:
                await self._follow(version.value, self._store_object)
            except NotFound:  # retired and deleted between the two reads: the head has moved on
                if attempt + 1 == ATTEMPTS_MAX:
                    raise
                continue
            await self._save(version.value, [])
            return self.image
        raise AssertionError("unreachable")

    def _refuse_missing_head(self) -> None:
        if self.image.offset > 0:
            raise ForeignStore(
                f"the store has no {self._register.key}, but this data directory knows {self.image.offset} metadata records of"
                f" cluster {self.cluster_id}: the bucket was wiped or is another one; nothing will be written to it"
            )

    async def _follow(self, head: Head, read: Callable[[str], object]) -> None:
        """Make `image` what `head` says."""
        if head.next_offset < self.image.offset:
            raise ForeignStore(
                f"the store's metadata ends at {head.next_offset}, but this data directory has seen {self.image.offset} records of"
                f" cluster {self.cluster_id}: the bucket was set back to an older state"
            )
        image, lineage = self.image, self._lineage
        covered = head.snapshot.end if head.snapshot else 0
        if image.offset < covered:
            assert head.snapshot is not None
            image, lineage = codec.decode_snapshot(await self._object(head.snapshot.key, read), head.snapshot)
        for page in head.pages:
            if image.offset < page.end:
                records = codec.decode_page(await self._object(page.key, read), page)[image.offset - page.start :]
                image, lineage = fold(image, records), codec.chained(lineage, records)
        records = head.inline[image.offset - head.inline_start :]
        image, lineage = fold(image, records), codec.chained(lineage, records)
        if lineage != head.lineage:
            raise ForeignStore(f"the metadata of cluster {self.cluster_id} in the store is another history than the local copy's")
        self.image, self._lineage, self.head = image, lineage, head

    async def _object(self, key: str, read: Callable[[str], object]) -> bytes:
        body = await read(key)  # type: ignore[misc]
        assert isinstance(body, bytes)
        return body

    async def _mirror_object(self, key: str) -> bytes:
        body = await self._mirror.object(key)
        if body is None:
            raise NotFound(f"no local copy of {key}")
        return body

    async def _store_object(self, key: str) -> bytes:
        kind = codec.SNAPSHOT if "/snapshot/" in key else codec.PAGE
        body = await self._mirror.object(key)
        if body is not None:
            try:
                codec.unseal(kind, body)
            except Corrupt:
                body = None
        if body is None:
            body = bytes((await self._store.get(key)).data)
            codec.unseal(kind, body)
            await self._mirror.save_object(key, body)
        return body

    def _forget(self) -> None:
        self.image, self.head, self._lineage = ClusterImage(), None, codec.NO_LINEAGE

    # Writing

    async def claim(self, node_id: int, decide: Decide) -> int:
        """Become the controller: raise the epoch in the head and append what `decide` says; return the epoch.

        Raises:
            ForeignStore: the store's head is missing, older, or of another history; StoreUnavailable, OutcomeUnknown.
        """
        async with self._lock:
            for _ in range(ATTEMPTS_MAX):
                await self._catch_up()
                epoch = self.image.controller_epoch + 1
                records = [ControllerClaimed(epoch=epoch, node_id=node_id), *decide(self.image)]
                try:
                    await self._append(records, epoch, node_id)
                except _Moved:
                    continue
                return epoch
        raise PreconditionFailed(f"lost {ATTEMPTS_MAX} races for {self._register.key}")

    async def commit(self, epoch: int, decide: Decide) -> ClusterImage:
        """Append the records that `decide` makes of the newest image; return the image after them.

        `decide` is pure and may be called again after a lost race; it raises to refuse.

        Raises:
            Fenced: another controller has claimed the head.  StoreUnavailable: nothing happened.  OutcomeUnknown: it may have.
        """
        async with self._lock:
            if self.head is None or self._register.current is None:
                await self._catch_up()
            for _ in range(ATTEMPTS_MAX):
                self._check_epoch(self.head, epoch)
                records = decide(self.image)
                if not records:
                    return self.image
                try:
                    return await self._append(records, epoch, self.image.controller_id)
                except _Moved:
                    await self._catch_up()
        raise PreconditionFailed(f"lost {ATTEMPTS_MAX} races for {self._register.key}")

    def _check_epoch(self, head: Head | None, epoch: int) -> None:
        if head is not None and head.controller_epoch > epoch:
            raise Fenced(
                f"controller epoch {epoch} of cluster {self.cluster_id} was deposed by node {head.controller_id}"
                f" at epoch {head.controller_epoch}"
            )

    async def _append(self, records: Sequence[Record], epoch: int, node_id: int) -> ClusterImage:
        base = self.head
        step = self._plan(base, records, epoch, node_id)
        for key, body in step.objects:
            await self._store.put(key, body)  # a fresh name: repeating it is harmless, and an orphan is never read

        def edit(current: Head | None) -> Head:
            if current is not None:
                self._check_epoch(current, epoch)
            if (current.nonces if current else None) != (base.nonces if base else None):
                if current is None:
                    self._refuse_missing_head()
                raise _Moved
            return replace(step.head, nonces=(self._entropy.uuid().hex, *step.head.nonces)[:NONCES_KEPT])

        try:
            committed = await self._register.commit(edit)
        except OutcomeUnknown:
            self.head = None  # the next commit reads first, and finds the records if they are in
            raise
        if committed.next_offset != step.head.next_offset:
            return await self._catch_up()
        self.image, self._lineage, self.head = step.image, step.head.lineage, committed
        self._reaped.clear()
        await self._save(committed, step.objects)
        return self.image

    async def _save(self, head: Head, objects: Sequence[tuple[str, bytes]]) -> None:
        """Bring the local copy up to the store; a full local disk must not fail what is committed."""
        try:
            for key, body in objects:
                await self._mirror.save_object(key, body)
            await self._mirror.save_head(codec.encode_head(head), [ref.key for ref in head.refs])
        except OSError:
            return

    def _plan(self, base: Head | None, records: Sequence[Record], epoch: int, node_id: int) -> _Step:
        """The head after `records`, cutting pages and a snapshot when it would grow too large."""
        image = fold(self.image, records)
        inline = (*(base.inline if base else ()), *records)
        pages = base.pages if base else ()
        snapshot = base.snapshot if base else None
        retired = [entry for entry in (base.retired if base else ()) if entry.key not in self._reaped]
        lineage = codec.chained(self._lineage, records)
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
        due = [entry.key for entry in (self.head.retired if self.head else ()) if entry.not_before_ms <= now_ms]
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
