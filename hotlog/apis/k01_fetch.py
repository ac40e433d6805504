"""Fetch (1): hot log from its local start up, cold tier below it, long poll (fetch.watch).

Versions 4 to 18 (topic ids from 13).  KIP-227 sessions, KIP-74 limits, KIP-320 leader epochs, KIP-392 and follower fetch not yet (one
replica).  For a fetch that the page cache can answer no asyncio task is made.

Invariants: an answer waits at most max wait, or remote.fetch.max.wait.ms if longer and only cold data is missing; an error of one
partition is that partition's alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext, Spliced
from hotlog.answers.slices import SLICE, breathe
from hotlog.apis.fetch.cold_reads import Fetches
from hotlog.apis.fetch.parts import Limits, Part
from hotlog.apis.fetch.rounds import READ_COMMITTED, Round
from hotlog.apis.fetch.sessions import Plan
from hotlog.apis.fetch.watch import Watch
from hotlog.wire.error_codes import code_for
from hotlog.wire.fetch_reply import PartitionReply, encode
from hotlog.wire.fetch_request import TOPIC_ID_FROM, VERSIONS, FetchRequest, Key, TopicKey, decode

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

WAIT_MS_MAX = 60_000  # the longest poll, whatever the client says
Topics = list[tuple[TopicKey, list[PartitionReply]]]
LOOK_AGAIN_SECONDS = 0.005  # between looks while fewer than the client's min bytes are there


def handle(broker: Broker, context: RequestContext, request: FetchRequest) -> Any:
    """Answer at once if there is enough, else poll."""
    fetches = broker.kept[Fetches]
    plan = fetches.sessions.begin(
        request, has_topic_ids=context.version >= TOPIC_ID_FROM, now_ms=int(broker.clock.monotonic() * 1000)
    )
    if plan.code:
        context.has_failed = True
        return _spliced(context.version, [], code=plan.code)
    limits = Limits(
        fetches.bytes_max(request.bytes_max),
        request.bytes_min if request.bytes_min < request.bytes_max else request.bytes_max,
        request.isolation_level == READ_COMMITTED,
    )
    fetch = Round(broker, fetches.cold_reads, plan.partitions, limits, plan.session, is_incremental=plan.is_incremental)
    if len(fetch.parts) > SLICE:
        return _poll(broker, context, request, plan, fetch)
    is_empty = not fetch.parts and plan.session is None
    fetch.look()
    if fetch.is_on_disk:
        return _poll(broker, context, request, plan, fetch)
    if is_empty or fetch.is_satisfied or (request.wait_ms_max <= 0 and not fetch.in_store()):
        return _answer(broker, context, plan, fetch)
    return _poll(broker, context, request, plan, fetch)


async def _poll(broker: Broker, context: RequestContext, request: FetchRequest, plan: Plan, fetch: Round) -> Spliced:
    """Look again whenever something changed, until there is enough or the time is up."""
    deadline = context.arrived + min(max(request.wait_ms_max, 0), WAIT_MS_MAX) / 1000
    with Watch(broker.polls, fetch) as watch:
        await watch.look()  # again: since `handle` looked a turn of the loop has gone by, and nobody watched
        if fetch.in_store():
            deadline = max(deadline, context.arrived + broker.settings.number("remote.fetch.max.wait.ms") / 1000)
        while True:
            if fetch.is_on_disk:
                await watch.read_disk()
            left = deadline - broker.clock.monotonic()
            if fetch.is_satisfied or left <= 0 or broker.polls.is_stopping:
                break
            await watch.moved(left)
            await watch.look()
            if not fetch.is_satisfied and request.bytes_min > 1:
                # Many small appends: look at most every few ms, not at each of them.
                await watch.rest(LOOK_AGAIN_SECONDS)
                await watch.look()
    if len(fetch.parts) > SLICE:
        return await _answer_wide(broker, context, plan, fetch)
    return _answer(broker, context, plan, fetch)


def _answer(broker: Broker, context: RequestContext, plan: Plan, fetch: Round) -> Spliced:
    context.has_failed = fetch.has_error
    topics: Topics = []
    _add(broker, plan, fetch, fetch.parts, topics)
    return _spliced(context.version, topics, session_id=plan.session_id)


async def _answer_wide(broker: Broker, context: RequestContext, plan: Plan, fetch: Round) -> Spliced:
    """The same in slices, so that others get their turns; its bytes are put together in a thread."""
    context.has_failed = fetch.has_error
    topics: Topics = []
    for at in range(0, len(fetch.parts), SLICE):
        _add(broker, plan, fetch, fetch.parts[at : at + SLICE], topics)
        await breathe()
    return await broker.disk.run(_spliced, context.version, topics, session_id=plan.session_id)


def _add(broker: Broker, plan: Plan, fetch: Round, parts: list[Part], topics: Topics) -> None:
    """Add the answer of `parts` to `topics`."""
    replies: Iterable[tuple[Key, PartitionReply]] = fetch.replies(parts)
    if plan.session is not None:
        replies = plan.answer(replies)
    last, found = topics[-1] if topics else (None, [])
    for (topic, _), reply in replies:
        if topic != last:
            last, found = topic, []
            topics.append((topic, found))
        found.append(reply)
    _count(broker, parts)


def _count(broker: Broker, parts: list[Part]) -> None:
    """Bytes that leave, by topic."""
    topic, size = "", 0
    for part in parts:
        if part.records is not None and part.partition is not None:
            if part.partition.tp[0] != topic:
                if size:
                    broker.metrics.bytes_out.labels(topic).value += size
                topic, size = part.partition.tp[0], 0
            size += len(part.records[0])
    if size:
        broker.metrics.bytes_out.labels(topic).value += size


def _spliced(
    version: int,
    topics: Topics,
    *,
    code: ErrorCode = ErrorCode.none,
    session_id: int = 0,
) -> Spliced:
    return Spliced(*encode(version, topics, code=code, session_id=session_id))


def refuse(context: RequestContext, request: FetchRequest, error: BaseException) -> Any:
    """An error that belongs to no partition."""
    if context.version >= 7:
        return _spliced(context.version, [], code=code_for(error))
    code = code_for(error)
    return _spliced(context.version, [(topic, [PartitionReply(number, code)]) for topic, number in request.partitions])


API = Api(
    key=1,
    name="Fetch",
    versions=VERSIONS,
    handle=handle,
    decode=decode,
    refuse=refuse,
    ends_with_connection=True,
    omits=("follower fetch", "preferred read replica", "diverging epoch"),
)
