"""Metadata (3): brokers, topics, who leads what.

Versions 0 to 13.  An empty list means all topics in version 0, none later (null is all).  Topics are named by id from version 12 on
(KIP-516; the field exists from 10).  A topic that is missing is created if client and broker allow it (version 4 on; before, the
broker alone decides).

Invariants: one image answers a whole request that creates nothing; an unknown id is UNKNOWN_TOPIC_ID and never creates anything.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from controller.image import TopicImage
from controller.internal_topics import INTERNAL_TOPICS
from hotlog.answers.api import Api, RequestContext, Spliced
from hotlog.answers.metadata_bytes import TopicBytes, spliced
from hotlog.answers.replies import NO_OPERATIONS, NO_THROTTLE, Refusal, refusal
from hotlog.answers.slices import SLICE, breathe, sliced
from hotlog.kernel.errors import HotlogError, Invalid
from hotlog.kernel.ids import parse_topic_name
from hotlog.wire.apis import encoded, responses
from hotlog.wire.error_codes import Refused

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 3
AUTO_CREATE_FROM = 4
TOPICS_NULLABLE_FROM = 1
ANYTHING_WRONG = (HotlogError, OSError, TimeoutError)
UNKNOWN_NAME = Refusal(ErrorCode.unknown_topic_or_partition, "")
UNKNOWN_ID = Refusal(ErrorCode.unknown_topic_id, "")


def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Answer for all topics, or for those asked for; waits only if one has to be created."""
    version = context.version
    if request.topics is None or (version < TOPICS_NULLABLE_FROM and not request.topics):
        wanted = list(broker.image.topics.values())
        if _is_wide(broker, version, wanted):
            return _all_prepared(broker, context, wanted)
        return _answer(broker, context, [_known(broker, version, topic) for topic in wanted])
    may_create = broker.settings.flag("auto.create.topics.enable")
    may_create = may_create and (version < AUTO_CREATE_FROM or request.allow_auto_topic_creation)
    named = list(dict.fromkeys(request.topics))  # what is named twice is answered once, as Kafka does
    if _is_wide(broker, version, _images(broker, named)):
        return _named_prepared(broker, context, named, may_create)
    return _named(broker, context, named, may_create)


def _named(broker: Broker, context: RequestContext, named: list[Any], may_create: bool) -> Any:
    version = context.version
    topics = [_asked(broker, version, wanted, may_create) for wanted in named]
    known = [topic for topic in topics if topic is not None]
    if len(known) < len(topics):
        return _with_creation(broker, context, named, topics)
    return _answer(broker, context, known)


def _images(broker: Broker, named: list[Any]) -> list[TopicImage]:
    found = []
    for wanted in named:
        topic_id = getattr(wanted, "topic_id", None)
        topic = broker.topic_by_id(topic_id) if topic_id is not None else broker.topic(wanted.name or "")
        if topic is not None:
            found.append(topic)
    return found


def _is_wide(broker: Broker, version: int, topics: list[TopicImage]) -> bool:
    """Whether so many partitions have to be encoded that it would hold up the loop."""
    room = SLICE
    for topic in topics:
        if not broker.kept[TopicBytes].has(version, topic, broker.hosting_version):
            room -= len(topic.partitions)
        if room < 0:
            return True
    return False


async def _all_prepared(broker: Broker, context: RequestContext, topics: list[TopicImage]) -> Spliced:
    return _answer(broker, context, await _prepared(broker, context.version, topics))


async def _named_prepared(broker: Broker, context: RequestContext, named: list[Any], may_create: bool) -> Any:
    await _prepared(broker, context.version, _images(broker, named))
    answer = _named(broker, context, named, may_create)
    return answer if isinstance(answer, Spliced) else await answer


async def _prepared(broker: Broker, version: int, topics: list[TopicImage]) -> list[bytes]:
    """The topics encoded, in slices and beside the loop, and kept."""
    shapes, made, room = responses(KEY, version), [], SLICE
    for topic in topics:
        hosting = broker.hosting_version
        if broker.kept[TopicBytes].has(version, topic, hosting):
            made.append(_known(broker, version, topic))
            continue
        partitions = await sliced(range(len(topic.partitions)), partial(_partition, broker, shapes, topic))
        entity = _entity_of(shapes, topic, partitions)
        data = await broker.disk.run(encoded, entity) if len(partitions) > SLICE else encoded(entity)
        broker.kept[TopicBytes].keep(version, topic, hosting, data)
        made.append(data)
        room -= len(partitions)
        if room < 0:
            room = SLICE
            await breathe()
    return made


async def _with_creation(broker: Broker, context: RequestContext, named: list[Any], topics: list[bytes | None]) -> Spliced:
    for place, (wanted, topic) in enumerate(zip(named, topics, strict=True)):
        if topic is None:
            topics[place] = await _created(broker, context, wanted.name)
    return _answer(broker, context, [topic for topic in topics if topic is not None])


def _answer(broker: Broker, context: RequestContext, topics: list[bytes]) -> Spliced:
    version = context.version
    shapes = responses(KEY, version)
    host, port = broker.advertised[context.caller.listener]
    without_topics = shapes.MetadataResponse(
        throttle_time=NO_THROTTLE,
        brokers=(shapes.MetadataResponseBroker(node_id=broker.node_id, host=host, port=port, rack=broker.rack or None),),
        cluster_id=broker.cluster_id,
        controller_id=broker.image.controller_id,
        topics=(),
        cluster_authorized_operations=NO_OPERATIONS,
        error_code=ErrorCode.none,
    )
    return spliced(version, without_topics, topics)


def _asked(broker: Broker, version: int, wanted: Any, may_create: bool) -> bytes | None:
    """One topic's answer; None if it is to be created first."""
    name, topic_id = wanted.name, getattr(wanted, "topic_id", None)
    if topic_id is not None:
        topic = broker.topic_by_id(topic_id)
        return _known(broker, version, topic) if topic else _missing(version, None, topic_id, UNKNOWN_ID)
    topic = broker.topic(name or "")
    if topic is not None:
        return _known(broker, version, topic)
    try:
        parse_topic_name(name)
    except Invalid as problem:
        return _missing(version, name, None, Refusal(ErrorCode.invalid_topic_exception, str(problem)))
    return None if may_create else _missing(version, name, None, UNKNOWN_NAME)


async def _created(broker: Broker, context: RequestContext, name: str) -> bytes:
    try:
        return _known(broker, context.version, await broker.ensure_topic(name))
    except Refused as problem:
        code = problem.code
        if code is ErrorCode.request_timed_out:  # the store is away: the client is to ask again
            code = ErrorCode.leader_not_available
        return _missing(context.version, name, None, Refusal(code, str(problem)))
    except ANYTHING_WRONG as problem:
        return _missing(context.version, name, None, refusal(context, problem))


def _missing(version: int, name: str | None, topic_id: Any, why: Refusal) -> bytes:
    name_nullable_from = 12
    entity = responses(KEY, version).MetadataResponseTopic(
        error_code=why.code,
        name=name if version >= name_nullable_from else name or "",
        topic_id=topic_id,
        is_internal=False,
        partitions=(),
        topic_authorized_operations=NO_OPERATIONS,
    )
    return encoded(entity)


def _known(broker: Broker, version: int, topic: TopicImage) -> bytes:
    return broker.kept[TopicBytes].get(version, topic, broker.hosting_version, lambda: _entity(broker, version, topic))


def _entity(broker: Broker, version: int, topic: TopicImage) -> Any:
    shapes = responses(KEY, version)
    return _entity_of(shapes, topic, [_partition(broker, shapes, topic, index) for index in range(len(topic.partitions))])


def _entity_of(shapes: Any, topic: TopicImage, partitions: list[Any]) -> Any:
    return shapes.MetadataResponseTopic(
        error_code=ErrorCode.none,
        name=topic.name,
        topic_id=topic.topic_id,
        is_internal=topic.name in INTERNAL_TOPICS,
        partitions=tuple(partitions),
        topic_authorized_operations=NO_OPERATIONS,
    )


def _partition(broker: Broker, shapes: Any, topic: TopicImage, index: int) -> Any:
    image = topic.partitions[index]
    hosted = broker.partition(topic.name, index)
    is_here = hosted is not None and hosted.topic_id == topic.topic_id
    return shapes.MetadataResponsePartition(
        error_code=ErrorCode.none if is_here else ErrorCode.leader_not_available,
        partition_index=index,
        leader_id=image.leader if is_here else -1,
        leader_epoch=image.leader_epoch,
        replica_nodes=image.replicas,
        isr_nodes=image.replicas if is_here else (),
        offline_replicas=() if is_here else image.replicas,
    )


API = Api(key=KEY, name="Metadata", versions=range(14), handle=handle, omits=("authorized operations",))
