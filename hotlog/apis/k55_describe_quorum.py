"""DescribeQuorum (55): who leads the metadata log, and how far it has come (KIP-595, KIP-836, KIP-853).

Versions 0 to 2: times from 1, directories and where the nodes are from 2.  Kafka's metadata log is a partition of its controllers; here it lies in the
object store, and the node whose lease it is commits to it (docs/formats/metadata.md).  That node is told as the leader, every registered
one as a voter, as each may claim the lease.

Invariants: how far another node has read is not known here (-1); offsets are those of the newest image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 55
METADATA_TOPIC = "__cluster_metadata"
UNKNOWN = -1


def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Describe the metadata log, which is all that may be asked for."""
    shapes = responses(KEY, context.version)
    if [(topic.topic_name, [part.partition_index for part in topic.partitions]) for topic in request.topics] != [
        (METADATA_TOPIC, [0])
    ]:
        return _unknown(context, request)
    image, now_ms = broker.image, broker.clock.now_ms()
    ids = sorted({*image.brokers, image.controller_id, broker.node_id} - {UNKNOWN})

    def voter(node: int) -> Any:
        is_known = node in (image.controller_id, broker.node_id)
        at_ms = now_ms if is_known else UNKNOWN
        return shapes.ReplicaState(
            replica_id=node,
            replica_directory_id=None,
            log_end_offset=image.offset if is_known else UNKNOWN,
            last_fetch_timestamp=at_ms,
            last_caught_up_timestamp=at_ms,
        )

    part = shapes.PartitionData(
        partition_index=0,
        error_code=ErrorCode.none,
        error_message=None,
        leader_id=image.controller_id,
        leader_epoch=image.controller_epoch,
        high_watermark=image.offset,
        current_voters=tuple(map(voter, ids)),
        observers=(),
    )
    return shapes.DescribeQuorumResponse(
        error_code=ErrorCode.none,
        error_message=None,
        topics=(shapes.TopicData(topic_name=METADATA_TOPIC, partitions=(part,)),),
        **_nodes(broker, context),
    )


def _nodes(broker: Broker, context: RequestContext) -> dict[str, Any]:
    """Where this node is: where the others are is not known."""
    shapes = responses(KEY, context.version)
    if not shapes.has("Node"):
        return {}
    host, port = broker.advertised[context.caller.listener]
    listener = shapes.Listener(name=context.caller.listener, host=host, port=port)
    return {"nodes": (shapes.Node(node_id=broker.node_id, listeners=(listener,)),)}


def _unknown(context: RequestContext, request: Any) -> Any:
    context.has_failed = True
    shapes = responses(KEY, context.version)

    def part(index: int) -> Any:
        return shapes.PartitionData(
            partition_index=index,
            error_code=ErrorCode.unknown_topic_or_partition,
            error_message=f"only partition 0 of {METADATA_TOPIC} is described",
            leader_id=0,
            leader_epoch=0,
            high_watermark=0,
            current_voters=(),
            observers=(),
        )

    topics = tuple(
        shapes.TopicData(topic_name=topic.topic_name, partitions=tuple(part(each.partition_index) for each in topic.partitions))
        for topic in request.topics
    )
    return shapes.DescribeQuorumResponse(
        error_code=ErrorCode.none, error_message=None, topics=topics, **({"nodes": ()} if shapes.has("Node") else {})
    )


API = Api(key=KEY, name="DescribeQuorum", versions=range(3), handle=handle)
