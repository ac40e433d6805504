"""What all logs of a data directory share.

Invariants: made once by the manager, handed to every log, never changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.metrics import Metrics
from hotlog.log.open_writers import OpenWriters
from hotlog.log.pool import FilePool
from hotlog.log.segment_reader import SegmentReader
from hotlog.log.space import Space
from hotlog.log.sync_rounds import SyncRounds
from hotlog.world.ports import Clock, Disk, Entropy


class Parts(NamedTuple):
    """`save_*`: until the data directory's file of that name has what all logs know now.  `wake`: something happened to a log that upkeep is to
    look at."""

    disk: Disk
    clock: Clock
    entropy: Entropy
    metrics: Metrics
    pool: FilePool
    writers: OpenWriters
    rounds: SyncRounds
    reader: SegmentReader
    space: Space
    save_log_starts: Callable[[], Awaitable[None]]
    save_recovery_points: Callable[[], Awaitable[None]]
    save_cleaned_ends: Callable[[], Awaitable[None]]
    save_damage: Callable[[], Awaitable[None]]
    wake: Callable[[TopicPartition], None]
