"""Metadata (3): brokers, topics, who leads what.

Versions 0 to 13.  An empty list means all topics in version 0, none later (null is all).  Topics are named by id from version 12 on
(KIP-516; the field exists from 10).  A topic that is missing is created if client and broker allow it (version 4 on; before, the
broker alone decides).

Invariants: one image answers a whole request that creates nothing; an unknown id is UNKNOWN_TOPIC_ID and never creates anything.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from controller.image import TopicImage
from controller.internal_topics import INTERNAL_TOPICS
from hotlog.answers.api import Api, Caller, RequestContext, Spliced
from hotlog.answers.metadata_bytes import MetadataBytes, Stamp, spliced
from hotlog.answers.replies import CLUSTER_OPERATIONS, NO_OPERATIONS, NO_THROTTLE, TOPIC_OPERATIONS, Refusal, refusal
from hotlog.answers.slices import SLICE, breathe, sliced
from hotlog.kernel.errors import HotlogError, Invalid
from hotlog.kernel.ids import parse_topic_name
from hotlog.wire.apis import decode_request, encoded, is_flexible, responses
from hotlog.wire.error_codes import Refused

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 3
AUTO_CREATE_FROM = 4
TOPICS_NULLABLE_FROM = 1
QUICK_BYTES_MAX = 1024  # of a request whose answer is kept: a name or two
OPERATIONS_FROM = 8
NOTHING_ASKED = (False, False)
_INT = struct.Struct(">i")
ANYTHING_WRONG = (HotlogError, OSError, TimeoutError)
UNKNOWN_NAME = Refusal(ErrorCode.unknown_topic_or_partition, "")
UNKNOWN_ID = Refusal(ErrorCode.unknown_topic_id, "")


def quick(broker: Broker, caller: Caller, version: int, frame: memoryview, position: int) -> bytes | None:
    """The same request as before, while nothing has changed; or else one for topics that are all there, few of them to be encoded."""
    if len(frame) > QUICK_BYTES_MAX:
        return None
    body, kept = bytes(frame[position:]), broker.kept[MetadataBytes]
    key = (version, caller.listener, body)
    image, hosting, settings, advertised = broker.metadata.image, broker.hosted_places.version, broker.settings, broker.advertised
    if kept.is_current(image, hosting, settings, advertised) and (found := kept.answer(key)) is not None:
        return found
    topics = _quickly(broker, version, decode_request(KEY, version, frame, position))
    if topics is None:
        return None
    tag = b"\0" if is_flexible(KEY, version) else b""
    found = tag + _body(broker, caller.listener, version, topics)
    kept.keep_answer(key, Stamp(image, hosting, settings, advertised), found, len(body))
    return found


def _quickly(broker: Broker, version: int, request: Any) -> list[bytes] | None:
    """The topics that are asked for; None if one is not there, if it would take long, or if operations are asked for."""
    if _operations(version, request) != NOTHING_ASKED:
        return None
    if _is_for_all(version, request):
        return None if _is_long(broker, version) else _all(broker, version)
    named = list(dict.fromkeys(request.topics))
    images = _images(broker, named)
    if len(images) < len(named) or _is_wide(broker, version, images):
        return None
    return [_known(broker, version, topic) for topic in images]


def _is_for_all(version: int, request: Any) -> bool:
    return request.topics is None or (version < TOPICS_NULLABLE_FROM and not request.topics)


def _all(broker: Broker, version: int) -> list[bytes]:
    """All topics; those that have not changed since the last time are not looked at."""
    kept, places, image = broker.kept[MetadataBytes], broker.hosted_places, broker.image
    return kept.every(version, image, places, partial(_entity, broker, version))


def _is_long(broker: Broker, version: int) -> bool:
    """Whether so many partitions have to be encoded for a list of all topics that it would hold up the loop."""
    image, room = broker.image, SLICE
    for name in broker.kept[MetadataBytes].moved(version, image, broker.hosted_places):
        topic = image.topics.get(name)
        if topic is not None and not _is_kept(broker, version, topic):
            room -= len(topic.partitions)
            if room < 0:
                return True
    return False


def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Answer for all topics, or for those asked for; waits only if one has to be created."""
    version = context.version
    if _is_for_all(version, request):
        if _is_long(broker, version):
            return _all_prepared(broker, context, request)
        return _answer(broker, context, request, _all(broker, version))
    may_create = broker.settings.flag("auto.create.topics.enable")
    may_create = may_create and (version < AUTO_CREATE_FROM or request.allow_auto_topic_creation)
    named = list(dict.fromkeys(request.topics))  # what is named twice is answered once, as Kafka does
    if _is_wide(broker, version, _images(broker, named)):
        return _named_prepared(broker, context, request, named, may_create)
    return _named(broker, context, request, named, may_create)


def _named(broker: Broker, context: RequestContext, request: Any, named: list[Any], may_create: bool) -> Any:
    version = context.version
    topics = [_asked(broker, version, wanted, may_create) for wanted in named]
    known = [topic for topic in topics if topic is not None]
    if len(known) < len(topics):
        return _with_creation(broker, context, request, named, topics)
    return _answer(broker, context, request, known)


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
        if not _is_kept(broker, version, topic):
            room -= len(topic.partitions)
        if room < 0:
            return True
    return False


def _is_kept(broker: Broker, version: int, topic: TopicImage) -> bool:
    return broker.kept[MetadataBytes].has(version, topic, broker.hosted_places.changed_at(topic.name))


async def _all_prepared(broker: Broker, context: RequestContext, request: Any) -> Spliced:
    await _prepared(broker, context.version, list(broker.image.topics.values()))
    return _answer(broker, context, request, _all(broker, context.version))


async def _named_prepared(broker: Broker, context: RequestContext, request: Any, named: list[Any], may_create: bool) -> Any:
    await _prepared(broker, context.version, _images(broker, named))
    answer = _named(broker, context, request, named, may_create)
    return answer if isinstance(answer, Spliced) else await answer


async def _prepared(broker: Broker, version: int, topics: list[TopicImage]) -> None:
    """Encode the topics in slices and beside the loop, and keep them."""
    shapes, room = responses(KEY, version), SLICE
    for topic in topics:
        if _is_kept(broker, version, topic):
            continue
        hosting = broker.hosted_places.changed_at(topic.name)
        partitions = await sliced(range(len(topic.partitions)), partial(_partition, broker, shapes, topic))
        entity = _entity_of(shapes, topic, partitions)
        data = await broker.disk.run(encoded, entity) if len(partitions) > SLICE else encoded(entity)
        broker.kept[MetadataBytes].keep(version, topic, hosting, data)
        room -= len(partitions)
        if room < 0:
            room = SLICE
            await breathe()


async def _with_creation(
    broker: Broker, context: RequestContext, request: Any, named: list[Any], topics: list[bytes | None]
) -> Spliced:
    for place, (wanted, topic) in enumerate(zip(named, topics, strict=True)):
        if topic is None:
            topics[place] = await _created(broker, context, wanted.name)
    return _answer(broker, context, request, [topic for topic in topics if topic is not None])


def _answer(broker: Broker, context: RequestContext, request: Any, topics: list[bytes]) -> Spliced:
    cluster, topic = _operations(context.version, request)
    if topic:
        topics = [_with_operations(context.version, each) for each in topics]
    body = _body(broker, context.caller.listener, context.version, topics, CLUSTER_OPERATIONS if cluster else NO_OPERATIONS)
    return Spliced([body], len(body))


def _operations(version: int, request: Any) -> tuple[bool, bool]:
    """Whether it is asked what may be done with the cluster, and with the topics (KIP-430)."""
    if version < OPERATIONS_FROM:
        return NOTHING_ASKED
    cluster = getattr(request, "include_cluster_authorized_operations", False)
    return cluster, request.include_topic_authorized_operations


def _with_operations(version: int, topic: bytes) -> bytes:
    """A topic's bytes with its operations, which are the last field."""
    tags = b"\0" if is_flexible(KEY, version) else b""
    end = len(topic) - len(tags) - _INT.size
    return topic[:end] + _INT.pack(TOPIC_OPERATIONS) + tags


def _body(broker: Broker, listener: str, version: int, topics: list[bytes], operations: int = NO_OPERATIONS) -> bytes:
    shapes = responses(KEY, version)
    host, port = broker.advertised[listener]
    without_topics = shapes.MetadataResponse(
        throttle_time=NO_THROTTLE,
        brokers=(shapes.MetadataResponseBroker(node_id=broker.node_id, host=host, port=port, rack=broker.rack or None),),
        cluster_id=broker.cluster_id,
        controller_id=broker.image.controller_id,
        topics=(),
        cluster_authorized_operations=operations,
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
    hosting = broker.hosted_places.changed_at(topic.name)
    return broker.kept[MetadataBytes].get(version, topic, hosting, partial(_entity, broker, version, topic))


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


API = Api(key=KEY, name="Metadata", versions=range(14), handle=handle, quick=quick)
