"""One record of every type, and images that hold something of everything: of what version 1 of the formats had, and of what there is now."""

from __future__ import annotations

from uuid import UUID

from controller.image import ClusterImage, fold
from controller.records import (
    BrokerConfigsChanged,
    BrokerStarted,
    ControllerClaimed,
    FeaturesFinalized,
    NamedConfigsChanged,
    NamedKind,
    PartitionsAdded,
    ProducerIdsAllocated,
    Record,
    TopicConfigsChanged,
    TopicCreated,
    TopicDeleted,
    TopicPurged,
)

CLICKS, VIEWS, OLD = UUID(int=1), UUID(int=2), UUID(int=3)
FIRST: list[Record] = [
    ControllerClaimed(epoch=1, node_id=1),
    BrokerStarted(node_id=1, incarnation=UUID(int=9), rack="zone-a", raises_epochs=True),
    TopicCreated(
        topic_id=CLICKS, name="clicks", partitions=((1,), (1,)), configs={"retention.ms": "-1"}, created_ms=1_700_000_000_000
    ),
    TopicCreated(topic_id=VIEWS, name="views", partitions=((1,),), configs={}, created_ms=1_700_000_000_001),
    TopicCreated(topic_id=OLD, name="old", partitions=((1,),), configs={}, created_ms=1_700_000_000_002),
    PartitionsAdded(topic_id=VIEWS, partitions=((1,), (1,))),
    TopicConfigsChanged(topic_id=CLICKS, configs={"retention.ms": None, "segment.bytes": "1048576"}),
    BrokerConfigsChanged(node_id=-1, configs={"num.partitions": "3", "fetch.max.bytes": "2048"}),
    BrokerConfigsChanged(node_id=1, configs={"fetch.max.bytes": "4096"}),
    ProducerIdsAllocated(node_id=1, start=0, end=1000),
    TopicDeleted(topic_id=OLD),
    ControllerClaimed(epoch=2, node_id=1),
    BrokerStarted(node_id=1, incarnation=UUID(int=10), rack="", raises_epochs=True),
    TopicDeleted(topic_id=VIEWS),
    TopicPurged(topic_id=OLD),
]
LATER: list[Record] = [
    FeaturesFinalized(levels={"group.version": 0, "transaction.version": 1}),
    NamedConfigsChanged(kind=NamedKind.GROUP, name="g", configs={"consumer.session.timeout.ms": "50000"}),
    NamedConfigsChanged(kind=NamedKind.CLIENT_METRICS, name="g", configs={"metrics": "*", "interval.ms": "1000"}),
    NamedConfigsChanged(kind=NamedKind.CLIENT_METRICS, name="g", configs={"metrics": None}),
    NamedConfigsChanged(kind=NamedKind.GROUP, name="h", configs={"consumer.heartbeat.interval.ms": "6000"}),
    NamedConfigsChanged(kind=NamedKind.GROUP, name="h", configs={"consumer.heartbeat.interval.ms": None}),
]  # types that came after the golden files
STORY: list[Record] = [*FIRST, *LATER]
IMAGE: ClusterImage = fold(ClusterImage(), STORY)
