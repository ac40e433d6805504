"""How old a segment is for retention and copy lag: one function for both tiers.

Two tiers that disagree by a millisecond, or a timestamp from the future, must not pin or lose data; so both ask
here, and a record's timestamp never counts as later than the moment its segment was closed.

Invariants: pure; the same numbers give the same age whichever tier they come from.
"""

from __future__ import annotations


def segment_time_ms(clock: str, *, max_timestamp: int, closed_ms: int) -> int:
    """When a closed segment counts as written, ms since the epoch.

    Args:
        clock: hotlog.retention.clock: `record` (largest record timestamp, at most the close); `append` and `close`: the close,
            before which the last record was appended.
        max_timestamp: largest record timestamp, -1 if records have none (then the close counts, as in Kafka the file's last
            modification: LogSegment.largestTimestamp).
    """
    if clock != "record" or max_timestamp < 0:
        return closed_ms
    return min(max_timestamp, closed_ms) if closed_ms >= 0 else max_timestamp
