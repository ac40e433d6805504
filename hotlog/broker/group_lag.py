"""Measures now and then how far the groups of this broker are behind, for the metrics (hotlog.observe.group_lag has the rule)."""

from __future__ import annotations

from hotlog.broker.broker import Broker
from hotlog.kernel.errors import HotlogError
from hotlog.kernel.metrics import Metrics
from hotlog.observe.group_lag import Ends, measure


class GroupLag:
    """Of one broker."""

    def __init__(self, broker: Broker, metrics: Metrics) -> None:
        self._broker = broker
        self._metrics = metrics

    async def tick(self) -> bool:
        """Measure all groups; never more to do."""
        if self._broker.is_ready:
            self._metrics.group_lag.rows = await measure(self._broker.groups.kept_ids(), self._offsets_of, self._ends_of)
        return False

    def _offsets_of(self, group: str) -> dict[tuple[str, int], int]:
        try:
            return {place: value.offset for place, value in self._broker.groups.offsets(group).items()}
        except HotlogError:  # given up meanwhile
            return {}

    def _ends_of(self, topic: str, index: int) -> Ends | None:
        partition = self._broker.partition(topic, index)
        return None if partition is None else Ends(partition.local_log_start_offset, partition.committed_end)
