"""Walks a partition's manifest and proves it: archive pages, every object's size, trailer, footer and identity; `deep`: every batch.

Works without a broker, on any store.  Only reads, one page of rows at a time, and keeps no list of what it has seen.

Invariants: everything found is reported, nothing is repaired or skipped; one damaged object does not end the walk; problems are judged
against the root that was read, so a commit meanwhile (an object that was replaced or expired) is told from damage by reading it again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from crc32c import crc32c

from hotlog.kernel.errors import Corrupt, HotlogError, NotFound, UnknownVersion
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.limits import CHUNK_BYTES, RANGE_BYTES_MAX
from hotlog.wire.batch import ATTRIBUTES_OFFSET, BatchHeader, walk
from hotlog.world.ports import ObjectStore
from tiering.manifest.codec import decode
from tiering.manifest.index import Index
from tiering.manifest.leftovers import Leftovers, Rows, merged
from tiering.manifest.root import Entry, GarbageRange, Manifest, PageRef
from tiering.manifest.tree import Node, parse_node
from tiering.objects.keys import PartitionKeys
from tiering.objects.segment import Footer, check_identity, parse_footer


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as the manifest says.  Offsets half open; -1 where they do not apply."""

    kind: str  # missing, damaged, newer (of a release that is not known here), overlap, no-manifest
    key: str
    start_offset: int
    end_offset: int
    detail: str


@dataclass(slots=True)
class Report:
    """What a walk found.  `is_sound` is the verdict; holes and garbage are facts, not problems."""

    pid: PartitionId
    deep: bool
    generation: int = -1
    topic: str = ""
    log_start_offset: int = -1
    end_offset: int = -1
    pages: int = 0
    objects: int = 0
    object_bytes: int = 0
    log_bytes_proven: int = 0
    batches: int = 0
    records: int = 0
    holes: list[tuple[int, int, str]] = field(default_factory=list)
    unreferenced: list[str] = field(default_factory=list)  # keys below the partition that the root does not know
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.problems

    @property
    def exit_code(self) -> int:
        return 0 if self.is_sound else 1


Progress = Callable[[int, int], None]
_WALKS_MAX = 3


async def verify_partition(
    store: ObjectStore, cluster_id: str, pid: PartitionId, *, deep: bool = False, progress: Progress | None = None
) -> Report:
    """Prove one partition.

    Args:
        deep: read and check every byte and batch (costs one full read); otherwise sizes, footers and identities.
        progress: called with (objects done, objects in all).
    Raises:
        StoreUnavailable: the store did not answer; a report would be a guess.
    """
    keys, store = PartitionKeys(cluster_id, pid), store.bind(purpose="scrub")
    for _ in range(_WALKS_MAX):
        report = Report(pid, deep)
        manifest = await _manifest(store, keys, report)
        if manifest is None:
            break
        await _walk(store, keys, manifest, report, progress)
        if report.is_sound or not await _has_moved(store, keys, manifest):
            break  # otherwise a commit came between: what looked wrong may have been replaced or expired
    return report


async def _has_moved(store: ObjectStore, keys: PartitionKeys, manifest: Manifest) -> bool:
    now = await _manifest(store, keys, Report(keys.pid, False))
    return now is None or now.generation != manifest.generation


async def _walk(store: ObjectStore, keys: PartitionKeys, manifest: Manifest, report: Report, progress: Progress | None) -> None:
    known = {part.page.name for part in manifest.garbage_ranges} | {item.name for item in manifest.garbage} | {"manifest"}
    walker = _Walker(store, keys, report, known)
    leftovers = Leftovers(store, keys, known)
    doomed = [walker.doomed_rows(part) for part in manifest.garbage_ranges]
    async for row in merged([walker.live_rows(manifest, progress), *doomed]):
        if not row.is_hole:
            await leftovers.expect(row.base_offset, row.name)
    report.unreferenced = await leftovers.end()


async def _manifest(store: ObjectStore, keys: PartitionKeys, report: Report) -> Manifest | None:
    try:
        manifest = decode(bytes((await store.get(keys.manifest)).data))
        if manifest.pid != keys.pid:
            raise Corrupt(f"it is the manifest of {manifest.pid}")
    except NotFound:
        report.problems.append(await _without_manifest(store, keys, report))
        return None
    except (Corrupt, UnknownVersion) as damage:
        report.problems.append(Problem(_kind_of(damage), keys.manifest, -1, -1, str(damage)))
        return None
    report.generation, report.topic = manifest.generation, manifest.topic
    report.log_start_offset, report.end_offset = manifest.log_start_offset, manifest.end_offset
    return manifest


def _kind_of(failure: HotlogError) -> str:
    return "newer" if isinstance(failure, UnknownVersion) else "damaged"


async def _without_manifest(store: ObjectStore, keys: PartitionKeys, report: Report) -> Problem:
    """Nothing was ever tiered, or the manifest was lost: objects without one tell."""
    report.unreferenced = [info.key async for info in store.list(keys.prefix)]
    if not report.unreferenced:
        return Problem("no-manifest", keys.manifest, -1, -1, "there is no manifest: nothing was ever tiered")
    return Problem("missing", keys.manifest, -1, -1, f"{len(report.unreferenced)} objects lie here without a manifest")


class _Walker:
    """Proves rows one by one; `known` takes the names of the pages on the way."""

    def __init__(self, store: ObjectStore, keys: PartitionKeys, report: Report, known: set[str]) -> None:
        self._store, self._keys, self._report, self._known = store, keys, report, known

    def problem(self, kind: str, key: str, row: Entry | PageRef, detail: str) -> None:
        start = row.base_offset if isinstance(row, Entry) else row.start_offset
        self._report.problems.append(Problem(kind, key, start, row.end_offset, detail))

    async def live_rows(self, manifest: Manifest, progress: Progress | None) -> Rows:
        """Rows of the root and its pages, each proven."""
        next_offset, done = manifest.start_offset, 0
        async for row in self._rows(manifest):
            if isinstance(row, PageRef):  # could not be read, and was told
                next_offset = row.end_offset
                continue
            if row.base_offset != next_offset:
                self.problem("overlap", self._keys.manifest, row, f"the row before ends at offset {next_offset}")
            next_offset = row.end_offset
            await self.row(row)
            done += 1
            if progress is not None:
                progress(done, manifest.totals.rows)
            yield row

    async def doomed_rows(self, part: GarbageRange) -> Rows:
        """Rows that are garbage already; what refers to them is read, they are not."""
        async for row in self._below(part.page, part.start_offset, part.end_offset, is_live=False):
            if isinstance(row, Entry):
                yield row

    async def _rows(self, manifest: Manifest) -> AsyncIterator[Entry | PageRef]:
        for ref in manifest.archive:
            async for row in self._below(ref, ref.start_offset, ref.end_offset):
                yield row
        for row in manifest.entries:
            yield row

    async def _below(self, ref: PageRef, start: int, end: int, *, is_live: bool = True) -> AsyncIterator[Entry | PageRef]:
        """Rows of a page or of the pages below it; the reference of one that cannot be read in place of its rows."""
        node = await self._node(ref)
        if node is None:
            yield ref
            return
        self._report.pages += is_live
        if is_live and node.totals(ref.start_offset, ref.end_offset) != ref.totals:
            self.problem(
                "damaged", self._keys.object(ref.name), ref, f"its totals differ from what is in it at height {ref.height}"
            )
        if isinstance(node, Index):
            for below in node.refs_between(start, end):
                async for row in self._below(below, max(start, below.start_offset), min(end, below.end_offset)):
                    yield row
            return
        for row in node.rows_between(start, end):
            yield row

    async def _node(self, ref: PageRef) -> Node | None:
        key = self._keys.object(ref.name)
        self._known.add(ref.name)
        try:
            return parse_node((await self._store.get(key)).data, self._keys.pid, ref)
        except NotFound:
            self.problem("missing", key, ref, "the manifest refers to this archive page and it is not there")
        except (Corrupt, UnknownVersion) as damage:
            self.problem(_kind_of(damage), key, ref, str(damage))
        return None

    async def row(self, row: Entry) -> None:
        report = self._report
        if row.is_hole:
            report.holes.append((row.base_offset, row.end_offset, row.hole))
            return
        key = self._keys.part(row.address)
        try:
            footer = await self._footer(key, row)
            if report.deep:
                await self._log(key, row, footer)
        except NotFound:
            self.problem("missing", key, row, "the manifest refers to this object and it is not there")
            return
        except (Corrupt, UnknownVersion) as damage:
            self.problem(_kind_of(damage), key, row, str(damage))
            return
        report.objects += 1
        report.object_bytes += row.size
        report.records += row.records

    async def _footer(self, key: str, row: Entry) -> Footer:
        blob = await self._store.get(self._keys.object(row.name), row.footer_position, row.object_end)
        if not row.address.fits(blob.size):
            raise Corrupt(f"{key} has {blob.size} bytes, the manifest says {row.object_end}")
        footer = parse_footer(blob.data, where=key)
        check_identity(footer.trailer, self._keys.pid, row.base_offset, row.end_offset, row.nonce, where=key)
        found = (
            footer.trailer.log_bytes,
            footer.trailer.log_crc,
            footer.trailer.records,
            footer.trailer.epoch,
            len(footer.aborted),
        )
        if found != (row.log_bytes, row.crc, row.records, row.epoch, row.aborted):
            raise Corrupt(f"{key}: trailer says {found} (log bytes, CRC, records, epoch, aborted); the manifest differs")
        return footer

    async def _log(self, key: str, row: Entry, footer: Footer) -> None:
        """Every chunk against the footer, every batch against its own CRC and its place."""
        crc, records, batches, expected, carry = 0, 0, 0, row.base_offset, b""
        step = RANGE_BYTES_MAX
        for start in range(0, row.log_bytes, step):
            stop = min(start + step, row.log_bytes)
            blob = await self._store.get(self._keys.object(row.name), row.object_start + start, row.object_start + stop)
            data = memoryview(blob.data)
            for at in range(0, len(data), CHUNK_BYTES):
                footer.check_chunk((start + at) // CHUNK_BYTES, data[at : at + CHUNK_BYTES], where=key)
            crc = crc32c(data, crc)
            window = memoryview(carry + bytes(data)) if carry else data
            used = 0
            for position, header in walk(window):
                _check_batch(key, window[position : position + header.size], header, expected, row.end_offset)
                expected, used = header.next_offset, position + header.size
                records += header.record_count
                batches += 1
            carry = bytes(window[used:])
        if (crc, records, expected, carry) != (row.crc, row.records, row.end_offset, b""):
            raise Corrupt(f"{key}: {records} records up to offset {expected}, {len(carry)} bytes left over, CRC-32C {crc:08x}")
        self._report.log_bytes_proven += row.log_bytes
        self._report.batches += batches


def _check_batch(key: str, batch: memoryview, header: BatchHeader, expected: int, end: int) -> None:
    if header.crc != crc32c(batch[ATTRIBUTES_OFFSET:]):
        raise Corrupt(f"{key}: the batch at offset {header.base_offset} fails its CRC-32C")
    if header.base_offset < expected or header.next_offset > end:
        raise Corrupt(f"{key}: batch [{header.base_offset}, {header.next_offset}) where [{expected}, {end}) is expected")


def describe_manifest(manifest: Manifest) -> dict[str, Any]:
    """A root as plain values, for `manifest show` and --json."""
    return {
        "topic": manifest.topic,
        "topic_id": str(manifest.topic_id),
        "partition": manifest.partition,
        "epoch": manifest.epoch,
        "generation": manifest.generation,
        "deleted_ms": manifest.deleted_ms,
        "log_start_offset": manifest.log_start_offset,
        "start_offset": manifest.start_offset,
        "end_offset": manifest.end_offset,
        "totals": manifest.totals._asdict(),
        "archive": [ref._asdict() | {"name": ref.name, "totals": ref.totals._asdict()} for ref in manifest.archive],
        "entries": [row._asdict() | {"name": "" if row.is_hole else row.name, "size": row.size} for row in manifest.entries],
        "garbage": [item._asdict() for item in manifest.garbage],
        "garbage_ranges": [
            {
                "page": part.page.name,
                "start_offset": part.start_offset,
                "end_offset": part.end_offset,
                "not_before_ms": part.not_before_ms,
            }
            for part in manifest.garbage_ranges
        ],
    }


async def load_manifest(store: ObjectStore, cluster_id: str, pid: PartitionId) -> Manifest:
    """The committed root, for tools.

    Raises:
        NotFound: nothing was ever tiered.  Corrupt: it is damaged.
    """
    return decode(bytes((await store.bind(purpose="manifest").get(PartitionKeys(cluster_id, pid).manifest)).data))
