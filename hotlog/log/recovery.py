"""What the end of a log means after an unclean stop: a torn append to cut, or damage to report.  Pure.

The log's bytes since the recovery point are checked batch by batch.  Where the first bad batch begins the question is whether it was
ever durable.  An append that was not fsynced may be cut short, zero from some byte or sector on, or gone while a later one survived
(nothing of it was acked).  Bit rot changes single bits of something that was acked.

Verdict (plan_tail):
- below the recovery point: it was fsynced, so it is damage, whatever it looks like;
- one flipped bit explains it (CRC-32C finds any single bit; a field before the CRC is compared with what it must be): damage, unless it is the
  last bit of the file that would be set: an append that is zero from that byte on looks the same, and is by far the likelier of the two;
- no valid batch follows: the torn tail, cut it;
- valid batches follow: cut if the bad bytes look unwritten (zeros as a lost write leaves them), else damage.

Damage is never cut away: the partition serves what lies before it and takes no appends until someone decides.

Invariants: nothing here does I/O; a cut never removes a byte below the recovery point.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from enum import Enum

from crc32c import crc32c

from hotlog.kernel.limits import BATCH_HEADER_BYTES
from hotlog.wire.batch import ATTRIBUTES_OFFSET, BatchHeader, header_at
from hotlog.world.ports import Buffer

SECTOR_BYTES = 512
BATCH_BYTES_MAX = 256 * 1024 * 1024  # above socket.request.max.bytes: no batch can be larger
_POLYNOMIAL = 0x82F63B78


class Verdict(Enum):
    CUT = "cut"
    DAMAGED = "damaged"


def plan_tail(*, below_recovery_point: bool, one_bit: bool, valid_follows: bool, unwritten: bool) -> Verdict:
    """What to do about the first bad batch."""
    if below_recovery_point or one_bit:
        return Verdict.DAMAGED
    if not valid_follows or unwritten:
        return Verdict.CUT
    return Verdict.DAMAGED


def is_plausible(header: BatchHeader, expected_offset: int, room: int) -> bool:
    """Whether a header can be the next batch at or after `expected_offset` with `room` bytes left in the file."""
    return (
        header.magic == 2
        and BATCH_HEADER_BYTES <= header.size <= min(room, BATCH_BYTES_MAX)
        and expected_offset <= header.base_offset <= expected_offset + 2**31
        and header.last_offset_delta >= 0
        and header.record_count >= 0
    )


def looks_unwritten(damage: Buffer, position: int, *, reaches_end: bool) -> bool:
    """Whether the bytes of the damaged range, which begins at byte `position` of the file, look like a write that was lost in part.

    `reaches_end`: no valid batch follows in the file.

    Cut off, zero to its end or to the end of its first batch (cut and grown again), zero from its start over a whole prefix (12
    bytes), or a whole sector of zeros.  Batches usually end in one zero byte (no headers), so one is no sign.
    """
    raw = bytes(damage)
    if not raw.strip(b"\0") or raw.endswith(b"\0\0") or raw.startswith(bytes(12)) or len(raw) < BATCH_HEADER_BYTES:
        return True
    header = header_at(raw)
    if header.magic == 2 and header.size > len(raw) and reaches_end:
        return True
    if header.magic == 2 and header.size >= BATCH_HEADER_BYTES and raw[: header.size].endswith(b"\0\0"):
        return True
    first = -position % SECTOR_BYTES
    blank = bytes(SECTOR_BYTES)
    return any(raw[at : at + SECTOR_BYTES] == blank for at in range(first, len(raw) - SECTOR_BYTES + 1, SECTOR_BYTES))


def candidates(window: Buffer, leader_epoch: int) -> Iterator[int]:
    """Positions in `window` where a batch header may begin: leader epoch near the last one and magic 2 in their places."""
    high = re.escape(struct.pack(">H", max(leader_epoch, 0) >> 16))
    pattern = re.compile(b"(?=" + high + b"..\x02)", re.DOTALL)
    for match in pattern.finditer(window):
        if match.start() >= 12:
            yield match.start() - 12


def is_one_bit_off(damage: Buffer, expected_offset: int, *, reaches_end: bool = False) -> bool:
    """Whether flipping a single bit makes a valid batch at `expected_offset` of the bytes at the start of `damage`.

    `reaches_end`: no valid batch follows in the file.  Then a bit behind which there are only zeros does not count.
    """
    if len(damage) < BATCH_HEADER_BYTES:
        return False
    view = memoryview(damage)
    header = header_at(view)
    if header.magic != 2:
        return _ones((header.magic ^ 2) & 0xFF) == 1 and header.base_offset == expected_offset and _whole(view, header.size)
    if header.base_offset != expected_offset:
        return _ones(header.base_offset ^ expected_offset) == 1 and _whole(view, header.size)
    if BATCH_HEADER_BYTES <= header.size <= len(view):
        batch = view[: header.size]
        behind = _bytes_behind_flip(header.crc ^ crc32c(batch[ATTRIBUTES_OFFSET:]), header.size - ATTRIBUTES_OFFSET)
        if behind is not None:
            return not (
                reaches_end and 0 < behind < header.size - ATTRIBUTES_OFFSET and not any(view[header.size - behind - 1 :])
            )
    sizes = (((header.length ^ (1 << bit)) & 0xFFFFFFFF) + 12 for bit in range(32))
    return any(_whole(view, size) for size in sizes)


def _whole(view: memoryview, size: int) -> bool:
    """Whether the first `size` bytes pass the CRC that stands in them."""
    if not BATCH_HEADER_BYTES <= size <= len(view):
        return False
    stored: int = struct.unpack_from(">I", view, 17)[0]
    return stored == crc32c(view[ATTRIBUTES_OFFSET:size])


def _ones(value: int) -> int:
    return (value & 0xFFFFFFFFFFFFFFFF).bit_count()


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


def _bytes_behind_flip(syndrome: int, length: int) -> int | None:
    """How many of `length` bytes stand behind the one in which a flipped bit makes this difference of CRCs; `length` if it is in the CRC itself,
    None if no single bit does.

    The CRC is linear: the syndrome is walked back byte by byte; where the flip was it equals the table's entry of that one bit.
    """
    if syndrome == 0:
        return None
    if _ones(syndrome) == 1:
        return length
    table = _table()
    back = {entry >> 24: index for index, entry in enumerate(table)}
    single = {table[1 << bit] for bit in range(8)}
    for behind in range(length):
        if syndrome in single:
            return behind
        index = back[syndrome >> 24]
        syndrome = ((syndrome ^ table[index]) << 8 | index) & 0xFFFFFFFF
    return None
