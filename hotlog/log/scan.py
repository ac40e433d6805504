"""Reading a segment's file from its start to rebuild what is known of it, and to find where it stops being a log.  Blocks: disk threads.

Invariants: a batch is handed to `visit` only after its header, and from `check_from` on its CRC, were found good; batches come in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hotlog.kernel.limits import BATCH_HEADER_BYTES, MiB
from hotlog.log.recovery import candidates, is_one_bit_off, is_plausible, looks_unwritten
from hotlog.wire.batch import BatchHeader, crc_ok, header_at
from hotlog.world.ports import Buffer, File

WINDOW_BYTES = 4 * MiB
ONE_BIT_BYTES_MAX = 2 * MiB


class Stop(NamedTuple):
    """Where the scan ended: byte position, next offset expected there, and why (empty: the end of the file)."""

    position: int
    offset: int
    reason: str


class Tail(NamedTuple):
    """What lies behind a bad batch: where the next good batch begins (-1: none), and the two signs that plan_tail weighs."""

    next_valid: int
    one_bit: bool
    unwritten: bool


class Window:
    """A file read through a sliding buffer."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._start = 0
        self._data: Buffer = b""

    def view(self, position: int, length: int) -> memoryview:
        """Up to `length` bytes at `position`."""
        at = position - self._start
        if at < 0 or at + length > len(self._data):
            self._start, at = position, 0
            self._data = self._file.read_at(position, max(length, MiB))
        return memoryview(self._data)[at : at + length]


def scan(file: File, offset: int, check_from: int, visit: Callable[[int, BatchHeader], None]) -> Stop:
    """Walk all batches of `file`, whose first offset is at least `offset`; check the CRC of those that end at or beyond `check_from`."""
    window = Window(file)
    position, size = 0, file.size
    before: BatchHeader | None = None  # found plausible; handed out once its successor is
    while position < size:
        head = window.view(position, BATCH_HEADER_BYTES)
        header = header_at(head) if len(head) == BATCH_HEADER_BYTES else None
        if header is None:
            reason = f"{len(head)} bytes are too few for a batch"
        elif not is_plausible(header, offset, size - position) or (before and header.leader_epoch < before.leader_epoch):
            reason = "the batch header cannot be"
        elif header.last_offset >= check_from and not crc_ok(window.view(position, header.size)):
            reason = "the batch fails its CRC-32C"
        else:
            if before is not None:
                visit(position - before.size, before)
            position += header.size
            offset, before = header.next_offset, header
            continue
        return _stop(window, position, offset, before, reason, visit)
    if before is not None:
        visit(position - before.size, before)
    return Stop(position, offset, "")


def _stop(
    window: Window, position: int, offset: int, before: BatchHeader | None, reason: str, visit: Callable[[int, BatchHeader], None]
) -> Stop:
    """Stop at `position`, unless the batch before, whose length led there, was only believed by its header and is itself bad."""
    if before is not None:
        start = position - before.size
        if not crc_ok(window.view(start, before.size)):
            return Stop(start, before.base_offset, "the batch fails its CRC-32C")
        visit(start, before)
    return Stop(position, offset, reason)


def look_behind(file: File, stop: Stop, leader_epoch: int) -> Tail:
    """Search the rest of `file` for a valid batch after the bad one, and weigh the bytes between."""
    next_valid = find_valid(file, stop, leader_epoch)
    end = next_valid if next_valid >= 0 else file.size
    damage = file.read_at(stop.position, min(end - stop.position, 64 * MiB))
    reaches_end = next_valid < 0
    one_bit = len(damage) <= ONE_BIT_BYTES_MAX and is_one_bit_off(damage, stop.offset, reaches_end=reaches_end)
    return Tail(next_valid, one_bit, looks_unwritten(damage, stop.position, reaches_end=reaches_end))


def find_valid(file: File, stop: Stop, leader_epoch: int) -> int:
    """Byte of the first batch behind `stop` that is whole, follows it and passes its CRC; -1 if there is none."""
    position = stop.position
    while position < file.size:
        data = file.read_at(position, WINDOW_BYTES)
        for at in candidates(data, leader_epoch):
            start = position + at
            if start == stop.position:
                continue
            head = file.read_at(start, BATCH_HEADER_BYTES)
            if len(head) < BATCH_HEADER_BYTES:
                continue
            header = header_at(head)
            if is_plausible(header, stop.offset, file.size - start) and header.base_offset > stop.offset - 1:
                batch = file.read_at(start, header.size)
                if len(batch) == header.size and crc_ok(memoryview(batch)):
                    return start
        position += max(len(data) - BATCH_HEADER_BYTES, 1)
    return -1
