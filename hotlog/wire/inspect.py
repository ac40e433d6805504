"""What a produced batch's records say, whatever its header claims: the door's look inside.

Kafka opens what it is sent as well (LogValidator) and derives the largest timestamp itself; what is stored wrong once fails every reader
for ever, or is deleted too early.  hotlog.wire.record_walk goes over the records; what it does not take has a second look in plain
Python (hotlog.wire.patient_records), which names what is wrong.  docs/decisions/0017 and 0018 have the reasons, docs/benchmarks.md the
cost.

Invariants: a batch that passes holds exactly the records that its header counts, well formed, offsets ascending by one from its base;
the header handed back says their largest timestamp; what is looked at in one go is bounded by a Room; the interpreter is never held
for long (hotlog.wire.record_walk; plain Python lets go by itself).
"""

from __future__ import annotations

import time
from typing import NamedTuple, NoReturn, Protocol

from hotlog.kernel.errors import InvalidRecord, InvalidTimestamp, TooLarge
from hotlog.kernel.limits import BATCH_HEADER_BYTES, BATCH_OVERHEAD_BYTES, ZSTD_WINDOW_BYTES_MAX, KiB, MiB
from hotlog.wire import patient_records, record_walk
from hotlog.wire.batch import (
    CODEC_MASK,
    CRC_INLINE_BYTES_MAX,
    TIMESTAMP_TYPE_MASK,
    BatchHeader,
    check_crc,
    stamp_create_time,
)
from hotlog.wire.records import RECORD_BYTES_MIN, WindowTooLarge, open_batch

FAULTS_MAX = 1_000  # records named in one answer
NO_TIMESTAMP = -1
_YIELD_RECORDS = 256  # in plain Python


class Rules(Protocol):
    """What a topic asks of every record, as its TopicConfig says it: timestamps that are not too far from now (ms), or none; with
    LogAppendTime any; a key where it is compacted."""

    @property
    def timestamp_before_max_ms(self) -> int: ...
    @property
    def timestamp_after_max_ms(self) -> int: ...
    @property
    def is_log_append_time(self) -> bool: ...
    @property
    def is_compacted(self) -> bool: ...


class Room(NamedTuple):
    """How much may be looked at in one go: bytes as sent, bytes decompressed, zstd window, records; records and headers in plain Python."""

    plain_bytes: int  # of a batch that is not compressed
    packed_bytes: int  # of one that is
    output_bytes: int
    window_bytes: int
    records: int
    patient_records: int
    patient_headers: int


_ANY = 2**63
INLINE = Room(CRC_INLINE_BYTES_MAX, 32 * KiB, 1 * MiB, 8 * MiB, 4096, 64, 256)  # on the event loop: a millisecond at most
THREAD = Room(_ANY, _ANY, 16 * MiB, 8 * MiB, _ANY, _ANY, _ANY)  # in any of its threads


def alone(decompressed_bytes_max: int) -> Room:
    """In one thread at a time: with the largest output and window."""
    return Room(_ANY, _ANY, decompressed_bytes_max, ZSTD_WINDOW_BYTES_MAX, _ANY, _ANY, _ANY)


def inspect(batch: memoryview, header: BatchHeader, rules: Rules, now_ms: int, room: Room) -> BatchHeader | None:
    """Hold one batch, whose header was checked, against its records; a wrong largest timestamp is put right in place, CRC included.

    None: it needs a larger room (never with `alone`).

    Raises:
        InvalidRecord: it does not decompress, is not what its header says, or lacks a key that the topic needs.
        InvalidTimestamp: records outside the topic's limits.
        TooLarge: it decompresses to more than the room, and there is no larger one.
        CrcMismatch: one above CRC_INLINE_BYTES_MAX fails its CRC-32C.
    """
    length, count, attributes = header.length, header.record_count, header.attributes
    codec, is_marked = attributes & CODEC_MASK, attributes & TIMESTAMP_TYPE_MASK
    if length + BATCH_OVERHEAD_BYTES > (room.packed_bytes if codec else room.plain_bytes) or count > room.records:
        return None
    if length > CRC_INLINE_BYTES_MAX:
        check_crc(batch, header)
    is_stamped_here = rules.is_log_append_time
    if is_marked and is_stamped_here:  # with CreateTime Kafka takes it, and takes the mark away
        message = "a producer may not say that the broker has set its timestamps"
        raise InvalidTimestamp(message, tuple((index, message) for index in range(min(count, FAULTS_MAX))))
    plain: memoryview | None = batch
    if codec and (plain := _opened(batch, room)) is None:
        return None
    assert plain is not None
    if count * RECORD_BYTES_MIN > len(plain) - BATCH_HEADER_BYTES:
        raise InvalidRecord(f"batch of {len(plain)} bytes says it holds {count} records")
    said = record_walk.walk(plain, count, header.base_timestamp)
    if said is None or not _takes(rules, now_ms, said):
        if count > room.patient_records:
            return None
        try:
            largest = _walk_patiently(plain[BATCH_HEADER_BYTES:], header, rules, now_ms, room.patient_headers)
        except patient_records.ManyHeaders:
            return None
    else:
        largest = said[1] if said[1] > NO_TIMESTAMP else NO_TIMESTAMP
    if is_stamped_here or (largest == header.max_timestamp and not is_marked):
        return header
    return stamp_create_time(batch, header, largest)


def _takes(rules: Rules, now_ms: int, said: tuple[int, int, bool]) -> bool:
    """Whether the topic takes records of which a walk says this."""
    oldest, newest, lacks_key = said
    if lacks_key and rules.is_compacted:
        return False
    if rules.is_log_append_time:
        return True
    return newest <= now_ms + rules.timestamp_after_max_ms and oldest >= now_ms - rules.timestamp_before_max_ms


def _opened(batch: memoryview, room: Room) -> memoryview | None:
    """A compressed batch without compression; None: too large for this room."""
    try:
        return open_batch(batch, room.output_bytes, room.window_bytes)[1]
    except (TooLarge, WindowTooLarge):
        if room.window_bytes == ZSTD_WINDOW_BYTES_MAX:
            raise
        return None


def _walk_patiently(section: memoryview, header: BatchHeader, rules: Rules, now_ms: int, headers_max: int) -> int:
    """The largest timestamp of the records, naming each record that the topic does not take."""
    earliest, latest = now_ms - rules.timestamp_before_max_ms, now_ms + rules.timestamp_after_max_ms
    is_log_append_time, needs_keys = rules.is_log_append_time, rules.is_compacted
    base_timestamp = header.base_timestamp  # each record's own time counts, whatever the header's mark says
    faults: list[tuple[int, str]] = []
    is_late, largest = False, NO_TIMESTAMP
    for index, record in enumerate(patient_records.outlines(section, header.record_count, headers_max)):
        if record.offset_delta != index:
            raise InvalidRecord(
                f"record {index} of the batch says that its offset is {record.offset_delta} above the first one's"
            )
        timestamp = patient_records.time_after(base_timestamp, record.timestamp_delta)
        largest = max(largest, timestamp)
        if needs_keys and record.key is None:
            faults.append((index, "a compacted topic takes no record without a key"))
        elif not is_log_append_time and timestamp != NO_TIMESTAMP and not earliest <= timestamp <= latest:
            is_late = True
            faults.append((index, f"timestamp {timestamp} is outside of {earliest} to {latest}"))
        if len(faults) >= FAULTS_MAX:
            break
        if index % _YIELD_RECORDS == _YIELD_RECORDS - 1:
            time.sleep(record_walk.YIELD_S)
    if faults:
        _refuse(faults, is_late)
    return largest


def _refuse(faults: list[tuple[int, str]], is_late: bool) -> NoReturn:
    shown = "; ".join(f"record {index}: {reason}" for index, reason in faults[:3])
    kind = InvalidTimestamp if is_late else InvalidRecord  # as Kafka where there are both
    raise kind(f"the batch is refused for {len(faults)} of its records: {shown}", tuple(faults))
