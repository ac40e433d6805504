"""One partition of __consumer_offsets: replayed into a table at start, appended to, kept short.

There is no cleaner for it: when more of it is dead than alive, what is alive and stands before a mark is written once more at its end,
oldest first and a piece at a time, and then the log start moves to the mark.  A piece is read and appended in one turn of the loop, and
what is written again is the newest that the log has of a key, so commits go on meanwhile and none is undone.

Invariants: memory shows a record only after the log has it as durably as the topic demands; the newest record of a key wins, by
offset; nothing is given up before all that is alive stands beyond it, on the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from hotlog.coordinators import offset_records as codec
from hotlog.coordinators.ages import Ages
from hotlog.coordinators.offset_records import GroupValue, OffsetKey, OffsetValue
from hotlog.coordinators.offset_table import GroupOffsets, Key, OffsetTable, Record, Value
from hotlog.kernel.errors import Corrupt
from hotlog.kernel.limits import KiB, MiB
from hotlog.log.partition_log import PartitionLog
from hotlog.wire.batch import crc_ok, header_at, walk
from hotlog.wire.records import NewRecord, decode_batch, encode_batch
from hotlog.world.ports import Clock

READ_BYTES = 128 * KiB  # decoded in one turn of the loop
RECORDS_PER_BATCH_MAX = 500
BATCH_BYTES_MAX = 512 * KiB
CHECKPOINT_BYTES = 16 * MiB  # no checkpoint before this much is dead
PIECE_RECORDS = 250  # of a checkpoint, in one turn of the loop
RECORD_OVERHEAD_BYTES = 32

Entry = tuple[Key, Value]


class OffsetLog:
    """The table of one partition and the log behind it."""

    def __init__(self, log: PartitionLog, clock: Clock) -> None:
        self.log = log
        self.ages = Ages()
        self._clock = clock
        self._table = OffsetTable()
        self._noted: deque[tuple[int, Record, Value]] = deque()  # not shown yet; bounded by the requests that wait for them
        self._bytes = 0  # of the log, from its start
        self._mark: int | None = None  # where the checkpoint under way began
        self._bytes_below_mark = 0

    # What is there

    def has(self, group_id: str) -> bool:
        """Whether the group has a record of any kind."""
        return self._table.has(group_id)

    def group(self, group_id: str) -> GroupValue | None:
        """The group as it was last stored."""
        return self._table.group(group_id)

    def groups(self) -> Iterator[tuple[str, GroupValue]]:
        """All groups that were stored.  Nothing may be appended meanwhile."""
        return self._table.groups()

    def group_ids(self) -> list[str]:
        """Groups that have a record of any kind."""
        return self._table.group_ids()

    def offsets(self, group_id: str) -> GroupOffsets:
        """The group's committed offsets by (topic, partition), as they are when they are looked at."""
        return self._table.offsets(group_id)

    def newest_ms(self, group_id: str) -> int | None:
        """When the group last stored something, wall ms; None if it is not here."""
        return self._table.newest_ms(group_id)

    # Replay

    async def replay(self) -> None:
        """Read the whole log into memory.

        Raises:
            Corrupt: a record that cannot be read; the groups of this partition are then not served.
        """
        position = self.log.log_start_offset
        while position < self.log.high_watermark:
            piece = await self.log.read_blocking(position, READ_BYTES, min_one=True)
            if not piece.data:  # lost with the power before it was durable, as a gap in a compacted log may be
                return
            data = memoryview(piece.data)
            start = position
            for at, header in walk(data):
                whole = data[at : at + header.size]
                if len(whole) < header.size:
                    break
                if not crc_ok(whole):
                    raise Corrupt(f"{self.log.tp}: batch at offset {header.base_offset} fails its CRC")
                self._replay_batch(whole)
                self._bytes += header.size
                position = header.next_offset
            if position == start:
                raise Corrupt(f"{self.log.tp}: nothing can be read at offset {start}, the log ends at {self.log.high_watermark}")

    def _replay_batch(self, whole: memoryview) -> None:
        if header_at(whole).is_control:
            return
        for found in decode_batch(whole):
            raw = found.key
            key = codec.decode_key(bytes(raw)) if raw is not None else None
            if raw is not None and key is not None:
                value = self._value(key, found.value)
                self._show(self._table.note(key, value, found.offset, _size(raw, found.value)), value)

    def _value(self, key: Key, raw: bytes | None) -> Value:
        if raw is None:
            return None
        return codec.decode_offset(raw) if isinstance(key, OffsetKey) else codec.decode_group(key.group_id, raw)

    # Append

    async def append(self, entries: Sequence[Entry]) -> None:
        """Write `entries`, wait until they are durable, then show them.

        Raises:
            StorageFailed, DiskFull: nothing is shown (it may come back at a restart if the log took it).
        """
        for run in _runs([(entry, codec.encode_key(entry[0]), _encoded(entry[1])) for entry in entries]):
            await self.log.wait_room()
            await self._wait_shown(self._write(run))

    def _write(self, run: Sequence[Encoded]) -> int:
        """Append one batch; the offset behind it.  A plain function, so that the order of the log is that of the notes."""
        now_ms = self._clock.now_ms()
        data = encode_batch([NewRecord(now_ms, key, value) for _, key, value in run])
        appended = self.log.append(memoryview(data), [header_at(data)], now_ms=now_ms)
        self._bytes += len(data)
        for at, ((key, value), raw_key, raw_value) in enumerate(run, appended.base_offset):
            self._noted.append((at, self._table.note(key, value, at, _size(raw_key, raw_value)), value))
        return appended.last_offset + 1

    async def _wait_shown(self, end_offset: int) -> None:
        await self.log.wait_durable(end_offset)
        while self._noted and self._noted[0][0] < self.log.high_watermark:
            _, record, value = self._noted.popleft()
            self._show(record, value)

    def _show(self, record: Record, value: Value) -> None:
        self._table.show(record, value)
        if value is not None:
            self.ages.put(record.key.group_id, value.commit_ms if isinstance(value, OffsetValue) else value.state_ms)

    # Checkpoint

    @property
    def _is_due(self) -> bool:
        """Whether writing what is alive once more frees more than it writes."""
        dead = self._bytes - self._table.alive_bytes
        return dead >= CHECKPOINT_BYTES and dead > self._table.alive_bytes

    async def checkpoint_some(self) -> bool:
        """One piece of a checkpoint, if one is due or under way; whether it goes on.

        Raises:
            StorageFailed, DiskFull: it goes on with the next call.
        """
        if self._mark is None:
            if not self._is_due:
                return False
            await self.log.wait_room()
            self.log.roll(self._clock.now_ms())
            self._mark, self._bytes_below_mark = self.log.log_end_offset, self._bytes
        await self.log.wait_room()
        records = self._table.oldest(self._mark, PIECE_RECORDS, BATCH_BYTES_MAX)
        if records:
            entries = [(record.key, record.newest) for record in records]
            await self._wait_shown(self._write([(entry, codec.encode_key(entry[0]), _encoded(entry[1])) for entry in entries]))
            return True
        mark, self._mark = self._mark, None
        await self.log.flush()  # whatever the topic's durability: what goes was on the device
        self._bytes -= self._bytes_below_mark
        self.log.advance_log_start(mark)
        await self.log.drop_local_before(mark)
        return False


Encoded = tuple[Entry, bytes, bytes | None]


def _encoded(value: Value) -> bytes | None:
    if value is None:
        return None
    return codec.encode_offset(value) if isinstance(value, OffsetValue) else codec.encode_group(value.group, value.state_ms)


def _size(key: bytes | memoryview, value: bytes | memoryview | None) -> int:
    """What a record takes in a batch of many, or a little more."""
    return len(key) + len(value or b"") + RECORD_OVERHEAD_BYTES


def _runs(encoded: Sequence[Encoded]) -> list[list[Encoded]]:
    """Cut into batches that the topic's max.message.bytes takes."""
    runs: list[list[Encoded]] = []
    size = 0
    for entry, key, value in encoded:
        size += _size(key, value)
        if not runs or len(runs[-1]) >= RECORDS_PER_BATCH_MAX or size > BATCH_BYTES_MAX:
            runs.append([])
            size = _size(key, value)
        runs[-1].append((entry, key, value))
    return runs
