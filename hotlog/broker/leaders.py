"""Leader epochs as clients see them (KIP-101, KIP-320), shared by Fetch, ListOffsets and OffsetForLeaderEpoch.

Invariants: a client with an older epoch is fenced, one with a newer epoch is told to retry; -1 is not checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kio.schema.errors import ErrorCode

from hotlog.wire.error_codes import Refused

if TYPE_CHECKING:
    from hotlog.partitions.partition import Partition


def check_epoch(partition: Partition, current: int) -> None:
    """Compare the client's leader epoch with ours.

    Raises:
        Refused: FENCED_LEADER_EPOCH or UNKNOWN_LEADER_EPOCH.
    """
    if current < 0 or current == partition.leader_epoch:
        return
    code = ErrorCode.fenced_leader_epoch if current < partition.leader_epoch else ErrorCode.unknown_leader_epoch
    raise Refused(code, f"{partition.tp}: the client's leader epoch is {current}, ours is {partition.leader_epoch}")
