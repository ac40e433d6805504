"""What loading a partition needs, and what it finds.

Invariants: values only; loader.py and repair.py fill them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from hotlog.log.epochs import LeaderEpochs
from hotlog.log.index import AbortedTransaction
from hotlog.log.producers import Producers
from hotlog.log.segment import Segment
from hotlog.log.segment_reader import SegmentReader
from hotlog.wire.batch import BatchHeader
from hotlog.wire.markers import marker_of
from hotlog.world.ports import Buffer, Disk


@dataclass(kw_only=True)
class Loader:
    """What loading needs besides the directory.  `recovery_point` and `log_start` are offsets, None where no checkpoint names them."""

    disk: Disk
    reader: SegmentReader
    report: Callable[[str, str], None]
    clean: bool
    recovery_point: int
    log_start: int | None
    now_ms: int
    interval_bytes: int
    producer_expiry_ms: int
    gaps_allowed: bool  # a compacted log may lack the end of a segment, below the recovery point
    is_point_known: bool = True  # else the recovery point is lost, and may have been anywhere
    suspects: frozenset[int] = frozenset()  # base offsets of segments that were damaged when last seen


@dataclass
class Loaded:
    """A partition as found.  `readable_end` is below `log_end` only where a problem was found."""

    topic_id: UUID
    producers: Producers
    segments: list[Segment] = field(default_factory=list)
    epochs: LeaderEpochs = field(default_factory=LeaderEpochs)
    log_end: int = 0
    readable_end: int = 0
    problem: Exception | None = None
    epochs_dirty: bool = False
    snapshot_offset: int = -1  # newest producer snapshot that was taken over


def note_producer(
    producers: Producers, header: BatchHeader, now_ms: int, body: Callable[[], Buffer]
) -> AbortedTransaction | None:
    """Bring `producers` on by a batch that is in the log; what readers must know if it aborted a transaction.  `body` reads the whole batch, which
    is needed of those that end one.

    Raises:
        Corrupt: a marker that cannot be read.
    """
    if header.producer_id < 0:
        return None
    if not header.is_control:
        producers.update(header, now_ms)
        return None
    marker = marker_of(body())
    return None if marker is None else producers.end_transaction(marker, header.last_offset, header.max_timestamp, now_ms)
