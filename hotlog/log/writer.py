"""Appends to one log: checks, a roll where one is due (roller.py), one gathered write.

A leader's append gives out offsets and stamps its epoch; a follower's keeps what the leader gave.

Invariants: a refused append changed nothing; after a failed write or fsync nothing is appended again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hotlog.kernel.errors import CrcMismatch, DiskFull, NotReady, TooLarge
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log import checkpoints, files
from hotlog.log.following import check_follows
from hotlog.log.index import RELATIVE_OFFSET_MAX
from hotlog.log.parts import Parts
from hotlog.log.producers import Batch
from hotlog.log.roller import Roller
from hotlog.log.state import LogState
from hotlog.log.syncer import Syncer
from hotlog.wire.batch import BatchHeader, crc_ok, header_at, stamp, stamp_append_time, stamp_head, walk
from hotlog.wire.markers import Marker, encode_marker, marker_of
from hotlog.wire.plain_batch import Fields

_new = tuple.__new__  # a named tuple's own constructor is a Python call


class Appended(NamedTuple):
    """What became of an append.  `append_time_ms` is -1 under CreateTime; an ack that promises it waits until `end_offset` is committed."""

    base_offset: int
    last_offset: int
    append_time_ms: int
    log_start_offset: int
    end_offset: int
    is_duplicate: bool


class Begun(NamedTuple):
    """An append that may be written: `headers` as they are stamped, at offsets [base, end)."""

    headers: list[BatchHeader]
    base: int
    end: int


class Writer:
    """The writing half of a log; `leader_epoch` is what its appends are stamped with, `blocked` why they are refused for now."""

    def __init__(self, parts: Parts, state: LogState, syncer: Syncer, roller: Roller, config: TopicConfig) -> None:
        self.leader_epoch = max(state.epochs.latest, 0)
        self.blocked: str | None = None
        self.last_append_ms = 0
        self._parts = parts
        self._tp, self._directory, self._segments, self._marks, self._epochs, self._producers = state
        self._syncer = syncer
        self._roller = roller
        self._config = config

    def reconfigure(self, config: TopicConfig) -> None:
        """Take over changed topic settings."""
        self._config = config
        self._roller.reconfigure(config)

    # -- leader

    def append(self, data: memoryview, headers: list[BatchHeader], *, now_ms: int) -> Appended:
        """Write batches at the end whose headers say what their records say (hotlog.wire.inspect); `data` is stamped in place.

        One batch, as nearly always, costs no more calls than what it changes: the file, the segment, the marks.

        Raises:
            StorageFailed, DiskFull: nothing was appended.
            TooLarge: more bytes than a segment may hold.
            OutOfOrderSequence, InvalidProducerEpoch: idempotent producers (hotlog.log.producers).
            NotReady: a thread is writing: ask again, or use append_in_turn.
        """
        syncer, marks, config, roller = self._syncer, self._marks, self._config, self._roller
        if syncer.is_writing:
            raise NotReady(f"{self._tp}: a large batch is being written")
        if len(headers) > 1 or config.is_log_append_time:
            return self._append_any(data, headers, now_ms)
        size = len(data)
        if marks.failed is not None or marks.is_closed or self.blocked is not None or size > config.segment_bytes:
            self._check(size)
        _, length, _, _, _, attributes, delta, _, timestamp, producer_id, producer_epoch, sequence, _ = headers[0]
        if producer_id >= 0 and (known := self._producers.check_next(headers, producer_id, producer_epoch, sequence)) is not None:
            return self._duplicate(known)
        base = marks.log_end_offset
        last = base + delta
        self._parts.space.use_bytes(size)
        active = self._segments.all[-1]
        if (
            active is not roller.roomy
            or active.size + size > config.segment_bytes
            or timestamp - active.first_timestamp > roller.bounds.segment_ms
            or last - active.base_offset > RELATIVE_OFFSET_MAX
        ):
            active = roller.segment_for(size, timestamp, last, now_ms)
        stamp_head(data, 0, base, length, self.leader_epoch)
        self._write(data)
        if self.leader_epoch > self._epochs.latest:
            self._begin_epoch(base)
        if active.note_one(size, last, timestamp, config.index_interval_bytes):
            roller.index_grew(active)
        if producer_id >= 0:
            self._producers.note(producer_id, producer_epoch, sequence, last, delta, timestamp, attributes, now_ms)
        self.last_append_ms = now_ms
        end = last + 1
        marks.appended(end, active.base_offset, active.size)
        if config.is_fsynced or end - marks.durable_end >= config.flush_messages:
            syncer.want(end)
        return _new(Appended, (base, last, -1, marks.log_start_offset, end, False))

    def append_marker(self, marker: Marker, *, now_ms: int, version: int = 0) -> int:
        """End a transaction (WriteTxnMarkers); the offset behind the marker, which counts once that is committed.

        It is small, and retention and tiering wait for it: neither a full disk's reserve nor a block holds it up.

        Args:
            version: the transaction.version by which it was ended.
        Raises:
            StorageFailed, DiskFull: nothing was appended.
            InvalidProducerEpoch, CoordinatorFenced: a newer one has spoken.
            NotReady: a thread is writing.
        """
        if self._syncer.is_writing:
            raise NotReady(f"{self._tp}: a large batch is being written")
        self._check_open()
        self._producers.check_marker(marker, version)
        data = memoryview(encode_marker(marker, now_ms))
        base, headers = self._marks.log_end_offset, [header_at(data)]
        self._roller.roll_if_due(len(data), now_ms, base, now_ms)
        headers = stamp(data, headers, base, self.leader_epoch)
        if self._config.is_log_append_time:
            headers = stamp_append_time(data, headers, now_ms)
        self._write(data)
        return self.finish(Begun(headers, base, base + 1), now_ms, data).end_offset

    def _append_any(self, data: memoryview, headers: list[BatchHeader], now_ms: int) -> Appended:
        """Several batches, or one that gets its time here."""
        begun = self.begin(data, headers, now_ms)
        if isinstance(begun, Appended):
            return begun
        self._write(data)
        return self.finish(begun, now_ms)

    def _write(self, data: memoryview) -> None:
        """Raises StorageFailed, DiskFull, Retry."""
        file = self._syncer.file or self._syncer.open_file()
        try:
            file.append((data,))
        except OSError as error:
            self._syncer.refuse_after(error, "append to", file.path)

    def append_plain(self, data: memoryview, fields: Fields, now_ms: int) -> int:
        """The same for one batch, in the case that nearly all have: there is a segment with room, open and begun, and the batch is none of an
        idempotent producer's first or repeated ones.  `fields` are its header's, and hotlog.wire.plain_batch has found it sound.

        Returns the offset it got; -1 where it is another case: nothing was done.

        Raises as `append`; `data` is then as it was.
        """
        marks, syncer, roller, config, active = self._marks, self._syncer, self._roller, self._config, self._segments.all[-1]
        file, base, size = syncer.file, marks.log_end_offset, len(data)
        last, timestamp = base + fields[6], fields[8]
        if (
            file is None
            or active is not roller.roomy
            or active.size + size > config.segment_bytes
            or timestamp - active.first_timestamp > roller.bounds.segment_ms
            or last - active.base_offset > RELATIVE_OFFSET_MAX
            or not self._is_plain(fields)
        ):
            return -1
        self._parts.space.use_bytes(size)
        stamp_head(data, 0, base, fields[1], self.leader_epoch)
        try:
            file.append((data,))
        except OSError as error:
            stamp_head(data, 0, *fields[:3])
            syncer.refuse_after(error, "append to", file.path)
        if active.note_one(size, last, timestamp, config.index_interval_bytes):
            roller.index_grew(active)
        if fields[9] >= 0:
            self._producers.note(fields[9], fields[10], fields[11], last, fields[6], timestamp, fields[5], now_ms)
        self.last_append_ms = now_ms
        end = last + 1
        marks.appended(end, active.base_offset, active.size)
        if config.is_fsynced or end - marks.durable_end >= config.flush_messages:
            syncer.want(end)
        return base

    def _is_plain(self, fields: Fields) -> bool:
        """Whether nobody forbids an append, or writes meanwhile, and it is the first of nothing."""
        marks, syncer = self._marks, self._syncer
        if marks.failed is not None or marks.is_closed or self.blocked is not None or syncer.is_writing or syncer.rolled:
            return False
        if self.leader_epoch > self._epochs.latest:
            return False
        return fields[9] < 0 or self._producers.follows(fields[9], fields[10], fields[11])

    def begin(self, data: memoryview, headers: list[BatchHeader], now_ms: int) -> Begun | Appended:
        """Everything before the write: checks, a roll, stamps; or what became of a batch that is here already."""
        marks, config, size = self._marks, self._config, len(data)
        self._check(size)
        known = self._producers.check(headers)
        if known is not None:
            return self._duplicate(known)
        base = marks.log_end_offset
        end = base + sum(header.last_offset_delta for header in headers) + len(headers)
        largest = max(header.max_timestamp for header in headers)
        self._parts.space.use_bytes(size)
        self._roller.roll_if_due(size, now_ms if config.is_log_append_time else largest, end - 1, now_ms)
        headers = stamp(data, headers, base, self.leader_epoch)
        if config.is_log_append_time:
            headers = stamp_append_time(data, headers, now_ms)
        return _new(Begun, (headers, base, end))

    def finish(self, begun: Begun, now_ms: int, data: memoryview | None = None) -> Appended:
        """Everything after the write; `data` is what was written, if transactions end in it."""
        headers, base, end = begun
        if self.leader_epoch > self._epochs.latest:
            self._begin_epoch(base)
        self._note_appended(headers, end, now_ms, data)
        at = now_ms if self._config.is_log_append_time else -1
        return _new(Appended, (base, end - 1, at, self._marks.log_start_offset, end, False))

    def _check(self, size: int) -> None:
        """Whether a leader may append `size` bytes.  Raises StorageFailed, DiskFull, TooLarge."""
        self._check_open()
        if self.blocked is not None:
            raise DiskFull(f"{self._tp}: {self.blocked}")
        most = self._config.segment_bytes
        if size > most:
            raise TooLarge(f"{self._tp}: {size} bytes of records; at most {most} are allowed (segment.bytes)")

    def _duplicate(self, known: Batch) -> Appended:
        at = known.timestamp if self._config.is_log_append_time else -1
        return Appended(known.first_offset, known.last_offset, at, self._marks.log_start_offset, known.last_offset + 1, True)

    def _begin_epoch(self, base: int) -> None:
        """The first batch of the leader's epoch is at `base`."""
        self._epochs.assign(self.leader_epoch, base)
        self.note_epochs()

    # -- follower

    def append_as_follower(self, data: memoryview, *, now_ms: int) -> int:
        """Write the whole batches of `data` with the offsets and leader epochs that the leader gave them; return the log's end.

        They begin at the log's end or beyond it: a leader's log may have gaps.  A batch that is cut off at the end of `data` is left out.
        Where an error comes after some batches were written, the log's end says how many.

        Raises:
            Corrupt: not what a leader of this log sends: offsets or epochs go back, a CRC fails.
            StorageFailed, DiskFull: the disk.
            NotReady: a thread is writing, or the log is being cut.
        """
        if self._syncer.is_writing:
            raise NotReady(f"{self._tp}: its end is in use")
        self._check_open()
        batches = list(walk(data))
        check_follows([header for _, header in batches], log_end=self._marks.log_end_offset, epoch=self._epochs.latest)
        for at, header in batches:
            if not crc_ok(data[at : at + header.size]):
                raise CrcMismatch(f"{self._tp}: the leader's batch at offset {header.base_offset} fails its CRC-32C")
        start = 0
        while start < len(batches):
            stop = self._fitting(batches, start)
            run = [header for _, header in batches[start:stop]]
            begin, last = batches[start][0], batches[stop - 1]
            self._append_run(data[begin : last[0] + last[1].size], run, now_ms)
            start = stop
        return self._marks.log_end_offset

    def _fitting(self, batches: list[tuple[int, BatchHeader]], start: int) -> int:
        """How far the batches from number `start` on go into one segment, at least one of them."""
        active, first = self._segments.active, batches[start]
        room = self._config.segment_bytes - active.size
        if first[1].size > room:
            room = self._config.segment_bytes  # a new segment's
        base = active.base_offset
        for number, (at, header) in enumerate(batches[start + 1 :], start + 1):
            if at + header.size - first[0] > room or header.last_offset - base > RELATIVE_OFFSET_MAX:
                return number
        return len(batches)

    def _append_run(self, data: memoryview, headers: list[BatchHeader], now_ms: int) -> None:
        """Write batches that go into one segment."""
        marks = self._marks
        self._parts.space.use_bytes(len(data))
        end = headers[-1].next_offset
        self._roller.roll_if_due(len(data), max(header.max_timestamp for header in headers), end - 1, now_ms)
        self._write(data)
        before = self._epochs.latest
        for header in headers:
            self._epochs.assign(header.leader_epoch, header.base_offset)
        if self._epochs.latest > before:
            self.note_epochs()
        active = self._segments.active
        position = active.size
        for header in headers[:-1]:  # each may be where the log is committed up to
            position += header.size
            marks.appended(header.next_offset, active.base_offset, position)
        self._note_appended(headers, end, now_ms, data)

    # -- both

    def _check_open(self) -> None:
        if self._marks.failed is not None or self._marks.is_closed:
            self._syncer.refuse()

    def _note_appended(self, headers: Sequence[BatchHeader], end: int, now_ms: int, data: memoryview | None = None) -> None:
        """Batches are written: indexes, producers, ends, and what makes them durable; `data` are their bytes, if there are markers among them."""
        active, config, marks, syncer = self._segments.all[-1], self._config, self._marks, self._syncer
        if active.size == 0:
            active.first_append_ms = now_ms
        active.note(headers, config.index_interval_bytes)
        position = 0
        for header in headers:
            if header.producer_id >= 0:
                if not header.is_control:
                    self._producers.update(header, now_ms)
                elif data is not None and (marker := marker_of(data[position : position + header.size])) is not None:
                    self._end_transaction(marker, header, now_ms)
            position += header.size
        self.last_append_ms = now_ms
        self._roller.index_grew(active)
        marks.appended(end, active.base_offset, active.size)
        if config.is_fsynced or end - marks.durable_end >= config.flush_messages:
            syncer.want(end)

    def _end_transaction(self, marker: Marker, header: BatchHeader, now_ms: int) -> None:
        aborted = self._producers.end_transaction(marker, header.last_offset, header.max_timestamp, now_ms)
        if aborted is not None:
            self._segments.note_aborted(aborted)
            self._syncer.note_aborted()

    def note_epochs(self) -> None:
        """Write the leader epochs with the next flush."""
        self._syncer.write_soon(f"{self._directory}/{files.EPOCHS_FILE}", checkpoints.print_epochs(self._epochs.entries))
