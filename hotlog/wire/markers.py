"""The control batch that ends a transaction: one record whose key says commit or abort, and whose value names the coordinator's epoch.

Layout: https://kafka.apache.org/documentation/#controlbatch.  Key: version i16 (0), type i16 (0 abort, 1 commit).  Value (EndTxnMarker): version
i16 (0), coordinator epoch i32.

Invariants: what is written here is read back equal; a control batch that says nothing (cleaned: its record is gone) is None.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from crc32c import crc32c

from hotlog.kernel.errors import Corrupt, InvalidRecord
from hotlog.kernel.limits import BATCH_OVERHEAD_BYTES
from hotlog.wire.batch import ATTRIBUTES_OFFSET, CONTROL_MASK, CRC_OFFSET, HEADER, TRANSACTIONAL_MASK, header_at
from hotlog.wire.records import decode_batch
from hotlog.world.ports import Buffer

_ABORT, _COMMIT = 0, 1
_KEY, _VALUE = struct.Struct(">hh"), struct.Struct(">hi")
# length (zigzag 16), attributes, timestamp delta, offset delta, key length (4), key, value length (6), value, no headers
_RECORD = struct.Struct(">bbbbbhhbhib")
MARKER_BYTES = HEADER.size + _RECORD.size


class Marker(NamedTuple):
    """How a producer's transaction ended, and who says so: the epoch of the coordinator."""

    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    is_commit: bool


def encode_marker(marker: Marker, timestamp_ms: int) -> bytearray:
    """The batch, to be stamped by the log that takes it."""
    kind = _COMMIT if marker.is_commit else _ABORT
    record = _RECORD.pack(32, 0, 0, 0, 8, 0, kind, 12, 0, marker.coordinator_epoch, 0)
    batch = bytearray(
        HEADER.pack(
            0, MARKER_BYTES - BATCH_OVERHEAD_BYTES, -1, 2, 0, TRANSACTIONAL_MASK | CONTROL_MASK, 0, timestamp_ms, timestamp_ms,
            marker.producer_id, marker.producer_epoch, -1, 1,
        )
        + record
    )  # fmt: skip
    struct.pack_into(">I", batch, CRC_OFFSET, crc32c(memoryview(batch)[ATTRIBUTES_OFFSET:]))
    return batch


def marker_of(batch: Buffer) -> Marker | None:
    """What a control batch says; None if it ends no transaction, or its record was cleaned away.

    Raises:
        Corrupt: its record cannot be read.
    """
    header = header_at(batch)
    if not header.record_count or not header.is_transactional:
        return None
    try:
        record = decode_batch(batch)[0]
        _, kind = _KEY.unpack_from(record.key or b"")
        _, epoch = _VALUE.unpack_from(record.value or b"")
    except (InvalidRecord, struct.error, IndexError) as error:
        raise Corrupt(f"the control batch at offset {header.base_offset} cannot be read: {error}") from None
    if kind not in (_ABORT, _COMMIT):
        return None
    return Marker(header.producer_id, header.producer_epoch, epoch, kind == _COMMIT)
