"""Records inside a batch: opened and built far from the hot path (export, compaction, time lookups, group offsets, tests).

Decoding and encoding are aiokafka's compiled reader and builder; decompression is ours, because it must be bounded
(zstd reaches 32,696:1).  Format: https://kafka.apache.org/documentation/#record.

Invariants: decompression never holds more than `bytes_max` (plus one step of it, and a zstd window of 128 MiB at most); the CRC is the
caller's business (batch.crc_ok); a batch that cannot be decoded whole raises InvalidRecord and yields nothing; whatever the door takes
(hotlog.wire.inspect) is decoded here.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import NamedTuple, Protocol

import cramjam
import lz4.frame
import zstandard
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from hotlog.kernel.errors import InvalidRecord, TooLarge
from hotlog.kernel.limits import (
    BATCH_HEADER_BYTES,
    BATCH_OVERHEAD_BYTES,
    DECOMPRESSED_READ_BYTES_MAX,
    ZSTD_WINDOW_BYTES_MAX,
    KiB,
)
from hotlog.wire import batch as batches
from hotlog.wire import patient_records
from hotlog.wire.patient_records import PlainRecord
from hotlog.world.ports import Buffer

RECORD_BYTES_MIN = 7  # length, attributes, timestamp delta, offset delta, key length, value length, header count: a byte each
STEP_BYTES = 256 * KiB  # one step of streaming decompression
SLICE_BYTES = 64 * KiB  # input of one step: gzip and lz4 copy what they have not used at every step
ZSTD = 4
ZSTD_SLICE_BYTES = 256  # input of one zstd step: at most 8 MiB come out of it
_ZSTD_HEADER_BYTES_MAX = 18

_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16
_SNAPPY_RATIO_MAX = 64  # no snappy element makes more than 64 bytes of fewer than 1
_CODEC_NUMBERS = {name: number for number, name in batches.CODECS.items()}

Headers = Sequence[tuple[str, bytes | None]]


class Record(Protocol):
    """A decoded record.  `timestamp` in ms since the epoch, -1 for none; `timestamp_type` 1 is LogAppendTime.

    Bytes of a header's name that are not UTF-8 are kept by surrogateescape (PEP 383): `name.encode("utf-8", "surrogateescape")` is what
    was produced.
    """

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def timestamp_type(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> list[tuple[str, bytes | None]]: ...


def name_bytes(name: str) -> bytes:
    """A header's name as it was produced."""
    return name.encode("utf-8", "surrogateescape")


def name_text(name: str) -> str:
    """A header's name for files that hold text only: itself, or `base64:` and its bytes where those are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"base64:{base64.b64encode(name_bytes(name)).decode()}"
    return name


class NewRecord(NamedTuple):
    """A record to be written.  `offset_delta` None: the next one after its neighbour."""

    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    offset_delta: int | None = None


class WindowTooLarge(InvalidRecord):
    """A zstd frame asks for more memory than its reader gives."""


def decompressed_steps(
    codec: int, data: Buffer, *, bytes_max: int = DECOMPRESSED_READ_BYTES_MAX, window_bytes_max: int = ZSTD_WINDOW_BYTES_MAX
) -> Iterator[Buffer]:
    """The records section of a batch with `codec` (1 to 4), decompressed in steps.

    Raises:
        TooLarge: more than `bytes_max` bytes come out; nothing above one further step was made.
        InvalidRecord: `data` is not what `codec` says, or is cut off.
        WindowTooLarge: a zstd frame has a window above `window_bytes_max`.
    """
    total = 0
    steps = _zstd_steps(data, window_bytes_max) if codec == ZSTD else _STEPS[codec](data, bytes_max)
    try:
        for step in steps:
            total += len(step)
            if total > bytes_max:
                raise TooLarge(f"batch decompresses to more than {bytes_max} bytes ({batches.CODECS[codec]})")
            yield step
    except (zlib.error, zstandard.ZstdError, RuntimeError, EOFError, cramjam.DecompressionError, struct.error) as error:
        raise InvalidRecord(f"batch does not decompress as {batches.CODECS[codec]}: {error}") from None


def decompress(codec: int, data: Buffer, *, bytes_max: int = DECOMPRESSED_READ_BYTES_MAX) -> Buffer:
    """The same whole; codec 0 returns `data` itself."""
    if codec == 0:
        return data
    steps = list(decompressed_steps(codec, data, bytes_max=bytes_max))
    return steps[0] if len(steps) == 1 else b"".join(steps)


def _gzip_steps(data: Buffer, bytes_max: int) -> Iterator[Buffer]:
    view, position = memoryview(data), 0
    while position < len(view):
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            piece: Buffer = view[position : position + SLICE_BYTES]
            if not piece:
                raise EOFError("gzip stream is cut off")
            position += len(piece)
            while len(piece) and not member.eof:
                step = member.decompress(piece, STEP_BYTES)
                piece = member.unconsumed_tail
                if step:
                    yield step
        position -= len(member.unused_data)


def _zstd_steps(data: Buffer, window_bytes_max: int) -> Iterator[Buffer]:
    whole = zstandard.ZstdDecompressor(max_window_size=window_bytes_max)
    view, position = memoryview(data), 0
    while position < len(view):
        window = zstandard.get_frame_parameters(view[position : position + _ZSTD_HEADER_BYTES_MAX]).window_size
        if window > window_bytes_max:
            raise WindowTooLarge(f"batch asks for a zstd window of {window} bytes; at most {window_bytes_max} are allowed")
        frame = whole.decompressobj()
        while not frame.eof:
            # The object has no output limit, so its input is small: a slice of 4-byte run blocks makes 128 KiB each.
            piece = view[position : position + ZSTD_SLICE_BYTES]
            if not piece:
                raise EOFError("zstd frame is cut off")
            step = frame.decompress(piece)
            position += len(piece) - len(frame.unused_data)
            if step:
                yield step


def _lz4_steps(data: Buffer, bytes_max: int) -> Iterator[Buffer]:
    view, position = memoryview(data), 0
    while position < len(view):
        frame = lz4.frame.LZ4FrameDecompressor()
        while not frame.eof:
            piece = view[position : position + SLICE_BYTES] if frame.needs_input else b""
            if frame.needs_input and not piece:
                raise EOFError("lz4 frame is cut off")
            position += len(piece)
            step = frame.decompress(piece, STEP_BYTES)
            if step:
                yield step
        position -= len(frame.unused_data or b"")


def _snappy_steps(data: Buffer, bytes_max: int) -> Iterator[Buffer]:
    view = memoryview(data)
    if bytes(view[: len(_XERIAL_MAGIC)]) != _XERIAL_MAGIC:
        yield _snappy_block(view, bytes_max)
        return
    position = _XERIAL_HEADER_BYTES
    while position < len(view):
        size = struct.unpack_from(">i", view, position)[0]
        position += 4
        if size <= 0 or position + size > len(view):
            raise EOFError(f"snappy block says {size} bytes, {len(view) - position} are there")
        yield _snappy_block(view[position : position + size], bytes_max)
        position += size


def _snappy_block(block: memoryview, bytes_max: int) -> Buffer:
    size = cramjam.snappy.decompress_raw_len(block)
    if size > bytes_max or size > len(block) * _SNAPPY_RATIO_MAX:
        raise TooLarge(f"snappy block of {len(block)} bytes says it holds {size}; at most {bytes_max} are allowed")
    return memoryview(cramjam.snappy.decompress_raw(block))


_STEPS = {1: _gzip_steps, 2: _snappy_steps, 3: _lz4_steps}


def compressed(codec: int, section: Buffer) -> bytes:
    """A records section by `codec` (1 to 4), as Kafka's broker writes it: framed as Java's libraries are, levels of KIP-390."""
    return _COMPRESS[codec](bytes(section))


_COMPRESS: dict[int, Callable[[bytes], bytes]] = {1: gzip_encode, 2: snappy_encode, 3: lz4_encode, 4: zstd_encode}


def decode_batch(batch: Buffer, *, decompressed_bytes_max: int = DECOMPRESSED_READ_BYTES_MAX) -> list[Record]:
    """The records of one whole batch, with absolute offsets and timestamps (ms).

    Raises:
        InvalidRecord: the bytes are not what the header says.
        TooLarge: more than `decompressed_bytes_max` bytes of records.
        Corrupt: fewer bytes than a header.
    """
    header, opened = open_batch(batch, decompressed_bytes_max)
    try:
        records: list[Record] = list(DefaultRecordBatch(opened))
        return list(map(_timed, records)) if None in map(_TIMESTAMP, records) else records
    except REFUSED:
        return [*patient_records.decode(header, opened[BATCH_HEADER_BYTES:])]


def each_record(batch: Buffer, *, decompressed_bytes_max: int = DECOMPRESSED_READ_BYTES_MAX) -> Iterator[Record]:
    """The same one at a time, for who cannot hold what a batch may become (a header of two bytes is an object of two hundred)."""
    header, opened = open_batch(batch, decompressed_bytes_max)
    given = 0
    try:
        for record in DefaultRecordBatch(opened):
            yield _timed(record)
            given += 1
    except REFUSED:
        yield from islice(patient_records.decode(header, opened[BATCH_HEADER_BYTES:]), given, None)


# What the compiled decoder raises, and so where the patient one has the last word: also for header names that are not UTF-8,
# which Kafka takes; MemoryError for a length near 2^63.
REFUSED = (CorruptRecordException, ValueError, OverflowError, IndexError, MemoryError)
_TIMESTAMP = attrgetter("timestamp")
_NO_TIMESTAMP = -1
SLACK_BYTES = 32  # the compiled decoder reads a varint to its end, wherever the buffer's is, and a byte or two behind it


def _timed(record: Record) -> Record:
    """The compiled decoder says None where there is no timestamp."""
    timestamp: int | None = record.timestamp
    if timestamp is not None:
        return record
    return PlainRecord(record.offset, _NO_TIMESTAMP, 0, record.key, record.value, record.headers)


def open_batch(
    batch: Buffer, bytes_max: int = DECOMPRESSED_READ_BYTES_MAX, window_bytes_max: int = ZSTD_WINDOW_BYTES_MAX
) -> tuple[batches.BatchHeader, memoryview]:
    """The header as it is, and the batch as it is without compression, fit for the compiled decoder: a copy.

    Raises as decompressed_steps and decode_batch.
    """
    header = batches.header_at(batch)
    if header.codec not in batches.CODECS:
        raise InvalidRecord(f"unknown compression codec {header.codec}; 0 to 4 are known")
    if header.size > len(batch) or header.length < BATCH_HEADER_BYTES - BATCH_OVERHEAD_BYTES:
        raise InvalidRecord(f"batch at offset {header.base_offset} says {header.size} bytes, {len(batch)} are there")
    view = memoryview(batch)[: header.size]
    plain = bytearray(view) if header.codec == 0 else bytearray(view[:BATCH_HEADER_BYTES])
    if header.codec:
        body = view[BATCH_HEADER_BYTES:]
        for step in decompressed_steps(header.codec, body, bytes_max=bytes_max, window_bytes_max=window_bytes_max):
            plain += step
    size = len(plain)
    if header.record_count < 0 or header.record_count * RECORD_BYTES_MIN > size - BATCH_HEADER_BYTES:
        raise InvalidRecord(
            f"batch at offset {header.base_offset} says {header.record_count} records in {size - BATCH_HEADER_BYTES} bytes"
        )
    struct.pack_into(">h", plain, batches.ATTRIBUTES_OFFSET, header.attributes & ~batches.CODEC_MASK)
    plain += bytes(SLACK_BYTES)
    return header, memoryview(plain)[:size]


def encode_batch(
    records: Sequence[NewRecord],
    codec: str | int = "none",
    base_offset: int = 0,
    *,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    leader_epoch: int = -1,
    is_transactional: bool = False,
) -> bytearray:
    """One batch of `records` (at least one), CRC included; writable, so that an append may stamp it in place."""
    assert records, "a batch has at least one record"
    number = _CODEC_NUMBERS[codec] if isinstance(codec, str) else codec
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=number,
        is_transactional=int(is_transactional),
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
        batch_size=2**31 - 1,
    )
    delta = -1
    for record in records:
        delta = delta + 1 if record.offset_delta is None else record.offset_delta
        builder.append(delta, record.timestamp, record.key, record.value, list(record.headers))
    data: bytearray = builder.build()
    length = batches.header_at(data).length
    struct.pack_into(">qii", data, 0, base_offset, length, leader_epoch)
    return data
