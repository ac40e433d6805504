"""What one partition's log is made of: its parts, offsets and epochs, and how others are told that they moved.

Invariants: the watermark is one tuple (offset, segment base, byte), swapped as a whole, so that a reader in a thread never sees half of
a move; `segments` likewise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, NoReturn
from uuid import UUID

from hotlog.kernel.errors import DiskFull, Retry, StorageFailed
from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log import checkpoints, files
from hotlog.log.flusher import NO_DESCRIPTORS, NO_SPACE
from hotlog.log.loaded import Loaded
from hotlog.log.pool import FilePool
from hotlog.log.reader import SegmentReader
from hotlog.log.segment import Segment
from hotlog.log.space import Space
from hotlog.log.writers import Writers
from hotlog.world.ports import Clock, Disk, Entropy, File


class Parts(NamedTuple):
    """What all logs of a data directory share."""

    disk: Disk
    clock: Clock
    entropy: Entropy
    metrics: Metrics
    pool: FilePool
    writers: Writers
    reader: SegmentReader
    space: Space
    save_log_starts: Callable[[], Awaitable[None]]
    save_damage: Callable[[], Awaitable[None]]


class Watermark(NamedTuple):
    """The readable end: an offset, and where it lies: byte `position` of the segment at `base`."""

    offset: int
    base: int
    position: int


class LogState:
    """State and small moves of a log; appends and reads build on it."""

    def __init__(
        self, parts: Parts, tp: TopicPartition, directory: str, config: TopicConfig, loaded: Loaded, log_start: int
    ) -> None:
        self.tp = tp
        self.topic_id: UUID = loaded.topic_id
        self.config = config
        self.directory = directory
        self.failed: Exception | None = loaded.problem
        self.log_end_offset = loaded.log_end
        self.durable_end = loaded.readable_end
        self.log_start_offset = log_start
        self.tiered_end_offset = 0
        self.leader_epoch = max(loaded.epochs.latest, 0)
        self.epochs = loaded.epochs
        self.producers = loaded.producers
        self.is_closed = False
        self.blocked: str | None = None  # why appends are refused for now though the disk is well
        self.snapshot_offset = loaded.snapshot_offset
        self._parts = parts
        self._segments: tuple[Segment, ...] = tuple(loaded.segments)
        self._watermark = _find_watermark(loaded)
        self._writer: File | None = None
        self._unsynced: list[Segment] = []  # rolled, not yet on the device
        self._writes: dict[str, bytes] = {}  # small files due with the next flush
        self._waiters: dict[Callable[[], None], None] = {}
        self._segment_ms = self._jittered_ms()
        if loaded.epochs_dirty:
            self._note_epochs()

    @property
    def active(self) -> Segment:
        return self._segments[-1]

    @property
    def segment_count(self) -> int:
        return len(self._segments)

    @property
    def high_watermark(self) -> int:
        """Readable end: durable under fsync durability, else the log's end."""
        return self._watermark.offset

    @property
    def local_log_start_offset(self) -> int:
        """First offset that may be read from the local disk."""
        return max(self._segments[0].base_offset, self.log_start_offset)

    @property
    def last_stable_offset(self) -> int:
        """The high watermark, or the first offset of the oldest open transaction below it."""
        start = self.producers.first_open_transaction if len(self.producers) else None
        return self.high_watermark if start is None else min(start, self.high_watermark)

    @property
    def size(self) -> int:
        """Bytes of log on the local disk."""
        return sum(segment.size for segment in self._segments)

    @property
    def recovery_point(self) -> int:
        """Everything below is on the device, with the indexes of closed segments."""
        return min(self.durable_end, self._unsynced[0].base_offset) if self._unsynced else self.durable_end

    def set_leader_epoch(self, epoch: int) -> None:
        """Lead from here on under `epoch`: the next offset is its first (KIP-101)."""
        self.leader_epoch = epoch
        if self.epochs.assign(epoch, self.log_end_offset):
            self._note_epochs()

    def set_tiered_end(self, offset: int) -> None:
        """Everything below `offset` is committed in the cold tier."""
        self.tiered_end_offset = offset

    def end_offset_for_epoch(self, epoch: int) -> tuple[int, int]:
        """(largest known epoch <= `epoch`, where it ends); (-1, -1) if unknown (KIP-101, KIP-279)."""
        return self.epochs.end_offset_for(epoch, self.log_end_offset)

    def leader_epoch_bytes(self, end_offset: int) -> bytes:
        """leader-epoch-checkpoint content for the part of the log below `end_offset`."""
        return checkpoints.print_epochs(self.epochs.up_to(end_offset))

    def add_waiter(self, callback: Callable[[], None]) -> None:
        """Call `callback` on the loop whenever the high watermark moved, the log failed or closed, until removed."""
        self._waiters[callback] = None

    def remove_waiter(self, callback: Callable[[], None]) -> None:
        self._waiters.pop(callback, None)

    def _notify(self) -> None:
        for callback in tuple(self._waiters):
            callback()

    def _advance(self, mark: Watermark) -> None:
        if mark.offset > self._watermark.offset:
            self._watermark = mark
            self._notify()

    def _jittered_ms(self) -> int:
        jitter = min(self.config.segment_jitter_ms, self.config.segment_ms)
        return self.config.segment_ms - int(self._parts.entropy.uniform(0, jitter)) if jitter else self.config.segment_ms

    def _note_epochs(self) -> None:
        self._writes[f"{self.directory}/{files.EPOCHS_FILE}"] = checkpoints.print_epochs(self.epochs.entries)

    def _fail(self, error: Exception) -> None:
        raise NotImplementedError

    def _refuse(self) -> NoReturn:
        if self.failed is None:
            raise StorageFailed(f"{self.tp}: the log is closed")
        raise StorageFailed(
            f"{self.tp}: the log takes no more appends until restart and recovery: {self.failed}"
        ) from self.failed

    def _disk_error(self, doing: str, path: str, error: OSError) -> NoReturn:
        if error.errno in NO_DESCRIPTORS:
            raise Retry(f"{self.tp}: no file descriptor is left to {doing} {path}") from error
        if error.errno in NO_SPACE:
            raise DiskFull(f"{self.tp}: no space to {doing} {path}: {error}") from error
        self._fail(error)
        self._refuse()


def _find_watermark(loaded: Loaded) -> Watermark:
    end = loaded.readable_end
    for segment in reversed(loaded.segments):
        if segment.base_offset <= end:
            return Watermark(end, segment.base_offset, segment.size)
    return Watermark(end, loaded.segments[0].base_offset, 0)
