"""Walks a partition's manifest and proves it: archive pages, every object's size, trailer, footer and identity; `deep`: every batch.

Works without a broker, on any store.  Only reads.

Invariants: everything found is reported, nothing is repaired or skipped; one damaged object does not end the walk; problems are judged
against the root that was read, so a commit meanwhile (an object that was replaced or expired) is told from damage by reading it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from crc32c import crc32c

from hotlog.kernel.errors import Corrupt, HotlogError, NotFound, UnknownVersion
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.limits import CHUNK_BYTES, RANGE_BYTES_MAX
from hotlog.wire.batch import ATTRIBUTES_OFFSET, BatchHeader, walk
from hotlog.world.ports import ObjectStore
from tiering.manifest.archive import Page, parse_page
from tiering.manifest.codec import decode
from tiering.manifest.root import Entry, Manifest, PageRef
from tiering.objects.keys import PartitionKeys, parse_key
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
    walker = _Walker(store, keys, report, report.deep)
    total, done = manifest.totals.rows, 0
    next_offset = manifest.start_offset
    parts: list[PageRef | None] = [*manifest.archive, None]
    for ref in parts:
        rows = manifest.entries if ref is None else await walker.page(ref)
        for row in rows:
            if row.base_offset != next_offset:
                walker.problem("overlap", keys.manifest, row, f"the row before ends at offset {next_offset}")
            next_offset = row.end_offset
            await walker.row(row)
            done += 1
            if progress is not None:
                progress(done, total)
        if ref is not None:
            next_offset = ref.end_offset
    await _unreferenced(store, keys, manifest, walker.known, report)


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
    """Proves rows one by one; `known` are the names of everything seen."""

    def __init__(self, store: ObjectStore, keys: PartitionKeys, report: Report, deep: bool) -> None:
        self._store, self._keys, self._report, self._deep = store, keys, report, deep
        self.known: set[str] = set()

    def problem(self, kind: str, key: str, row: Entry | PageRef, detail: str) -> None:
        start = row.base_offset if isinstance(row, Entry) else row.start_offset
        self._report.problems.append(Problem(kind, key, start, row.end_offset, detail))

    async def page(self, ref: PageRef) -> tuple[Entry, ...]:
        key = self._keys.object(ref.name)
        self.known.add(ref.name)
        self._report.pages += 1
        try:
            page: Page = parse_page((await self._store.get(key)).data, self._keys.pid, ref)
        except NotFound:
            self.problem("missing", key, ref, "the manifest refers to this archive page and it is not there")
            return ()
        except (Corrupt, UnknownVersion) as damage:
            self.problem(_kind_of(damage), key, ref, str(damage))
            return ()
        if page.totals(ref.start_offset, ref.end_offset) != ref.totals:
            self.problem("damaged", key, ref, "the totals in the root differ from the rows of the page")
        return page.rows_between(ref.start_offset, ref.end_offset)

    async def row(self, row: Entry) -> None:
        report = self._report
        if row.is_hole:
            report.holes.append((row.base_offset, row.end_offset, row.hole))
            return
        key = self._keys.part(row.address)
        self.known.add(row.name)
        try:
            footer = await self._footer(key, row)
            if self._deep:
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


async def _unreferenced(store: ObjectStore, keys: PartitionKeys, manifest: Manifest, known: set[str], report: Report) -> None:
    """What lies below the partition and is neither live nor listed as garbage: orphans of uploads that never committed."""
    pinned = {part.page.name for part in manifest.garbage_ranges}
    known = known | pinned | {item.name for item in manifest.garbage} | {"manifest"}
    for ref in [part.page for part in manifest.garbage_ranges]:
        try:
            page = parse_page((await store.get(keys.object(ref.name))).data, keys.pid)
        except (NotFound, Corrupt, UnknownVersion) as damage:
            report.problems.append(
                Problem(_kind_of(damage), keys.object(ref.name), ref.start_offset, ref.end_offset, str(damage))
            )
            continue
        known |= {row.name for row in page if not row.is_hole}
    async for info in store.list(keys.prefix):
        parsed = parse_key(info.key)
        if parsed is None or parsed.name not in known:
            report.unreferenced.append(info.key)


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
