"""The bytes of a segment object: log, index footer, trailer.  Built and parsed here only; drawn in docs/formats/segment-object.md.

    [0, log_bytes)   record batches exactly as they are on disk
    sections         offset index, time index, aborted transactions, producer snapshot, leader epochs, chunk checksums
    trailer          256 bytes: magic, version, identity, where each section lies with its CRC-32C, CRC-32C of the trailer

Offset index (4+4 bytes), time index (8+4), aborted transactions (34 bytes each), producer snapshot and leader epochs are in the
formats of Kafka's local files.  Chunk checksums are one CRC-32C per CHUNK_BYTES of log bytes, so that a reader can prove a ranged read
without walking its batches (base offset and leader epoch of a batch lie outside the batch's own CRC).

Invariants: every byte of an object is covered by a CRC-32C; the trailer names topic id, partition, offsets and nonce, so that another
object's bytes are recognised; pure, no input or output.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from crc32c import crc32c

from hotlog.kernel.errors import Corrupt
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.limits import CHUNK_BYTES
from hotlog.kernel.versions import StoredFormat
from hotlog.world.ports import Buffer

TRAILER_BYTES = 256
MAGIC = b"HOTLSEG\n"
FORMAT: StoredFormat[None] = StoredFormat("segment object", 1)
SECTIONS = ("offset index", "time index", "aborted transactions", "producer snapshot", "leader epochs", "chunk checksums")

# magic 8s, version H, sections H, chunk bytes I, topic id 16s, partition i, base offset q, end offset q, leader epoch i, nonce 16s,
# log bytes Q, log crc I, records Q, created ms q
_IDENTITY = struct.Struct(">8sHHI16siqqi16sQIQq")
_SECTION = struct.Struct(">QII")  # position, length, crc
_CRC = struct.Struct(">I")
_OFFSET_ENTRY = struct.Struct(">ii")  # offset relative to the base offset (last of its batch), position of the batch
_TIME_ENTRY = struct.Struct(">qi")  # largest timestamp so far, relative offset of the batch that has it (last of the batch)
_ABORTED_ENTRY = struct.Struct(">hqqqq")  # version 0, producer id, first offset, last offset, last stable offset
assert _IDENTITY.size + len(SECTIONS) * _SECTION.size + _CRC.size <= TRAILER_BYTES


class AbortedTransaction(NamedTuple):
    """One row of Kafka's transaction index (org.apache.kafka.storage.internals.log.AbortedTxn); offsets are inclusive."""

    producer_id: int
    first_offset: int
    last_offset: int
    last_stable_offset: int


class Section(NamedTuple):
    """Where a section lies in the object, in bytes, and its CRC-32C."""

    position: int
    length: int
    crc: int


@dataclass(frozen=True, slots=True)
class Trailer:
    """The last 256 bytes, decoded.  Offsets half open; sizes in bytes; `created_ms` since the Unix epoch."""

    pid: PartitionId
    base_offset: int
    end_offset: int
    epoch: int
    nonce: str
    log_bytes: int
    log_crc: int
    records: int
    created_ms: int
    chunk_bytes: int = CHUNK_BYTES
    sections: tuple[Section, ...] = ()

    @property
    def object_bytes(self) -> int:
        return self.sections[-1].position + self.sections[-1].length + TRAILER_BYTES


class FooterParts(NamedTuple):
    """The contents of a footer before it has bytes; each in the format its section has."""

    offset_index: bytes
    time_index: bytes
    aborted: bytes
    producer_snapshot: bytes
    leader_epochs: bytes
    chunk_crcs: Sequence[int]


def build_footer(parts: FooterParts, about: Trailer) -> bytes:
    """Sections and trailer: what follows `about.log_bytes` bytes of log in the object.  Where the sections lie is decided here."""
    log_bytes, chunk_bytes = about.log_bytes, about.chunk_bytes
    assert 0 <= about.base_offset < about.end_offset, (about.base_offset, about.end_offset)
    assert log_bytes > 0, "a segment object has a log"
    assert len(parts.chunk_crcs) == -(-log_bytes // chunk_bytes), (len(parts.chunk_crcs), log_bytes)
    bodies = [
        parts.offset_index, parts.time_index, parts.aborted, parts.producer_snapshot, parts.leader_epochs,
        struct.pack(f">{len(parts.chunk_crcs)}I", *parts.chunk_crcs),
    ]  # fmt: skip
    position, table = log_bytes, b""
    for body in bodies:
        table += _SECTION.pack(position, len(body), crc32c(body))
        position += len(body)
    identity = _IDENTITY.pack(
        MAGIC, FORMAT.version, len(bodies), chunk_bytes, about.pid.topic_id.bytes, about.pid.partition, about.base_offset,
        about.end_offset, about.epoch, bytes.fromhex(about.nonce), log_bytes, about.log_crc, about.records, about.created_ms,
    )  # fmt: skip
    trailer = (identity + table).ljust(TRAILER_BYTES - _CRC.size, b"\0")
    return b"".join([*bodies, trailer, _CRC.pack(crc32c(trailer))])


def parse_trailer(tail: Buffer, *, where: str = "segment object") -> Trailer:
    """Decode the trailer from the last bytes of an object (at least 256 of them).

    Raises:
        Corrupt: too short, wrong magic, failed CRC, or positions that contradict each other.
        UnknownVersion: a newer release wrote it.
    """
    if len(tail) < TRAILER_BYTES:
        raise Corrupt(f"{where}: {len(tail)} bytes are too few for a trailer of {TRAILER_BYTES}")
    raw = bytes(memoryview(tail)[-TRAILER_BYTES:])
    if raw[: len(MAGIC)] != MAGIC:
        raise Corrupt(f"{where}: trailer magic is {raw[: len(MAGIC)]!r}, expected {MAGIC!r}")
    if crc32c(raw[: -_CRC.size]) != _CRC.unpack_from(raw, TRAILER_BYTES - _CRC.size)[0]:
        raise Corrupt(f"{where}: trailer fails its CRC-32C")
    (_, version, count, chunk_bytes, topic, partition, base, end, epoch, nonce, log_bytes, log_crc, records, created_ms) = (
        _IDENTITY.unpack_from(raw)
    )
    FORMAT.require(version, where)
    if count != len(SECTIONS):
        raise Corrupt(f"{where}: {count} sections; version {version} has {len(SECTIONS)}")
    sections = tuple(Section._make(_SECTION.unpack_from(raw, _IDENTITY.size + index * _SECTION.size)) for index in range(count))
    expected = log_bytes
    for name, section in zip(SECTIONS, sections, strict=True):
        if section.position != expected:
            raise Corrupt(f"{where}: {name} at byte {section.position}, expected at {expected}")
        expected += section.length
    if not 0 <= base < end or chunk_bytes == 0 or sections[-1].length != 4 * -(-log_bytes // chunk_bytes):
        raise Corrupt(f"{where}: trailer says offsets [{base}, {end}), {log_bytes} log bytes in chunks of {chunk_bytes}")
    pid = PartitionId(UUID(bytes=topic), partition)
    return Trailer(pid, base, end, epoch, nonce.hex(), log_bytes, log_crc, records, created_ms, chunk_bytes, sections)


@dataclass(frozen=True, slots=True)
class Footer:
    """A parsed and checked footer.  Indexes stay bytes; lookups are binary searches over them."""

    trailer: Trailer
    offset_index: memoryview
    time_index: memoryview
    aborted: tuple[AbortedTransaction, ...]
    producer_snapshot: bytes
    leader_epochs: bytes
    chunk_crcs: tuple[int, ...]

    @property
    def memory_bytes(self) -> int:
        """Roughly what keeping this costs, for a cache's budget."""
        return (
            sum(section.length for section in self.trailer.sections) + 64 * len(self.aborted) + 32 * len(self.chunk_crcs) + 1024
        )

    def position_for(self, offset: int) -> int:
        """A batch position at or before the batch that holds `offset`: walk forward from there."""
        low, high, relative = 0, len(self.offset_index) // _OFFSET_ENTRY.size, offset - self.trailer.base_offset
        while low < high:  # first entry whose offset is above
            middle = (low + high) // 2
            if _OFFSET_ENTRY.unpack_from(self.offset_index, middle * _OFFSET_ENTRY.size)[0] <= relative:
                low = middle + 1
            else:
                high = middle
        position: int = _OFFSET_ENTRY.unpack_from(self.offset_index, (low - 1) * _OFFSET_ENTRY.size)[1] if low else 0
        return position

    def offset_before_timestamp(self, timestamp_ms: int) -> int:
        """An offset such that every record with a timestamp >= `timestamp_ms` in this segment lies at or after its batch.

        As Kafka's time index: an entry (T, O) promises that records above T come after O.
        """
        low, high = 0, len(self.time_index) // _TIME_ENTRY.size
        while low < high:  # first entry whose timestamp is not below the wanted one
            middle = (low + high) // 2
            if _TIME_ENTRY.unpack_from(self.time_index, middle * _TIME_ENTRY.size)[0] < timestamp_ms:
                low = middle + 1
            else:
                high = middle
        relative: int = _TIME_ENTRY.unpack_from(self.time_index, (low - 1) * _TIME_ENTRY.size)[1] if low else 0
        return self.trailer.base_offset + relative

    def check_chunk(self, index: int, data: Buffer, *, where: str = "segment object") -> None:
        """Prove one whole chunk of log bytes (the last one may be short).

        Raises:
            Corrupt: wrong length or failed CRC-32C.
        """
        trailer = self.trailer
        expected = min(trailer.chunk_bytes, trailer.log_bytes - index * trailer.chunk_bytes)
        if not 0 <= index < len(self.chunk_crcs) or len(data) != expected:
            raise Corrupt(f"{where}: chunk {index} of {len(self.chunk_crcs)} has {len(data)} bytes, expected {expected}")
        if crc32c(data) != self.chunk_crcs[index]:
            raise Corrupt(f"{where}: chunk {index} (bytes from {index * trailer.chunk_bytes}) fails its CRC-32C")


def parse_footer(data: Buffer, *, where: str = "segment object") -> Footer:
    """Decode and check a footer from the bytes that follow the log part: object bytes [log_bytes, size).

    Bytes of the log before the footer may be included in front (a generous tail read).

    Raises:
        Corrupt: as parse_trailer, a section that fails its CRC-32C, or fewer bytes than the footer has.
    """
    trailer = parse_trailer(data, where=where)
    view = memoryview(data)
    shift = len(view) - trailer.object_bytes  # position in `view` of object byte 0 (negative when the log is not included)
    if shift + trailer.log_bytes < 0:
        raise Corrupt(f"{where}: {len(view)} bytes given, the footer has {trailer.object_bytes - trailer.log_bytes}")
    bodies = []
    for name, section in zip(SECTIONS, trailer.sections, strict=True):
        body = view[shift + section.position : shift + section.position + section.length]
        if crc32c(body) != section.crc:
            raise Corrupt(f"{where}: {name} fails its CRC-32C")
        bodies.append(body)
    offsets, times, aborted, snapshot, epochs, crcs = bodies
    if len(offsets) % _OFFSET_ENTRY.size or len(times) % _TIME_ENTRY.size or len(aborted) % _ABORTED_ENTRY.size:
        raise Corrupt(f"{where}: an index section is not a whole number of entries")
    return Footer(
        trailer,
        offsets,
        times,
        parse_aborted(aborted),
        bytes(snapshot),
        bytes(epochs),
        struct.unpack(f">{len(crcs) // 4}I", crcs),
    )


def check_identity(trailer: Trailer, pid: PartitionId, base_offset: int, end_offset: int, nonce: str, *, where: str) -> None:
    """Raise Corrupt if the bytes belong to another object than the one that was asked for (docs/faults.md, row 29)."""
    found = (trailer.pid, trailer.base_offset, trailer.end_offset, trailer.nonce)
    if found != (pid, base_offset, end_offset, nonce):
        raise Corrupt(
            f"{where}: the bytes are those of {trailer.pid} offsets [{trailer.base_offset}, {trailer.end_offset}) nonce {trailer.nonce};"
            f" asked for {pid} [{base_offset}, {end_offset}) nonce {nonce}"
        )


def parse_aborted(data: Buffer) -> tuple[AbortedTransaction, ...]:
    """Rows of a transaction index.

    Raises:
        Corrupt: a length that is not a whole number of rows, or an unknown row version.
    """
    if len(data) % _ABORTED_ENTRY.size:
        raise Corrupt(f"transaction index has {len(data)} bytes, not a multiple of {_ABORTED_ENTRY.size}")
    rows = []
    for version, producer_id, first, last, stable in _ABORTED_ENTRY.iter_unpack(data):
        if version != 0:
            raise Corrupt(f"transaction index row has version {version}; 0 is known")
        rows.append(AbortedTransaction(producer_id, first, last, stable))
    return tuple(rows)


def pack_aborted(rows: Sequence[AbortedTransaction]) -> bytes:
    """Kafka's transaction index bytes."""
    return b"".join(_ABORTED_ENTRY.pack(0, *row) for row in rows)


def pack_offset_index(entries: Sequence[tuple[int, int]]) -> bytes:
    """(relative offset, position) pairs, ascending, in Kafka's index format."""
    return b"".join(_OFFSET_ENTRY.pack(*entry) for entry in entries)


def pack_time_index(entries: Sequence[tuple[int, int]]) -> bytes:
    """(timestamp, relative offset) pairs, ascending, in Kafka's time index format."""
    return b"".join(_TIME_ENTRY.pack(*entry) for entry in entries)


def parse_leader_epochs(text: bytes) -> tuple[tuple[int, int], ...]:
    """(epoch, start offset) rows of a leader-epoch-checkpoint (version line, count line, rows); empty bytes are no rows.

    Raises:
        Corrupt: anything else.
    """
    if not text:
        return ()
    try:
        version, count, *rows = text.decode("ascii").split("\n")
        pairs = tuple((int(epoch), int(start)) for epoch, start in (row.split(" ") for row in rows if row))
        if int(version) != 0 or int(count) != len(pairs):
            raise ValueError(f"version {version}, count {count}, {len(pairs)} rows")
    except ValueError as failure:
        raise Corrupt(f"leader epoch checkpoint does not parse: {failure}") from None
    return pairs
