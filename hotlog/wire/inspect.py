"""A look inside a produced batch without opening a record: does it decompress, within limits, to what it says it holds?

Kafka decompresses what it is sent as well (LogValidator); garbage that is stored once fails every consumer for ever.

Invariants: at most DECOMPRESSED_BATCH_BYTES_MAX bytes come out of a batch, one step of them in memory; cost follows bytes, never
records, unless a thorough look is asked for.
"""

from __future__ import annotations

from hotlog.kernel.errors import InvalidRecord
from hotlog.kernel.limits import BATCH_HEADER_BYTES, DECOMPRESSED_BATCH_BYTES_MAX, KiB, MiB
from hotlog.wire.batch import BatchHeader
from hotlog.wire.records import RECORD_BYTES_MIN, check_records, decompressed_steps
from hotlog.world.ports import Buffer

INLINE_INPUT_BYTES_MAX = 32 * KiB  # compressed bytes that may be looked at on the event loop
INLINE_OUTPUT_BYTES_MAX = 1 * MiB  # decompressed bytes after which the rest is for a thread


def inspect(batch: memoryview, header: BatchHeader, *, is_inline: bool = False, is_thorough: bool = False) -> bool:
    """Check one batch whose header was checked.  False: too much for the event loop, call again off it (only with `is_inline`).

    What it proves: an uncompressed batch is large enough for the records that it counts, and its first record (the only one: exactly)
    fits into it; a compressed one decompresses to such bytes, within limits.  A count below the truth is not seen from outside: the
    records' lengths are a chain that must be walked, and consumers would stumble over it.  `is_thorough` walks that chain, in compiled
    code: every record is well formed, all of them fill the batch exactly, and the last one has the offset that the header says.

    Raises:
        InvalidRecord: it does not decompress, or cannot hold the records it says it holds.
        TooLarge: it decompresses to more than the limit.
    """
    body = batch[BATCH_HEADER_BYTES:]
    if is_thorough and is_inline and len(body) > INLINE_INPUT_BYTES_MAX:
        return False
    if is_thorough and not is_inline:  # it decompresses too, within the same limits
        check_records(batch)
        return True
    if header.codec == 0:
        _check_records(header, len(body), body)
        if is_thorough:
            check_records(batch)
        return True
    if is_inline and len(body) > INLINE_INPUT_BYTES_MAX:
        return False
    total = 0
    first: Buffer = b""
    for step in decompressed_steps(header.codec, body, bytes_max=DECOMPRESSED_BATCH_BYTES_MAX):
        first = first or step
        total += len(step)
        if is_inline and total > INLINE_OUTPUT_BYTES_MAX:
            return False
    _check_records(header, total, first)
    if is_thorough:
        check_records(batch)
    return True


def _check_records(header: BatchHeader, size: int, start: Buffer) -> None:
    """Whether `size` bytes that begin with `start` can be the records that `header` counts."""
    if header.record_count * RECORD_BYTES_MIN > size:
        raise InvalidRecord(f"batch says {header.record_count} records; its {size} bytes hold at most {size // RECORD_BYTES_MIN}")
    length, width = _zigzag(start)
    rest = (header.record_count - 1) * RECORD_BYTES_MIN
    if length < RECORD_BYTES_MIN - 1 or width + length + rest > size:
        raise InvalidRecord(f"first record says {length} bytes; {size - width - rest} are possible")
    if header.record_count == 1 and width + length != size:
        raise InvalidRecord(f"the only record says {length} bytes; {size - width} are there")


def _zigzag(data: Buffer) -> tuple[int, int]:
    """A signed varint at the start of `data` and its width; (-1, 0) if there is none."""
    value = shift = 0
    for at in range(min(5, len(data))):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at + 1
        shift += 7
    return -1, 0
