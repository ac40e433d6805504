"""S3 and what speaks like it (MinIO, SeaweedFS, R2 ...) as an object store: the only module that imports aioboto3.

Requests go once: botocore's own retries are off, and aiohttp's, because a repeated conditional write that had succeeded looks like a conflict.
Payloads are not hashed with SHA-256 (14 times the cost of CRC-32C): they are sent as UNSIGNED-PAYLOAD, small objects with
their CRC-32C in a header, which the store checks.  Large objects: s3_upload.py.

Invariants: every object is under the store's prefix; a ranged read is checked against Content-Range and its length before it is
believed; every request is counted in the account; everything that leaves is a HotlogError or a cancellation.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import aioboto3
import aiohttp
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError
from crc32c import crc32c

from hotlog.kernel.errors import Corrupt, Invalid, NotFound, StoreRefused, StoreUnavailable
from hotlog.kernel.limits import MiB
from hotlog.world.ports import STANDARD, Blob, Buffer, ByteSource, ObjectInfo, PendingUpload, Purpose
from tiering.cost.meter import Kind
from tiering.store.keys import check_key, check_prefix, check_range
from tiering.store.metered import Account, Call
from tiering.store.resilient import Retrier, UploadLimits
from tiering.store.s3_bucket import Bucket, class_header, crc_header
from tiering.store.s3_errors import translate
from tiering.store.s3_get import CONNECT_SECONDS_MAX, READ_SECONDS_MAX, OnceSession, Reader
from tiering.store.s3_upload import Body, Upload
from tiering.store.sources import BytesSource
from tiering.store.urls import S3Url

LIST_PAGE = 1000  # the most S3 gives
DELETE_KEYS_MAX = 1000  # the most S3 takes
DELETES_AT_ONCE = 16  # where each object needs a request
POOL_CONNECTIONS_MAX = 64
WHOLE_BODY_BYTES_MAX = 1 * MiB  # larger ones are streamed: aiohttp writes bytes in one go
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class S3Store:
    """ObjectStore over one prefix of one bucket."""

    def __init__(self, bucket: Bucket, account: Account) -> None:
        self._bucket = bucket
        self._account = account

    @classmethod
    async def open(
        cls, where: S3Url, *, account: Account, retrier: Retrier, readers: int = 1, limits: UploadLimits | None = None
    ) -> S3Store:
        """A client for `where`, with the ordinary AWS credential chain.  Does not touch the network.

        `readers`: large GETs that get a thread each at once.

        Raises:
            Invalid: what botocore refuses (a bad profile, region or endpoint).
        """
        config = AioConfig(
            http_session_cls=OnceSession,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=POOL_CONNECTIONS_MAX,
            connect_timeout=CONNECT_SECONDS_MAX,
            read_timeout=READ_SECONDS_MAX,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            tcp_keepalive=True,
            s3={"addressing_style": where.addressing, "payload_signing_enabled": False},
        )
        stack = AsyncExitStack()
        try:
            session = aioboto3.Session()
            client = await stack.enter_async_context(
                session.client("s3", endpoint_url=where.endpoint, region_name=where.region, config=config)
            )
        except (BotoCoreError, ValueError) as wrong:
            await stack.aclose()
            raise Invalid(f"store URL {where}: {wrong}") from wrong
        prefix = where.prefix + "/" if where.prefix else ""
        reader = Reader(client, session.get_credentials, readers)
        stack.push_async_callback(reader.close)
        shared = Bucket(
            client, reader, where.bucket, prefix, where.checksum != "none", retrier, limits or UploadLimits(), stack, set()
        )
        return cls(shared, account)

    def bind(self, *, topic: str | None = None, purpose: Purpose | None = None) -> S3Store:
        return S3Store(self._bucket, self._account.bind(topic=topic, purpose=purpose))

    def limited(self, limits: UploadLimits) -> S3Store:
        """A view with other limits for uploads in parts."""
        return S3Store(self._bucket._replace(limits=limits), self._account)

    async def put(
        self, key: str, body: Buffer, *, if_match: str | None = None, if_absent: bool = False, storage_class: str = STANDARD
    ) -> str:
        check_key(key)
        if if_match is not None and if_absent:
            raise Invalid(f"put of {key}: if_match and if_absent exclude each other")
        size = memoryview(body).nbytes
        extra: dict[str, Any] = {}
        if if_absent:
            extra["IfNoneMatch"] = "*"
        if if_match is not None:
            extra["IfMatch"] = if_match
        if self._bucket.checksum:
            extra["ChecksumCRC32C"] = crc_header(crc32c(body))
        extra |= class_header(storage_class)
        data: Any = bytes(body) if size <= WHOLE_BODY_BYTES_MAX else Body(BytesSource(body), 0, size)
        with self._request("put", "put", key, conditional=bool(if_match or if_absent), storage_class=storage_class) as call:
            call.sent = size
            answer = await self._bucket.client.put_object(
                Bucket=self._bucket.name, Key=self._bucket.full(key), Body=data, ContentLength=size, **extra
            )
            return answer["ETag"]

    async def put_source(self, key: str, source: ByteSource, *, storage_class: str = STANDARD) -> str:
        check_key(key)
        return await Upload(self._bucket, self._request, key, source, storage_class).run()

    async def get(self, key: str, start: int = 0, end: int | None = None) -> Blob:
        check_key(key)
        check_range(key, start, end)
        if start == 0 and end is None:
            return await self._read(key, None)
        return await self._read(key, f"bytes={start}-{'' if end is None else end - 1}", start=start, end=end)

    async def get_tail(self, key: str, length: int) -> Blob:
        check_key(key)
        if length <= 0:
            raise Invalid(f"get_tail of {key}: length {length}; at least 1 is allowed")
        try:
            return await self._read(key, f"bytes=-{length}", tail=length)
        except Corrupt:
            info = await self.head(key)  # an empty object has no tail: S3 answers 416
            if info.size:
                raise
            return Blob(b"", info.etag, 0)

    async def _read(
        self, key: str, asked: str | None, *, start: int = 0, end: int | None = None, tail: int | None = None
    ) -> Blob:
        """One GET, its range checked before the body is read."""
        bucket = self._bucket
        with self._request("get", "get", key) as call:
            span = None if end is None else (start, end)
            async with bucket.reader.get(bucket.name, bucket.full(key), asked, span) as answer:
                if asked is None:
                    first, stop, size = 0, answer.content_length, answer.content_length
                else:
                    first, stop, size = _range_of(answer.content_range, bucket.says("get", key), asked)
                wanted = (max(0, size - tail), size) if tail is not None else (start, size if end is None else end)
                if (first, stop) != wanted:
                    raise Corrupt(f"{bucket.says('get', key)}: bytes [{first}, {stop}) came where {list(wanted)} were asked for")
                if answer.content_length not in (-1, stop - first):
                    raise Corrupt(
                        f"{bucket.says('get', key)}: {answer.content_length} bytes came for the range [{first}, {stop})"
                    )
                data = await answer.read()
            call.received = len(data)
        if len(data) != stop - first:
            raise Corrupt(f"{bucket.says('get', key)}: {len(data)} bytes came for the range [{first}, {stop})")
        return Blob(data, answer.etag, size)

    async def head(self, key: str) -> ObjectInfo:
        check_key(key)
        with self._request("head", "head", key):
            answer = await self._bucket.client.head_object(Bucket=self._bucket.name, Key=self._bucket.full(key))
            modified_ms = int(answer["LastModified"].timestamp() * 1000)
            return ObjectInfo(key, answer["ContentLength"], answer["ETag"], modified_ms)

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        bucket = self._bucket
        extra: dict[str, Any] = {"StartAfter": bucket.full(after)} if after else {}
        full = bucket.full(check_prefix(prefix))
        while True:
            with self._request("list", "list", prefix):
                page = await bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=full, MaxKeys=LIST_PAGE, **extra)
            for each in page.get("Contents", ()):
                key = each["Key"][len(bucket.prefix) :]
                yield ObjectInfo(key, each["Size"], each["ETag"], int(each["LastModified"].timestamp() * 1000))
            if not page.get("IsTruncated"):
                return
            extra = {"ContinuationToken": page["NextContinuationToken"]}

    async def delete(self, keys: Sequence[str]) -> None:
        """By DeleteObjects; one by one, some at once, where the store does not know that request."""
        for key in keys:
            check_key(key)
        for first in range(0, len(keys), DELETE_KEYS_MAX):
            some = keys[first : first + DELETE_KEYS_MAX]
            if len(some) > 1 and "delete many" not in self._bucket.lacks:
                try:
                    await self._delete_together(some)
                    continue
                except Invalid as unknown:
                    if not _is_unknown_request(unknown.__cause__):
                        raise
                    self._bucket.lacks.add("delete many")
            gate = asyncio.Semaphore(DELETES_AT_ONCE)
            outcomes = await asyncio.gather(*(self._delete_one(key, gate) for key in some), return_exceptions=True)
            for failure in filter(None, outcomes):
                raise failure

    async def _delete_together(self, keys: Sequence[str]) -> None:
        bucket, what = self._bucket, f"{len(keys)} objects"
        with self._request("delete", "delete", what):
            wanted: Any = {"Objects": [{"Key": bucket.full(key)} for key in keys], "Quiet": True}
            answer = await bucket.client.delete_objects(Bucket=bucket.name, Delete=wanted)
            _check_deleted(answer, bucket.says("delete", what))

    async def _delete_one(self, key: str, gate: asyncio.Semaphore) -> None:
        bucket = self._bucket
        async with gate:
            try:
                with self._request("delete", "delete", key):
                    await bucket.client.delete_object(Bucket=bucket.name, Key=bucket.full(key))
            except NotFound:
                return  # some stores say so; what is gone is gone

    async def list_uploads(self, prefix: str) -> AsyncIterator[PendingUpload]:
        bucket = self._bucket
        full = bucket.full(check_prefix(prefix))
        extra: dict[str, Any] = {}
        while True:
            with self._request("list_uploads", "list uploads", prefix):
                page = await bucket.client.list_multipart_uploads(Bucket=bucket.name, Prefix=full, **extra)
            for each in page.get("Uploads", ()):
                started_ms = int(each["Initiated"].timestamp() * 1000)
                yield PendingUpload(each["Key"][len(bucket.prefix) :], each["UploadId"], started_ms)
            if not page.get("IsTruncated"):
                return
            extra = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    async def abort_upload(self, upload: PendingUpload) -> None:
        bucket = self._bucket
        try:
            with self._request("abort_upload", "abort upload of", upload.key):
                await bucket.client.abort_multipart_upload(
                    Bucket=bucket.name, Key=bucket.full(upload.key), UploadId=upload.upload_id
                )
        except NotFound:
            return  # it ended by itself

    async def close(self) -> None:
        await self._bucket.stack.aclose()

    @contextmanager
    def _request(
        self, kind: Kind, verb: str, key: str, *, conditional: bool = False, storage_class: str = STANDARD
    ) -> Iterator[Call]:
        """Around one request: counted, and its errors translated."""
        with self._account.call(kind, storage_class) as call:
            try:
                yield call
            except (BotoCoreError, ClientError, aiohttp.ClientError, OSError) as error:
                raise translate(error, self._bucket.says(verb, key), conditional=conditional) from error


def _is_unknown_request(cause: BaseException | None) -> bool:
    """Whether a store said that it has no such request at all."""
    if not isinstance(cause, ClientError):
        return False
    answer: Any = cause.response
    code, status = answer.get("Error", {}).get("Code"), answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status in (405, 501) or code in ("NotImplemented", "MethodNotAllowed")


def _range_of(header: str | None, what: str, asked: str) -> tuple[int, int, int]:
    """(start, end, whole size) of a Content-Range header."""
    match = _CONTENT_RANGE.fullmatch(header or "")
    if match is None:
        raise Corrupt(f"{what}: asked for {asked}, the store answered without a usable Content-Range ({header!r})")
    return int(match[1]), int(match[2]) + 1, int(match[3])


def _check_deleted(answer: Mapping[str, Any], what: str) -> None:
    failures = [each for each in answer.get("Errors", ()) if each.get("Code") != "NoSuchKey"]
    if failures:
        first = failures[0]
        told = f"{what}: {len(failures)} were not deleted, the first is {first.get('Key')}: {first.get('Code')} {first.get('Message')}"
        raise StoreRefused(told) if first.get("Code") == "AccessDenied" else StoreUnavailable(told)
