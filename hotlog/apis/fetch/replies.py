"""Answers of fetches as bytes: what is said of each part, and what is counted of it.

Invariants: an answer of a session names what its client does not know yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import RequestContext, Spliced
from hotlog.answers.slices import SLICE, breathe
from hotlog.apis.fetch.glance import Glance
from hotlog.apis.fetch.parts import Part
from hotlog.apis.fetch.rounds import Round
from hotlog.apis.fetch.sessions import Plan
from hotlog.wire.error_codes import code_for
from hotlog.wire.fetch_reply import PartitionReply, encode
from hotlog.wire.fetch_request import SESSIONS_FROM, FetchRequest, Key, TopicKey

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

Topics = list[tuple[TopicKey, list[PartitionReply]]]


def answer(broker: Broker, context: RequestContext, plan: Plan, fetch: Round) -> Spliced:
    """The answer of all parts as they stand."""
    context.has_failed = fetch.has_error
    topics: Topics = []
    _add(broker, plan, fetch, fetch.parts, topics)
    return spliced(context.version, topics, session_id=plan.session_id)


def answer_of(broker: Broker, context: RequestContext, plan: Plan, seen: Glance) -> Spliced:
    """The answer of what was seen at once."""
    topics: Topics = []
    _group(plan, seen.replies, topics)
    _count(broker, seen.sent)
    return spliced(context.version, topics, session_id=plan.session_id)


async def answer_wide(broker: Broker, context: RequestContext, plan: Plan, fetch: Round) -> Spliced:
    """The same in slices, so that others get their turns; its bytes are put together in a thread."""
    context.has_failed = fetch.has_error
    topics: Topics = []
    for at in range(0, len(fetch.parts), SLICE):
        _add(broker, plan, fetch, fetch.parts[at : at + SLICE], topics)
        await breathe()
    return await broker.disk.run(spliced, context.version, topics, session_id=plan.session_id)


def _add(broker: Broker, plan: Plan, fetch: Round, parts: list[Part], topics: Topics) -> None:
    """Add the answer of `parts` to `topics`."""
    _group(plan, fetch.replies(parts), topics)
    _count(broker, [(part.partition.tp[0], len(part.records[0])) for part in parts if part.records and part.partition])


def _group(plan: Plan, replies: Iterable[tuple[Key, PartitionReply]], topics: Topics) -> None:
    """Add what is to be said of these partitions to `topics`."""
    if plan.session is not None:
        replies = plan.answer(replies)
    last, found = topics[-1] if topics else (None, [])
    for (topic, _), reply in replies:
        if topic != last:
            last, found = topic, []
            topics.append((topic, found))
        found.append(reply)


def _count(broker: Broker, sent: Iterable[tuple[str, int]]) -> None:
    """Bytes that leave, by topic."""
    last, size = "", 0
    for topic, length in sent:
        if topic != last:
            if size:
                broker.metrics.bytes_out.labels(last).value += size
            last, size = topic, 0
        size += length
    if size:
        broker.metrics.bytes_out.labels(last).value += size


def spliced(
    version: int,
    topics: Topics,
    *,
    code: ErrorCode = ErrorCode.none,
    session_id: int = 0,
) -> Spliced:
    """An answer of its parts."""
    return Spliced(*encode(version, topics, code=code, session_id=session_id))


def refuse(context: RequestContext, request: FetchRequest, error: BaseException) -> Any:
    """An error that belongs to no partition."""
    if context.version >= SESSIONS_FROM:
        return spliced(context.version, [], code=code_for(error))
    code = code_for(error)
    return spliced(context.version, [(topic, [PartitionReply(number, code)]) for topic, number in request.partitions])
