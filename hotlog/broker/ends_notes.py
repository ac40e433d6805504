"""Writes down in the store, now and then, how far this broker's logs have come.  What for: controller.ends.

Invariants: nothing is noted by a broker that has not joined the cluster, since another process may have its node id, or the store was not examined.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING
from uuid import UUID

from controller.ends import PartitionEnds
from hotlog.kernel.errors import HotlogError
from hotlog.kernel.ids import TopicPartition

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

LOG = logging.getLogger(__name__)
LAST_NOTE_S = 5.0
YIELD_EVERY = 1000  # partitions looked at before the event loop gets a turn


async def _ends(broker: Broker) -> PartitionEnds:
    ends: dict[UUID, dict[int, int]] = {topic_id: {} for topic_id in broker.image.topics_by_id}
    for number, partition in enumerate(broker.hosted(), 1):
        if number % YIELD_EVERY == 0:
            await asyncio.sleep(0)
        ends.setdefault(partition.topic_id, {})[partition.tp.partition] = partition.log_end_offset
    return ends


class EndsNotes:
    """The worker: looks at the logs in which something happened since the last note."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._stirred = broker.logs.follow()
        self._moved: dict[TopicPartition, None] = {}

    async def tick(self) -> bool:
        """Note how far the logs are, if it is time; True if that was done.

        Raises:
            StoreUnavailable: at the next tick.
        """
        broker = self._broker
        self._moved.update((tp, None) for tp in self._stirred.take())
        if not broker.is_ready or not broker.metadata.is_joined:
            return False
        if not broker.metadata.ends.is_due(self._gone_on()):
            return False
        moved, self._moved = self._moved, {}
        try:
            await broker.metadata.ends.note(await _ends(broker), directory_id=broker.logs.directory_id, is_final=False)
        except BaseException:
            self._moved = moved | self._moved
            raise
        return True

    def _gone_on(self) -> int:
        """By how many offsets the log has gone on that has gone on furthest; those that have not are forgotten."""
        most = 0
        for tp in list(self._moved):
            partition = self._broker.partition(tp.topic, tp.partition)
            gone_on = 0
            if partition is not None:
                gone_on = self._broker.metadata.ends.gone_on(partition.topic_id, tp.partition, partition.log_end_offset)
            if gone_on <= 0:
                del self._moved[tp]
            most = max(most, gone_on)
        return most


async def note_ends_at_last(broker: Broker) -> None:
    """After the broker was closed: its logs will not go on, so what is noted now is exact.  Best effort; a stop does not wait for the store."""
    if not broker.metadata.is_joined:
        return
    try:
        async with asyncio.timeout(LAST_NOTE_S):
            await broker.metadata.ends.note(await _ends(broker), directory_id=broker.logs.directory_id, is_final=True)
    except (HotlogError, TimeoutError) as weather:
        LOG.info("how far the logs are is not noted in the store: %s", weather)
