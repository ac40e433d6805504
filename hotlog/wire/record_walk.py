"""What the records of a batch say, in one pass that makes no object for a record, where our few lines of C were built (_walk.c).

Where no compiler was at hand when Hotlog was installed, aiokafka's compiled decoder stands in, a piece at a time: ten times the cost, the
same answer.  It has one blind spot: it takes numbers of more bytes than Java does.  docs/decisions/0018 has the reasons.

Invariants: what either walk takes is what hotlog.wire.patient_records takes, but for that spot; the native one takes all of it, the other
gives up on what aiokafka cannot read and on records that it would copy for more than plain Python costs; the interpreter is never held
for more than about a hundred microseconds by the one, and a piece of PIECE_RECORDS records by the other.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from itertools import chain, islice
from operator import attrgetter

from aiokafka.record.default_records import DefaultRecordBatch

from hotlog.kernel.limits import KiB
from hotlog.wire.batch import ATTRIBUTES_OFFSET, TIMESTAMP_TYPE_MASK
from hotlog.wire.records import REFUSED, SLACK_BYTES

PIECE_RECORDS = 256
LARGE_RECORD_BYTES = 16 * KiB  # from here on a copy of every value costs more than plain Python without one
YIELD_S = 50e-6  # asleep after some pieces: what the loop's thread needs to take the interpreter
_YIELD_RECORDS = 32 * PIECE_RECORDS  # about a millisecond
assert _YIELD_RECORDS > 4096, "nobody sleeps on the event loop"

OLDEST_OF_NONE, NEWEST_OF_NONE = 2**63 - 1, -(2**63)
_UNTIMED = {None, -1}  # this decoder has said both for a record without a timestamp
_OFFSET, _TIMESTAMP, _KEY = attrgetter("offset"), attrgetter("timestamp"), attrgetter("key")

Walk = Callable[[memoryview, int, int], tuple[int, int, bool] | None]


def walk_by_decoder(batch: memoryview, count: int, base_timestamp: int) -> tuple[int, int, bool] | None:
    """The same by aiokafka's decoder.  None: they are not, or it cannot say."""
    if len(batch) >= LARGE_RECORD_BYTES * count:
        return None
    attributes = batch[ATTRIBUTES_OFFSET + 1]
    if attributes & TIMESTAMP_TYPE_MASK or batch[-1] >= 0x80:  # it reads a varint to its end, wherever the buffer's is
        copy = bytearray(len(batch) + SLACK_BYTES)
        copy[: len(batch)] = batch
        copy[ATTRIBUTES_OFFSET + 1] = attributes & ~TIMESTAMP_TYPE_MASK
        batch = memoryview(copy)[: len(batch)]
    base_offset: int = struct.unpack_from(">q", batch)[0]
    try:
        return (_decoded_one if count == 1 else _decoded)(batch, base_offset)
    except REFUSED:
        return None


def _decoded(batch: memoryview, base_offset: int) -> tuple[int, int, bool] | None:
    oldest, newest, lacks_key = OLDEST_OF_NONE, NEWEST_OF_NONE, False
    offset, records = base_offset, chain(DefaultRecordBatch(batch))  # asked for an iterator once: the decoder is one
    while piece := list(islice(records, PIECE_RECORDS)):
        following = offset + len(piece)
        if list(map(_OFFSET, piece)) != list(range(offset, following)):
            return None
        offset = following
        times = set(map(_TIMESTAMP, piece))
        times -= _UNTIMED
        if times:
            oldest, newest = min(oldest, *times), max(newest, *times)
        lacks_key = lacks_key or None in map(_KEY, piece)
        if (offset - base_offset) % _YIELD_RECORDS == 0:
            time.sleep(YIELD_S)
    return oldest, newest, lacks_key


def _decoded_one(batch: memoryview, base_offset: int) -> tuple[int, int, bool] | None:
    """The same of one record, without the passes: a third of the cost."""
    (record,) = list(DefaultRecordBatch(batch))  # to its end, where it looks for what is left behind
    if record.offset != base_offset:
        return None
    timestamp, lacks_key = record.timestamp, record.key is None
    if timestamp in _UNTIMED:
        return OLDEST_OF_NONE, NEWEST_OF_NONE, lacks_key
    return timestamp, timestamp, lacks_key


try:
    from hotlog.wire._walk import walk as _native
except ImportError:
    NATIVE: Walk | None = None
else:
    NATIVE = _native

# Whether the bytes behind the header are exactly `count` well-formed records with offsets that ascend by one from the batch's: (timestamp
# in ms of the oldest and of the newest record that has one, whether a record lacks a key).  OLDEST_OF_NONE and NEWEST_OF_NONE where none has a
# timestamp.  None: they are not, or the walk cannot say; hotlog.wire.patient_records can.
walk: Walk = NATIVE or walk_by_decoder
