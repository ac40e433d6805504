"""Record batches (magic 2) by fixed offsets: walked, checked and stamped, never opened.

Layout: https://kafka.apache.org/documentation/#recordbatch.  CRC-32C covers everything from `attributes` (byte 21) on, so the
base offset and the leader epoch, which the broker writes, lie outside it.

Invariants: nothing here touches a record; every function costs per batch, not per record; buffers stay views.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from crc32c import crc32c

from hotlog.kernel.errors import Corrupt, CrcMismatch, InvalidRecord, MalformedBatch, NotOneBatch, TooLarge
from hotlog.kernel.limits import BATCH_HEADER_BYTES, BATCH_OVERHEAD_BYTES, MiB
from hotlog.world.ports import Buffer

# base offset q, length i, leader epoch i, magic b, crc I, attributes h, last offset delta i, base timestamp q,
# max timestamp q, producer id q, producer epoch h, base sequence i, record count i
HEADER = struct.Struct(">qiibIhiqqqhii")
_STAMP = struct.Struct(">qii")
_EPOCH = struct.Struct(">i")
assert HEADER.size == BATCH_HEADER_BYTES

MAGIC_OFFSET = 16
CRC_OFFSET = 17
ATTRIBUTES_OFFSET = 21
MAX_TIMESTAMP_OFFSET = 35

CRC_INLINE_BYTES_MAX = 4 * MiB  # about 0.2 ms

CODEC_MASK = 0x07
TIMESTAMP_TYPE_MASK = 0x08
TRANSACTIONAL_MASK = 0x10
CONTROL_MASK = 0x20
DELETE_HORIZON_MASK = 0x40
CODECS = {0: "none", 1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}


class BatchHeader(NamedTuple):
    """The 61 bytes before the records, decoded; timestamps in ms, `length` in bytes after the length field."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def size(self) -> int:
        """Whole batch in bytes."""
        return self.length + BATCH_OVERHEAD_BYTES

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.last_offset_delta + 1

    @property
    def codec(self) -> int:
        return self.attributes & CODEC_MASK

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL_MASK)

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & CONTROL_MASK)

    @property
    def is_log_append_time(self) -> bool:
        return bool(self.attributes & TIMESTAMP_TYPE_MASK)

    @property
    def last_sequence(self) -> int:
        """Sequence numbers wrap to 0 after 2^31-1 (KIP-98)."""
        return (self.base_sequence + self.last_offset_delta) & 0x7FFFFFFF


def header_at(data: Buffer, position: int = 0) -> BatchHeader:
    """Decode the header at `position`.

    Raises:
        Corrupt: fewer than 61 bytes are left.
    """
    try:
        return BatchHeader._make(HEADER.unpack_from(data, position))
    except struct.error:
        raise Corrupt(
            f"batch header at byte {position} is cut off: {len(data) - position} of {BATCH_HEADER_BYTES} bytes"
        ) from None


def crc_ok(batch: memoryview) -> bool:
    """Whether the CRC-32C in the header matches the rest of this one whole batch."""
    stored: int = struct.unpack_from(">I", batch, CRC_OFFSET)[0]
    return stored == crc32c(batch[ATTRIBUTES_OFFSET:])


def walk(data: Buffer, position: int = 0) -> Iterator[tuple[int, BatchHeader]]:
    """(position, header) of each whole batch from `position`; stops quietly at a cut-off last batch.

    For bytes that were validated before (our own log).  Raises Corrupt on a length that cannot be.
    """
    end = len(data)
    while position + BATCH_HEADER_BYTES <= end:
        header = header_at(data, position)
        if header.length < BATCH_HEADER_BYTES - BATCH_OVERHEAD_BYTES:
            raise Corrupt(f"batch at byte {position} says length {header.length}; at least 49 is needed")
        if position + header.size > end:
            return
        yield position, header
        position += header.size


def check_produced(data: memoryview, *, batch_bytes_max: int) -> list[BatchHeader]:
    """Check what a producer sent for one partition, as far as its headers say it; return them.

    Checked: at least one batch, magic 2, lengths that add up exactly, size limit, record count against last offset delta, base
    offset 0, known codec, no control batch, no delete horizon, sequence fields that belong together; and the CRC-32C of batches up to
    CRC_INLINE_BYTES_MAX (of larger ones hotlog.wire.inspect checks it, off the event loop).

    Raises:
        TooLarge: a batch above `batch_bytes_max` bytes (max.message.bytes).
        MalformedBatch: the CRC-32C does not match, the magic is unknown, or the length is below a header's.
        NotOneBatch: there is none, it is cut off, or of magic 0 or 1 (KIP-724).  InvalidRecord: everything else.
    """
    headers: list[BatchHeader] = []
    position, end = 0, len(data)
    if end == 0:
        raise NotOneBatch("records are empty; at least one batch is needed")
    while position < end:
        if end - position <= MAGIC_OFFSET:
            raise NotOneBatch(f"{end - position} bytes at byte {position} are too few for a batch")
        magic = data[position + MAGIC_OFFSET]
        if magic in (0, 1):
            raise NotOneBatch(f"message format magic {magic} is not supported; only magic 2 is")
        if magic != 2:
            raise MalformedBatch(f"unknown magic {magic}; only magic 2 is allowed")
        if end - position < BATCH_HEADER_BYTES:
            raise NotOneBatch(f"batch at byte {position} is cut off inside its header")
        header = BatchHeader._make(HEADER.unpack_from(data, position))
        size = header.length + BATCH_OVERHEAD_BYTES
        _check_header(header, size, position, end, batch_bytes_max)
        if header.length <= CRC_INLINE_BYTES_MAX:
            check_crc(data[position : position + size], header)
        headers.append(header)
        position += size
    return headers


def check_crc(batch: memoryview, header: BatchHeader) -> None:
    """Raises CrcMismatch."""
    if header.crc != crc32c(batch[ATTRIBUTES_OFFSET:]):
        raise CrcMismatch(f"batch of {header.size} bytes fails its CRC-32C")


def _check_header(header: BatchHeader, size: int, position: int, end: int, batch_bytes_max: int) -> None:
    if size > batch_bytes_max and size <= end - position:
        raise TooLarge(f"batch of {size} bytes; at most {batch_bytes_max} are allowed (max.message.bytes)")
    if header.length < BATCH_HEADER_BYTES - BATCH_OVERHEAD_BYTES:
        raise MalformedBatch(f"batch at byte {position} says length {header.length}; at least 49 is needed")
    if position + size > end:
        raise NotOneBatch(f"batch at byte {position} says length {header.length}; {end - position} bytes are there")
    if header.record_count <= 0 or header.last_offset_delta != header.record_count - 1:
        raise InvalidRecord(
            f"batch at byte {position} says {header.record_count} records and last offset delta {header.last_offset_delta}"
        )
    if header.attributes & (CONTROL_MASK | DELETE_HORIZON_MASK) or header.attributes >> 7:
        raise InvalidRecord(f"batch at byte {position} has attributes {header.attributes:#06x} that clients may not set")
    if header.base_offset:
        raise InvalidRecord(f"batch at byte {position} says base offset {header.base_offset}; a producer's is 0")
    if header.attributes & CODEC_MASK not in CODECS:
        raise InvalidRecord(f"batch at byte {position} has unknown compression codec {header.codec}; 0 to 4 are known")
    if header.producer_id >= 0 and (header.producer_epoch < 0 or header.base_sequence < 0):
        raise InvalidRecord(
            f"batch at byte {position} of producer {header.producer_id} has epoch {header.producer_epoch}"
            f" and base sequence {header.base_sequence}; both must be at least 0"
        )


def stamp(data: memoryview, headers: list[BatchHeader], base_offset: int, leader_epoch: int) -> list[BatchHeader]:
    """Write base offsets and leader epoch in place into `data` (writable); return the headers as they are now."""
    position = 0
    stamped: list[BatchHeader] = []
    for header in headers:
        _STAMP.pack_into(data, position, base_offset, header.length, leader_epoch)
        now = BatchHeader._make((base_offset, header.length, leader_epoch, *header[3:]))  # half the time of _replace
        stamped.append(now)
        base_offset = now.next_offset
        position += now.size
    return stamped


stamp_head = _STAMP.pack_into
"""(data, position, base offset, length, leader epoch): write the first 16 bytes of a batch."""


def stamp_create_time(batch: memoryview, header: BatchHeader, timestamp: int) -> BatchHeader:
    """CreateTime: write the largest timestamp of one batch's records, and the CRC anew, in place; return the header as it is now."""
    attributes = header.attributes & ~TIMESTAMP_TYPE_MASK
    struct.pack_into(">h", batch, ATTRIBUTES_OFFSET, attributes)
    struct.pack_into(">q", batch, MAX_TIMESTAMP_OFFSET, timestamp)
    crc = crc32c(batch[ATTRIBUTES_OFFSET : header.size])
    struct.pack_into(">I", batch, CRC_OFFSET, crc)
    return header._replace(attributes=attributes, max_timestamp=timestamp, crc=crc)


def stamp_append_time(data: memoryview, headers: list[BatchHeader], now_ms: int) -> list[BatchHeader]:
    """LogAppendTime: set max timestamp and the timestamp type bit, and recompute each CRC (inside the CRC, so it must be)."""
    position = 0
    stamped: list[BatchHeader] = []
    for header in headers:
        attributes = header.attributes | TIMESTAMP_TYPE_MASK
        struct.pack_into(">h", data, position + ATTRIBUTES_OFFSET, attributes)
        struct.pack_into(">q", data, position + MAX_TIMESTAMP_OFFSET, now_ms)
        crc = crc32c(data[position + ATTRIBUTES_OFFSET : position + header.size])
        struct.pack_into(">I", data, position + CRC_OFFSET, crc)
        stamped.append(header._replace(attributes=attributes, max_timestamp=now_ms, crc=crc))
        position += header.size
    return stamped
