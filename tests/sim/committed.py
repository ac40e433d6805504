"""What a reader with isolation.level=read_committed gets of a partition, from both tiers: as Kafka's consumer does it, answer by answer.

Invariants: offsets ascend; what was aborted is known by what each answer tells, and by the markers in it, alone.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from hotlog.kernel.errors import NotFound, OutcomeUnknown, Retry, StoreUnavailable
from hotlog.partitions.partition import Partition, Place
from hotlog.wire.batch import walk
from hotlog.wire.markers import marker_of
from hotlog.wire.records import decode_batch
from tests.sim.bucket import Violation

READ_BYTES, READS_MAX, REFUSALS_MAX = 700, 2000, 60
WEATHER = (Retry, NotFound, StoreUnavailable, OutcomeUnknown)


class Committed(NamedTuple):
    """A record that was shown."""

    offset: int
    key: bytes | None
    value: bytes | None
    producer_id: int


async def read_committed(partition: Partition, offset: int | None = None) -> list[Committed]:
    """Everything that is shown from `offset` (None: the earliest) to the last stable offset, once the store answers."""
    found: list[Committed] = []
    position = partition.log_start_offset if offset is None else offset
    refused = 0
    for _ in range(READS_MAX):
        place = partition.place_of(position, is_committed_only=True)
        if place is Place.AT_END:
            return found
        try:
            data, aborted = await _answer(partition, position, place)
        except WEATHER:
            refused += 1
            if refused > REFUSALS_MAX:
                raise
            await asyncio.sleep(30)
            position = max(position, partition.log_start_offset)
            continue
        position = _shown(data, aborted, position, found)
    raise Violation(f"{partition.tp} has no end")


async def _answer(partition: Partition, offset: int, place: Place) -> tuple[memoryview, list[tuple[int, int]]]:
    """What a fetch answers: batches, and (producer id, first offset) of aborted transactions in them."""
    if place is Place.COLD and (behind := partition.behind_hole(offset)) is not None:
        offset, place = behind, Place.HOT
    if place is Place.COLD:
        cold = await partition.read_cold(offset, READ_BYTES, True, wait_ms=60_000)
        return memoryview(cold.data.data), cold.aborted or []
    hot = await partition.read_disk(offset, READ_BYTES, min_one=True, committed_only=True)
    return memoryview(hot.data), list(hot.aborted or [])


def _shown(data: memoryview, aborted: list[tuple[int, int]], position: int, found: list[Committed]) -> int:
    """Note the records that are shown of an answer; where the reader goes on."""
    waiting, ignored = sorted(aborted, key=lambda each: each[1]), set[int]()
    for at, header in walk(data):
        while waiting and waiting[0][1] <= header.last_offset:
            ignored.add(waiting.pop(0)[0])
        batch = data[at : at + header.size]
        if header.is_control:
            marker = marker_of(batch)
            if marker is not None and not marker.is_commit:
                ignored.discard(header.producer_id)
        elif not (header.is_transactional and header.producer_id in ignored):
            found += [
                Committed(each.offset, each.key, each.value, header.producer_id)
                for each in decode_batch(batch)
                if each.offset >= position
            ]
        position = max(position, header.next_offset)
    return position
