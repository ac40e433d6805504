"""Reads a closed local segment once, proves every batch, and gathers what its object needs.  Then serves the proven bytes.

Indexes of the object are built from the walk, not copied from the local index files: a damaged local index cannot reach the store
(KAFKA-15401), and entries can lie further apart than on disk, because a cold reader fetches chunks of megabytes anyway.

Invariants: a batch that fails its CRC-32C is never offered for upload; the bytes handed to the store are proven again, chunk by chunk,
against the checksums of the walk, so a bit that flips in between stops the upload (docs/faults.md, row 12); never more than one slice in memory.
"""

from __future__ import annotations

from typing import NamedTuple

from crc32c import crc32c

from hotlog.kernel.errors import Corrupt, PreconditionFailed
from hotlog.kernel.limits import BATCH_HEADER_BYTES, CHUNK_BYTES, KiB, MiB
from hotlog.wire.batch import DELETE_HORIZON_MASK, BatchHeader, crc_ok, header_at, walk
from hotlog.world.ports import Buffer, Disk, File
from tiering.manifest.root import EPOCHS_PER_ENTRY_MAX
from tiering.objects.segment import pack_offset_index, pack_time_index

SLICE_BYTES_MIN, SLICE_BYTES_MAX = 256 * KiB, 4 * MiB  # walked in one go off the event loop
SLICE_BATCHES = 256  # a slice is sized for about this many: walking them holds the interpreter lock for half a millisecond
INDEX_INTERVAL_BYTES = 64 * KiB


class SegmentScan(NamedTuple):
    """What the walk found.  `position` is the byte of the local file where the object's log part begins; offsets are half open."""

    path: str
    position: int
    base_offset: int
    end_offset: int
    log_bytes: int
    log_crc: int
    chunk_crcs: tuple[int, ...]
    records: int
    batches: int
    min_timestamp: int
    max_timestamp: int
    max_timestamp_offset: int
    epochs: tuple[tuple[int, int], ...]
    offset_index: bytes
    time_index: bytes


class ScanRange(NamedTuple):
    """What to walk: [start_offset, end_offset) of a segment file that begins at `segment_offset` and counts `size` bytes.

    `has_gaps`: offsets may be missing between batches (a compacted log); else each batch must follow the one before.
    """

    segment_offset: int
    start_offset: int
    end_offset: int
    size: int
    has_gaps: bool = False


class SegmentScanner:
    """Walks the batches of a ScanRange, a slice per `step`.  Blocking; call off the event loop."""

    def __init__(self, file: File, want: ScanRange, interval_bytes: int = INDEX_INTERVAL_BYTES) -> None:
        self._file = file
        self._want = want
        self._size, self._start, self._end = want.size, want.start_offset, want.end_offset
        self._interval = interval_bytes
        self._slice = SLICE_BYTES_MIN
        self._at = 0  # next byte of the file
        self._origin = -1  # byte of the file where the object begins
        self._next_offset = want.segment_offset
        self._crc = self._chunk_crc = self._chunk_filled = 0
        self._chunks: list[int] = []
        self._records = self._batches = self._since_index = 0
        self._min: int | None = None
        self._max = self._max_offset = self._last_time = -1
        self._epochs: list[tuple[int, int]] = []
        self._offsets: list[tuple[int, int]] = []
        self._times: list[tuple[int, int]] = []

    def step(self) -> bool:
        """Walk one slice; True while there is more.

        Raises:
            Corrupt: a batch that fails its CRC or lies about its length or offsets, or a file shorter than it should be.
            PreconditionFailed: a batch lies across `start_offset`.
        """
        if self._at >= self._size:
            self._finish()
            return False
        data = memoryview(self._read(min(self._slice, self._size - self._at)))
        if len(data) >= BATCH_HEADER_BYTES:
            first = header_at(data).size
            if first > len(data) and self._at + first <= self._size:  # one batch larger than a slice
                data = memoryview(self._read(first))
        used, first, count = 0, -1, 0
        for position, header in walk(data):
            used = position + header.size
            if self._take(data[position:used], header, self._at + position):
                first = position if first < 0 else first
            count += 1
        if not used:
            raise Corrupt(f"{self._file.path}: no whole batch at byte {self._at} of {self._size}")
        if first >= 0:
            self._sum(data[first:used])
        self._at += used
        self._slice = min(max(used * SLICE_BATCHES // count, SLICE_BYTES_MIN), SLICE_BYTES_MAX)
        return True

    def _read(self, length: int) -> bytes:
        data = self._file.read_at(self._at, length)
        if len(data) != length:
            raise Corrupt(f"{self._file.path}: {len(data)} of {length} bytes at byte {self._at}; the segment has {self._size}")
        return data

    def _take(self, batch: memoryview, header: BatchHeader, at: int) -> bool:
        """Check one batch and count it; False if it lies before the wanted range."""
        is_next = header.base_offset == self._next_offset or (self._want.has_gaps and header.base_offset > self._next_offset)
        if not is_next or header.last_offset_delta < 0 or header.next_offset > self._end:
            raise Corrupt(
                f"{self._file.path}: batch [{header.base_offset}, {header.next_offset}) at byte {at};"
                f" offsets [{self._next_offset}, {self._end}) are expected"
            )
        self._next_offset = header.next_offset
        if header.next_offset <= self._start:
            return False  # covered by the object before
        if header.base_offset < self._start:
            raise PreconditionFailed(
                f"{self._file.path}: the batch at offset {header.base_offset} lies across offset {self._start}"
            )
        if header.magic != 2 or not crc_ok(batch):
            raise Corrupt(f"{self._file.path}: the batch at byte {at} (offset {header.base_offset}) fails its CRC-32C")
        if self._origin < 0:
            self._origin = at
        self._index(header, at - self._origin)
        self._records += header.record_count
        self._batches += 1
        if not self._epochs or self._epochs[-1][0] != header.leader_epoch:
            if self._epochs and header.leader_epoch < self._epochs[-1][0]:
                raise Corrupt(
                    f"{self._file.path}: the batch at byte {at} has leader epoch {header.leader_epoch} after {self._epochs[-1][0]}"
                )
            self._epochs.append((header.leader_epoch, header.base_offset))
        return True

    def _index(self, header: BatchHeader, position: int) -> None:
        # The base is a producer's word: no later than the largest, which is the records', and nothing below "none".
        # Nor does it say a time where it is a delete horizon (KIP-534).
        first = header.max_timestamp if header.is_log_append_time else max(-1, min(header.base_timestamp, header.max_timestamp))
        if header.attributes & DELETE_HORIZON_MASK and not header.is_log_append_time:
            first = -1
        if header.record_count:  # one that a cleaning emptied has no time
            self._min = first if self._min is None else min(self._min, first)
        if header.max_timestamp > self._max and header.record_count:
            self._max, self._max_offset = header.max_timestamp, header.last_offset
        if self._since_index > self._interval:
            self._offsets.append((header.last_offset - self._start, position))
            self._time_entry()
            self._since_index = 0
        self._since_index += header.size

    def _time_entry(self) -> None:
        if self._max > self._last_time:
            self._times.append((self._max, self._max_offset - self._start))
            self._last_time = self._max

    def _sum(self, data: memoryview) -> None:
        self._crc = crc32c(data, self._crc)
        while len(data):
            part = data[: CHUNK_BYTES - self._chunk_filled]
            self._chunk_crc = crc32c(part, self._chunk_crc)
            self._chunk_filled += len(part)
            data = data[len(part) :]
            if self._chunk_filled == CHUNK_BYTES:
                self._close_chunk()

    def _close_chunk(self) -> None:
        self._chunks.append(self._chunk_crc)
        self._chunk_crc = self._chunk_filled = 0

    def _finish(self) -> None:
        if self._chunk_filled:
            self._close_chunk()
        self._time_entry()
        if not self._batches or self._next_offset != self._end:
            raise Corrupt(f"{self._file.path}: batches end at offset {self._next_offset}, the segment at {self._end}")

    def result(self) -> SegmentScan:
        return SegmentScan(
            path=self._file.path, position=self._origin, base_offset=self._start, end_offset=self._end,
            log_bytes=self._size - self._origin, log_crc=self._crc, chunk_crcs=tuple(self._chunks), records=self._records,
            batches=self._batches, min_timestamp=-1 if self._min is None else self._min, max_timestamp=self._max,
            max_timestamp_offset=self._max_offset, epochs=tuple(self._epochs[-EPOCHS_PER_ENTRY_MAX:]),
            offset_index=pack_offset_index(self._offsets), time_index=pack_time_index(self._times),
        )  # fmt: skip


async def scan_segment(disk: Disk, path: str, want: ScanRange) -> SegmentScan:
    """Walk and prove a range of batches in the segment file at `path`.

    Raises:
        Corrupt, PreconditionFailed: as SegmentScanner.step.  OSError: the file cannot be read.
    """
    file = await disk.run(disk.open, path, read_only=True)
    try:
        scanner = SegmentScanner(file, want)
        while await disk.run(scanner.step):
            pass
        return scanner.result()
    finally:
        await disk.run(file.close)


class SegmentSource:
    """ByteSource of a segment object: proven bytes of the local file, then the footer."""

    rereadable = (
        True  # S3 is told the CRC-32C ahead of the bytes, so damage on the way is refused there (tiering.store.s3_upload)
    )

    def __init__(self, disk: Disk, scan: SegmentScan, footer: bytes) -> None:
        self._disk = disk
        self._scan = scan
        self._footer = footer

    @property
    def size(self) -> int:
        return self._scan.log_bytes + len(self._footer)

    async def read(self, start: int, end: int) -> Buffer:
        """Bytes [start, end) of the object.

        Raises:
            Corrupt: the file no longer says what was proven.
        """
        log_bytes = self._scan.log_bytes
        if start >= log_bytes:
            return self._footer[start - log_bytes : end - log_bytes]
        log = await self._disk.run(self._read_log, start, min(end, log_bytes))
        return log if end <= log_bytes else b"".join([log, self._footer[: end - log_bytes]])

    def _read_log(self, start: int, end: int) -> Buffer:
        scan = self._scan
        first = start // CHUNK_BYTES * CHUNK_BYTES
        last = min(-(-end // CHUNK_BYTES) * CHUNK_BYTES, scan.log_bytes)
        file = self._disk.open(scan.path, read_only=True)
        try:
            data = memoryview(file.read_at(scan.position + first, last - first))
        finally:
            file.close()
        for index, at in enumerate(range(first, last, CHUNK_BYTES), first // CHUNK_BYTES):
            if crc32c(data[at - first : at - first + CHUNK_BYTES]) != scan.chunk_crcs[index]:
                raise Corrupt(f"{scan.path}: bytes from {scan.position + at} changed under the upload")
        return data[start - first : end - first]
