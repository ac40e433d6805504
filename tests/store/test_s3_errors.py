"""What an S3 answer means for the caller, as a table."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError

from hotlog.kernel.errors import Corrupt, Invalid, NotFound, OutcomeUnknown, PreconditionFailed, StoreRefused, StoreUnavailable
from tiering.store.s3_errors import translate


def answered(status: int, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "told"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("status", "code", "plain", "conditional"),
    [
        (404, "NoSuchKey", NotFound, NotFound),
        (404, "404", NotFound, NotFound),
        (404, "NoSuchBucket", StoreRefused, StoreRefused),
        (412, "PreconditionFailed", PreconditionFailed, PreconditionFailed),
        (409, "ConditionalRequestConflict", StoreUnavailable, OutcomeUnknown),
        (409, "OperationAborted", StoreUnavailable, OutcomeUnknown),
        (416, "InvalidRange", Corrupt, Corrupt),
        (429, "TooManyRequests", StoreUnavailable, StoreUnavailable),
        (503, "SlowDown", StoreUnavailable, StoreUnavailable),
        (503, "SlowDownWrite", StoreUnavailable, OutcomeUnknown),  # MinIO: a write quorum was missed, some disks have it
        (503, "", StoreUnavailable, OutcomeUnknown),
        (500, "InternalError", StoreUnavailable, OutcomeUnknown),
        (502, "", StoreUnavailable, OutcomeUnknown),
        (504, "", StoreUnavailable, OutcomeUnknown),
        (200, "InternalError", StoreUnavailable, OutcomeUnknown),  # CompleteMultipartUpload may fail after its headers
        (400, "BadDigest", StoreUnavailable, StoreUnavailable),
        (400, "RequestTimeout", StoreUnavailable, StoreUnavailable),
        (400, "ExpiredToken", StoreRefused, StoreRefused),
        (400, "AuthorizationHeaderMalformed", Invalid, Invalid),
        (301, "PermanentRedirect", Invalid, Invalid),
        (400, "InvalidArgument", Invalid, Invalid),
        (403, "AccessDenied", StoreRefused, StoreRefused),
        (403, "SignatureDoesNotMatch", StoreRefused, StoreRefused),
        (501, "NotImplemented", Invalid, Invalid),
    ],
)
def test_answers(status: int, code: str, plain: type[Exception], conditional: type[Exception]) -> None:
    error = answered(status, code)
    assert type(translate(error, "put x")) is plain
    doubt = translate(error, "put x", conditional=True)
    assert type(doubt) is conditional
    assert "put x" in str(doubt)
    assert str(status) in str(doubt)


def test_only_a_connection_that_never_stood_means_that_nothing_happened() -> None:
    refused = aiohttp.ClientConnectorError(ConnectionKey("h", 1, False, None, None, None, None), OSError(111, "refused"))
    never = [ConnectTimeoutError(endpoint_url="x"), EndpointConnectionError(endpoint_url="x", error=refused)]
    doubtful = [
        ReadTimeoutError(endpoint_url="x"),
        EndpointConnectionError(endpoint_url="x", error=aiohttp.ClientOSError(104, "reset by peer")),
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientPayloadError("cut"),
        ConnectionResetError(104, "reset"),
    ]
    for error in never:
        assert type(translate(error, "put x", conditional=True)) is StoreUnavailable
    for error in doubtful:
        assert type(translate(error, "put x", conditional=True)) is OutcomeUnknown
        assert type(translate(error, "get x")) is StoreUnavailable


def test_missing_credentials_are_a_refusal_that_says_what_to_set() -> None:
    told = translate(NoCredentialsError(), "get x")
    assert type(told) is StoreRefused
    assert "AWS_ACCESS_KEY_ID" in str(told)


def test_our_own_errors_pass() -> None:
    error = Corrupt("x")
    assert translate(error, "get x") is error
