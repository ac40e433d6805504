"""A partition over a log of a test: the same one for the same log, as a broker has it."""

from __future__ import annotations

from functools import lru_cache

from hotlog.log.partition_log import PartitionLog
from hotlog.partitions.partition import Partition


class Home:
    """A broker with a cold tier, whose store has answered."""

    has_tier = True
    awaits_store = False


@lru_cache(maxsize=64)
def hosted(log: PartitionLog) -> Partition:
    return Partition(log.tp, log.topic_id, log.leader_epoch, log, Home())
