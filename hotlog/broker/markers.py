"""Ends of transactions, written into the partitions that are here (WriteTxnMarkers, and the coordinator's own).

Invariants: a partition counts as told once its marker is committed; one that does not exist any more, or in which a newer producer or coordinator has
spoken, needs none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Any, Protocol

from controller.internal_topics import GROUPS_TOPIC
from hotlog.coordinators.service import GroupCoordinator
from hotlog.coordinators.transaction_types import Place, Version
from hotlog.kernel.errors import CoordinatorFenced, InvalidProducerEpoch, NotFound
from hotlog.partitions.partition import Partition
from hotlog.wire.error_codes import is_expected
from hotlog.wire.markers import Marker
from hotlog.world.ports import Clock

LOG = logging.getLogger(__name__)
OVER = (InvalidProducerEpoch, CoordinatorFenced)  # somebody newer has spoken: there is nothing left to end


class Home(Protocol):
    """What is asked of the broker (hotlog.broker.broker)."""

    clock: Clock
    groups: GroupCoordinator

    def partition(self, topic: str, index: int) -> Partition | None: ...

    def topic(self, name: str) -> Any | None: ...


async def mark_all(broker: Home, marker: Marker, version: Version, places: Collection[Place]) -> list[Place]:
    """End a transaction in `places`; those in which it is still to be ended."""
    outcomes = await mark_each(broker, marker, version.level, places)
    left = []
    for place, error in outcomes.items():
        if error is None or not _exists(broker, place):
            continue
        if isinstance(error, OVER):
            LOG.info("producer %d has no transaction to end in %s-%d any more: %s", marker.producer_id, *place, error)
            continue
        LOG.log(
            logging.INFO if is_expected(error) else logging.ERROR,
            "the transaction of producer %d is still to be ended in %s-%d: %s", marker.producer_id, *place, error,
            exc_info=None if is_expected(error) else error,
        )  # fmt: skip
        left.append(place)
    return left


def _exists(broker: Home, place: Place) -> bool:
    """A topic that was made anew may have fewer partitions."""
    topic = broker.topic(place[0])
    return topic is not None and place[1] < len(topic.partitions)


async def mark_each(broker: Home, marker: Marker, version: int, places: Collection[Place]) -> dict[Place, Exception | None]:
    """End a transaction in each of `places`: why it could not be, or None once that is committed."""
    found = await asyncio.gather(*(_mark(broker, marker, version, place) for place in places), return_exceptions=True)
    outcomes: dict[Place, Exception | None] = {}
    for place, outcome in zip(places, found, strict=True):
        if outcome is not None and not isinstance(outcome, Exception):
            raise outcome
        outcomes[place] = outcome
    return outcomes


async def _mark(broker: Home, marker: Marker, version: int, place: Place) -> None:
    topic, index = place
    if topic == GROUPS_TOPIC:
        await broker.groups.end_transaction(index, marker, version)
        return
    partition = broker.partition(topic, index)
    if partition is None:
        raise NotFound(f"partition {topic}-{index} is not here")
    end = partition.append_marker(marker, now_ms=broker.clock.now_ms(), version=version)
    await partition.committed(end)
