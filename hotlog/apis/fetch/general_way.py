"""The general way of Fetch: any number of partitions, in both tiers, with or without a session, at once or by a long poll (fetch.watch).

Invariants: those of k01_fetch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hotlog.answers.api import RequestContext, Spliced
from hotlog.answers.slices import SLICE
from hotlog.apis.fetch.cold_reads import Fetches
from hotlog.apis.fetch.glance import glance
from hotlog.apis.fetch.parts import Limits, hosted_by
from hotlog.apis.fetch.replies import answer, answer_of, answer_wide, spliced
from hotlog.apis.fetch.rounds import READ_COMMITTED, Round
from hotlog.apis.fetch.sessions import Plan
from hotlog.apis.fetch.waits import REST_SECONDS, WAIT_MS_MAX
from hotlog.apis.fetch.watch import Watch
from hotlog.wire.fetch_request import TOPIC_ID_FROM, FetchRequest

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker


class Begun(NamedTuple):
    """A fetch that has to go on: it waits, reads a device or the store, or is wide."""

    plan: Plan
    fetch: Round


class AtRest(NamedTuple):
    """A fetch of a session that has to wait, and of which all partitions are left to the session."""

    plan: Plan
    limits: Limits


def begin(broker: Broker, context: RequestContext, request: FetchRequest) -> Spliced | Begun | AtRest:
    """The answer, if it can be given at once."""
    fetches = broker.kept[Fetches]
    is_by_id = context.version >= TOPIC_ID_FROM
    plan = fetches.sessions.begin(request, has_topic_ids=is_by_id, now_ms=int(broker.clock.monotonic() * 1000))
    if plan.code:
        context.has_failed = True
        return spliced(context.version, [], code=plan.code)
    bytes_max = fetches.bytes_max(request.bytes_max)
    bytes_min = request.bytes_min if request.bytes_min < bytes_max else bytes_max  # more than is given is not waited for
    limits = Limits(bytes_max, bytes_min, request.isolation_level == READ_COMMITTED)
    is_empty = not plan.partitions and plan.session is None
    if len(plan.partitions) <= SLICE:
        seen = glance(hosted_by(broker, is_by_id=is_by_id), plan, limits)
        if seen is not None and (is_empty or seen.is_full or seen.size >= limits.bytes_min or request.wait_ms_max <= 0):
            return answer_of(broker, context, plan, seen)
        if seen is not None and not seen.replies:
            return AtRest(plan, limits)
    return look(broker, context, request, plan, limits)


def look(broker: Broker, context: RequestContext, request: FetchRequest, plan: Plan, limits: Limits) -> Spliced | Begun:
    """The same by a round."""
    fetches = broker.kept[Fetches]
    fetch = Round(broker, fetches.cold_reads, plan.partitions, limits, plan.session, is_incremental=plan.is_incremental)
    if len(fetch.parts) > SLICE:
        return Begun(plan, fetch)
    fetch.look()
    if fetch.is_on_disk:
        return Begun(plan, fetch)
    if fetch.is_satisfied or (request.wait_ms_max <= 0 and not fetch.in_store()):
        return answer(broker, context, plan, fetch)
    return Begun(plan, fetch)


def handle(broker: Broker, context: RequestContext, request: FetchRequest) -> Any:
    """Answer at once if there is enough, else poll."""
    begun = begin(broker, context, request)
    if isinstance(begun, AtRest):
        begun = look(broker, context, request, *begun)
    return begun if isinstance(begun, Spliced) else poll(broker, context, request, *begun)


async def poll(broker: Broker, context: RequestContext, request: FetchRequest, plan: Plan, fetch: Round) -> Spliced:
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
                await watch.rest(REST_SECONDS)
                await watch.look()
    if len(fetch.parts) > SLICE:
        return await answer_wide(broker, context, plan, fetch)
    return answer(broker, context, plan, fetch)
