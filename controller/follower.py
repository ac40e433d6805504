"""The metadata log as a reader has it: an image, kept by reading the head and what it names.

A node that is not the active controller has the cluster's metadata from here; the active one reads here what it found, and writes by
controller.journal.

Invariants: `image` is the fold of exactly the records that the store's head covered when it was last read or written; it never goes back, nor to
another history: a store that did is ForeignStore, and is left alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from controller import codec
from controller.codec import Head, HeadCodec
from controller.founding import read_cluster
from controller.image import ClusterImage, fold
from controller.keys import head_key
from controller.mirror import Mirror, NoMirror
from hotlog.kernel.errors import Corrupt, ForeignStore, NotFound
from hotlog.world.ports import ObjectStore
from hotlog.world.register import Register

ATTEMPTS_MAX = 8
Read = Callable[[str], Awaitable[bytes]]


class Follower:
    """One reader.  Not for concurrent calls: whoever shares it (the journal) takes turns."""

    def __init__(self, store: ObjectStore, mirror: Mirror, cluster_id: str) -> None:
        self.cluster_id = cluster_id
        self.image = ClusterImage()
        self.head: Head | None = None  # None: not known, since nothing was read yet or a write is in doubt
        self.lineage = codec.NO_LINEAGE
        self.register: Register[Head] = Register(store, head_key(cluster_id), HeadCodec())
        self._store = store
        self._mirror = mirror
        self._saved: Head | None = None  # what the local copy has

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
        """Read the store's head and fold what is new.

        Raises:
            ForeignStore: the head is missing, older, or of another history.  StoreUnavailable.
        """
        for attempt in range(ATTEMPTS_MAX):
            version = await self.register.load()
            if version.value is None:
                self.refuse_missing_head()
                return self.image
            try:
                await self._follow(version.value, self._store_object)
            except NotFound:  # retired and deleted between the two reads: the head has moved on
                if attempt + 1 == ATTEMPTS_MAX:
                    raise
                continue
            await self.save(version.value)
            return self.image
        raise AssertionError("unreachable")

    def refuse_missing_head(self) -> None:
        """Raise ForeignStore if there was a head before."""
        if self.image.offset > 0:
            raise ForeignStore(
                f"the store has no {self.register.key}, but this data directory knows {self.image.offset} metadata records of"
                f" cluster {self.cluster_id}: the bucket was wiped or is another one; nothing will be written to it"
            )

    async def _follow(self, head: Head, read: Read) -> None:
        """Make `image` what `head` says."""
        if head.next_offset < self.image.offset:
            raise ForeignStore(
                f"the store's metadata ends at {head.next_offset}, but this data directory has seen {self.image.offset} records of"
                f" cluster {self.cluster_id}: the bucket was set back to an older state"
            )
        image, lineage = self.image, self.lineage
        covered = head.snapshot.end if head.snapshot else 0
        if image.offset < covered:
            assert head.snapshot is not None
            image, lineage = codec.decode_snapshot(await read(head.snapshot.key), head.snapshot)
        for page in head.pages:
            if image.offset < page.end:
                records = codec.decode_page(await read(page.key), page)[image.offset - page.start :]
                image, lineage = fold(image, records), codec.chained(lineage, records)
        if image.offset < head.next_offset:  # otherwise it stays the same object: who looks often must not copy it often
            records = head.inline[image.offset - head.inline_start :]
            image, lineage = fold(image, records), codec.chained(lineage, records)
        if lineage != head.lineage:
            raise ForeignStore(f"the metadata of cluster {self.cluster_id} in the store is another history than the local copy's")
        self.image, self.lineage, self.head = image, lineage, head

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
        self.image, self.head, self.lineage = ClusterImage(), None, codec.NO_LINEAGE

    async def save(self, head: Head, objects: Sequence[tuple[str, bytes]] = ()) -> None:
        """Bring the local copy up to the store; a full local disk must not fail what is committed."""
        if head == self._saved:
            return
        try:
            for key, body in objects:
                await self._mirror.save_object(key, body)
            await self._mirror.save_head(codec.encode_head(head), [ref.key for ref in head.refs])
        except OSError:
            return
        self._saved = head

    def adopt(self, head: Head, image: ClusterImage, lineage: str) -> None:
        """Take over what this process has just written to the store."""
        self.head, self.image, self.lineage = head, image, lineage


async def read_image(store: ObjectStore) -> tuple[str, ClusterImage]:
    """(cluster id, image) from the bucket alone, without a claim or a copy: for commands that work without a broker.

    Raises:
        NotFound: no cluster was founded there.  Corrupt, ForeignStore, StoreUnavailable.
    """
    bound = store.bind(purpose="meta")
    cluster_id = await read_cluster(bound)
    return cluster_id, await Follower(bound, NoMirror(), cluster_id).catch_up()
