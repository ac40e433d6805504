"""Drops the metric series of deleted topics, once nothing of theirs is to be removed any more.

Invariants: a topic that is served, or whose data is still being removed, keeps its series.
"""

from __future__ import annotations

from hotlog.broker.broker import Broker
from hotlog.kernel.metrics import Metrics


class TopicSeries:
    """The topics that may have series."""

    def __init__(self, broker: Broker, metrics: Metrics) -> None:
        self._broker = broker
        self._metrics = metrics
        self._topics: set[str] = set()

    async def tick(self) -> bool:
        """Compare with the image; never more to do."""
        broker = self._broker
        if not broker.is_ready:
            return False
        busy = {*broker.image.topics} | {topic.name for topic in broker.image.doomed.values()}
        if broker.tier is not None:
            busy |= broker.tier.deleted_topics()
        if gone := self._topics - busy:
            self._metrics.forget_topics(gone)
        self._topics = busy
        return False
