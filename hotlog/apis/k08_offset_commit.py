"""OffsetCommit (8): remember how far a group has read.

Versions 2 to 10: leader epochs from 6, static members from 7 (KIP-345), members of the new protocol from 9 (KIP-848), topic ids from 10.  Retention time (2 to 4) is ignored: the broker's
offsets.retention.minutes decides, as since Kafka 2.1.

Invariants: answered after the record is durable; each partition gets a code of its own.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, Caller, Pending, RequestContext
from hotlog.answers.group_replies import code_of, coordinator_error
from hotlog.answers.replies import NO_THROTTLE
from hotlog.answers.seen import Seen
from hotlog.coordinators.group_handles import Commits
from hotlog.coordinators.group_types import Code
from hotlog.coordinators.service import Commit, Committer
from hotlog.kernel.errors import HotlogError
from hotlog.wire import short_bodies
from hotlog.wire.apis import responses
from hotlog.wire.fields import uuid_of

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 8
GROUP_NOT_FOUND_FROM = 9
BY_ID_FROM = 10
THROTTLE_FROM, FLEXIBLE_FROM = 3, 8
EPOCH_FROM = 6
QUICK_BYTES_MAX = 1024
_PLAIN = struct.Struct(">qih")  # how a commit of one partition without metadata ends: offset, leader epoch, length
_PLAIN_TAGGED = struct.Struct(">qiBBBB")  # the same, and tags of partition, topic and request
NO_METADATA = ([0], [-1], [0, 0, 0, 0], [1, 0, 0, 0])  # empty or null


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Commit every partition of every topic."""
    shapes = responses(KEY, context.version)
    topics = [(topic, _name(broker, context, topic)) for topic in request.topics]
    commits = [
        Commit(
            name,
            part.partition_index,
            part.committed_offset,
            getattr(part, "committed_leader_epoch", -1),
            part.committed_metadata,
        )
        for topic, name in topics
        if name is not None
        for part in topic.partitions
    ]
    codes: dict[tuple[str, int], Code] = {}
    failure = ErrorCode.none
    try:
        codes = await broker.groups.commit(
            request.group_id,
            Committer(
                request.member_id,
                getattr(request, "group_instance_id", None),
                request.generation_id_or_member_epoch,
                context.version,
            ),
            commits,
            unknown=Code.GROUP_ID_NOT_FOUND if context.version >= GROUP_NOT_FOUND_FROM else Code.ILLEGAL_GENERATION,
        )
    except Exception as problem:
        failure = coordinator_error(context, problem)

    def answer(name: str | None, index: int) -> ErrorCode:
        if name is None:
            return ErrorCode.unknown_topic_id
        return failure if failure is not ErrorCode.none else code_of(context, codes[name, index])

    return shapes.OffsetCommitResponse(
        throttle_time=NO_THROTTLE,
        topics=tuple(
            shapes.OffsetCommitResponseTopic(
                name=name or "",
                topic_id=getattr(topic, "topic_id", None),
                partitions=tuple(
                    shapes.OffsetCommitResponsePartition(
                        partition_index=part.partition_index, error_code=answer(name, part.partition_index)
                    )
                    for part in topic.partitions
                ),
            )
            for topic, name in topics
        ),
    )


def _name(broker: Broker, context: RequestContext, topic: Any) -> str | None:
    """The topic's name; None for an id that is unknown."""
    if context.version < BY_ID_FROM:
        return str(topic.name)
    known = broker.topic_by_id(topic.topic_id) if topic.topic_id is not None else None
    return known.name if known is not None else None


class _Committing(Pending):
    """The answer to a commit of one partition that the log has, and that is not committed yet.  The next request sees what it did, as in Kafka."""

    __slots__ = ("_caller", "_code_at", "_frame", "_version")
    holds = True

    def __init__(self, caller: Caller, version: int, correlation_id: bytes, rest: bytes) -> None:
        super().__init__()
        self._caller = caller
        self._version = version
        self._frame = b"".join(((len(rest) + 4).to_bytes(4), correlation_id, rest))
        self._code_at = len(self._frame) - (5 if version >= FLEXIBLE_FROM else 2)

    def told(self, error: Exception | None) -> None:
        """It is committed, or why it cannot be."""
        if error is None:
            self.known(self._frame)
            return
        code = coordinator_error(RequestContext(KEY, self._version, 0, None, self._caller, 0.0), error)
        at = self._code_at
        self.known(b"".join((self._frame[:at], int(code).to_bytes(2), self._frame[at + 2 :])), has_failed=True)


class _Known(NamedTuple):
    """A partition that somebody commits to again and again, and the answer behind its correlation id."""

    commits: Commits
    rest: bytes


class KnownCommits(Seen[_Known]):
    """By the bytes in front of the offset, which are the same from commit to commit."""


def quick(broker: Broker, caller: Caller, version: int, frame: memoryview, position: int) -> bytes | Pending | None:
    """A commit of one partition that nothing speaks against."""
    if len(frame) > QUICK_BYTES_MAX:
        return None
    body = bytes(frame[position:])
    plain = _PLAIN_TAGGED if version >= FLEXIBLE_FROM else _PLAIN
    end = len(body) - plain.size
    kept, key = broker.kept[KnownCommits], (version, body[:end])
    known = kept.find(key)
    if known is not None:
        offset, leader_epoch, *nothing = plain.unpack_from(body, end)
        if nothing in NO_METADATA:
            answer = _committed(caller, version, frame, known, offset, leader_epoch, "")
            if answer is not None:
                return answer
    asked = short_bodies.offset_commit(version, body)
    topic = asked.topic
    if isinstance(topic, bytes):
        found = broker.image.topics_by_id.get(uuid_of(topic))
        if found is None:
            return None
        topic = found.name
    by = Committer(asked.member_id, asked.instance_id, asked.generation, version)
    commits = broker.groups.commits_of(asked.group_id, by, topic, asked.partition)
    if commits is None:
        return None
    known = _Known(commits, _rest(version, asked))
    answer = _committed(caller, version, frame, known, asked.offset, asked.leader_epoch, asked.metadata or "")
    if answer is not None and not asked.metadata and version >= EPOCH_FROM:
        kept.keep(key, known)
    return answer


def _committed(
    caller: Caller, version: int, frame: memoryview, known: _Known, offset: int, leader_epoch: int, metadata: str
) -> bytes | Pending | None:
    committing = _Committing(caller, version, bytes(frame[4:8]), known.rest)
    try:
        is_done = known.commits.add(offset, leader_epoch, metadata, committing.told)
    except (HotlogError, OSError):  # nothing was done; the long way meets the same, and says so
        return None
    if is_done is None:
        return None
    return known.rest if is_done else committing


def _rest(version: int, asked: short_bodies.OneCommit) -> bytes:
    """The answer behind its correlation id."""
    place = asked.partition.to_bytes(4, signed=True)
    if version >= FLEXIBLE_FROM:  # tags of the header, throttle time, one topic, one partition, no error; tags of all three
        return b"".join((b"\0\0\0\0\0\2", asked.echo, b"\2", place, b"\0\0\0\0\0"))
    throttled = bytes(4) if version >= THROTTLE_FROM else b""
    return b"".join((throttled, b"\0\0\0\1", asked.echo, b"\0\0\0\1", place, b"\0\0"))


API = Api(key=KEY, name="OffsetCommit", versions=range(2, 11), handle=handle, quick=quick)
