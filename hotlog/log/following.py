"""What a log that follows a leader takes from it.  Pure.

Invariants: offsets and leader epochs never go back; a gap between batches is one that a segment can hold.
"""

from __future__ import annotations

from collections.abc import Sequence

from hotlog.kernel.errors import Corrupt
from hotlog.log.index import RELATIVE_OFFSET_MAX
from hotlog.wire.batch import BatchHeader


def check_follows(headers: Sequence[BatchHeader], *, log_end: int, epoch: int) -> None:
    """Hold what a leader sent against the end of the log that follows it.

    Args:
        log_end: where the log ends.
        epoch: its newest leader epoch, -1 if it has none.
    Raises:
        Corrupt: offsets or leader epochs go back, or a gap is too large for a segment.
    """
    for header in headers:
        if header.base_offset < log_end or header.last_offset_delta < 0:
            raise Corrupt(
                f"a batch of the leader has offsets [{header.base_offset}, {header.next_offset}); the log ends at {log_end}"
            )
        if header.base_offset - log_end > RELATIVE_OFFSET_MAX - header.last_offset_delta:
            raise Corrupt(
                f"a batch of the leader begins at offset {header.base_offset}; the log ends at {log_end}, too far below"
            )
        if header.magic != 2:
            raise Corrupt(f"a batch of the leader at offset {header.base_offset} has magic {header.magic}; only 2 is known")
        if header.leader_epoch < epoch:
            raise Corrupt(
                f"a batch of the leader at offset {header.base_offset} has epoch {header.leader_epoch}; {epoch} was before"
            )
        log_end, epoch = header.next_offset, header.leader_epoch
