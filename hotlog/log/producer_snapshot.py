"""The producer snapshot file: what is known of a log's producers at one of its offsets.  Pure.

It is Kafka's (ProducerSnapshot schema, version 1): version i16, CRC-32C u32 over what follows it, count i32, then for each producer: id i64, epoch
i16, last sequence i32, last offset i64, offset delta i32, timestamp i64 (ms), coordinator epoch i32, first offset of the open transaction i64 (-1: none).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from crc32c import crc32c

from hotlog.kernel.errors import Corrupt
from hotlog.world.ports import Buffer

_HEAD = struct.Struct(">hIi")
_ENTRY = struct.Struct(">qhiqiqiq")
_VERSION = 1
_CRC_FROM = 6

Entry = tuple[int, int, int, int, int, int, int, int]
"""A producer: the fields above, in that order."""


def print_snapshot(entries: Iterable[Entry]) -> bytes:
    """The file's bytes."""
    parts = [_ENTRY.pack(*entry) for entry in entries]
    body = struct.pack(">i", len(parts)) + b"".join(parts)
    return struct.pack(">hI", _VERSION, crc32c(body)) + body


def parse_snapshot(raw: Buffer) -> Iterable[Entry]:
    """Its entries, in the order in which they were written.

    Raises:
        Corrupt: wrong version, CRC or length.
    """
    if len(raw) < _HEAD.size:
        raise Corrupt(f"producer snapshot has {len(raw)} bytes; at least {_HEAD.size} are needed")
    version, crc, count = _HEAD.unpack_from(raw)
    if version != _VERSION:
        raise Corrupt(f"producer snapshot has version {version}; only {_VERSION} is known")
    if crc != crc32c(memoryview(raw)[_CRC_FROM:]):
        raise Corrupt("producer snapshot fails its CRC-32C")
    if count < 0 or len(raw) != _HEAD.size + count * _ENTRY.size:
        raise Corrupt(f"producer snapshot says {count} producers and has {len(raw)} bytes")
    entries: Iterable[Entry] = _ENTRY.iter_unpack(memoryview(raw)[_HEAD.size :])
    return entries
