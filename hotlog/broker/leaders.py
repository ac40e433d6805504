"""Whether this node leads a partition, and in which epoch, as clients see it (KIP-101, KIP-320): shared by all doors to partitions.

Invariants: what is answered for a partition that is not here is said once; a client with an older epoch is fenced, one with a newer epoch
is told to retry; -1 is not checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kio.schema.errors import ErrorCode

from hotlog.wire.error_codes import Refused

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker
    from hotlog.partitions.partition import Partition


NOT_HERE = ErrorCode.unknown_topic_or_partition  # NOT_LEADER_OR_FOLLOWER where another node leads, once others do


def not_here(topic: str, index: int) -> Refused:
    """The answer for a partition that this node does not serve."""
    return Refused(NOT_HERE, f"partition {topic}-{index} is not here")


def led_here(broker: Broker, topic: str, index: int, current_epoch: int = -1) -> Partition:
    """The partition, for a client that believes in the leader epoch `current_epoch`.

    Raises:
        Refused: it is not served here; FENCED_LEADER_EPOCH or UNKNOWN_LEADER_EPOCH.
    """
    partition = broker.partition(topic, index)
    if partition is None:
        raise not_here(topic, index)
    if 0 <= current_epoch != partition.leader_epoch:
        code = epoch_code(current_epoch, partition.leader_epoch)
        raise Refused(code, f"{partition.tp}: the client's leader epoch is {current_epoch}, ours is {partition.leader_epoch}")
    return partition


def epoch_code(current: int, own: int) -> ErrorCode:
    """What a client with another leader epoch than ours is told."""
    return ErrorCode.fenced_leader_epoch if current < own else ErrorCode.unknown_leader_epoch
