"""OffsetFetch (9): how far a group has read.

Versions 1 to 10: all topics by null from 2, leader epochs from 5, stable offsets only from 7 (KIP-447: an offset that an open transaction
may change is answered UNSTABLE_OFFSET_COMMIT), many groups from 8, members of the new protocol from 9 (KIP-848), topic ids from 10.

Invariants: a partition without a commit is answered with offset -1 and no error, as Kafka does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.group_replies import code_of, coordinator_error
from hotlog.answers.replies import NO_THROTTLE
from hotlog.answers.slices import breathe, sliced
from hotlog.coordinators.offset_records import OffsetValue
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker
    from hotlog.coordinators.service import GroupCoordinator

KEY = 9
GROUPS_FROM = 8
MEMBER_FROM = 9
BY_ID_FROM = 10
ERROR_FROM = 2
NOTHING = OffsetValue(-1, -1, "", -1)
UNSTABLE = OffsetValue(-1, -1, "", -2)
Offsets = Mapping[tuple[str, int], OffsetValue]
NONE_KNOWN: Offsets = {}  # where the group cannot be looked up


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Look up each group's offsets; what is asked twice is answered once."""
    shapes = responses(KEY, context.version)
    if context.version >= GROUPS_FROM:
        wanted = {(group.group_id, group.topics): group for group in request.groups}
        groups = [await _group(broker, context, shapes, group, request.require_stable) for group in wanted.values()]
        return shapes.OffsetFetchResponse(throttle_time=NO_THROTTLE, groups=tuple(groups))
    offsets, code = _offsets(broker, context, request.group_id)
    topics = (
        [(topic.name, tuple(topic.partition_indexes)) for topic in request.topics]
        if request.topics is not None
        else _all(offsets)
    )
    early = _early_code(context, code)
    offsets = _stable(broker, request.group_id, offsets, getattr(request, "require_stable", False))
    found = []
    for name, indexes in topics:
        partitions = await sliced(indexes, partial(_partition, shapes.OffsetFetchResponsePartition, offsets, name, early))
        found.append(shapes.OffsetFetchResponseTopic(name=name, partitions=tuple(partitions)))
    return shapes.OffsetFetchResponse(throttle_time=NO_THROTTLE, error_code=code, topics=tuple(found))


def _early_code(context: RequestContext, code: ErrorCode) -> ErrorCode:
    """Version 1 has no top-level error: it goes into every partition."""
    return code if context.version < ERROR_FROM else ErrorCode.none


def _offsets(broker: Broker, context: RequestContext, group_id: str) -> tuple[Offsets, ErrorCode]:
    try:
        return broker.groups.offsets(group_id), ErrorCode.none
    except Exception as problem:
        return NONE_KNOWN, coordinator_error(context, problem)


class _Stable(Mapping[tuple[str, int], OffsetValue]):
    """A group's offsets without those that an open transaction may change, of which it says UNSTABLE."""

    def __init__(self, groups: GroupCoordinator, group_id: str, offsets: Offsets) -> None:
        self._groups, self._group_id, self._offsets = groups, group_id, offsets

    def __getitem__(self, place: tuple[str, int]) -> OffsetValue:
        return UNSTABLE if self._groups.is_pending(self._group_id, *place) else self._offsets[place]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)


def _stable(broker: Broker, group_id: str, offsets: Offsets, is_wanted: bool) -> Offsets:
    return _Stable(broker.groups, group_id, offsets) if is_wanted and offsets is not NONE_KNOWN else offsets


def _all(offsets: Offsets) -> list[tuple[str, tuple[int, ...]]]:
    indexes: dict[str, list[int]] = {}
    for name, index in sorted(offsets):
        indexes.setdefault(name, []).append(index)
    return [(name, tuple(found)) for name, found in indexes.items()]


def _partition(shape: Any, offsets: Offsets, name: str, code: ErrorCode, index: int) -> Any:
    value = offsets.get((name, index), NOTHING)
    return shape(
        partition_index=index,
        committed_offset=value.offset,
        committed_leader_epoch=value.leader_epoch,
        metadata=value.metadata,
        error_code=ErrorCode.unstable_offset_commit if value is UNSTABLE and not code else code,
    )


async def _group(broker: Broker, context: RequestContext, shapes: Any, group: Any, is_stable: bool) -> Any:
    offsets, code = _offsets(broker, context, group.group_id)
    offsets = _stable(broker, group.group_id, offsets, is_stable)
    if code is ErrorCode.none and context.version >= MEMBER_FROM:
        code = _member_code(broker, context, group)
    if group.topics is None:
        listed = [(name, _id(broker, name), indexes, ErrorCode.none) for name, indexes in _all(offsets)]
    else:
        listed = [(*_named(broker, context, topic), tuple(topic.partition_indexes), ErrorCode.none) for topic in group.topics]
    if context.version >= BY_ID_FROM:
        listed = [
            (name, topic_id, indexes, ErrorCode.none if name else ErrorCode.unknown_topic_id)
            for name, topic_id, indexes, _ in listed
            if topic_id is not None
        ]
    found = []
    for name, topic_id, indexes, wrong in listed if code is ErrorCode.none else ():
        partitions = await sliced(indexes, partial(_partition, shapes.OffsetFetchResponsePartitions, offsets, name, wrong))
        found.append(shapes.OffsetFetchResponseTopics(name=name, topic_id=topic_id, partitions=tuple(partitions)))
    await breathe()
    return shapes.OffsetFetchResponseGroup(group_id=group.group_id, error_code=code, topics=tuple(found))


def _member_code(broker: Broker, context: RequestContext, group: Any) -> ErrorCode:
    try:
        return code_of(context, broker.groups.fetch_code(group.group_id, group.member_id, group.member_epoch))
    except Exception as problem:
        return coordinator_error(context, problem)


def _id(broker: Broker, name: str) -> Any:
    topic = broker.topic(name)
    return topic.topic_id if topic is not None else None


def _named(broker: Broker, context: RequestContext, topic: Any) -> tuple[str, Any]:
    if context.version < BY_ID_FROM:
        return str(topic.name), None
    known = broker.topic_by_id(topic.topic_id) if topic.topic_id is not None else None
    return (known.name if known is not None else ""), topic.topic_id


API = Api(key=KEY, name="OffsetFetch", versions=range(1, 11), handle=handle)
