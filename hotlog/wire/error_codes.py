"""The one table from our errors to Kafka's error codes.

Codes: https://kafka.apache.org/protocol#protocol_error_codes.

Invariants: every leaf of hotlog.kernel.errors has an entry (a test walks the tree); an error nobody foresaw is UNKNOWN_SERVER_ERROR and
its text stays in the log, not in the answer.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from functools import partial

from kio.schema.errors import ErrorCode

from hotlog.kernel import errors


class Refused(errors.HotlogError):
    """A request, or a part of one, that is answered with exactly this code."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


_TABLE: dict[type[BaseException], ErrorCode] = {
    errors.Invalid: ErrorCode.invalid_request,
    errors.InvalidConfig: ErrorCode.invalid_config,
    errors.TooLarge: ErrorCode.message_too_large,
    errors.InvalidTimestamp: ErrorCode.invalid_timestamp,
    errors.Corrupt: ErrorCode.kafka_storage_error,
    errors.UnknownVersion: ErrorCode.kafka_storage_error,
    errors.DamagedRecords: ErrorCode.corrupt_message,
    errors.InvalidRecord: ErrorCode.invalid_record,
    errors.NotOneBatch: ErrorCode.invalid_record,
    errors.MalformedBatch: ErrorCode.corrupt_message,
    errors.NotFound: ErrorCode.unknown_topic_or_partition,
    errors.AlreadyExists: ErrorCode.topic_already_exists,
    errors.OutOfRange: ErrorCode.offset_out_of_range,
    errors.Retry: ErrorCode.request_timed_out,
    errors.StoreUnavailable: ErrorCode.kafka_storage_error,
    errors.StoreRefused: ErrorCode.kafka_storage_error,
    errors.PeerUnavailable: ErrorCode.request_timed_out,
    errors.NotReady: ErrorCode.leader_not_available,
    errors.DiskFull: ErrorCode.kafka_storage_error,
    errors.OutcomeUnknown: ErrorCode.request_timed_out,
    errors.PreconditionFailed: ErrorCode.not_controller,
    errors.Fenced: ErrorCode.not_leader_or_follower,
    errors.StorageFailed: ErrorCode.kafka_storage_error,
    errors.SequenceError: ErrorCode.out_of_order_sequence_number,
    errors.OutOfOrderSequence: ErrorCode.out_of_order_sequence_number,
    errors.InvalidProducerEpoch: ErrorCode.invalid_producer_epoch,
    errors.InvalidTxnState: ErrorCode.invalid_txn_state,
    errors.CoordinatorFenced: ErrorCode.transaction_coordinator_fenced,
    errors.UnknownProducerId: ErrorCode.unknown_producer_id,
    errors.ForeignStore: ErrorCode.policy_violation,
    TimeoutError: ErrorCode.request_timed_out,
    asyncio.TimeoutError: ErrorCode.request_timed_out,
    OSError: ErrorCode.kafka_storage_error,
}

# Those that are told apart by who asks for a part of a request.
_ERRORS: dict[ErrorCode, Callable[[str], errors.HotlogError]] = {
    ErrorCode.invalid_config: errors.InvalidConfig,
    ErrorCode.unknown_topic_or_partition: errors.NotFound,
}


def code_for(error: BaseException) -> ErrorCode:
    """The code of the nearest class in the table."""
    if isinstance(error, Refused):
        return error.code
    for kind in type(error).__mro__:
        code = _TABLE.get(kind)
        if code is not None:
            return code
    return ErrorCode.unknown_server_error


def error_for(code: ErrorCode, message: str) -> errors.HotlogError:
    """The error whose answer is this code and message."""
    return _ERRORS.get(code, partial(Refused, code))(message)


def message_for(error: BaseException) -> str:
    """What the client is told: our own words, or none of the inside's."""
    if isinstance(error, errors.HotlogError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return f"disk error: {errno.errorcode.get(error.errno, error.errno)}"
    return "internal error; the broker's log has the details"


def is_expected(error: BaseException) -> bool:
    """Whether this error is weather or a client's mistake: answered, not logged with a trace."""
    return isinstance(error, (errors.HotlogError, OSError, TimeoutError))


def kept(error: Exception) -> Exception:
    """An error that is kept to be told later: without its traceback, if it is an expected one.

    The traceback holds the frames, and with them the request, and those hold the error: only the garbage collector would find such a circle.
    """
    return error.with_traceback(None) if is_expected(error) else error
