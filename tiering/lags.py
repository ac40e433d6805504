"""How far copying is behind, by partition and by topic, and what the store holds: what the gauges say.

Invariants: sums follow each partition when it is looked at, so that telling them costs nothing for partitions in which nothing happened; a topic
whose last partition is gone is told once more, as nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from hotlog.kernel.ids import PartitionId
from hotlog.kernel.metrics import Metrics
from tiering.cold_partition import ColdPartition, Lag
from tiering.upload.plan import covered_until


class _Shown(NamedTuple):
    """What a partition adds to its topic's sums."""

    topic: str
    lag: Lag
    size_bytes: int
    rows: int
    is_known: bool


class _Sums:
    """What the gauges of a topic say.  `oldest_ms` are of the partitions that are behind."""

    __slots__ = ("lag_bytes", "lag_segments", "oldest_ms", "partitions", "rows", "size_bytes", "unknown")

    def __init__(self) -> None:
        self.lag_bytes = self.lag_segments = self.size_bytes = self.rows = self.partitions = self.unknown = 0
        self.oldest_ms: dict[PartitionId, int] = {}

    def add(self, pid: PartitionId, shown: _Shown, sign: int) -> None:
        self.partitions += sign
        self.unknown += sign * (not shown.is_known)
        self.size_bytes += sign * shown.size_bytes
        self.rows += sign * shown.rows
        self.lag_bytes += sign * shown.lag.size
        self.lag_segments += sign * shown.lag.segments
        if sign < 0:
            self.oldest_ms.pop(pid, None)
        elif shown.lag.segments:
            self.oldest_ms[pid] = shown.lag.oldest_ms


class Lags:
    """The partitions of one broker as they were last looked at."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._shown: dict[PartitionId, _Shown] = {}
        self._sums: dict[str, _Sums] = {}
        self._changed: dict[str, None] = {}

    def measure(self, cold: ColdPartition) -> None:
        """How far copying of `cold` is behind, whether or not it can go on; while nothing is known of the store, all that is closed counts."""
        log, view = cold.log, cold.view
        backlog = log.closed_above(covered_until(view, log.log_start_offset))
        if backlog is not None and log.config.is_compacted and backlog.oldest.end_offset > log.cleaned_end:
            backlog = None  # it waits to be cleaned, not to be copied
        cold.lag = Lag() if backlog is None else Lag(backlog.size, backlog.segments, backlog.oldest.closed_ms)
        rows = view.totals.rows if view is not None and cold.ready else 0
        self._show(cold.pid, _Shown(cold.topic, cold.lag, cold.size_bytes if cold.ready else 0, rows, cold.ready))

    def forget(self, pid: PartitionId) -> None:
        """It was given up."""
        self._show(pid, None)

    def _show(self, pid: PartitionId, shown: _Shown | None) -> None:
        before = self._shown.pop(pid, None)
        if before is not None:
            self._sums[before.topic].add(pid, before, -1)
            self._changed[before.topic] = None
        if shown is not None:
            self._shown[pid] = shown
            self._sums.setdefault(shown.topic, _Sums()).add(pid, shown, 1)
            self._changed[shown.topic] = None

    def tell(self, now_ms: int, topics_max: int) -> bool:
        """Set the gauges of topics that changed or are behind, at most `topics_max`; whether some are left."""
        for _ in range(min(topics_max, len(self._changed))):
            topic = next(iter(self._changed))
            del self._changed[topic]
            self._tell(topic, self._sums[topic], now_ms)
        return bool(self._changed)

    def all_behind(self) -> None:
        """What ages is told anew."""
        self._changed.update((topic, None) for topic, sums in self._sums.items() if sums.oldest_ms)

    def _tell(self, topic: str, sums: _Sums, now_ms: int) -> None:
        metrics = self._metrics
        oldest_ms = min(sums.oldest_ms.values(), default=now_ms)
        metrics.remote_copy_lag_bytes.labels(topic).set(sums.lag_bytes)
        metrics.remote_copy_lag_segments.labels(topic).set(sums.lag_segments)
        metrics.oldest_untiered_seconds.labels(topic).set(max(0, now_ms - oldest_ms) / 1000)
        if not sums.partitions:
            del self._sums[topic]
        if not sums.unknown:  # else what the store has is not known
            metrics.remote_log_size_bytes.labels(topic).set(sums.size_bytes)
            metrics.remote_metadata_count.labels(topic).set(sums.rows)
