"""What another policy would cost one topic: its bill in the steady state, under the policy that it has and under the one asked about.

A steady state is the topic once its retention is full: it takes in bytes at its rate and lets go of as many.  Where a retention is unlimited
there is no such state, and what is there now is priced.  Both sides are made by the same function, so their difference is the policy's.

Invariants: pure; the local tier never holds less than the open segments, nor more than the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hotlog.kernel.errors import Invalid
from hotlog.kernel.topic_config import TopicConfig
from tiering.cost.formulas import MONTH_SECONDS, upload_requests
from tiering.cost.meter import Line
from tiering.cost.meter import Row as MeterRow
from tiering.cost.model import Design
from tiering.cost.report import TopicUsage, Usage, to_month

KEYS = (
    "local.retention.bytes", "local.retention.ms", "remote.storage.enable", "retention.bytes", "retention.ms", "segment.bytes", "segment.ms",
)  # fmt: skip
SPAN_SECONDS_MIN = 3600.0  # records over less time than this tell no rate
_SEEN = frozenset({"fetch", "readahead", "replay", "export"})  # purposes whose requests come from readers, not from the policy


@dataclass(frozen=True, kw_only=True)
class TopicShape:
    """What is known of a topic beside its policy.  Bytes are of its log, over all partitions."""

    topic: str
    partitions: int
    bytes_per_second: float
    log_bytes: int
    cold_ratio: float = 1.0  # bytes in the store per byte of log that is there
    consumed_per_month: float = 0.0


def rate_of(log_bytes: int, first_ms: int, last_ms: int, produced: int, window_s: float) -> float:
    """Bytes per second that a topic takes in: by its records' timestamps, else by what was produced within a window.

    Raises:
        Invalid: neither covers an hour.
    """
    span = (last_ms - first_ms) / 1000
    if log_bytes and first_ms >= 0 and span >= SPAN_SECONDS_MIN:
        return log_bytes / span
    if produced and window_s >= SPAN_SECONDS_MIN:
        return produced / window_s
    raise Invalid("nothing tells how fast this topic grows (its records cover less than an hour): say it with --rate MB/S")


def check_keys(changes: Iterable[str]) -> None:
    """Raises Invalid for a key that no price depends on."""
    for key in changes:
        if key not in KEYS:
            raise Invalid(f"what-if {key!r}: not a key that the bill depends on; allowed are {', '.join(KEYS)}")


def changed(overrides: Mapping[str, str], changes: Mapping[str, str]) -> TopicConfig:
    """The topic's settings with `changes` over its own `overrides`.

    Raises:
        InvalidConfig: a bad value.
    """
    return TopicConfig.resolve({**overrides, **changes})


def steady(shape: TopicShape, config: TopicConfig, seen: Sequence[MeterRow] = (), window_s: float = 0.0) -> Usage:
    """A month of the topic under `config`.  `seen` are the meter's lines of the last `window_s` seconds; of them, readers' are kept."""
    segment = _segment_bytes(shape, config)
    log = _bounded(shape, config.retention_ms, config.retention_bytes, shape.log_bytes)
    is_tiered = config.remote_enabled
    local = _bounded(shape, config.local_retention_ms, config.local_retention_bytes, log) if is_tiered else log
    opened = min(log, segment * shape.partitions)
    local = min(log, max(local, opened))
    cold = int((log - opened) * shape.cold_ratio) if is_tiered else 0
    month = shape.bytes_per_second * MONTH_SECONDS
    topic = TopicUsage(
        topic=shape.topic, log_bytes=int(log), hot_bytes=int(local), cold_bytes={"": cold},
        cold_objects={"": round(cold / segment / shape.cold_ratio) if cold else 0},
        produced=int(month), consumed=int(shape.consumed_per_month),
    )  # fmt: skip
    meter = _requests(shape, segment, month, seen, window_s) if is_tiered else ()
    return Usage(topics=[topic], meter=tuple(meter), window_s=MONTH_SECONDS)


def _bounded(shape: TopicShape, kept_ms: int, kept_bytes: int, unlimited: float) -> float:
    """Bytes that a retention keeps; `unlimited` where it sets no limit."""
    limits = [shape.bytes_per_second * kept_ms / 1000] if kept_ms >= 0 else []
    if kept_bytes >= 0:
        limits.append(float(kept_bytes * shape.partitions))
    return min(limits, default=unlimited)


def _segment_bytes(shape: TopicShape, config: TopicConfig) -> float:
    """Bytes of a closed segment: full, or closed by its age."""
    by_age = shape.bytes_per_second / max(shape.partitions, 1) * config.segment_ms / 1000
    return max(1.0, min(float(config.segment_bytes), by_age))


def _requests(shape: TopicShape, segment: float, month: float, seen: Sequence[MeterRow], window_s: float) -> list[MeterRow]:
    design = Design(hot_s=None)
    size = month * shape.cold_ratio
    puts = upload_requests(
        size, object_bytes=segment * shape.cold_ratio, single_put_bytes_max=design.single_put_bytes_max,
        part_bytes=design.part_bytes, commits_per_object=design.commits_per_object,
    )  # fmt: skip
    rows = [MeterRow(Line("", shape.topic, "upload", "put", "ok"), round(puts), int(size), 0)]
    stretch = to_month(window_s)
    for row in seen:
        if row.line.topic == shape.topic and row.line.purpose in _SEEN:
            rows.append(row._replace(requests=round(row.requests * stretch), bytes_received=round(row.bytes_received * stretch)))
    return rows


def only(usage: Usage, topic: str) -> Usage:
    """One topic's part of what there is."""
    return replace(
        usage, topics=[t for t in usage.topics if t.topic == topic], meter=[r for r in usage.meter if r.line.topic == topic]
    )
