"""Reads what is alive of a keyed log: first its keys, in compiled code, then the records that nothing newer stands against.

A log that is cleaned is out of date for the most part all the same: what was appended since its last segment was closed, and what the cleaner has not come to.  To
decode all of it in Python would be most of a start.

Invariants: batches come whole and in the order of the log, and have passed their CRC-32C; of a key the newest record outside of transactions comes in any case, older
ones may be left out of their batches; all records of transactions come, and all markers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from hotlog.coordinators.record_log import RecordLog
from hotlog.kernel.errors import Corrupt
from hotlog.kernel.limits import KiB, MiB
from hotlog.wire.batch import header_at, walk
from hotlog.wire.key_map import KeyMap, Rules, Why, key_map, room_for

READ_BYTES = 128 * KiB
MAP_BYTES = 16 * MiB  # while a log is read; of more keys than go in, the later ones are decoded with all that is dead of them
SEED_BYTES = 16
NEVER_EXPIRES = -1

Take = Callable[[memoryview], Awaitable[None]]


async def replay_alive(log: RecordLog, start: int, seed: bytes, take: Take) -> int:
    """Give `take` the committed batches from `start` on; where that ended.

    Args:
        seed: SEED_BYTES random bytes.
    Raises:
        Corrupt: a batch that cannot be read.
    """
    keys = key_map(MAP_BYTES, max(log.committed_end - start, 1), seed)
    latest = await _note_keys(log, start, keys)
    reading = _Reading(log, keys, Rules(latest, NEVER_EXPIRES, 0, 0), take)
    position = start
    while position < log.committed_end:
        data = await log.read(position, READ_BYTES)
        if not data:  # lost with the power before it was durable, as a gap in a compacted log may be
            return log.end_offset
        position = await reading.sift(memoryview(data), position)
        await asyncio.sleep(0)
    return position


async def _note_keys(log: RecordLog, start: int, keys: KeyMap) -> int:
    """Note the newest offset of each key; the last offset up to which that was done."""
    latest = start - 1
    while latest + 1 < log.committed_end:
        data = memoryview(await log.read(latest + 1, READ_BYTES))
        if not data:
            break
        before, at = latest, 0
        while True:
            noted = keys.note(data[at:], start, latest)
            at, latest = at + noted.position, noted.latest
            if noted.why is Why.FULL:
                return latest
            if noted.why is Why.END:
                break
            header = header_at(data, at)
            if noted.why is not Why.OPEN:
                raise _damage(log, header.base_offset)
            at, latest = at + header.size, max(latest, header.last_offset)
        if latest == before:
            raise Corrupt(f"{log.name}: nothing can be read at offset {latest + 1}, the log ends at {log.committed_end}")
        await asyncio.sleep(0)
    return latest


class _Reading:
    """The second pass."""

    def __init__(self, log: RecordLog, keys: KeyMap, rules: Rules, take: Take) -> None:
        self._log, self._keys, self._rules, self._take = log, keys, rules, take
        self._out = bytearray(room_for(READ_BYTES))

    async def sift(self, data: memoryview, position: int) -> int:
        """Give what is alive of whole batches that begin at offset `position`; the offset behind the last one."""
        before, at = position, 0
        while True:
            done = self._keys.sift(data[at:], self._out, self._rules)
            if done.last >= 0:
                position = header_at(data, at + done.last).next_offset
            for place, header in walk(memoryview(self._out)[: done.written]):
                await self._take(memoryview(self._out)[place : place + header.size])
            at += done.position
            if done.why is Why.END:
                break
            header = header_at(data, at)
            if done.why is Why.ROOM:
                if not done.position:
                    self._out = bytearray(room_for(header.size))
                continue
            if done.why is Why.OPEN:
                await self._take(data[at : at + header.size])
            elif done.why is not Why.EMPTY:
                raise _damage(self._log, header.base_offset)
            at, position = at + header.size, header.next_offset
        if position == before:
            raise Corrupt(
                f"{self._log.name}: nothing can be read at offset {position}, the log ends at {self._log.committed_end}"
            )
        return position


def _damage(log: RecordLog, offset: int) -> Corrupt:
    return Corrupt(f"{log.name}: the batch at offset {offset} cannot be read, or fails its CRC")
