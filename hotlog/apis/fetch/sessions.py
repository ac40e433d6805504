"""Incremental fetch sessions (KIP-227): what a client fetches is kept here, so that requests and answers name only what changed.

Rules, as in Kafka's FetchManager: session epoch -1 ends a session and fetches without one; epoch 0 asks for a new one; a higher epoch
must be exactly the next.  A partition is left out of an incremental answer when it has no records, no error, and neither its high
watermark nor its log start moved.  Partitions that had records go to the end of the order, so that a byte budget reaches all in turn.

A partition of a session is due, or at rest: an incremental fetch walks those that are due.  At rest is one of which the client knows all there
is to know and which has nothing for it to read; it is an ear of its log, and is due again when that moves.  So a fetch costs what moved, not
what lies still.

Invariants: at most `slots` sessions, and FETCH_SESSION_PARTITIONS_MAX partitions in all of them; a session in use within EVICT_IDLE_MS is never evicted for another; an answer of a session was
filtered by the same epoch's state that the client holds; what is at rest is an ear of its log, and what left its session is not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kio.schema.errors import ErrorCode

from hotlog.kernel.ids import TOPIC_NAME_CHARS_MAX
from hotlog.kernel.limits import FETCH_SESSION_PARTITIONS_MAX
from hotlog.wire.fetch_reply import PartitionReply
from hotlog.wire.fetch_request import FetchRequest, Key, Wanted

if TYPE_CHECKING:
    from hotlog.partitions.partition import Partition

EVICT_IDLE_MS = 120_000  # Kafka's min.incremental.fetch.session.eviction.ms
SESSION_ID_MAX = 2**31 - 1
EPOCH_MAX = 2**31 - 1
FINAL_EPOCH = -1
INITIAL_EPOCH = 0


class Waiting(Protocol):
    """A fetch of a session that waits."""

    def is_due(self, cached: Cached) -> None: ...


class Cached:
    """One partition of a session, with what the client was told last (-1: nothing, so that the next answer names it).

    `turn` is its place in the order in which the byte budget goes round; `resting_at` is the partition that it is an ear of.
    """

    __slots__ = ("high_watermark", "key", "log_start_offset", "resting_at", "session", "turn", "wanted")
    by_turn = attrgetter("turn")

    def __init__(self, session: Session, key: Key, wanted: Wanted) -> None:
        self.session: Session | None = session  # None once it was forgotten
        self.key = key
        self.wanted = wanted
        self.high_watermark = -1
        self.log_start_offset = -1
        self.resting_at: Partition | None = None
        self.turn = session.next_turn()

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

    def rests_at(self, partition: Partition) -> bool:
        """Whether a partition that has nothing to read can be left alone until it moves: the client knows its ends."""
        marks = partition.marks
        if self.high_watermark != marks.high_watermark or self.log_start_offset != marks.log_start_offset or self.session is None:
            return False
        if self.resting_at is not partition:
            self.wake()
            self.resting_at = partition
            partition.add_ear(self)
        self.session.due.pop(self, None)
        return True

    def moved(self) -> None:
        """The partition moved (hotlog.log.marks.Ear)."""
        self.resting_at = None
        if self.session is not None:
            self.session.is_due(self)

    def wake(self) -> None:
        """Be no ear any more."""
        if self.resting_at is not None:
            self.resting_at.remove_ear(self)
            self.resting_at = None


class Session:
    """A client's standing wish.  `due` are those of its partitions that a fetch has to look at; `waiting` are its fetches that wait."""

    __slots__ = ("_turns", "due", "epoch", "has_topic_ids", "number", "partitions", "used_ms", "waiting")

    def __init__(self, number: int, wanted: Iterable[tuple[Key, Wanted]], has_topic_ids: bool, now_ms: int) -> None:
        self.number = number
        self.has_topic_ids = has_topic_ids
        self.epoch = 1  # the next one expected
        self.used_ms = now_ms
        self._turns = 0
        self.waiting: dict[Waiting, None] = {}
        self.partitions = {key: Cached(self, key, each) for key, each in wanted}
        self.due = dict.fromkeys(self.partitions.values())

    def next_turn(self) -> int:
        self._turns += 1
        return self._turns

    def is_due(self, cached: Cached) -> None:
        """A partition is to be looked at by the next fetch, or by the one that waits."""
        self.due[cached] = None
        for fetch in self.waiting:
            fetch.is_due(cached)

    def update(self, request: FetchRequest) -> None:
        """Add and change what the request names, drop what it forgets."""
        for key, wanted in request.partitions.items():
            cached = self.partitions.get(key)
            if cached is None:
                cached = self.partitions[key] = Cached(self, key, wanted)
            else:
                cached.wanted = wanted
                cached.wake()
            self.due[cached] = None
        for key in request.forgotten:
            cached = self.partitions.pop(key, None)
            if cached is not None:
                self.due.pop(cached, None)
                cached.wake()
                cached.session = None

    def in_turn(self) -> list[tuple[Key, Wanted]]:
        """What is due, in the order in which the byte budget goes round."""
        due = sorted(self.due, key=Cached.by_turn) if len(self.due) > 1 else self.due
        return [(cached.key, cached.wanted) for cached in due]

    def plan_of(self, due: Iterable[Cached]) -> Plan:
        """The plan to look at some of what it has."""
        some = sorted((cached for cached in due if cached.session is self), key=Cached.by_turn)
        return Plan([(cached.key, cached.wanted) for cached in some], self, is_incremental=True)

    def close(self) -> None:
        """Nothing of it is heard of any more."""
        for cached in self.partitions.values():
            cached.wake()
            cached.session = None


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
                cached.turn = session.next_turn()
                session.due[cached] = None
            elif reply.code:
                session.due[cached] = None
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

    def due(self, number: int) -> int:
        """How many partitions a fetch of that session would look at now, beside those that it names."""
        session = self._sessions.get(number) if number else None
        return 0 if session is None else len(session.due)

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
        return Plan(session.in_turn(), session, is_incremental=True)

    def _end(self, number: int) -> None:
        session = self._sessions.pop(number, None)
        if session is not None:
            self.partitions -= len(session.partitions)
            session.close()

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
        session = self._sessions[number] = Session(number, request.partitions.items(), has_topic_ids, now_ms)
        self.partitions += len(session.partitions)
        return session


def _can_be_kept(partitions: Iterable[Key]) -> bool:
    """Whether these could be partitions: a name that no topic can have is not kept."""
    return not any(type(topic) is str and len(topic) > TOPIC_NAME_CHARS_MAX for topic, _ in partitions)
