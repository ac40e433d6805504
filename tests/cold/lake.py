"""Builds a tiered partition in a store, and knows what a full local log of the same batches would answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from crc32c import crc32c

from hotlog.kernel.ids import PartitionId
from hotlog.wire.batch import BatchHeader, header_at
from hotlog.wire.records import NewRecord, decode_batch, encode_batch
from tests.support.scripted_store import ScriptedStore
from tiering.manifest.archive import build_page, page_ref
from tiering.manifest.codec import encode
from tiering.manifest.index import build_index, index_ref
from tiering.manifest.root import Entry, Manifest, PageRef, hole, sealed
from tiering.objects.keys import PartitionKeys
from tiering.objects.segment import (
    AbortedTransaction,
    FooterParts,
    Trailer,
    build_footer,
    pack_aborted,
    pack_offset_index,
    pack_time_index,
)

TOPIC_ID = UUID("6a5f3c1e-0000-4000-8000-00000000cafe")
CLUSTER = "lake-cluster"


@dataclass
class Lake:
    """One partition: rows in the store and the same batches as one list."""

    store: ScriptedStore
    partition: int = 0
    topic: str = "clicks"
    chunk_bytes: int = 4096
    batches: list[bytes] = field(default_factory=list)
    rows: list[Entry] = field(default_factory=list)
    next_offset: int = 0
    log_start: int = 0
    epoch: int = 0
    lineage: list[tuple[int, int]] = field(default_factory=list)
    archived: int = 0  # rows that lie in pages
    page_rows: int = 4
    heights: int = 0  # of index pages above those pages, two pages each
    manifest: Manifest | None = None
    reloads: int = 0

    @property
    def keys(self) -> PartitionKeys:
        return PartitionKeys(CLUSTER, PartitionId(TOPIC_ID, self.partition))

    # what ColdReader wants of a source
    @property
    def view(self) -> Manifest | None:
        return self.manifest

    async def reload(self) -> Manifest | None:
        self.reloads += 1
        return self.manifest

    # -- building

    def batch(
        self, records: Sequence[NewRecord], *, codec: str = "none", producer_id: int = -1, transactional: bool = False
    ) -> bytes:
        if not self.lineage or self.lineage[-1][0] != self.epoch:
            self.lineage.append((self.epoch, self.next_offset))
        data = encode_batch(
            records, codec, self.next_offset, leader_epoch=self.epoch, producer_id=producer_id, is_transactional=transactional,
            producer_epoch=0 if producer_id >= 0 else -1, base_sequence=0 if producer_id >= 0 else -1,
        )  # fmt: skip
        self.next_offset = header_at(data).next_offset
        return bytes(data)

    def segment(self, batches: Sequence[bytes], aborted: Sequence[AbortedTransaction] = ()) -> Entry:
        """One more segment object of these batches (made by `batch`, in order)."""
        log = b"".join(batches)
        headers = [header_at(batch) for batch in batches]
        base, end = headers[0].base_offset, headers[-1].next_offset
        offsets, times, position, since, high, high_offset = [], [], 0, 0, -1, -1
        for batch, header in zip(batches, headers, strict=True):
            if header.max_timestamp > high:
                high, high_offset = header.max_timestamp, header.last_offset
            if since > self.chunk_bytes // 3:
                offsets.append((header.last_offset - base, position))
                if not times or high > times[-1][0]:
                    times.append((high, high_offset - base))
                since = 0
            since += len(batch)
            position += len(batch)
        nonce = f"{len(self.rows):08x}" * 4
        parts = FooterParts(
            pack_offset_index(offsets),
            pack_time_index(times),
            pack_aborted(aborted),
            b"snapshot",
            f"0\n{len(self.lineage)}\n{''.join(f'{e} {s}' + chr(10) for e, s in self.lineage)}".encode(),
            [crc32c(log[at : at + self.chunk_bytes]) for at in range(0, len(log), self.chunk_bytes)],
        )
        about = Trailer(
            pid=self.keys.pid, base_offset=base, end_offset=end, epoch=self.epoch, nonce=nonce, log_bytes=len(log),
            log_crc=crc32c(log), records=sum(h.record_count for h in headers), created_ms=1, chunk_bytes=self.chunk_bytes,
        )  # fmt: skip
        footer = build_footer(parts, about)
        row = Entry(
            base_offset=base, end_offset=end, epoch=self.epoch, nonce=nonce, object="", object_start=0,
            object_end=len(log) + len(footer), log_bytes=len(log), records=sum(h.record_count for h in headers), min_timestamp=min(h.base_timestamp for h in headers), max_timestamp=high,
            max_timestamp_offset=high_offset, appended_ms=1, closed_ms=2, created_ms=3, epochs=((self.epoch, base),),
            aborted=len(aborted), storage_class="STANDARD", crc=crc32c(log),
        )  # fmt: skip
        self.store.objects[self.keys.object(row.name)] = log + footer
        self.batches.extend(batches)
        self.rows.append(row)
        return row

    def hole(self, end_offset: int) -> None:
        self.rows.append(hole(self.next_offset, end_offset, "lost in a test", epoch=self.epoch, created_ms=1))
        self.next_offset = end_offset

    def pack(self, rows_of_each: int = 3) -> None:
        """Move what the rows have so far into objects that are shared, between bytes of others."""
        for first in range(0, len(self.rows), rows_of_each):
            name, body = f"/packs/{first:04x}.pack", b"another partition's"
            for index, row in enumerate(self.rows[first : first + rows_of_each], first):
                if row.is_hole:
                    continue
                bytes_of_row = self.store.objects.pop(self.keys.object(row.name))
                self.rows[index] = row._replace(object=name, object_start=len(body), object_end=len(body) + len(bytes_of_row))
                body += bytes_of_row
            self.store.objects[self.keys.object(name)] = body + b"and one more's"

    def commit(self) -> Manifest:
        """Write the root (older rows into pages, `archived` of them)."""
        refs = []
        for first in range(0, self.archived, self.page_rows):
            rows = self.rows[first : min(first + self.page_rows, self.archived)]
            body = build_page(self.keys.pid, rows)
            ref = page_ref(rows, body, nonce=f"{first:08x}" * 4, level=0)
            self.store.objects[self.keys.object(ref.name)] = body
            refs.append(ref)
        for height in range(1, self.heights + 1):
            refs = self._indexed(refs, height)
        root = Manifest(
            topic_id=TOPIC_ID, partition=self.partition, topic=self.topic, epoch=self.epoch, log_start_offset=self.log_start,
            end_offset=self.next_offset, entries=tuple(self.rows[self.archived :]), archive=tuple(refs), nonces=("a" * 32,),
        )  # fmt: skip
        self.manifest = sealed(root)
        self.store.objects[self.keys.manifest] = encode(self.manifest)
        return self.manifest

    def _indexed(self, refs: list[PageRef], height: int) -> list[PageRef]:
        """Pairs of pages below index pages; an odd last one gets one of its own."""
        above = []
        for first in range(0, len(refs), 2):
            pair = refs[first : first + 2]
            body = build_index(self.keys.pid, pair)
            ref = index_ref(pair, body, nonce=f"{height:04x}{first:04x}" * 4, level=1 + height)
            self.store.objects[self.keys.object(ref.name)] = body
            above.append(ref)
        return above

    def change(self, **fields: object) -> None:
        assert self.manifest is not None
        self.manifest = replace(self.manifest, **fields)  # type: ignore[arg-type]

    # -- what a local log would say

    def headers(self) -> list[BatchHeader]:
        return [header_at(batch) for batch in self.batches]

    def expected(self, offset: int, bytes_max: int) -> bytes:
        """Whole batches from the one that holds `offset` (or the next one), the first whatever its size."""
        result, size = [], 0
        for batch in self.batches:
            if header_at(batch).last_offset < offset:
                continue
            if result and size + len(batch) > bytes_max:
                break
            result.append(batch)
            size += len(batch)
            if size > bytes_max:
                break
        return b"".join(result)

    def records(self) -> list[tuple[int, int, int, bytes | None, bytes | None]]:
        """(offset, timestamp, leader epoch, key, value) of every record at or above the log start."""
        result = []
        for batch in self.batches:
            epoch = header_at(batch).leader_epoch
            result += [(r.offset, r.timestamp, epoch, r.key, r.value) for r in decode_batch(batch) if r.offset >= self.log_start]
        return result

    def for_timestamp(self, timestamp_ms: int) -> tuple[int, int, int] | None:
        return next(((o, t, e) for o, t, e, _, _ in self.records() if t >= timestamp_ms), None)


def random_lake(
    seed: int, *, segments: int = 6, archived: int = 0, holes: bool = False, partition: int = 0, heights: int = 0
) -> Lake:
    """Segments of random batches: sizes around the chunk size, codecs mixed, timestamps wandering, epochs rising."""
    rng = random.Random(seed)
    lake = Lake(ScriptedStore(), archived=archived, partition=partition, page_rows=1 if heights else 4, heights=heights)
    time = 1_000_000
    for number in range(segments):
        if holes and number and rng.random() < 0.4:
            lake.hole(lake.next_offset + rng.randint(1, 50))
        if rng.random() < 0.3:
            lake.epoch += rng.randint(1, 3)
        batches = []
        for _ in range(rng.randint(1, 12)):
            records = []
            for _ in range(rng.randint(1, 8)):
                time += rng.randint(-500, 900)
                value = rng.randbytes(rng.choice([0, 10, 300, 1500]))
                records.append(NewRecord(max(time, 0), rng.choice([None, b"k%d" % rng.randint(0, 9)]), value, [("h", b"v")]))
            batches.append(lake.batch(records, codec=rng.choice(["none", "gzip", "zstd", "lz4", "snappy"])))
        lake.segment(batches)
    lake.commit()
    return lake
