"""Producers of one partition: the last batches of each, what is a duplicate, what is a gap, which transactions are open (KIP-98, KIP-360).  Pure.

Rules (ProducerAppendInfo, ProducerStateEntry in Kafka): the last five batches of a producer are remembered and answered again with
their old offsets; an older epoch is refused; a new epoch starts at sequence 0; a producer we know nothing of (never seen, expired, or
its records were deleted) may start anywhere; else the sequence follows the last one, wrapping to 0 after 2^31-1.

What it costs does not grow with the producers that are known: an append looks up one, expiry looks at those that are due.

A transaction is open from its first batch to its marker, and unstable until the marker is committed: until then its end may be lost again.

A batch that begins a transaction must belong to one that its coordinator knows of (KIP-890): who appends it holds a `Guard` from before the
coordinator was asked.  A marker takes the guard away, so that what was asked before a transaction ended begins no new one.

Invariants: `first_open_transaction` is kept, not looked for; who was heard of last is last; `check` changes nothing; `update` is only called
with batches that `check` let pass, or that were accepted before (replay); a batch without a sequence is a coordinator's, and is never a duplicate.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from hotlog.kernel.errors import CoordinatorFenced, InvalidProducerEpoch, InvalidTxnState, OutOfOrderSequence
from hotlog.log.index import AbortedTransaction
from hotlog.log.producer_snapshot import Entry, parse_snapshot, print_snapshot
from hotlog.wire.batch import TRANSACTIONAL_MASK, BatchHeader
from hotlog.wire.markers import Marker
from hotlog.world.ports import Buffer

BATCHES_KEPT = 5
SEQUENCE_MAX = 2**31 - 1
EPOCH_MAX = 2**15 - 1
EPOCH_PER_TRANSACTION = 2  # transaction.version from which each transaction has an epoch of its own (KIP-890)
NO_TRANSACTION = 2**63 - 1  # an offset above all
_new = tuple.__new__  # a named tuple's own constructor is a Python call


class Batch(NamedTuple):
    """What is remembered of a batch: its last sequence and offset, how many offsets before it began, its largest timestamp."""

    last_sequence: int
    last_offset: int
    offset_delta: int
    timestamp: int

    @property
    def first_sequence(self) -> int:
        return (self.last_sequence - self.offset_delta) & SEQUENCE_MAX

    @property
    def first_offset(self) -> int:
        return self.last_offset - self.offset_delta


class LastBatch(NamedTuple):
    """What a log must keep of a producer for who reads it from its start: its last data, or, of one without, its newest epoch's marker."""

    last_offset: int  # -1: none
    epoch: int


class Producer(NamedTuple):
    """One producer's state.  `batches` oldest first, at most BATCHES_KEPT; ms."""

    epoch: int
    batches: tuple[Batch, ...] = ()
    last_timestamp: int = -1
    seen_ms: int = 0
    coordinator_epoch: int = -1
    transaction_start: int = -1


class Guard:
    """Somebody asks the coordinator whether a transaction may begin here; `lowest_sequence` of those who do."""

    __slots__ = ("epoch", "lowest_sequence", "made_ms", "producer_id")

    def __init__(self, producer_id: int, epoch: int, sequence: int, now_ms: int) -> None:
        self.producer_id = producer_id
        self.epoch = epoch
        self.lowest_sequence = sequence
        self.made_ms = now_ms


_NONE: deque[tuple[int, int]] = deque(maxlen=0)  # of logs without transactions: a deque takes 0.7 KiB when it is made


class Producers:
    """All producers of a partition by id."""

    __slots__ = ("_guards", "_log_start", "_open", "_states", "_unstable", "ended", "expiry_ms", "first_open_transaction")

    def __init__(self, expiry_ms: int) -> None:
        self._states: dict[int, Producer] = {}  # who was heard of last is last; states are replaced, never changed
        self._open: OrderedDict[int, int] = OrderedDict()  # producer id -> where its open transaction began, ascending
        self._unstable: OrderedDict[int, None] = OrderedDict()  # where all began that are not settled, ascending
        self.ended = _NONE  # (offset of the marker, where it began) of those not settled yet
        self.first_open_transaction = NO_TRANSACTION  # first offset of the oldest unstable one: the last stable offset
        self._log_start = 0  # what is open begins there at the earliest
        self._guards: dict[int, Guard] = {}  # by producer id
        self.expiry_ms = expiry_ms

    def __len__(self) -> int:
        return len(self._states)

    def get(self, producer_id: int) -> Producer | None:
        return self._states.get(producer_id)

    def known(self) -> list[tuple[int, Producer]]:
        """All of them, by id."""
        return list(self._states.items())

    def open_transactions(self) -> list[tuple[int, Producer]]:
        """Producers whose transactions are open, the oldest transaction first."""
        return [(producer_id, self._states[producer_id]) for producer_id in self._open]

    # Guards

    def is_open(self, producer_id: int, epoch: int) -> bool:
        """Whether a transaction of the producer's, of this epoch, is open."""
        state = self._states.get(producer_id)
        return state is not None and state.transaction_start >= 0 and state.epoch == epoch

    def guard(self, producer_id: int, epoch: int, sequence: int, now_ms: int) -> Guard:
        """For who is about to ask the coordinator."""
        guard = self._guards.get(producer_id)
        if guard is None or guard.epoch < epoch:
            guard = self._guards[producer_id] = Guard(producer_id, epoch, sequence, now_ms)
        elif sequence < guard.lowest_sequence:
            guard.lowest_sequence = sequence
        return guard

    def require(self, guard: Guard, sequence: int) -> None:
        """Hold what the coordinator said against what happened since.

        Raises:
            InvalidTxnState: the transaction has ended meanwhile.  OutOfOrderSequence: an earlier batch is still to come.
        """
        if self._guards.get(guard.producer_id) is guard:
            if sequence > guard.lowest_sequence:
                raise OutOfOrderSequence(
                    f"producer {guard.producer_id} begins a transaction with sequence {sequence}; {guard.lowest_sequence} is on its way"
                )
        elif not self.is_open(guard.producer_id, guard.epoch):
            raise InvalidTxnState(f"producer {guard.producer_id} epoch {guard.epoch}: its transaction has ended")

    def drop(self, guard: Guard) -> None:
        """Nothing will be appended for it."""
        if self._guards.get(guard.producer_id) is guard:
            del self._guards[guard.producer_id]

    # Batches

    def check(self, headers: Sequence[BatchHeader]) -> Batch | None:
        """Whether batches of idempotent producers may be appended; the remembered batch if the first is a duplicate.

        Raises:
            OutOfOrderSequence: a gap, or a new epoch that does not start at 0.
            InvalidProducerEpoch: an epoch older than the newest seen.
            InvalidTxnState: not part of the transaction that is open.
        """
        ahead: dict[int, tuple[int, int]] = {}  # producer id -> (epoch, last sequence) within this very append
        for header in headers:
            producer_id = header.producer_id
            if producer_id < 0:
                continue
            state = self._states.get(producer_id)
            if header.base_sequence < 0:
                _check_epoch(header, state)
                continue
            if state is not None and state.epoch == header.producer_epoch and producer_id not in ahead:
                for batch in state.batches:
                    if batch.last_sequence == header.last_sequence and batch.first_sequence == header.base_sequence:
                        return batch
            known = ahead.get(producer_id)
            if known is None and state is not None:
                known = state.epoch, state.batches[-1].last_sequence if state.batches else -1
            if known is not None:
                _check_sequence(header, *known)
            if state is not None and state.transaction_start >= 0 and not header.attributes & TRANSACTIONAL_MASK:
                raise InvalidTxnState(
                    f"producer {producer_id} has a transaction open since offset {state.transaction_start}: what it sends must be part of it"
                )
            ahead[producer_id] = header.producer_epoch, header.last_sequence
        return None

    def check_next(self, headers: Sequence[BatchHeader], producer_id: int, epoch: int, sequence: int) -> Batch | None:
        """`check` of one header; these fields of it are at hand already, and tell what is nearly always so: it follows the last one."""
        state = self._states.get(producer_id)
        if state is None or (
            state.epoch == epoch
            and state.batches
            and sequence == (state.batches[-1].last_sequence + 1) & SEQUENCE_MAX
            and (state.transaction_start < 0 or headers[0].attributes & TRANSACTIONAL_MASK)
        ):
            return None
        return self.check(headers)

    def follows(self, producer_id: int, epoch: int, sequence: int) -> bool:
        """Whether this is just the next batch, outside of transactions, of a producer that is known: `check` has nothing to say."""
        state = self._states.get(producer_id)
        if state is None or state.epoch != epoch or not state.batches or state.transaction_start >= 0:
            return False
        return sequence == (state.batches[-1].last_sequence + 1) & SEQUENCE_MAX

    def update(self, header: BatchHeader, now_ms: int) -> None:
        """Remember a data batch that is in the log, with its real offsets; `now_ms` is when it came."""
        self.note(
            header.producer_id, header.producer_epoch, header.base_sequence, header.last_offset, header.last_offset_delta,
            header.max_timestamp, header.attributes, now_ms,
        )  # fmt: skip

    def note(
        self,
        producer_id: int,
        epoch: int,
        sequence: int,
        last_offset: int,
        delta: int,
        timestamp: int,
        attributes: int,
        now_ms: int,
    ) -> None:
        """`update` by what it needs of the header."""
        state = self._states.pop(producer_id, None)
        batches: tuple[Batch, ...] = ()
        coordinator_epoch = start = -1
        if state is not None:
            known_epoch, batches, _, _, coordinator_epoch, start = state
            if known_epoch != epoch:
                batches = ()
            elif len(batches) == BATCHES_KEPT and sequence >= 0:
                batches = batches[1:]
        if attributes & TRANSACTIONAL_MASK and start < 0:
            start = self._open[producer_id] = last_offset - delta
            self._unstable[start] = None
            self.first_open_transaction = min(self.first_open_transaction, start)
            self._guards.pop(producer_id, None)
        if sequence >= 0:
            batches = (*batches, _new(Batch, ((sequence + delta) & SEQUENCE_MAX, last_offset, delta, timestamp)))
        self._states[producer_id] = _new(Producer, (epoch, batches, timestamp, now_ms, coordinator_epoch, start))

    # Transactions

    def check_marker(self, marker: Marker, version: int) -> None:
        """Whether a coordinator may end a transaction so; `version` is the transaction.version it was ended by.

        Raises:
            InvalidProducerEpoch: the producer has come further.  CoordinatorFenced: a newer coordinator has spoken.
        """
        state = self._states.get(marker.producer_id)
        if state is None:
            return
        epoch = marker.producer_epoch
        is_old = epoch < state.epoch
        if version >= EPOCH_PER_TRANSACTION and epoch == state.epoch:  # its own epoch is one more: said again, or very old
            is_old = state.transaction_start >= 0 and epoch != EPOCH_MAX
        if is_old:
            raise InvalidProducerEpoch(f"producer {marker.producer_id} epoch {epoch} is ended here; {state.epoch} was seen")
        if marker.coordinator_epoch < state.coordinator_epoch:
            raise CoordinatorFenced(
                f"coordinator epoch {marker.coordinator_epoch} ends a transaction; {state.coordinator_epoch} was seen"
            )

    def end_transaction(self, marker: Marker, offset: int, timestamp: int, now_ms: int) -> AbortedTransaction | None:
        """A marker is in the log at `offset`: the transaction is over, and is settled once that is committed; what readers must know of it if it
        was aborted and had records."""
        producer_id, epoch, coordinator_epoch, is_commit = marker
        self._guards.pop(producer_id, None)
        state = self._states.pop(producer_id, None)
        batches = state.batches if state is not None and state.epoch == epoch else ()
        self._states[producer_id] = Producer(epoch, batches, timestamp, now_ms, coordinator_epoch)
        start = self._open.pop(producer_id, -1)
        if start < 0:
            return None
        if self.ended is _NONE:
            self.ended = deque()
        self.ended.append((offset, start))
        return None if is_commit else AbortedTransaction(producer_id, start, offset, next(iter(self._open.values()), offset + 1))

    def settle(self, committed_end: int) -> None:
        """The log is committed up to there: transactions whose markers lie below are over for good."""
        ended, unstable = self.ended, self._unstable
        while ended and ended[0][0] < committed_end:
            del unstable[ended.popleft()[1]]
        self.first_open_transaction = max(next(iter(unstable), NO_TRANSACTION), self._log_start)

    def begin_at(self, log_start: int) -> None:
        """What lies before is gone, the beginning of transactions too."""
        self._log_start = log_start
        self.settle(-1)

    def take_over(self, other: Producers) -> None:
        """Be as `other` is, who is not used any more."""
        self._states, self._open, self._unstable, self.ended = other._states, other._open, other._unstable, other.ended
        self._guards = {}
        self.settle(-1)

    def expire(self, now_ms: int) -> int:
        """Forget producers without a batch for producer.id.expiration.ms and without an open transaction; how many.

        By the time a batch came, not by its timestamp as Kafka does: who loads last year's events would be forgotten at once.
        """
        limit = now_ms - self.expiry_ms
        gone, ahead = [], []
        for producer_id, state in self._states.items():
            if state.seen_ms > now_ms:  # the clock was ahead when it came: it says nothing of those that follow
                ahead.append(producer_id)
            elif state.seen_ms >= limit:  # and so are all that follow
                break
            elif state.transaction_start < 0:
                gone.append(producer_id)
        for producer_id in ahead:
            self._states[producer_id] = self._states.pop(producer_id)._replace(seen_ms=now_ms)
        for producer_id in gone:
            del self._states[producer_id]
        if self._guards:
            self._guards = {key: guard for key, guard in self._guards.items() if guard.made_ms >= limit}
        return len(gone)

    def encode(self) -> bytes:
        """The snapshot file's bytes."""
        return _encoded(self._states)

    def encoded_later(self) -> Callable[[], bytes]:
        """What `encode` would say now, for a thread to ask: of a hundred thousand producers it takes a while."""
        return partial(_encoded, self._states.copy())

    def last_batches_later(self) -> Callable[[], dict[int, LastBatch]]:
        """The last batch of every producer as of now, for a thread to ask."""
        return partial(_last_batches, self._states.copy())

    def load(self, raw: Buffer, now_ms: int) -> None:
        """Take over a snapshot's producers.  When one came is told by its timestamp, or, if that is too old to say, it is now.

        Raises:
            Corrupt: wrong version, CRC or length.
        """
        for producer_id, epoch, sequence, offset, delta, timestamp, coordinator, start in parse_snapshot(raw):
            batches = (Batch(sequence, offset, delta, timestamp),) if offset >= 0 and sequence >= 0 else ()
            seen_ms = timestamp if now_ms - self.expiry_ms < timestamp <= now_ms else now_ms
            self._states[producer_id] = Producer(epoch, batches, timestamp, seen_ms, coordinator, start)
        self._states = dict(sorted(self._states.items(), key=lambda each: each[1].seen_ms))
        began = sorted((s.transaction_start, producer_id) for producer_id, s in self._states.items() if s.transaction_start >= 0)
        self._open = OrderedDict((producer_id, start) for start, producer_id in began)
        self._unstable = OrderedDict((start, None) for start, _ in began)
        self.first_open_transaction = began[0][0] if began else NO_TRANSACTION


def _last_batches(states: Mapping[int, Producer]) -> dict[int, LastBatch]:
    return {
        producer_id: LastBatch(state.batches[-1].last_offset if state.batches else -1, state.epoch)
        for producer_id, state in states.items()
    }


def _encoded(states: Mapping[int, Producer]) -> bytes:
    """The snapshot file's bytes of these producers by id."""
    return print_snapshot(_entry(producer_id, state) for producer_id, state in states.items())


def _entry(producer_id: int, state: Producer) -> Entry:
    last = state.batches[-1] if state.batches else Batch(-1, -1, 0, state.last_timestamp)
    return (
        producer_id, state.epoch, last.last_sequence, last.last_offset, last.offset_delta, last.timestamp,
        state.coordinator_epoch, state.transaction_start,
    )  # fmt: skip


def _check_epoch(header: BatchHeader, state: Producer | None) -> None:
    if state is not None and header.producer_epoch < state.epoch:
        raise InvalidProducerEpoch(
            f"producer {header.producer_id} epoch {header.producer_epoch} is older than epoch {state.epoch}, the newest seen here"
        )


def _check_sequence(header: BatchHeader, epoch: int, last_sequence: int) -> None:
    who = f"producer {header.producer_id} epoch {header.producer_epoch}"
    if header.producer_epoch < epoch:
        raise InvalidProducerEpoch(f"{who} is older than epoch {epoch}, the newest seen here")
    if header.producer_epoch > epoch:
        if header.base_sequence != 0:
            raise OutOfOrderSequence(f"{who} is new and begins with sequence {header.base_sequence}; 0 is expected")
    elif header.base_sequence != (last_sequence + 1) & SEQUENCE_MAX:
        raise OutOfOrderSequence(
            f"{who} sent sequence {header.base_sequence} after {last_sequence}; {(last_sequence + 1) & SEQUENCE_MAX} is expected"
        )
