"""Records read in plain Python: what the compiled decoder cannot read, or should not copy.

The compiled one (hotlog.wire.records) raises on a header name that is not UTF-8, and copies every value.  This one keeps names by
surrogateescape and copies nothing until it is asked to; it costs about 3 microseconds a record.  A record's attributes are a byte, no bit
of which has a meaning; the compiled decoder reads a varint there, so the highest bit is refused: both read the same, or nothing.

Format: https://kafka.apache.org/documentation/#record.  Widths are Kafka's: 5 bytes for a varint, 10 for the timestamp.

Invariants: nothing outside the records section is read; what does not fill its record, or the section, raises InvalidRecord.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hotlog.kernel.errors import InvalidRecord
from hotlog.wire.batch import BatchHeader

VARINT_BYTES_MAX, VARLONG_BYTES_MAX = 5, 10
_SHIFT_OF_TENTH = 63
_ANY = 2**63


class ManyHeaders(Exception):
    """More headers than may be looked at in one go."""


class PlainRecord(NamedTuple):
    """A decoded record, as hotlog.wire.records.Record says."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Outline(NamedTuple):
    """Where a record's parts lie in the section: half open byte ranges; None for null.  `rest` is where its headers begin."""

    offset_delta: int
    timestamp_delta: int
    key: tuple[int, int] | None
    value: tuple[int, int] | None
    rest: int
    header_count: int


def outlines(section: memoryview, count: int, headers_max: int = _ANY) -> Iterator[Outline]:
    """The records of a decompressed section, each checked to its last byte.

    Raises:
        InvalidRecord: it does not hold exactly `count` well-formed records.
        ManyHeaders: they say that they have more than `headers_max` in all.
    """
    position, end = 0, len(section)
    for index in range(count):
        try:
            length, start = number_at(section, position, VARINT_BYTES_MAX)
            if length < 0 or start + length > end:
                raise InvalidRecord(f"it says {length} bytes, {end - start} are left")
            record = section[: start + length]  # what reaches beyond raises
            if record[start] >= 0x80:
                raise InvalidRecord(f"it has attributes {record[start]:#04x}, which mean nothing")
            timestamp_delta, at = number_at(record, start + 1, VARLONG_BYTES_MAX)
            offset_delta, at = number_at(record, at, VARINT_BYTES_MAX)
            key, at = _part(record, at)
            value, at = _part(record, at)
            header_count, rest = number_at(record, at, VARINT_BYTES_MAX)
            if header_count < 0:
                raise InvalidRecord(f"it says {header_count} headers")
            headers_max -= header_count
            if headers_max < 0:
                raise ManyHeaders
            _check_headers(record, rest, header_count)
        except (IndexError, InvalidRecord) as error:
            reason = "it is cut off" if isinstance(error, IndexError) else str(error)
            raise InvalidRecord(f"malformed record {index}: {reason}") from None
        yield Outline(offset_delta, timestamp_delta, key, value, rest, header_count)
        position = start + length
    if position != end:
        raise InvalidRecord(f"{end - position} bytes are left behind the {count} records that the batch counts")


def _check_headers(record: memoryview, at: int, count: int) -> None:
    """Hold `count` headers from `at` on against the record's end."""
    for _ in range(count):
        name, at = _part(record, at)
        if name is None:
            raise InvalidRecord("a header has no name")
        _, at = _part(record, at)
    if at != len(record):
        raise InvalidRecord(f"{len(record) - at} bytes are left behind its headers")


def decode(header: BatchHeader, section: memoryview) -> list[PlainRecord]:
    """The records of a batch, from its decompressed section.

    Raises:
        InvalidRecord: as outlines.
    """
    kind = int(header.is_log_append_time)
    return [
        PlainRecord(
            header.base_offset + each.offset_delta,
            time_of(header, each.timestamp_delta),
            kind,
            _bytes(section, each.key),
            _bytes(section, each.value),
            _headers(section, each),
        )
        for each in outlines(section, header.record_count)
    ]


def time_of(header: BatchHeader, delta: int) -> int:
    """A record's timestamp in ms."""
    return header.max_timestamp if header.is_log_append_time else time_after(header.base_timestamp, delta)


def time_after(base_timestamp: int, delta: int) -> int:
    """`delta` ms after it: a sum of 64 bits that wraps, as in Java."""
    return (base_timestamp + delta + 2**63) % 2**64 - 2**63


def _headers(section: memoryview, record: Outline) -> list[tuple[str, bytes | None]]:
    found: list[tuple[str, bytes | None]] = []
    at = record.rest
    for _ in range(record.header_count):
        name, at = _part(section, at)
        value, at = _part(section, at)
        found.append((str(_bytes(section, name) or b"", "utf-8", "surrogateescape"), _bytes(section, value)))
    return found


def _bytes(section: memoryview, part: tuple[int, int] | None) -> bytes | None:
    return None if part is None else bytes(section[part[0] : part[1]])


def _part(data: memoryview, position: int) -> tuple[tuple[int, int] | None, int]:
    """(where nullable bytes lie, the position after them)."""
    size, at = number_at(data, position, VARINT_BYTES_MAX)
    if size < 0:
        return None, at
    if at + size > len(data):
        raise IndexError
    return (at, at + size), at + size


def number_at(data: memoryview, position: int, width: int) -> tuple[int, int]:
    """A zigzag varint and the position after it.  IndexError: cut off."""
    value = shift = 0
    for at in range(position, position + width):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if shift == _SHIFT_OF_TENTH:
                value &= 2**64 - 1  # as in Java
            return (value >> 1) ^ -(value & 1), at + 1
        shift += 7
    raise InvalidRecord(f"a number is longer than {width} bytes")
