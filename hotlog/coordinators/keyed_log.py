"""A partition that keeps the newest value of every key (__consumer_offsets, __transaction_state): replayed, appended to, kept short.

It is an ordinary compacted log: the cleaner takes out what is out of date of its closed segments.  So that it comes to that, and a start has little to read,
the active segment is closed once it is large and more of the log is dead than alive.

Records of a transaction are pending until its marker (TxnOffsetCommit: offsets that a producer commits with its records); then they are noted where
they stand, unless something newer was noted since, or forgotten if it was aborted.

Invariants: memory shows a record only after it is committed, one of a transaction only after the marker is; the newest record of a key wins, by offset; after the tenure's end nothing is appended, and whoever waits is told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from hotlog.coordinators.keyed_pending import Pending, PendingRecords
from hotlog.coordinators.keyed_replay import SEED_BYTES, replay_alive
from hotlog.coordinators.keyed_table import KeyedTable, Record
from hotlog.coordinators.record_log import RecordLog
from hotlog.coordinators.tenure import Tenure
from hotlog.kernel.errors import StorageFailed
from hotlog.kernel.limits import KiB, MiB
from hotlog.wire.batch import header_at
from hotlog.wire.markers import Marker, marker_of
from hotlog.wire.records import NewRecord, decode_batch, encode_batch
from hotlog.world.ports import Clock, Entropy

REPLAYED_AT_ONCE = 64  # records, in one turn of the loop
RECORDS_PER_BATCH_MAX = 500
BATCH_BYTES_MAX = 512 * KiB
WHOLE_BYTES_MAX = 1_000_000  # of what is to be in one batch; max.message.bytes is a little more
ENCODED_AT_ONCE = 16 * KiB  # of one value, in one turn of the loop
SEGMENT_BYTES = 16 * MiB  # closed from then on, if it pays
ENCODED_RECORDS_AT_ONCE = 257  # in one turn of the loop; a slice of a wide commit is less
RECORD_OVERHEAD_BYTES = 32

K = TypeVar("K")
V = TypeVar("V")


class Codec(Protocol[K, V]):
    """Keys and values as bytes; pure."""

    def owner(self, key: K) -> str:
        """Whose the record is: a group's id, a transactional id."""

    def encode_key(self, key: K) -> bytes: ...

    def decode_key(self, raw: bytes) -> K | None:
        """None for a kind of key that is not ours to read.  Raises Corrupt."""

    def encode_value(self, value: V) -> bytes | Iterator[bytes]:
        """The value; in small pieces if it may be large."""

    def decode_value(self, key: K, raw: bytes) -> V:
        """Raises Corrupt."""


class KeyedLog(Generic[K, V]):
    """The newest records of one partition, and the log behind them."""

    def __init__(self, log: RecordLog, codec: Codec[K, V], clock: Clock, entropy: Entropy) -> None:
        self.log = log
        self.tenure = Tenure(log.name)
        self._codec = codec
        self._clock = clock
        self._entropy = entropy
        self._table: KeyedTable[K, V] = KeyedTable(codec.owner)
        # Not shown yet, by the offset that must be committed first: a record, or a transaction that ends there; bounded by who waits for them.
        self._noted: deque[tuple[int, Record[K, V] | Ended[K], V | None]] = deque()
        self._pending: PendingRecords[K, V] = PendingRecords(codec.owner)
        self._replayed = 0  # records

    # What is there

    def has(self, owner: str) -> bool:
        """Whether the owner has a record of any kind."""
        return self._table.has(owner)

    def owners(self) -> list[str]:
        """Owners that have a record of any kind."""
        return self._table.owners()

    def keys(self, owner: str) -> list[K]:
        """The owner's keys, some of which may have no value."""
        return list(self._table.of(owner))

    def value(self, owner: str, key: K) -> V | None:
        """The value of a key, as it is shown."""
        return self._table.get(owner, key)

    def is_pending(self, owner: str, key: K) -> bool:
        """Whether a transaction has a record of the key, and its end is not shown yet."""
        return self._pending.has_key(owner, key)

    def has_pending(self, owner: str) -> bool:
        """Whether a transaction has a record of the owner's, and its end is not shown yet."""
        return self._pending.has(owner)

    # Replay

    async def replay(self) -> None:
        """Read the whole log into memory.

        Raises:
            Corrupt: a record that cannot be read; the partition is then not served.  NotCoordinator: the tenure ended.
        """
        with self.tenure:
            position = await self._replay_from(self.log.start_offset)
            if position < self.log.end_offset:  # the last of an earlier tenure, not committed yet
                try:
                    await self.log.committed(self.log.end_offset)
                except StorageFailed:  # none of it was acknowledged, and nothing more can be
                    return
                await self._replay_from(position)

    async def _replay_from(self, position: int) -> int:
        """Replay the committed records; where that ended."""
        return await replay_alive(self.log, position, self._entropy.bytes(SEED_BYTES), self._replay_batch)

    async def _replay_batch(self, whole: memoryview) -> None:
        header = header_at(whole)
        if header.is_control:
            marker = marker_of(whole)
            if marker is not None:
                self._note_end(marker, header.base_offset)
                self._show_below(header.next_offset)
            return
        for found in decode_batch(whole):
            self._replayed += 1
            if self._replayed % REPLAYED_AT_ONCE == 0:
                await asyncio.sleep(0)
            raw = found.key
            key = self._codec.decode_key(bytes(raw)) if raw is not None else None
            if raw is not None and key is not None:
                value = self._codec.decode_value(key, found.value) if found.value is not None else None
                size = _size(raw, found.value)
                if header.is_transactional:
                    self._pending.note(header.producer_id, key, Pending(found.offset, value, size))
                else:
                    self._show(self._table.note(key, value, found.offset, size), value)

    # Append

    async def append(
        self, entries: Sequence[tuple[K, V | None]], producer: Producer | None = None, *, is_whole: bool = False
    ) -> None:
        """Write `entries` (None: a tombstone), wait until they are committed, then show them; as part of the open transaction of a `producer`, if one
        is given: they are shown when that is committed.  `is_whole`: in one batch if that takes them, so that a crash leaves all or none.

        Raises:
            StorageFailed, DiskFull: nothing is shown (it may come back with the next tenure if the log took it).
            NotCoordinator: the tenure ended; what was appended may be there.
        """
        with self.tenure:
            encoded: list[Encoded[K, V]] = []
            for number, (key, value) in enumerate(entries, 1):
                if number % ENCODED_RECORDS_AT_ONCE == 0:
                    await asyncio.sleep(0)
                raw = self._codec.encode_value(value) if value is not None else None
                if raw is not None and not isinstance(raw, bytes):
                    raw = await _joined(raw)
                encoded.append((key, value, self._codec.encode_key(key), raw))
            for run in _runs(encoded, is_whole=is_whole):
                await self.log.room()
                await self._wait_shown(self._write(run) if producer is None else self._write_pending(run, producer))

    def _write_pending(self, run: Sequence[Encoded[K, V]], producer: Producer) -> int:
        """The same in a transaction."""
        now_ms = self._clock.now_ms()
        records = [NewRecord(now_ms, raw_key, raw_value) for _, _, raw_key, raw_value in run]
        producer.check()
        batch = encode_batch(records, producer_id=producer.id, producer_epoch=producer.epoch, is_transactional=True)
        end = self.log.append(batch, now_ms)
        for at, (key, value, raw_key, raw_value) in enumerate(run, end - len(run)):
            self._pending.note(producer.id, key, Pending(at, value, _size(raw_key, raw_value)))
        return end

    async def end_transaction(self, marker: Marker, version: int) -> None:
        """Write the end of a producer's transaction, wait until it is committed, then show what it had or forget it.

        Raises:
            StorageFailed, DiskFull, NotReady: it is still to be ended.
            InvalidProducerEpoch, CoordinatorFenced: a newer one has spoken.
            NotCoordinator
        """
        with self.tenure:
            await self.log.room()
            end = self.log.append_marker(marker, self._clock.now_ms(), version)
            self._note_end(marker, end - 1)
            await self._wait_shown(end)

    def _note_end(self, marker: Marker, at: int) -> None:
        """The log has the end of a transaction at offset `at`."""
        records = self._pending.end(marker.producer_id)
        if not records:
            return
        if marker.is_commit:
            for key, (offset, value, size) in records.items():
                known = self._table.of(self._codec.owner(key)).get(key)
                if known is None or known.newest_at < offset:
                    self._noted.append((at, self._table.note(key, value, offset, size), value))
        self._noted.append((at, Ended(tuple(records)), None))

    def _write(self, run: Sequence[Encoded[K, V]]) -> int:
        """Append one batch; the offset behind it.  A plain function, so that the order of the log is that of the notes."""
        now_ms = self._clock.now_ms()
        batch = encode_batch([NewRecord(now_ms, raw_key, raw_value) for _, _, raw_key, raw_value in run])
        end = self.log.append(batch, now_ms)
        for at, (key, value, raw_key, raw_value) in enumerate(run, end - len(run)):
            self._noted.append((at, self._table.note(key, value, at, _size(raw_key, raw_value)), value))
        return end

    def append_now(self, key: K, value: V, told: Told) -> bool | None:
        """Append one small record without a task.  True: it is committed and shown.  False: `told` is called when it is, or when it cannot be.
        None: it has to wait before it can be appended; nothing was done.

        Raises:
            StorageFailed, DiskFull, NotReady: nothing was done.
        """
        log, raw = self.log, self._codec.encode_value(value)
        if self.tenure.is_over or not log.has_room or not isinstance(raw, bytes):
            return None
        end = self._write(((key, value, self._codec.encode_key(key), raw),))
        if end <= log.committed_end:
            self._show_committed()
            return True
        waiting = _Waiting(self, told)
        self.tenure.watch(waiting.ended)
        log.when_committed(end, waiting.committed)
        return False

    async def _wait_shown(self, end_offset: int) -> None:
        await self.log.committed(end_offset)
        self._show_committed()

    def _show_committed(self) -> None:
        if self._noted:
            self._show_below(self.log.committed_end)

    def _show_below(self, end: int) -> None:
        while self._noted and self._noted[0][0] < end:
            _, what, value = self._noted.popleft()
            if isinstance(what, Record):
                self._show(what, value)
            else:
                self._pending.forget(what.keys)

    def _show(self, record: Record[K, V], value: V | None) -> None:
        """A record is committed; what is built from records follows it here."""
        self._table.show(record, value)

    # Upkeep

    def keep_short(self) -> bool:
        """Close the active segment if the cleaner would take more of the log than it leaves; whether that was done.

        Raises:
            StorageFailed, DiskFull, NotReady: it goes on as it is.
        """
        log = self.log
        if self.tenure.is_over or not log.has_room or log.active_bytes < SEGMENT_BYTES or log.size < 2 * self._table.alive_bytes:
            return False
        log.roll(self._clock.now_ms())
        return True


class Producer(NamedTuple):
    """Whose transaction it is; `check` raises InvalidTxnState if it has ended since its coordinator was asked."""

    id: int
    epoch: int
    check: Callable[[], None]


class Ended(NamedTuple, Generic[K]):
    """The keys of a transaction that has ended."""

    keys: tuple[K, ...]


Encoded = tuple[K, V | None, bytes, bytes | None]
Told = Callable[[Exception | None], None]
"""Called with None, or with what `KeyedLog.append` would raise.  It must not raise."""


class _Waiting:
    """An append that is waited for without a task; its owner is told once."""

    __slots__ = ("_log", "_told")

    def __init__(self, log: KeyedLog[Any, Any], told: Told) -> None:
        self._log = log
        self._told: Told | None = told

    def committed(self, error: Exception | None) -> None:
        told, self._told = self._told, None
        if told is not None:
            self._log.tenure.leave(self.ended)
            if error is None:
                self._log._show_committed()
            told(error)

    def ended(self) -> None:
        told, self._told = self._told, None
        if told is not None:
            told(self._log.tenure.error())


async def _joined(pieces: Iterator[bytes]) -> bytes:
    """All pieces, a bounded part of them in one turn of the loop."""
    whole = bytearray()
    turn_end = ENCODED_AT_ONCE
    for piece in pieces:
        whole += piece
        if len(whole) >= turn_end:
            turn_end = len(whole) + ENCODED_AT_ONCE
            await asyncio.sleep(0)
    return bytes(whole)


def _size(key: bytes | memoryview, value: bytes | memoryview | None) -> int:
    """What a record takes in a batch of many, or a little more."""
    return len(key) + len(value or b"") + RECORD_OVERHEAD_BYTES


def _runs(encoded: Sequence[Encoded[K, V]], *, is_whole: bool = False) -> list[list[Encoded[K, V]]]:
    """Cut into batches that the topic's max.message.bytes takes, and, unless they are to be `is_whole`, that take one turn of the loop."""
    records_max = len(encoded) if is_whole else RECORDS_PER_BATCH_MAX
    bytes_max = WHOLE_BYTES_MAX if is_whole else BATCH_BYTES_MAX
    runs: list[list[Encoded[K, V]]] = []
    size = 0
    for entry in encoded:
        _, _, key, value = entry
        size += _size(key, value)
        if not runs or len(runs[-1]) >= records_max or size > bytes_max:
            runs.append([])
            size = _size(key, value)
        runs[-1].append(entry)
    return runs
