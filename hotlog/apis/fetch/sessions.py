"""Incremental fetch sessions (KIP-227): what a client fetches is kept here, so that requests and answers name only what changed.  Pure.

Rules, as in Kafka's FetchManager: session epoch -1 ends a session and fetches without one; epoch 0 asks for a new one; a higher epoch
must be exactly the next.  A partition is left out of an incremental answer when it has no records, no error, and neither its high
watermark nor its log start moved.  Partitions that had records go to the end of the order, so that a byte budget reaches all in turn.

Invariants: at most `slots` sessions, and FETCH_SESSION_PARTITIONS_MAX partitions in all of them; a session in use within EVICT_IDLE_MS is never evicted for another; an answer of a session was
filtered by the same epoch's state that the client holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from kio.schema.errors import ErrorCode

from hotlog.kernel.ids import TOPIC_NAME_CHARS_MAX
from hotlog.kernel.limits import FETCH_SESSION_PARTITIONS_MAX
from hotlog.wire.fetch_reply import PartitionReply
from hotlog.wire.fetch_request import FetchRequest, Key, Wanted

EVICT_IDLE_MS = 120_000  # Kafka's min.incremental.fetch.session.eviction.ms
SESSION_ID_MAX = 2**31 - 1
EPOCH_MAX = 2**31 - 1
FINAL_EPOCH = -1
INITIAL_EPOCH = 0


class Cached:
    """One partition of a session, with what the client was told last (-1: nothing, so that the next answer names it)."""

    __slots__ = ("high_watermark", "log_start_offset", "wanted")

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.high_watermark = -1
        self.log_start_offset = -1

    def is_news(self, reply: PartitionReply) -> bool:
        """Whether an incremental answer must name this partition; remembers what it says."""
        news = (
            len(reply.records) > 0
            or bool(reply.code)
            or reply.high_watermark != self.high_watermark
            or reply.log_start_offset != self.log_start_offset
        )
        # After an error the client must hear of the partition again, even if nothing else changed.
        self.high_watermark = -1 if reply.code else reply.high_watermark
        self.log_start_offset = reply.log_start_offset
        return news


class Session:
    """A client's standing wish.  `partitions` is in the order in which the byte budget goes round."""

    __slots__ = ("epoch", "has_topic_ids", "number", "partitions", "used_ms")

    def __init__(self, number: int, partitions: OrderedDict[Key, Cached], has_topic_ids: bool, now_ms: int) -> None:
        self.number = number
        self.partitions = partitions
        self.has_topic_ids = has_topic_ids
        self.epoch = 1  # the next one expected
        self.used_ms = now_ms

    def update(self, request: FetchRequest) -> None:
        """Add and change what the request names, drop what it forgets."""
        for key, wanted in request.partitions.items():
            cached = self.partitions.get(key)
            if cached is None:
                self.partitions[key] = Cached(wanted)
            else:
                cached.wanted = wanted
        for key in request.forgotten:
            self.partitions.pop(key, None)


class Plan(NamedTuple):
    """What to fetch, in order, and on whose behalf.  `code` other than none: answer only that."""

    partitions: list[tuple[Key, Wanted]]
    session: Session | None = None
    is_incremental: bool = False
    code: ErrorCode = ErrorCode.none

    @property
    def session_id(self) -> int:
        return self.session.number if self.session is not None else 0

    def answer(self, replies: Iterable[tuple[Key, PartitionReply]]) -> Iterator[tuple[Key, PartitionReply]]:
        """The replies that go into the answer."""
        session = self.session
        if session is None:
            yield from replies
            return
        for key, reply in replies:
            cached = session.partitions.get(key)
            if cached is None:  # forgotten by a later request of the same session
                continue
            is_news = cached.is_news(reply)
            if len(reply.records):
                session.partitions.move_to_end(key)
            if is_news or not self.is_incremental:
                yield key, reply


class FetchSessions:
    """All sessions of one broker, least recently used first.

    `new_id` draws a session id from 1 to SESSION_ID_MAX; `slots` is asked anew each time (the setting is dynamic).
    """

    def __init__(self, slots: Callable[[], int], new_id: Callable[[], int]) -> None:
        self._slots = slots
        self._new_id = new_id
        self._sessions: OrderedDict[int, Session] = OrderedDict()  # bounded by slots
        self.partitions = 0  # of all sessions
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, request: FetchRequest, *, has_topic_ids: bool, now_ms: int) -> Plan:
        """The plan for one request (`now_ms` on any clock that does not go back)."""
        wanted = list(request.partitions.items())
        if request.session_epoch == FINAL_EPOCH:
            self._end(request.session_id)
            return Plan(wanted)
        if request.session_epoch == INITIAL_EPOCH:
            self._end(request.session_id)
            session = self._create(request, has_topic_ids, now_ms) if wanted else None
            return Plan(wanted, session)
        return self._continue(request, has_topic_ids, now_ms)

    def _continue(self, request: FetchRequest, has_topic_ids: bool, now_ms: int) -> Plan:
        session = self._sessions.get(request.session_id)
        if session is None:
            return Plan([], code=ErrorCode.fetch_session_id_not_found)
        if session.has_topic_ids != has_topic_ids:
            return Plan([], code=ErrorCode.fetch_session_topic_id_error)
        if session.epoch != request.session_epoch:
            return Plan([], code=ErrorCode.invalid_fetch_session_epoch)
        session.epoch = session.epoch + 1 if session.epoch < EPOCH_MAX else 1
        before = len(session.partitions)
        session.update(request)
        self.partitions += len(session.partitions) - before
        if self.partitions > FETCH_SESSION_PARTITIONS_MAX or not _can_be_kept(request.partitions):
            self._end(session.number)
            return Plan([], code=ErrorCode.fetch_session_id_not_found)  # the client begins anew, and gets none
        session.used_ms = now_ms
        self._sessions.move_to_end(session.number)
        if not session.partitions:
            self._end(session.number)
            return Plan([])
        return Plan([(key, cached.wanted) for key, cached in session.partitions.items()], session, is_incremental=True)

    def _end(self, number: int) -> None:
        session = self._sessions.pop(number, None)
        if session is not None:
            self.partitions -= len(session.partitions)

    def _create(self, request: FetchRequest, has_topic_ids: bool, now_ms: int) -> Session | None:
        """A new session, or None when no slot is free (the client then simply sends full requests)."""
        slots, room = self._slots(), FETCH_SESSION_PARTITIONS_MAX - len(request.partitions)
        if slots <= 0 or room < 0 or not _can_be_kept(request.partitions):
            return None
        while len(self._sessions) >= slots or self.partitions > room:
            oldest = next(iter(self._sessions.values()))
            if now_ms - oldest.used_ms <= EVICT_IDLE_MS:
                return None
            self._end(oldest.number)
            self.evicted += 1
        number = self._new_id()
        while number in self._sessions:
            number = self._new_id()
        partitions = OrderedDict((key, Cached(wanted)) for key, wanted in request.partitions.items())
        session = self._sessions[number] = Session(number, partitions, has_topic_ids, now_ms)
        self.partitions += len(partitions)
        return session


def _can_be_kept(partitions: Iterable[Key]) -> bool:
    """Whether these could be partitions: a name that no topic can have is not kept."""
    return not any(type(topic) is str and len(topic) > TOPIC_NAME_CHARS_MAX for topic, _ in partitions)
