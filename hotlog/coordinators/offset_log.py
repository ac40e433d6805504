"""One partition of __consumer_offsets as a table of groups and offsets: replayed at start, appended to, kept short.

There is no cleaner for it: when it has grown enough, everything that is alive is written once more at its end, and the log start moves
to where that began.

Invariants: memory changes only after the log has the record as durably as the topic demands; the newest record of a key wins, by
offset; a checkpoint is whole and durable before anything below it is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hotlog.coordinators import offset_records as codec
from hotlog.coordinators.offset_records import GroupKey, GroupValue, OffsetKey, OffsetValue
from hotlog.kernel.errors import Corrupt
from hotlog.kernel.limits import MiB
from hotlog.log.partition_log import PartitionLog
from hotlog.wire.batch import crc_ok, header_at, walk
from hotlog.wire.records import NewRecord, decode_batch, encode_batch
from hotlog.world.ports import Clock

READ_BYTES = 1 * MiB
RECORDS_PER_BATCH_MAX = 500
BATCH_BYTES_MAX = 512 * 1024
CHECKPOINT_BYTES = 16 * MiB

Entry = tuple[OffsetKey | GroupKey, OffsetValue | GroupValue | None]  # None: a tombstone


class OffsetLog:
    """The table of one partition."""

    def __init__(self, log: PartitionLog, clock: Clock) -> None:
        self.log = log
        self._clock = clock
        self._offsets: dict[str, dict[tuple[str, int], tuple[OffsetValue, int]]] = {}
        self._groups: dict[str, tuple[GroupValue, int]] = {}
        self._bytes_since_checkpoint = 0
        self._in_flight = 0
        self._is_checkpointing = False
        self._idle = asyncio.Event()
        self._reopened = asyncio.Event()

    # What is there

    @property
    def groups(self) -> dict[str, GroupValue]:
        return {group_id: value for group_id, (value, _) in self._groups.items()}

    @property
    def group_ids(self) -> list[str]:
        """Groups that have a record of any kind."""
        return sorted({*self._groups, *self._offsets})

    def offsets(self, group_id: str) -> dict[tuple[str, int], OffsetValue]:
        """Committed offsets by (topic, partition)."""
        return {place: value for place, (value, _) in self._offsets.get(group_id, {}).items()}

    def offset(self, group_id: str, topic: str, partition: int) -> OffsetValue | None:
        found = self._offsets.get(group_id, {}).get((topic, partition))
        return found[0] if found is not None else None

    # Replay

    async def replay(self) -> None:
        """Read the whole log into memory.

        Raises:
            Corrupt: a record that cannot be read; the groups of this partition are then not served.
        """
        position = self.log.log_start_offset
        while position < self.log.high_watermark:
            piece = await self.log.read_blocking(position, READ_BYTES, min_one=True)
            data = memoryview(piece.data)
            start = position
            for at, header in walk(data):
                whole = data[at : at + header.size]
                if len(whole) < header.size:
                    break
                if not crc_ok(whole):
                    raise Corrupt(f"{self.log.tp}: batch at offset {header.base_offset} fails its CRC")
                self._replay_batch(whole)
                self._bytes_since_checkpoint += header.size
                position = header.next_offset
            if position == start:
                raise Corrupt(f"{self.log.tp}: nothing can be read at offset {start}, the log ends at {self.log.high_watermark}")

    def _replay_batch(self, whole: memoryview) -> None:
        if header_at(whole).is_control:
            return
        for record in decode_batch(whole):
            key = codec.decode_key(bytes(record.key)) if record.key is not None else None
            if key is not None:
                self._apply(key, self._value(key, record.value), record.offset)

    def _value(self, key: OffsetKey | GroupKey, raw: bytes | None) -> OffsetValue | GroupValue | None:
        if raw is None:
            return None
        return codec.decode_offset(raw) if isinstance(key, OffsetKey) else codec.decode_group(key.group_id, raw)

    def _apply(self, key: OffsetKey | GroupKey, value: OffsetValue | GroupValue | None, at: int) -> None:
        """Show the record at offset `at`, unless a newer one of the same key is shown already."""
        if isinstance(key, GroupKey):
            assert not isinstance(value, OffsetValue)
            if self._groups.get(key.group_id, (None, -1))[1] <= at:
                if value is None:
                    self._groups.pop(key.group_id, None)
                else:
                    self._groups[key.group_id] = (value, at)
            return
        assert not isinstance(value, GroupValue)
        table = self._offsets.setdefault(key.group_id, {})
        place = (key.topic, key.partition)
        if table.get(place, (None, -1))[1] <= at:
            if value is None:
                table.pop(place, None)
            else:
                table[place] = (value, at)
        if not table:
            del self._offsets[key.group_id]

    # Append

    async def append(self, entries: Sequence[Entry]) -> None:
        """Write `entries`, wait until they are durable, then show them.

        Raises:
            StorageFailed, DiskFull: nothing is shown (it may come back at a restart if the log took it).
        """
        while self._is_checkpointing:
            await self._reopened.wait()
        self._in_flight += 1
        try:
            await self._append(entries)
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()

    async def _append(self, entries: Sequence[Entry]) -> None:
        self._idle.clear()
        for run in _runs([(codec.encode_key(key), _encoded(value)) for key, value in entries]):
            now_ms = self._clock.now_ms()
            data = encode_batch([NewRecord(now_ms, key, value) for key, value in run])
            appended = self.log.append(memoryview(data), [header_at(data)], now_ms=now_ms)
            self._bytes_since_checkpoint += len(data)
            await self.log.wait_durable(appended.last_offset + 1)
            first = entries[: len(run)]
            entries = entries[len(run) :]
            for at, (key, value) in enumerate(first, appended.base_offset):
                self._apply(key, value, at)

    async def checkpoint_if_long(self) -> bool:
        """Write what is alive once more and give up what is below, if enough has been appended; True if it was done."""
        if self._bytes_since_checkpoint < CHECKPOINT_BYTES:
            return False
        self._is_checkpointing = True  # no commit may come between the reading of a value and its second writing
        self._reopened.clear()
        try:
            if self._in_flight:
                await self._idle.wait()
            self.log.roll(self._clock.now_ms())
            start = self.log.log_end_offset
            self._bytes_since_checkpoint = 0
            await self._append([(GroupKey(group_id), value) for group_id, (value, _) in self._groups.items()])
            for group_id, table in list(self._offsets.items()):
                await self._append([(OffsetKey(group_id, *place), value) for place, (value, _) in table.items()])
            self.log.advance_log_start(start)
            await self.log.drop_local_before(start)
        finally:
            self._is_checkpointing = False
            self._reopened.set()
        return True


def _encoded(value: OffsetValue | GroupValue | None) -> bytes | None:
    if value is None:
        return None
    return codec.encode_offset(value) if isinstance(value, OffsetValue) else codec.encode_group(value.group, value.state_ms)


def _runs(pairs: Sequence[tuple[bytes, bytes | None]]) -> list[list[tuple[bytes, bytes | None]]]:
    """Cut into batches that the topic's max.message.bytes takes."""
    runs: list[list[tuple[bytes, bytes | None]]] = []
    size = 0
    for key, value in pairs:
        size += len(key) + len(value or b"") + 32
        if not runs or len(runs[-1]) >= RECORDS_PER_BATCH_MAX or size > BATCH_BYTES_MAX:
            runs.append([])
            size = len(key) + len(value or b"") + 32
        runs[-1].append((key, value))
    return runs
