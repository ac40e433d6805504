"""What an S3 answer (or the lack of one) means for the caller: one pure function.

A conditional write is only called "nothing happened" where the store says so in words: 503 SlowDown and 429, or a connection that never
stood.  409 (two conditional writes met), other 5xx and cut connections leave its outcome unknown (AWS: "How to use conditional writes").

Invariants: `translate` always returns a HotlogError; NotFound is only said of an object, never of a bucket, so that a missing bucket is
not mistaken for an empty one.
"""

from __future__ import annotations

from typing import Any

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)

from hotlog.kernel.errors import (
    Corrupt,
    HotlogError,
    Invalid,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    StoreRefused,
    StoreUnavailable,
)

_NOTHING_DONE = {"SlowDown", "ServiceUnavailable", "TooManyRequests", "RequestLimitExceeded", "Throttling", "ThrottlingException"}
_REFUSALS = {
    "AccessDenied", "AllAccessDisabled", "AccountProblem", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken",
    "SignatureDoesNotMatch", "RequestTimeTooSkewed", "InvalidClientTokenId", "TokenRefreshRequired",
}  # fmt: skip
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "TemporaryRedirect"}
_TRANSFER = {"BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentChecksumMismatch", "InvalidDigest"}


def translate(error: Exception, what: str, *, conditional: bool = False) -> HotlogError:
    """The error to raise for `error`, met during `what` ("put data/x of bucket b")."""
    if isinstance(error, HotlogError):
        return error
    if isinstance(error, ClientError):
        return _answered(error, what, conditional)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StoreRefused(
            f"{what}: no usable AWS credentials ({error}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role"
        )
    if isinstance(error, ParamValidationError):
        return Invalid(f"{what}: {error}")
    if isinstance(error, BotoCoreError | aiohttp.ClientError | OSError | TimeoutError):
        if conditional and not _never_connected(error):
            return OutcomeUnknown(f"{what}: the connection failed after the request may have left: {_text(error)}")
        return StoreUnavailable(f"{what}: {_text(error)}")
    return StoreUnavailable(f"{what}: {type(error).__name__}: {error}")


def _never_connected(error: Exception) -> bool:
    if isinstance(error, ConnectTimeoutError):
        return True
    cause = getattr(error, "kwargs", {}).get("error", error) if isinstance(error, EndpointConnectionError) else error
    return isinstance(cause, aiohttp.ClientConnectorError)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _answered(error: ClientError, what: str, conditional: bool) -> HotlogError:
    answer: Any = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    told = f"{what}: the store answered {status} {code}: {answer.get('Error', {}).get('Message', '')}".rstrip(": ")
    if code in _REFUSALS or status in (401, 403):
        return StoreRefused(told)
    if code == "NoSuchBucket":
        return StoreRefused(f"{told}; the bucket must exist")
    if code in _ELSEWHERE or status in (301, 307):
        return Invalid(f"{told}; give the bucket's region in the store URL (&region=...)")
    by_status = _by_status(status, code, told, conditional)
    if by_status is not None:
        return by_status
    if code in _TRANSFER:
        return StoreUnavailable(told)  # the body was damaged or cut on its way and refused: nothing happened
    return Invalid(told)


def _by_status(status: int, code: str, told: str, conditional: bool) -> HotlogError | None:
    match status:
        case 404:
            return NotFound(told)
        case 412:
            return PreconditionFailed(told)
        case 416:
            return Corrupt(f"{told} (the range is beyond the object's end)")
        case 409:
            return OutcomeUnknown(told) if conditional else StoreUnavailable(told)
        case 501:
            return Invalid(f"{told}; the store lacks what Hotlog needs")
        case 408 | 429:
            return StoreUnavailable(told)
        case 503 if code in _NOTHING_DONE:
            return StoreUnavailable(told)
        case _ if status >= 500 or status == 0 or status == 200:
            return OutcomeUnknown(told) if conditional else StoreUnavailable(told)
    return None
