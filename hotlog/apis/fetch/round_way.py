"""The short way of fetches that have a session or name several partitions, as long as they are few: as the general way, but without a task, also where
they must wait.

Invariants: those of hotlog.apis.fetch.general_way, to which goes what must read a device or the store, or turns out to be wide; a session that was
touched is answered from here on, whatever comes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from hotlog.answers.api import Answer, Caller, Pending, RequestContext, Spliced
from hotlog.answers.slices import SLICE
from hotlog.apis.fetch.cold_reads import Fetches
from hotlog.apis.fetch.general_way import AtRest, Begun, begin, look, poll
from hotlog.apis.fetch.glance import glance
from hotlog.apis.fetch.parts import AT_REST, Limits, Part, hosted_by
from hotlog.apis.fetch.replies import answer, answer_of
from hotlog.apis.fetch.sessions import Cached, Session
from hotlog.apis.fetch.shared import Shared
from hotlog.apis.fetch.still import KnownFetches
from hotlog.apis.fetch.waits import WAIT_MS_MAX, Waiter, Waits, refused
from hotlog.kernel.limits import KiB
from hotlog.wire.apis import response_head
from hotlog.wire.fetch_request import FLEXIBLE_FROM, TOPIC_ID_FROM, FetchRequest, decode
from hotlog.wire.fetch_short import KEY, NOT_SHORT, behind_client_id

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker
    from hotlog.partitions.partition import Partition

REQUEST_BYTES_MAX = 8 * KiB  # about 250 partitions
KNOWN_BYTES_MIN = 256  # the size from which it pays to know a request by its bytes
NOTHING_NEW = 2  # buffers of an answer without records: its head and one more
_HEAD = struct.Struct(">i")  # size
_CORRELATION = struct.Struct(">i")


class RoundPoll(Waiter):
    """A fetch that waits for the parts of its round, and for what its session has at rest."""

    __slots__ = ("_begun", "_broker", "_context", "_ears", "_heard", "_news", "_request")

    def __init__(self, waits: Waits, broker: Broker, context: RequestContext, request: FetchRequest, begun: Begun) -> None:
        super().__init__(waits)
        self._broker = broker
        self._context = context
        self._request = request
        self._begun = begun
        self._ears: dict[Part, Partition] = {}  # parts, and where they are ears
        self._heard: dict[Part, None] = {}  # parts that moved since they were looked at
        self._news: dict[Cached, None] = {}  # of the session: what is due since the look

    def begin(self) -> None:
        """Wait, in the turn in which the first look was."""
        fetch = self._begun.fetch
        if fetch.is_on_disk or fetch.in_store():
            self.go_long()
            return
        self._listen(fetch.parts)
        if fetch.session is not None:
            fetch.session.waiting[self] = None
        self.waits.begin(self, min(self._request.wait_ms_max, WAIT_MS_MAX))

    def look(self, shared: Shared) -> None:
        fetch = self._begun.fetch
        heard, self._heard = self._heard, {}
        news, self._news = self._news, {}
        parts = fetch.due(heard, news)
        fetch.shared = shared
        try:
            fetch.look_at(parts)
        finally:
            fetch.shared = None
        if fetch.is_on_disk or fetch.in_store() or len(fetch.parts) > SLICE:
            self.go_long()
        elif fetch.is_satisfied or self.is_late:
            self.waits.end(self)
            self._answer()
        else:
            self._listen(parts)
            if fetch.size and not self.has_rested:
                self.waits.rest(self)
            else:
                self.has_rested = False

    def _answer(self) -> None:
        context, (plan, fetch) = self._context, self._begun
        buffers, size = answer(self._broker, context, plan, fetch)
        head = response_head(KEY, context.version, context.correlation_id, size)
        self.known([head, *buffers], has_failed=context.has_failed)

    def _listen(self, parts: list[Part]) -> None:
        ears = self._ears
        for part in parts:
            partition = part.partition
            if partition is not None and part not in ears and part.state is not AT_REST:
                ears[part] = partition
                part.watch = self
                partition.add_ear(part)

    def heard(self, part: Part) -> None:
        """A part's partition moved; the part is no ear any more (hotlog.apis.fetch.parts.Watcher)."""
        self._ears.pop(part, None)
        part.watch = None
        self._heard[part] = None
        self.moved()

    def is_due(self, cached: Cached) -> None:
        """A partition of the session moved (hotlog.apis.fetch.sessions.Waiting)."""
        self._news[cached] = None
        self.moved()

    def leave(self) -> None:
        for part, partition in self._ears.items():
            partition.remove_ear(part)
            part.watch = None  # no circle is left (tests/wire/test_circles.py)
        self._ears.clear()
        if self._begun.plan.session is not None:
            self._begun.plan.session.waiting.pop(self, None)

    def go_long(self) -> None:
        self.waits.hand_over(
            self, self._context, self._request, lambda: poll(self._broker, self._context, self._request, *self._begun)
        )


class RestPoll(Waiter):
    """A fetch that waits for what its session has at rest: all of it."""

    __slots__ = ("_broker", "_context", "_limits", "_news", "_request", "_session")

    def __init__(
        self, waits: Waits, broker: Broker, context: RequestContext, request: FetchRequest, session: Session, limits: Limits
    ) -> None:
        super().__init__(waits)
        self._broker = broker
        self._context = context
        self._request = request
        self._session = session
        self._limits = limits
        self._news: dict[Cached, None] = {}  # what is due since the look

    def begin(self) -> None:
        """Wait, in the turn in which the first look was."""
        self._session.waiting[self] = None
        self.waits.begin(self, min(self._request.wait_ms_max, WAIT_MS_MAX))

    def is_due(self, cached: Cached) -> None:
        """A partition of the session moved (hotlog.apis.fetch.sessions.Waiting)."""
        self._news[cached] = None
        self.moved()

    def look(self, shared: Shared) -> None:
        session, context = self._session, self._context
        news, self._news = self._news, {}
        plan = session.plan_of(news)
        hosted = hosted_by(self._broker, is_by_id=session.has_topic_ids)
        seen = glance(hosted, plan, self._limits, shared) if len(news) <= SLICE else None
        if seen is not None and (self.is_late or seen.is_full or seen.size >= self._limits.bytes_min):
            self.waits.end(self)
            buffers, size = answer_of(self._broker, context, plan, seen)
            self.known([response_head(KEY, context.version, context.correlation_id, size), *buffers])
        elif seen is None or seen.replies:  # an error, or too little: a round keeps it
            self.go_long()

    def leave(self) -> None:
        self._session.waiting.pop(self, None)

    def go_long(self) -> None:
        broker, context, request = self._broker, self._context, self._request
        session = self._session

        def begin() -> Any:
            plan = session.plan_of(session.due)  # as it is then: another request of the session may have come before
            begun = look(broker, context, request, plan, self._limits)
            return begun if isinstance(begun, Spliced) else poll(broker, context, request, *begun)

        self.waits.hand_over(self, context, request, begin)


class RoundWay:
    """The short way of one version, for these."""

    def __init__(self, broker: Broker, version: int) -> None:
        self._broker = broker
        self._version = version
        self._is_flexible = version >= FLEXIBLE_FROM
        self._sessions = broker.kept[Fetches].sessions
        self._waits = broker.kept[Waits]
        self._known = broker.kept[KnownFetches]
        self._hosted = broker.hosted_places

    def answer(self, caller: Caller, data: memoryview, start: int, end: int) -> Answer | Pending | None:
        """A `Short` (hotlog.answers.api)."""
        position = self._body(data, start, end)
        if position is None:
            return None
        if end - position < KNOWN_BYTES_MIN:
            request = self._read(data, position, end)
            return None if request is None else self._answer(caller, data, start, request)
        key = (self._version, bytes(data[position:end]))
        known = self._known.find(key)
        if known is None:
            request = self._read(data, position, end)
            if request is None:
                return None
            self._known.keep(key, request)
            return self._answer(caller, data, start, request)
        still = known.still
        if still is not None and still.is_true_at(self._hosted.version):
            return _HEAD.pack(len(still.rest) + _CORRELATION.size) + data[start + 4 : start + 8] + still.rest
        answer = self._answer(caller, data, start, known.request)
        if type(answer) is list and len(answer) == NOTHING_NEW and _is_asked_again(known.request):
            hosted = hosted_by(self._broker, is_by_id=self._version >= TOPIC_ID_FROM)
            rest = b"".join(answer)[_HEAD.size + _CORRELATION.size :]  # type: ignore[arg-type]
            self._known.keep_answer(known, rest, [hosted[each] for each in known.request.partitions])
        return answer

    def _answer(self, caller: Caller, data: memoryview, start: int, request: FetchRequest) -> Answer | Pending | None:
        broker, correlation_id = self._broker, _CORRELATION.unpack_from(data, start + 4)[0]
        if len(request.partitions) + self._sessions.due(request.session_id) > SLICE:
            return None
        if not self._waits.has_room(min(request.wait_ms_max, WAIT_MS_MAX)):
            return None
        context = RequestContext(KEY, self._version, correlation_id, None, caller, broker.clock.monotonic())
        try:
            begun = begin(broker, context, request)
        except Exception as error:  # the session was touched
            begun = refused(context, request, error)
        if not isinstance(begun, Spliced):
            waiting = self._waiting(context, request, begun)
            waiting.begin()
            return waiting
        buffers: list[Any] = [response_head(KEY, self._version, correlation_id, begun.size), *begun.buffers]
        if not context.has_failed:
            return buffers
        failed = Pending()
        failed.known(buffers, has_failed=True)
        return failed

    def _waiting(self, context: RequestContext, request: FetchRequest, begun: Begun | AtRest) -> RoundPoll | RestPoll:
        if isinstance(begun, Begun):
            return RoundPoll(self._waits, self._broker, context, request, begun)
        session = begun.plan.session
        assert session is not None, "only a session's partitions are at rest"
        return RestPoll(self._waits, self._broker, context, request, session, begun.limits)

    def _body(self, data: memoryview, start: int, end: int) -> int | None:
        """Where the request's body begins; None: it is large, or the general way has something to say about it."""
        if end - start > REQUEST_BYTES_MAX:
            return None
        try:
            position = behind_client_id(data, start)
            if not self._is_flexible:
                return position
            return None if data[position] else position + 1
        except NOT_SHORT:
            return None

    def _read(self, data: memoryview, position: int, end: int) -> FetchRequest | None:
        try:
            return decode(self._version, data[:end], position)
        except NOT_SHORT:
            return None


def _is_asked_again(request: FetchRequest) -> bool:
    """Whether the same bytes are answered alike as long as nothing moves: they belong to no session, and never wait."""
    return request.session_id == 0 and request.session_epoch == -1 and (request.wait_ms_max <= 0 or request.bytes_min <= 0)
