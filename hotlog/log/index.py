"""Offset, time and transaction index entries: Kafka's bytes, searched where they lie.  Pure.

Offset index: relative offset i32 of a batch's LAST offset, position i32 of that batch.  Time index: timestamp i64, relative offset
i32 of the last offset of the batch that holds it, strictly ascending.  Transaction index: version i16, producer id i64, first offset
i64, last offset i64, last stable offset i64.  All big endian.

Invariants: a search never trusts an entry further than "start looking here": the reader checks the batch it finds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from hotlog.world.ports import Buffer

OFFSET_ENTRY = struct.Struct(">ii")
TIME_ENTRY = struct.Struct(">qi")
TXN_ENTRY = struct.Struct(">hqqqq")
OFFSET_BYTES, TIME_BYTES, TXN_BYTES = OFFSET_ENTRY.size, TIME_ENTRY.size, TXN_ENTRY.size
RELATIVE_OFFSET_MAX = 2**31 - 1
_FIRST_I32 = struct.Struct(">i")
_FIRST_I64 = struct.Struct(">q")
_LAST_OFFSET_AT = 18  # of an entry of the transaction index


class AbortedTransaction(NamedTuple):
    """One entry of the transaction index; both offsets inclusive."""

    producer_id: int
    first_offset: int
    last_offset: int
    last_stable_offset: int


def _floor(entries: Buffer, size: int, first: struct.Struct, wanted: int) -> int:
    """Index of the last entry whose first field is <= `wanted`, -1 if none.  `entries` ascend."""
    low, high = 0, len(entries) // size
    read = first.unpack_from
    while low < high:
        middle = (low + high) >> 1
        if read(entries, middle * size)[0] <= wanted:
            low = middle + 1
        else:
            high = middle
    return low - 1


def floor_offset(entries: Buffer, relative_offset: int) -> tuple[int, int] | None:
    """(relative offset, position) of the last entry at or below `relative_offset`."""
    found = _floor(entries, OFFSET_BYTES, _FIRST_I32, relative_offset)
    return None if found < 0 else OFFSET_ENTRY.unpack_from(entries, found * OFFSET_BYTES)


def floor_time(entries: Buffer, timestamp_ms: int) -> tuple[int, int] | None:
    """(timestamp, relative offset) of the last entry at or below `timestamp_ms`."""
    found = _floor(entries, TIME_BYTES, _FIRST_I64, timestamp_ms)
    return None if found < 0 else TIME_ENTRY.unpack_from(entries, found * TIME_BYTES)


def entry_count_max(index_bytes_max: int, entry_bytes: int) -> int:
    """Entries that fit in an index file of segment.index.bytes."""
    return index_bytes_max // entry_bytes


def parse_txn(entries: Buffer) -> Iterator[AbortedTransaction]:
    """Entries of a transaction index; a cut-off last entry is ignored."""
    whole = len(entries) - len(entries) % TXN_BYTES
    for position in range(0, whole, TXN_BYTES):
        yield AbortedTransaction._make(TXN_ENTRY.unpack_from(entries, position)[1:])


def overlapping(entries: Buffer, start: int, end: int) -> tuple[list[AbortedTransaction], bool]:
    """Aborted transactions with records in [start, end), of an index whose entries are in the order of their markers; and whether an entry says
    that what comes later has none."""
    low, high = 0, len(entries) // TXN_BYTES
    while low < high:  # the first that ends at or behind `start`
        middle = (low + high) >> 1
        if _FIRST_I64.unpack_from(entries, middle * TXN_BYTES + _LAST_OFFSET_AT)[0] < start:
            low = middle + 1
        else:
            high = middle
    found = []
    for entry in parse_txn(memoryview(entries)[low * TXN_BYTES :]):
        if entry.first_offset < end:
            found.append(entry)
        if entry.last_stable_offset >= end:
            return found, True
    return found, False


def encode_txn(entry: AbortedTransaction) -> bytes:
    return TXN_ENTRY.pack(0, *entry)
