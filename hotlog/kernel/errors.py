"""Errors, few, and named for what the caller does next.

Invariants: every message names the thing, its value and what is allowed.  hotlog.wire.error_codes maps every leaf that can
reach a client to a Kafka error code.
"""

from __future__ import annotations


class HotlogError(Exception):
    """Root of everything Hotlog raises on purpose."""


class Invalid(HotlogError):
    """The request or setting can never succeed as it stands: tell whoever sent it."""


class InvalidConfig(Invalid):
    """A configuration key or value that is refused."""


class TooLarge(Invalid):
    """A batch, request or object above its limit."""


class Corrupt(HotlogError):
    """Bytes that fail their check.  Never served, never skipped: report and scope to the range."""


class UnknownVersion(HotlogError):
    """Stored bytes of a version that this program does not know: a newer one wrote them.  They are not damaged; leave them alone."""


class DamagedRecords(Corrupt):
    """Stored batches that changed on the disk: reading them again does not help."""


class InvalidRecord(Corrupt):
    """A produced batch that lies about itself (CRC, lengths, counts, compression), or holds records that the topic does not take.

    `faults`: (index in the batch, what is wrong) of single records (KIP-467).
    """

    def __init__(self, message: str, faults: tuple[tuple[int, str], ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


class NotOneBatch(InvalidRecord):
    """What was produced to a partition is not one whole batch."""


class MalformedBatch(InvalidRecord):
    """A produced batch that is none: a client that sent it whole may send it again."""


class CrcMismatch(MalformedBatch):
    """A produced batch whose CRC-32C does not match: damaged on the way, so the same batch may be sent again."""


class InvalidTimestamp(Invalid):
    """Record timestamps outside what the topic allows; `faults` as in InvalidRecord."""

    def __init__(self, message: str, faults: tuple[tuple[int, str], ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


class NotFound(HotlogError):
    """The named thing does not exist."""


class AlreadyExists(HotlogError):
    """The named thing exists already."""


class OutOfRange(HotlogError):
    """An offset outside [log start, log end]."""


class Retry(HotlogError):
    """Nothing happened; the same call may succeed later."""


class StoreUnavailable(Retry):
    """The object store did not answer in time or answered that it cannot serve now."""


class StoreRefused(StoreUnavailable):
    """The store answered that it will not serve us (credentials, permissions, missing bucket): retrying at once is no use."""


class PeerUnavailable(Retry):
    """Another broker cannot be asked: it does not answer, or too many calls wait for it already."""


class NotReady(Retry):
    """This part of the broker is still starting or is shutting down."""


class DiskFull(Retry):
    """No space (or the reserve is reached) on a data directory; nothing was appended."""


class OutcomeUnknown(HotlogError):
    """The call may or may not have happened: read back before believing either."""


class PreconditionFailed(HotlogError):
    """A conditional write lost: someone else changed the object first."""


class Fenced(HotlogError):
    """A newer epoch owns this; the caller must stop writing."""


class StorageFailed(HotlogError):
    """A data directory failed (EIO, failed fsync): this log takes no more writes until it is opened again, by a restart as a rule."""


class SequenceError(Invalid):
    """Root of what idempotent and transactional producers are refused for (KIP-98)."""


class OutOfOrderSequence(SequenceError):
    """A gap in a producer's sequence numbers."""


class InvalidProducerEpoch(SequenceError):
    """A producer epoch older than the newest seen."""


class InvalidTxnState(SequenceError):
    """Not part of a transaction that is open, or not allowed while one is."""


class CoordinatorFenced(SequenceError):
    """A newer coordinator has ended transactions of this producer."""


class UnknownProducerId(SequenceError):
    """No state for this producer id and the sequence does not start at 0."""


class ForeignStore(Invalid):
    """The object store holds another cluster's data, or fails the contract: refuse to write or delete in it."""
