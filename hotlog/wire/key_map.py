"""The newest offset of every key in a part of a log, and what of a log remains by it.  Log compaction lives here, record by record.

Both passes go over runs of batches, not single ones, and make no object for a record where our few lines of C were built (_keys.c).  Where no
compiler was at hand plain Python stands in: some thirty times the cost, the same bytes.

What neither looks into is the caller's: batches that are compressed or end a transaction, and those of transactions, which may be aborted.

Kafka's rules (Cleaner.shouldRetainRecord, MemoryRecords.filterTo): a record remains if no newer one of its key is known; a tombstone remains
until the horizon of its batch has passed, which is set when the batch is first looked at (KIP-534: the base timestamp is the horizon then,
attribute bit 6 says so); a record without a key goes; a batch keeps its first and last offset, whatever goes out of it.

Keys: the native table compares hashes of 128 bits under a seed of its own, so that two of n keys are taken for one with a probability below
n*n / 2**129 (one in 10**20 for a thousand million keys), and nobody can look for such keys.  The plain one compares keys.

Invariants: a map holds as many keys as it was made for and not one more: who asks for more is told where to stop; a batch is read only after
its CRC-32C was found right, unless the caller says that it was; a batch of which all remains is copied as it is.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple, Protocol

from crc32c import crc32c

from hotlog.kernel.errors import InvalidRecord
from hotlog.kernel.limits import BATCH_HEADER_BYTES, BATCH_OVERHEAD_BYTES
from hotlog.wire.batch import (
    ATTRIBUTES_OFFSET,
    CODEC_MASK,
    CONTROL_MASK,
    CRC_OFFSET,
    DELETE_HORIZON_MASK,
    HEADER,
    BatchHeader,
    crc_ok,
    header_at,
)
from hotlog.wire.bounds import uvarint
from hotlog.wire.patient_records import VARINT_BYTES_MAX, VARLONG_BYTES_MAX, number_at, time_after
from hotlog.world.ports import Buffer

SLOT_BYTES = 24  # a hash of 16 and an offset of 8, as Kafka's own map
LOAD_FACTOR = 0.9  # log.cleaner.io.buffer.load.factor
PLAIN_KEY_BYTES = 256  # what a key costs a Python dict, roughly
GROWTH_MAX = 13  # bytes that a record may gain by another base timestamp
FORCED, UNCHECKED = 1, 2  # look into batches of transactions too; the CRC-32C was checked


class Why(IntEnum):
    """Why a pass ended before, or at, the end of what it was given."""

    END = 0  # of the bytes: the last batch may be cut off
    OPEN = 1  # a batch that the caller has to look into
    FULL = 2  # the map
    BAD = 3  # a batch that cannot be, or fails its CRC-32C
    EMPTY = 4  # nothing remains of a batch, and it may have to stay all the same: a producer's, the last of all, one that was emptied before
    ROOM = 5  # for what remains


class Noted(NamedTuple):
    """`position`: the byte behind the last batch noted; `latest`: its last offset."""

    position: int
    latest: int
    why: Why


class Rules(NamedTuple):
    """What remains.

    `latest`: up to this offset the map knows every key, and what is newer remains.  Tombstones whose horizon `now_ms` has reached go;
    `horizon_ms` is that of tombstones that have none yet.  The batch that ends right below offset `upper` stays, empty if need be.
    """

    latest: int
    now_ms: int
    horizon_ms: int
    upper: int


class Sifted(NamedTuple):
    """`position`: the byte behind the last batch looked at; `written` bytes of `out`; records that were looked at and that remain; batches that
    were dropped or written anew; `last`: the byte of the last batch looked at, -1 for none; `end`: the offset behind the last one written, -1.
    """

    position: int
    written: int
    why: Why
    seen: int
    kept: int
    changed: int
    last: int
    end: int


class KeyMap(Protocol):
    """Newest offsets by key."""

    @property
    def used(self) -> int:
        """Keys."""
        ...

    @property
    def keys_max(self) -> int: ...

    def note(self, batches: Buffer, from_offset: int, latest: int, flags: int = 0) -> Noted:
        """Note the keys of whole batches, at and above `from_offset`; `latest` is what `Noted.latest` was before."""
        ...

    def sift(self, batches: Buffer, out: bytearray, rules: Rules, flags: int = 0) -> Sifted:
        """Write what remains of whole batches to `out`, which is at least as large as `room_for` says."""
        ...


def room_for(batch_bytes: int) -> int:
    """Bytes that may remain of so many: a record of 7 bytes may gain GROWTH_MAX."""
    return 3 * batch_bytes


class NativeKeyMap:
    """By _keys.c."""

    def __init__(self, keys_max: int, seed: bytes) -> None:
        self.used, self.keys_max = 0, keys_max
        self._table = mmap.mmap(-1, max(int(keys_max / LOAD_FACTOR) + 2, 8) * SLOT_BYTES)  # memory comes as it is touched
        self._seed = seed

    def note(self, batches: Buffer, from_offset: int, latest: int, flags: int = 0) -> Noted:
        position, self.used, latest, why = _keys.note(
            self._table, self.used, self.keys_max, self._seed, batches, from_offset, latest, flags
        )
        return Noted(position, latest, Why(why))

    def sift(self, batches: Buffer, out: bytearray, rules: Rules, flags: int = 0) -> Sifted:
        position, written, why, *counts = _keys.sift(self._table, self._seed, batches, out, *rules, flags)
        return Sifted(position, written, Why(why), *counts)


class _Record(NamedTuple):
    """Where a record's parts lie: [start, end) of the batch; `rest` is behind the timestamp's difference."""

    start: int
    attributes: int
    rest: int
    end: int
    time_delta: int
    offset_delta: int
    key: bytes | None
    has_value: bool


class _Bad(Exception):
    """Records that cannot be."""


def _records(header: BatchHeader, batch: memoryview) -> Iterator[_Record]:
    at, before = BATCH_HEADER_BYTES, -1
    for _ in range(header.record_count):
        try:
            record = _record_at(batch, at)
        except (IndexError, InvalidRecord):
            raise _Bad from None
        if not before < record.offset_delta <= header.last_offset_delta:
            raise _Bad
        yield record
        at, before = record.end, record.offset_delta
    if at != len(batch):
        raise _Bad


def _record_at(batch: memoryview, start: int) -> _Record:
    """Raises IndexError where something is cut off, InvalidRecord for a number of too many bytes."""
    length, attributes = number_at(batch, start, VARINT_BYTES_MAX)
    if length < 1 or attributes + length > len(batch):
        raise IndexError
    record = batch[: attributes + length]
    time_delta, rest = number_at(record, attributes + 1, VARLONG_BYTES_MAX)
    offset_delta, at = number_at(record, rest, VARINT_BYTES_MAX)
    size, at = number_at(record, at, VARINT_BYTES_MAX)
    key = bytes(record[at : at + size]) if size >= 0 else None
    at += max(size, 0)
    if at > len(record):
        raise IndexError
    size, at = number_at(record, at, VARINT_BYTES_MAX)
    if at + max(size, 0) > len(record):
        raise IndexError
    return _Record(start, attributes, rest, len(record), time_delta, offset_delta, key, size >= 0)


def _batch_at(view: memoryview, at: int, flags: int) -> tuple[Why | None, BatchHeader | None, memoryview]:
    """(why nobody looks into the batch at byte `at`, its header, its bytes)."""
    if len(view) - at < BATCH_HEADER_BYTES:
        return Why.END, None, view[:0]
    header = header_at(view, at)
    if header.length < BATCH_HEADER_BYTES - BATCH_OVERHEAD_BYTES or header.magic != 2:
        return Why.BAD, header, view[:0]
    if header.size > len(view) - at:
        return Why.END, header, view[:0]
    batch = view[at : at + header.size]
    is_sane = (
        header.record_count >= 0 and header.base_offset >= 0 and header.last_offset_delta >= 0 and header.next_offset < 2**63
    )
    if not is_sane or not (flags & UNCHECKED or crc_ok(batch)):
        return Why.BAD, header, batch
    if header.attributes & (CODEC_MASK | CONTROL_MASK) or (header.is_transactional and not flags & FORCED):
        return Why.OPEN, header, batch
    return None, header, batch


class PlainKeyMap:
    """In plain Python."""

    def __init__(self, keys_max: int, seed: bytes = b"") -> None:
        self.keys_max = keys_max
        self._offsets: dict[bytes, int] = {}

    @property
    def used(self) -> int:
        return len(self._offsets)

    def note(self, batches: Buffer, from_offset: int, latest: int, flags: int = 0) -> Noted:
        view, at = memoryview(batches), 0
        while True:
            why, header, batch = _batch_at(view, at, flags)
            if why is not None or header is None:
                return Noted(at, latest, why or Why.END)
            if header.last_offset >= from_offset:
                try:
                    if not self._note_batch(header, batch, from_offset):
                        return Noted(at, latest, Why.FULL)
                except _Bad:
                    return Noted(at, latest, Why.BAD)
                latest = header.last_offset
            at += header.size

    def _note_batch(self, header: BatchHeader, batch: memoryview, from_offset: int) -> bool:
        offsets = self._offsets
        for record in _records(header, batch):
            offset = header.base_offset + record.offset_delta
            if record.key is None or offset < from_offset:
                continue
            if record.key not in offsets and len(offsets) >= self.keys_max:
                return False
            offsets[record.key] = max(offset, offsets.get(record.key, 0))
        return True

    def sift(self, batches: Buffer, out: bytearray, rules: Rules, flags: int = 0) -> Sifted:
        view, at, written, seen, kept, changed, last, end = memoryview(batches), 0, 0, 0, 0, 0, -1, -1
        while True:
            why, header, batch = _batch_at(view, at, flags)
            if why is not None or header is None:
                break
            if len(out) - written < header.size + GROWTH_MAX * header.record_count:
                why = Why.ROOM
                break
            try:
                remaining = self._remaining(header, batch, rules)
            except _Bad:
                why = Why.BAD
                break
            if not remaining and (not header.record_count or header.producer_id >= 0 or header.next_offset == rules.upper):
                why = Why.EMPTY
                break
            data: Buffer = b""
            if remaining:
                is_new = not header.attributes & DELETE_HORIZON_MASK and any(not record.has_value for record in remaining)
                data = _rewritten(header, batch, remaining, rules.horizon_ms if is_new else None)
                end = header.next_offset
            out[written : written + len(data)] = data
            written += len(data)
            seen += header.record_count
            kept += len(remaining)
            changed += data is not batch
            last, at = at, at + header.size
        return Sifted(at, written, why or Why.END, seen, kept, changed, last, end)

    def _remaining(self, header: BatchHeader, batch: memoryview, rules: Rules) -> list[_Record]:
        has_horizon = bool(header.attributes & DELETE_HORIZON_MASK)
        is_expired = has_horizon and rules.now_ms >= header.base_timestamp
        found = []
        for record in _records(header, batch):
            offset = header.base_offset + record.offset_delta
            if offset <= rules.latest:
                if record.key is None or offset < self._offsets.get(record.key, -1):
                    continue
                if not record.has_value and is_expired:
                    continue
            found.append(record)
        return found


def _rewritten(header: BatchHeader, batch: memoryview, remaining: list[_Record], horizon_ms: int | None) -> Buffer:
    """The batch with only `remaining` records, and with a delete horizon if one is given."""
    if len(remaining) == header.record_count and horizon_ms is None:
        return batch
    attributes, base, largest = header.attributes, header.base_timestamp, header.max_timestamp
    if not header.is_log_append_time:
        largest = max(-1, *(time_after(base, record.time_delta) for record in remaining))
    parts: list[Buffer] = []
    if horizon_ms is None:
        parts = [batch[record.start : record.end] for record in remaining]
    else:
        attributes |= DELETE_HORIZON_MASK
        for record in remaining:
            rest = batch[record.rest : record.end]
            delta = number_bytes(time_after(base - horizon_ms, record.time_delta))
            parts += [number_bytes(1 + len(delta) + len(rest)), batch[record.attributes : record.attributes + 1], delta, rest]
        base = horizon_ms
    return made(
        header._replace(attributes=attributes, base_timestamp=base, max_timestamp=largest, record_count=len(remaining)),
        b"".join(parts),
    )


def with_horizon(header: BatchHeader, batch: memoryview, horizon_ms: int) -> Buffer:
    """A batch without compression as it is, with a delete horizon.  Raises InvalidRecord."""
    try:
        return _rewritten(header, batch, list(_records(header, batch)), horizon_ms)
    except _Bad:
        raise InvalidRecord(f"the batch at offset {header.base_offset} has no records that can be read") from None


def number_bytes(value: int) -> bytes:
    """A zigzag varint, as Kafka writes it."""
    return uvarint((value << 1) ^ (value >> 63))


def made(header: BatchHeader, section: Buffer) -> bytearray:
    """A batch of that header and records section: length and CRC-32C are made here."""
    data = bytearray(BATCH_HEADER_BYTES) + section
    HEADER.pack_into(data, 0, *header._replace(length=len(data) - BATCH_OVERHEAD_BYTES))
    struct.pack_into(">I", data, CRC_OFFSET, crc32c(memoryview(data)[ATTRIBUTES_OFFSET:]))
    return data


def emptied(header: BatchHeader) -> bytearray:
    """A batch without records that keeps what its header says of offsets and producer (DefaultRecordBatch.writeEmptyHeader)."""
    attributes = header.attributes & ~(CODEC_MASK | DELETE_HORIZON_MASK)
    return made(header._replace(attributes=attributes, base_timestamp=-1, record_count=0), b"")


try:
    from hotlog.wire import _keys
except ImportError:
    KEY_BYTES = PLAIN_KEY_BYTES
    KeyMapKind: type[NativeKeyMap] | type[PlainKeyMap] = PlainKeyMap
else:
    KEY_BYTES = SLOT_BYTES
    KeyMapKind = NativeKeyMap


def key_map(bytes_max: int, keys_wanted: int, seed: bytes, load_factor: float = LOAD_FACTOR) -> KeyMap:
    """A map for `keys_wanted` keys, or for as many as go into `bytes_max` bytes; at least one.

    Args:
        seed: 16 random bytes.
    """
    return KeyMapKind(max(min(int(bytes_max / KEY_BYTES * min(load_factor, LOAD_FACTOR)), keys_wanted), 1), seed)
