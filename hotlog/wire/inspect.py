"""What a produced batch's records say, whatever its header claims: the door's look inside.

Kafka opens what it is sent as well (LogValidator) and derives the largest timestamp itself; what is stored wrong once fails every reader
for ever, or is deleted too early.  The walk is aiokafka's compiled decoder, a piece at a time; what it refuses has a second look in plain
Python (hotlog.wire.patient_records).  docs/decisions/0017 has the reasons, docs/benchmarks.md the cost.

Invariants: a batch that passes holds exactly the records that its header counts, well formed, offsets ascending by one from its base;
the header handed back says their largest timestamp; what is looked at in one go is bounded by a Room; the interpreter is never held
for more than a piece of PIECE_RECORDS records.
"""

from __future__ import annotations

import struct
import time
from itertools import chain, islice
from operator import attrgetter
from typing import NamedTuple, NoReturn

from aiokafka.record.default_records import DefaultRecordBatch

from hotlog.kernel.errors import InvalidRecord, InvalidTimestamp, TooLarge
from hotlog.kernel.limits import BATCH_HEADER_BYTES, ZSTD_WINDOW_BYTES_MAX, KiB, MiB
from hotlog.wire import patient_records
from hotlog.wire.batch import (
    ATTRIBUTES_OFFSET,
    CODEC_MASK,
    CRC_INLINE_BYTES_MAX,
    TIMESTAMP_TYPE_MASK,
    BatchHeader,
    check_crc,
    header_at,
    stamp_create_time,
)
from hotlog.wire.records import RECORD_BYTES_MIN, REFUSED, WindowTooLarge, open_batch

PIECE_RECORDS = 256
LARGE_RECORD_BYTES = 16 * KiB  # from here on a copy of every value costs more than plain Python without one
FAULTS_MAX = 1_000  # records named in one answer
NO_TIMESTAMP = -1
_YIELD_S = 50e-6  # asleep after some pieces: what the loop's thread needs to take the interpreter
_YIELD_RECORDS = 32 * PIECE_RECORDS  # about a millisecond
assert _YIELD_RECORDS > 4096, "nobody sleeps on the event loop"

_OFFSET, _TIMESTAMP, _KEY = attrgetter("offset"), attrgetter("timestamp"), attrgetter("key")


class Rules(NamedTuple):
    """What a topic asks of every record.  Timestamps from `earliest` to `latest` (ms, inclusive), or none; with LogAppendTime any."""

    earliest: int
    latest: int
    is_log_append_time: bool
    needs_keys: bool


class Room(NamedTuple):
    """How much may be looked at in one go: bytes as sent, bytes decompressed, zstd window, records; and records in plain Python."""

    plain_bytes: int  # of a batch that is not compressed
    packed_bytes: int  # of one that is
    output_bytes: int
    window_bytes: int
    records: int
    patient_records: int


_ANY = 2**63
INLINE = Room(CRC_INLINE_BYTES_MAX, 32 * KiB, 1 * MiB, 8 * MiB, 4096, 64)  # on the event loop: a millisecond at most
THREAD = Room(_ANY, _ANY, 16 * MiB, 8 * MiB, _ANY, _ANY)  # in any of its threads


def alone(decompressed_bytes_max: int) -> Room:
    """In one thread at a time: with the largest output and window."""
    return Room(_ANY, _ANY, decompressed_bytes_max, ZSTD_WINDOW_BYTES_MAX, _ANY, _ANY)


def inspect(batch: memoryview, header: BatchHeader, rules: Rules, room: Room) -> BatchHeader | None:
    """Hold one batch, whose header was checked, against its records; a wrong largest timestamp is put right in place, CRC included.

    None: it needs a larger room (never with `alone`).

    Raises:
        InvalidRecord: it does not decompress, is not what its header says, or lacks a key that the topic needs.
        InvalidTimestamp: records outside the topic's limits.
        TooLarge: it decompresses to more than the room, and there is no larger one.
        CrcMismatch: one above CRC_INLINE_BYTES_MAX fails its CRC-32C.
    """
    is_roomy = room.window_bytes == ZSTD_WINDOW_BYTES_MAX
    if header.size > (room.packed_bytes if header.codec else room.plain_bytes) or header.record_count > room.records:
        return None
    if header.length > CRC_INLINE_BYTES_MAX:
        check_crc(batch, header)
    if header.is_log_append_time and rules.is_log_append_time:  # with CreateTime Kafka takes it, and takes the mark away
        message = "a producer may not say that the broker has set its timestamps"
        raise InvalidTimestamp(message, tuple((index, message) for index in range(min(header.record_count, FAULTS_MAX))))
    try:
        plain = _plain(batch, header, room)
    except (TooLarge, WindowTooLarge):
        if is_roomy:
            raise
        return None
    largest = _walk(plain, header_at(plain), rules, room)
    if largest is None:
        return None
    if rules.is_log_append_time or (largest == header.max_timestamp and not header.is_log_append_time):
        return header
    return stamp_create_time(batch, header, largest)


def _plain(batch: memoryview, header: BatchHeader, room: Room) -> memoryview:
    """The batch without compression, its timestamps the producer's; itself where the compiled decoder cannot read beyond it: no varint
    reaches over its end."""
    if header.codec or header.is_log_append_time or batch[-1] >= 0x80:
        plain = open_batch(batch, room.output_bytes, room.window_bytes)[1]
        struct.pack_into(">h", plain, ATTRIBUTES_OFFSET, header.attributes & ~(CODEC_MASK | TIMESTAMP_TYPE_MASK))
        return plain
    if header.record_count * RECORD_BYTES_MIN > header.size - BATCH_HEADER_BYTES:
        raise InvalidRecord(f"batch of {header.size} bytes says it holds {header.record_count} records")
    return batch


def _walk(plain: memoryview, header: BatchHeader, rules: Rules, room: Room) -> int | None:
    """The largest timestamp of the records; None: too many for this room."""
    if len(plain) < LARGE_RECORD_BYTES * header.record_count:
        try:
            return _walk_compiled(plain, header, rules)
        except (*REFUSED, _Faulty):
            pass
    if header.record_count > room.patient_records:
        return None
    return _walk_patiently(plain[BATCH_HEADER_BYTES:], header, rules)


class _Faulty(Exception):
    """A piece has a record that the topic does not take: the patient walk says which."""


def _walk_compiled(plain: memoryview, header: BatchHeader, rules: Rules) -> int:
    earliest, latest, is_log_append_time, needs_keys = rules
    largest, offset = NO_TIMESTAMP, header.base_offset
    records = chain(DefaultRecordBatch(plain))  # asked for an iterator once: the decoder is one
    while piece := list(islice(records, PIECE_RECORDS)):
        following = offset + len(piece)
        if list(map(_OFFSET, piece)) != list(range(offset, following)):
            raise _Faulty
        offset = following
        if not is_log_append_time:
            times = set(map(_TIMESTAMP, piece))
            times.discard(None)  # how the compiled decoder says -1
            if times:
                newest = max(times)
                if newest > latest or min(times) < earliest:
                    raise _Faulty
                largest = max(largest, newest)
        if needs_keys and None in map(_KEY, piece):
            raise _Faulty
        if (offset - header.base_offset) % _YIELD_RECORDS == 0:
            time.sleep(_YIELD_S)
    return largest


def _walk_patiently(section: memoryview, header: BatchHeader, rules: Rules) -> int:
    """The same, naming each record that the topic does not take."""
    faults: list[tuple[int, str]] = []
    is_late, largest = False, NO_TIMESTAMP
    for index, record in enumerate(patient_records.outlines(section, header.record_count)):
        if record.offset_delta != index:
            raise InvalidRecord(
                f"record {index} of the batch says that its offset is {record.offset_delta} above the first one's"
            )
        timestamp = patient_records.time_of(header, record.timestamp_delta)
        largest = max(largest, timestamp)
        if rules.needs_keys and record.key is None:
            faults.append((index, "a compacted topic takes no record without a key"))
        elif not rules.is_log_append_time and timestamp != NO_TIMESTAMP and not rules.earliest <= timestamp <= rules.latest:
            is_late = True
            faults.append((index, f"timestamp {timestamp} is outside of {rules.earliest} to {rules.latest}"))
        if len(faults) >= FAULTS_MAX:
            break
        if index % PIECE_RECORDS == PIECE_RECORDS - 1:
            time.sleep(_YIELD_S)
    if faults:
        _refuse(faults, is_late)
    return largest


def _refuse(faults: list[tuple[int, str]], is_late: bool) -> NoReturn:
    shown = "; ".join(f"record {index}: {reason}" for index, reason in faults[:3])
    kind = InvalidTimestamp if is_late else InvalidRecord  # as Kafka where there are both
    raise kind(f"the batch is refused for {len(faults)} of its records: {shown}", tuple(faults))
