"""What one committed manifest says a partition's history is: rows by offset and time, footers, and where batches lie.

Shared by the cold reader (in a broker), direct replay and export (without one).  Archive pages and footers come through caches that many
partitions share; every object read is checked against the row that named it.

Invariants: one History looks at one manifest value to its end; rows come ascending, holes included; a footer is used only after its CRC
and its identity (partition, offsets, nonce) agreed with the row (docs/faults.md, row 29).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from crc32c import crc32c

from hotlog.kernel.errors import Corrupt, NotFound, OutOfRange, UnknownVersion
from hotlog.kernel.limits import CHUNK_BYTES
from hotlog.world.ports import Blob, Disk, ObjectStore
from tiering.cache.footers import FooterCache
from tiering.cache.source import ChunkSource
from tiering.manifest.archive import Page
from tiering.manifest.root import Entry, Manifest, PageRef, find_offset, find_timestamp
from tiering.manifest.tree import Node, index_of, leaf_at, leaf_reaching, leaves, page_of, parse_node
from tiering.objects.keys import PartitionKeys, parse_key
from tiering.objects.segment import Footer, check_identity, parse_footer
from tiering.store.lanes import Lane, LaneGate, Ticket

T = TypeVar("T")
_READ_ATTEMPTS = 2  # wrong bytes may be the path's fault


class Keeper(Protocol):
    """Where bytes that came with a footer can be kept (the chunk cache of a broker)."""

    async def recall_footer(self, key: str) -> memoryview | None: ...

    def keep_footer(self, key: str, data: memoryview) -> None: ...

    def tail_start(self, log_bytes: int) -> int:
        """Where the last range of an object begins that may come with its footer; `log_bytes` for none."""
        ...

    async def make_way(self, size: int) -> None:
        """Wait until so many bytes of log may be read."""
        ...

    async def offer(self, source: ChunkSource, start: int, data: memoryview) -> None: ...


@dataclass(frozen=True, slots=True)
class Shelf:
    """What the histories of one process share."""

    store: ObjectStore
    gate: LaneGate
    pages: FooterCache[str, Node]
    footers: FooterCache[str, Footer]
    keeper: Keeper | None = None
    disk: Disk | None = None

    @classmethod
    def of(
        cls, store: ObjectStore, gate: LaneGate, bytes_max: int, keeper: Keeper | None = None, disk: Disk | None = None
    ) -> Shelf:
        """`bytes_max` bounds footers; pages have as much again.  `disk` has the threads that pages are parsed in; None: here."""
        return cls(
            store,
            gate,
            FooterCache(bytes_max, lambda page: page.memory_bytes),
            FooterCache(bytes_max, lambda footer: footer.memory_bytes),
            keeper,
            disk,
        )

    async def close(self) -> None:
        await self.pages.close()
        await self.footers.close()


class MissingObject(NotFound):
    """The store has no object where a row says there is one; `key` is the object's, `row` that row (None: an archive page)."""

    def __init__(self, key: str, row: Entry | None) -> None:
        super().__init__(f"object {key} is missing")
        self.key = key
        self.row = row


class History:
    """One partition as one manifest has it."""

    def __init__(
        self,
        shelf: Shelf,
        keys: PartitionKeys,
        topic: str,
        manifest: Manifest,
        *,
        lane: Lane = Lane.FETCH,
        wait_s: float | None = None,
    ) -> None:
        self.shelf = shelf
        self.keys = keys
        self.topic = topic
        self.manifest = manifest
        self.lane = lane
        self.wait_s = wait_s  # bounds each wait for a page or footer; NotYet beyond it

    @property
    def start_offset(self) -> int:
        return self.manifest.readable_start_offset

    @property
    def end_offset(self) -> int:
        return self.manifest.end_offset

    # -- rows -----------------------------------------------------------------------------------------------------------

    async def row_at(self, offset: int) -> Entry:
        """The row (or hole) that covers `offset`.

        Raises:
            OutOfRange: outside [start, end).
        """
        found = find_offset(self.manifest, offset)
        if found is None:
            raise OutOfRange(
                f"offset {offset} of {self.topic}-{self.keys.pid.partition}: [{self.start_offset}, {self.end_offset}) is tiered"
            )
        if isinstance(found, Entry):
            return found
        return (await self.page(await leaf_at(self.node, found, offset))).row_covering(offset)

    async def rows(self, start: int, end: int) -> AsyncIterator[Entry]:
        """Rows and holes that overlap [start, end), ascending."""
        async for ref in self.leaves(start, end):
            for row in (await self.page(ref)).rows_between(ref.start_offset, ref.end_offset):
                if row.end_offset > start and row.base_offset < end:
                    yield row
        for row in self.manifest.rows_after(start):
            if row.base_offset >= end:
                break
            yield row

    async def row_reaching(self, timestamp_ms: int, start_offset: int) -> Entry | None:
        """The first row with a timestamp >= `timestamp_ms` that reaches above `start_offset`."""
        manifest = self.manifest
        if start_offset > manifest.log_start_offset:
            manifest = _started_at(manifest, start_offset)
        while True:
            found = find_timestamp(manifest, timestamp_ms)
            if found is None or isinstance(found, Entry):
                return found
            leaf = await leaf_reaching(self.node, found, timestamp_ms, manifest.log_start_offset)
            if leaf is not None:
                page = await self.page(leaf)
                row = page.row_reaching(timestamp_ms, start_offset=max(manifest.log_start_offset, leaf.start_offset))
                if row is not None:
                    return row
            manifest = _started_at(manifest, (leaf or found).end_offset)  # its maximum lies below the start: look behind the page

    def leaves(self, start: int, end: int, *, wanted: Callable[[PageRef], bool] = lambda ref: True) -> AsyncIterator[PageRef]:
        """Pages of rows that overlap [start, end); what is not `wanted` is left out with all that is below it."""
        return leaves(self.node, self.manifest.archive, start, end, wanted=wanted)

    # -- objects --------------------------------------------------------------------------------------------------------

    async def page(self, ref: PageRef) -> Page:
        """An archive page of rows.  Raises as `node`."""
        return await page_of(self.node, ref)

    async def node(self, ref: PageRef) -> Node:
        """An archive page of rows or of references.

        Raises:
            MissingObject, Corrupt, StoreUnavailable.
        """
        key, disk = self.keys.object(ref.name), self.shelf.disk

        async def parsed(blob: Blob) -> Node:
            if disk is None:
                return parse_node(blob.data, self.keys.pid, ref)
            return await disk.run(parse_node, blob.data, self.keys.pid, ref)

        async def load() -> Node:
            return await _checked(lambda: self._get(key, 0, ref.size, None), parsed)

        return await self.shelf.pages.get(key, load, wait_s=self.wait_s)

    async def has_page(self, key: str) -> bool:
        """Whether the archive page `key` is on the way down to its offsets."""
        parsed = parse_key(key)
        last = -1 if parsed is None else parsed.end_offset - 1  # a page's end stays where it is, its start may move up
        found = find_offset(self.manifest, last)
        while isinstance(found, PageRef):
            if self.keys.object(found.name) == key:
                return True
            if not found.height:
                return False
            found = (await index_of(self.node, found)).ref_covering(last)
        return False

    async def footer(self, row: Entry, *, is_read_through: bool = False) -> Footer:
        """The footer of a row's object; for one who will read all of it, the last range of its log comes by the same GET.

        Raises:
            MissingObject, Corrupt, StoreUnavailable.
        """
        load = lambda: self._load_footer(row, is_read_through)  # noqa: E731
        return await self.shelf.footers.get(self.keys.part(row.address), load, wait_s=self.wait_s)

    async def _load_footer(self, row: Entry, is_read_through: bool) -> Footer:
        """From the keeper, or by a GET, which brings a small object whole: its log is what will be wanted next."""
        key, keeper = self.keys.part(row.address), self.shelf.keeper
        kept = await keeper.recall_footer(key) if keeper is not None else None
        if kept is not None:
            try:
                return self.parse_footer(row, Blob(kept, "", row.object_end))
            except (Corrupt, UnknownVersion):
                pass  # a foreign, damaged or newer file of the cache: as good as none
        start = row.log_bytes  # in the row's bytes: its footer begins there
        if keeper is not None and row.size <= CHUNK_BYTES:
            start = 0
        elif keeper is not None and is_read_through:
            start = keeper.tail_start(row.log_bytes)
            if start < row.log_bytes:
                await keeper.make_way(row.log_bytes - start)
        brought: list[memoryview] = []

        async def parse(blob: Blob) -> Footer:
            brought[:] = [memoryview(blob.data)]
            return self.parse_footer(row, blob)

        footer = await _checked(lambda: self.get(row, start, row.size), parse)
        if keeper is not None:
            log_bytes = row.log_bytes - start
            if log_bytes:
                own = memoryview(bytes(brought[0][log_bytes:]))  # no view of the log that came with it
                footer = self.parse_footer(row, Blob(own, "", row.object_end))
                await keeper.offer(self.chunks_of(row, footer), start, brought[0][:log_bytes])
                brought[0] = own
            keeper.keep_footer(key, brought[0])
        return footer

    def parse_footer(self, row: Entry, blob: Blob) -> Footer:
        """The footer from a read that ends where the row's bytes end.  Raises Corrupt."""
        address = row.address
        key = self.keys.part(address)
        if not address.fits(blob.size):
            raise Corrupt(f"{key} has {blob.size} bytes, the manifest says {row.object_end}")
        footer = parse_footer(blob.data, where=key)
        check_identity(footer.trailer, self.keys.pid, row.base_offset, row.end_offset, row.nonce, where=key)
        return footer

    async def get(self, row: Entry, start: int, end: int) -> Blob:
        """Bytes [start, end) of a row's log and footer by one GET; the blob's size is the whole object's."""
        return await self._get(self.keys.object(row.name), row.object_start + start, row.object_start + end, row)

    async def _get(self, key: str, start: int, end: int, row: Entry | None) -> Blob:
        """One GET in this history's lane."""
        store = self.shelf.store.bind(topic=self.topic, purpose=self.lane.purpose)
        async with self.shelf.gate.slot(Ticket(self.lane)):
            try:
                return await store.get(key, start, end)
            except NotFound:
                raise MissingObject(key, row) from None

    def chunks_of(self, row: Entry, footer: Footer) -> ChunkSource:
        """The row's log bytes as the chunk cache sees them: each chunk provable by the footer's checksums."""
        return chunk_source(self.keys, self.topic, row, footer)


async def _checked(get: Callable[[], Awaitable[Blob]], parse: Callable[[Blob], Awaitable[T]]) -> T:
    for attempt in range(_READ_ATTEMPTS):
        blob = await get()
        try:
            return await parse(blob)
        except Corrupt:
            if attempt == _READ_ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def chunk_source(keys: PartitionKeys, topic: str, row: Entry, footer: Footer) -> ChunkSource:
    """A segment for the chunk cache."""
    address = row.address

    def is_good(index: int, chunk: memoryview) -> bool:
        return crc32c(chunk) == footer.chunk_crcs[index]

    return ChunkSource(
        keys.part(address), row.log_bytes, address.end, topic, is_good, footer.trailer.chunk_bytes,
        object_start=address.start, shared_key=keys.object(address.object) if address.is_shared else "",
    )  # fmt: skip


def _started_at(manifest: Manifest, offset: int) -> Manifest:
    """The same manifest for a search above `offset`."""
    return replace(manifest, log_start_offset=max(manifest.log_start_offset, offset))
