"""What a transactional id is, what happens to it, and what it answers: values only.

Behaviour as Kafka's TransactionMetadata and TransactionCoordinator: KIP-98, KIP-360 (a producer goes on after an error), KIP-890 (an epoch for each
transaction, `version` 2).

Invariants: frozen; all that is stored stands before `coming`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import NamedTuple

from hotlog.coordinators.effects import Token

NO_ID, NO_EPOCH = -1, -1
EPOCH_MAX = 2**15 - 1
EPOCH_EXHAUSTED = EPOCH_MAX - 1  # one is left, to fence the producer with
NO_TIME = -1

Place = tuple[str, int]  # topic, partition
NOWHERE: frozenset[Place] = frozenset()


class Status(Enum):
    """The names that DescribeTransactions tells; `number` is what the log has."""

    EMPTY = "Empty"
    ONGOING = "Ongoing"
    PREPARE_COMMIT = "PrepareCommit"
    PREPARE_ABORT = "PrepareAbort"
    COMPLETE_COMMIT = "CompleteCommit"
    COMPLETE_ABORT = "CompleteAbort"
    DEAD = "Dead"
    PREPARE_EPOCH_FENCE = "PrepareEpochFence"  # never stored: the epoch is raised together with the abort that it is for

    @property
    def number(self) -> int:
        return _NUMBERS[self]

    @property
    def is_ending(self) -> bool:
        """Whether its end is decided, and not yet told to all partitions."""
        return self is Status.PREPARE_COMMIT or self is Status.PREPARE_ABORT


_NUMBERS = {status: number for number, status in enumerate(Status)}
STATUSES = tuple(Status)  # by their numbers


class TxnCode(StrEnum):
    """Kafka's error codes that a transactional id answers with, by the names kio gives them."""

    NONE = "none"
    INVALID_PRODUCER_ID_MAPPING = "invalid_producer_id_mapping"
    PRODUCER_FENCED = "producer_fenced"
    CONCURRENT_TRANSACTIONS = "concurrent_transactions"
    INVALID_TXN_STATE = "invalid_txn_state"
    TRANSACTION_ABORTABLE = "transaction_abortable"
    COORDINATOR_NOT_AVAILABLE = "coordinator_not_available"
    INVALID_REQUEST = "invalid_request"
    INVALID_TRANSACTION_TIMEOUT = "invalid_transaction_timeout"
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = "transactional_id_authorization_failed"
    TRANSACTIONAL_ID_NOT_FOUND = "transactional_id_not_found"
    UNSUPPORTED_VERSION = "unsupported_version"


class Version(NamedTuple):
    """A transaction.version: what it means."""

    level: int

    @property
    def bumps_epoch(self) -> bool:
        """Every transaction has an epoch of its own (KIP-890)."""
        return self.level >= 2


V0, V1, V2 = Version(0), Version(1), Version(2)


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """One transactional id and its transaction.  Times in ms of the wall clock.

    `version` is the client's, by which the last transaction was ended; `coming` is on its way to the log, and `waiting` is to be told of it; `unmarked` are the
    partitions that do not know of the end yet.
    """

    transactional_id: str
    producer_id: int = NO_ID
    previous_id: int = NO_ID  # before the last change
    next_id: int = NO_ID  # from the end of this transaction on, where its epochs are used up
    epoch: int = NO_EPOCH
    last_epoch: int = NO_EPOCH  # of the same client, before it was raised; not stored
    timeout_ms: int = 0
    status: Status = Status.EMPTY
    partitions: frozenset[Place] = NOWHERE
    start_ms: int = NO_TIME
    update_ms: int = NO_TIME
    version: Version = V0
    coming: Transaction | None = None
    waiting: Waiting | None = None
    has_failed_fence: bool = False  # the raised epoch could not be stored: it is not raised again
    unmarked: frozenset[Place] = NOWHERE

    @property
    def is_exhausted(self) -> bool:
        return self.epoch >= EPOCH_EXHAUSTED

    @property
    def is_known(self) -> bool:
        """Whether a producer was ever initialized under the id."""
        return self.producer_id != NO_ID


class Waiting(NamedTuple):
    """A request that is answered once the change it asked for is stored."""

    token: Token
    answer: Answer
    refusal: Answer


class Now(NamedTuple):
    """The time (wall, ms) and what the broker's settings say then."""

    now_ms: int
    expiration_ms: int
    version: Version


# Events


class InitId(NamedTuple):
    """InitProducerId; `expected` are id and epoch of a producer that wants to go on (KIP-360), `fresh_id` was never given out (NO_ID: none was
    asked for)."""

    token: Token
    timeout_ms: int
    expected: tuple[int, int] | None
    fresh_id: int


class AddPartitions(NamedTuple):
    """AddPartitionsToTxn, AddOffsetsToTxn, or what the first record in a partition says."""

    token: Token
    producer_id: int
    epoch: int
    partitions: frozenset[Place]
    version: Version


class End(NamedTuple):
    """EndTxn."""

    token: Token
    producer_id: int
    epoch: int
    is_commit: bool
    version: Version
    fresh_id: int


class Stored(NamedTuple):
    """The log has `state`, or could not take it."""

    state: Transaction
    is_ok: bool


class Marked(NamedTuple):
    """All partitions but those `left` know of the end of the transaction of this epoch."""

    producer_id: int
    epoch: int
    left: frozenset[Place]


class MarkAgain(NamedTuple):
    """It is time to tell the rest."""


class CompleteAgain(NamedTuple):
    """It is time to store the end once more."""


class Due(NamedTuple):
    """The transaction's time is over, or the id was not used for long."""


Event = InitId | AddPartitions | End | Stored | Marked | MarkAgain | CompleteAgain | Due

# Answers


class Initialized(NamedTuple):
    """Answer to InitId."""

    code: TxnCode
    producer_id: int = NO_ID
    epoch: int = NO_EPOCH


class Ended(NamedTuple):
    """Answer to End: what the next transaction is to be of, if that is another epoch."""

    code: TxnCode
    producer_id: int = NO_ID
    epoch: int = NO_EPOCH


class NeedsId(NamedTuple):
    """Ask again with an id that was never given out."""


Answer = Initialized | Ended | NeedsId | TxnCode

# What it asks for beside the effects that all machines have


class Mark(NamedTuple):
    """Tell partitions that the transaction has ended; the outcome comes as `Marked`."""

    producer_id: int
    epoch: int
    is_commit: bool
    version: Version
    partitions: frozenset[Place]
