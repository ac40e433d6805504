"""Which local segment is copied to the store next, if any.  Pure.

remote.copy.lag.ms / remote.copy.lag.bytes as KIP-1241 (either one makes a segment due, and so does local retention that waits for
the copy), remote.log.copy.disable as KIP-950.

Invariants: always the oldest uncovered closed segment, only below min(high watermark, last stable offset); what total retention would
delete on arrival is not copied; a gap is named, never skipped.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from hotlog.kernel.age import segment_time_ms
from hotlog.kernel.topic_config import TopicConfig
from tiering.manifest.root import Manifest


class LocalSegment(Protocol):
    """What of hotlog.log's SegmentInfo is used here."""

    @property
    def base_offset(self) -> int: ...
    @property
    def end_offset(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def max_timestamp(self) -> int: ...
    @property
    def first_append_ms(self) -> int: ...
    @property
    def closed_ms(self) -> int: ...
    @property
    def log_path(self) -> str: ...
    @property
    def txnindex_path(self) -> str: ...


class Backlog(Protocol):
    """What of hotlog.log's Backlog is used here: the closed segments that are not (wholly) in the store."""

    @property
    def oldest(self) -> LocalSegment: ...
    @property
    def segments(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def newer(self) -> int: ...


class CopyPlan(NamedTuple):
    """Copy [start_offset, segment.end_offset); first record the hole [manifest end, start_offset) if `hole` says why there is one."""

    segment: LocalSegment
    start_offset: int
    hole: str


class CopyWait(NamedTuple):
    """Nothing to copy now; `reason` is for people."""

    reason: str


def covered_until(view: Manifest | None, log_start_offset: int) -> int:
    """Offset below which nothing needs copying: it is committed, or it is below the log start."""
    return max(log_start_offset, view.end_offset if view else -1, view.log_start_offset if view else 0)


def boundary_problem(
    root: Manifest | None,
    *,
    leader_epoch: int,
    revives: bool,
    log_start_offset: int,
    local_start_offset: int,
    log_end_offset: int,
) -> str:
    """Why nothing may be copied although there may be something to copy: the two tiers do not fit together.  "" if they do.

    Args:
        root: the newest root, marked deleted or not; None when there is none.
        revives: whether a root marked deleted is to be begun anew.
    """
    if root is not None and root.epoch > leader_epoch:
        return f"the manifest is claimed by leader epoch {root.epoch}, this leader has {leader_epoch}"
    if root is not None and root.is_deleted and not revives:
        return "the manifest is marked deleted"
    if root is None or root.is_deleted or root.end_offset < 0:
        if log_start_offset < local_start_offset:
            return (
                f"offsets [{log_start_offset}, {local_start_offset}) are not on the local disk, and the store has no manifest of them:"
                f" a wiped or wrong bucket?  Delete records up to {local_start_offset} to go on without them"
            )
        return ""
    if log_end_offset < root.end_offset:
        return (
            f"the local log ends at offset {log_end_offset}, before the tiered end {root.end_offset}:"
            f" it must begin anew there, or offsets would be given out twice"
        )
    return ""


def plan_copy(
    view: Manifest | None,
    backlog: Backlog | None,
    config: TopicConfig,
    *,
    readable_end: int,
    log_start_offset: int,
    now_ms: int,
) -> CopyPlan | CopyWait:
    """The next copy.

    Args:
        view: the committed root; None when there is none.
        backlog: the closed segments above `covered_until`; None if there are none.
        readable_end: min(high watermark, last stable offset, what is on the device).
    """
    if not config.is_copied:
        return CopyWait("copying is switched off for this topic")
    if backlog is None:
        return CopyWait("every closed segment is in the store")
    segment, newer = backlog.oldest, backlog.newer
    if segment.end_offset > readable_end:
        return CopyWait(f"offsets from {readable_end} on are not committed yet")
    age_ms = now_ms - segment_time_ms(
        config.retention_clock,
        max_timestamp=segment.max_timestamp,
        closed_ms=segment.closed_ms,
    )
    if _expired(config, age_ms, newer):
        return CopyWait("total retention is about to delete the oldest segment")
    if not _due(config, age_ms, newer):
        return CopyWait("inside remote.copy.lag")
    end = view.end_offset if view else -1
    start = max(segment.base_offset, end)
    return CopyPlan(segment, start, _gap_reason(view, start, log_start_offset))


def _expired(config: TopicConfig, age_ms: int, newer_bytes: int) -> bool:
    if not config.is_deleted:
        return False
    # Under `block` retention by size waits for the copy when that is late: the copy must not wait for retention.
    is_over = config.untiered_overflow == "drop" and 0 <= config.retention_bytes <= newer_bytes
    return 0 <= config.retention_ms < age_ms or is_over


def _due(config: TopicConfig, age_ms: int, newer_bytes: int) -> bool:
    if config.remote_copy_lag_ms <= 0 or age_ms >= config.remote_copy_lag_ms:
        return True
    limits = (config.remote_copy_lag_bytes, config.local_retention_bytes)
    return any(0 <= limit <= newer_bytes for limit in limits) or 0 <= config.local_retention_ms <= age_ms


def _gap_reason(view: Manifest | None, start: int, log_start_offset: int) -> str:
    if view is None or view.end_offset < 0 or start <= max(view.end_offset, view.log_start_offset):
        return ""
    if start <= log_start_offset:
        return "deleted before it was copied"
    return "missing from the local log"
