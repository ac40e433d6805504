"""Large objects to S3: one streamed PUT below a threshold, multipart above, several parts in flight.

Nothing is held in memory but a piece of PIECE_BYTES per request: a part that must be repeated is read from its source again.  The part
size comes from the cost model: at 64 MiB a GiB costs 16 requests (about $0.00009), at 5 MiB 12 times that; parts grow with the object so
that it never needs more than PARTS_MAX.

A source with a true attribute `rereadable` is read twice: first for its CRC-32C, which goes ahead of the bytes in a header for the store
to check.

Invariants: the object appears whole or not at all; a failed or cancelled multipart upload is aborted (best effort; what that leaves,
`list_uploads` finds); a lost answer to the last step is resolved by looking at the object, since its key carries a nonce.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from crc32c import crc32c

from hotlog.kernel.errors import HotlogError, NotFound, StorageFailed
from hotlog.kernel.limits import MiB
from hotlog.world.ports import STANDARD, ByteSource
from hotlog.world.tasks import TaskScope
from tiering.store.metered import Call
from tiering.store.s3_bucket import Bucket, class_header, crc_header
from tiering.store.sources import read_exactly

T = TypeVar("T")
PIECE_BYTES = 4 * MiB  # aligned with the chunks that a segment's source proves as it reads
PARTS_MAX = 9_000  # S3 allows 10,000


class Request(Protocol):
    """S3Store._request."""

    def __call__(
        self, kind: Any, verb: str, key: str, *, conditional: bool = False, storage_class: str = STANDARD
    ) -> AbstractContextManager[Call]: ...


def part_bytes_for(size: int, part_bytes: int) -> int:
    """The part size for an object of `size` bytes: `part_bytes`, more where that would need too many parts."""
    return max(part_bytes, -(-size // PARTS_MAX))


class Body:
    """The bytes [start, end) of a source as a request body of known length.

    botocore takes it for a file (it has `read`) and asks its length; aiohttp iterates it.
    """

    def __init__(self, source: ByteSource, start: int, end: int) -> None:
        self._source = source
        self._start = start
        self._end = end
        self._failure: Exception | None = None

    def __len__(self) -> int:
        return self._end - self._start

    def __bool__(self) -> bool:
        return True

    def read(self, amount: int = -1) -> bytes:
        raise AssertionError("a streamed body is iterated, never read: something wants to hash it")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            for start in range(self._start, self._end, PIECE_BYTES):
                yield bytes(await read_exactly(self._source, start, min(start + PIECE_BYTES, self._end)))
        except (HotlogError, OSError) as failure:
            self._failure = failure
            raise

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Around the request: when the source failed, that error leaves, not the cut connection it led to."""
        try:
            yield
        except Exception:
            if isinstance(self._failure, OSError):
                raise StorageFailed(f"the bytes to upload could not be read: {self._failure}") from self._failure
            if self._failure is not None:
                raise self._failure from None
            raise


class Upload:
    """One object on its way."""

    def __init__(self, bucket: Bucket, request: Request, key: str, source: ByteSource, storage_class: str) -> None:
        self._bucket = bucket
        self._request = partial(request, storage_class=storage_class)  # all requests of an upload are billed by its class
        self._class = class_header(storage_class)
        self._key = key
        self._source = source
        self._checks = bucket.checksum and bool(getattr(source, "rereadable", False))

    async def run(self) -> str:
        """Upload; return the etag."""
        if self._source.size <= self._bucket.limits.single_put_bytes_max:
            return await self._single()
        upload_id = await self._retried("begin upload of", self._create)
        try:
            parts = await self._send_parts(upload_id)
            return await self._complete(upload_id, parts)
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._abort(upload_id)))
            raise

    async def _single(self) -> str:
        size = self._source.size
        body: Any = Body(self._source, 0, size)
        checksum = await self._checksum(0, size)
        with body.blamed(), self._request("put", "put", self._key) as call:
            call.sent = size
            answer = await self._bucket.client.put_object(
                Bucket=self._bucket.name,
                Key=self._bucket.full(self._key),
                Body=body,
                ContentLength=size,
                **checksum,
                **self._class,
            )
            return answer["ETag"]

    async def _create(self) -> str:
        extra: dict[str, Any] = self._class | ({"ChecksumAlgorithm": "CRC32C"} if self._checks else {})
        with self._request("create_upload", "begin upload of", self._key):
            answer = await self._bucket.client.create_multipart_upload(
                Bucket=self._bucket.name, Key=self._bucket.full(self._key), **extra
            )
            return answer["UploadId"]

    async def _send_parts(self, upload_id: str) -> list[dict[str, Any]]:
        """All parts, `parts_in_flight` at a time, each repeated on its own."""
        part_bytes = part_bytes_for(self._source.size, self._bucket.limits.part_bytes)
        ranges = [(start, min(start + part_bytes, self._source.size)) for start in range(0, self._source.size, part_bytes)]
        numbered = iter(list(enumerate(ranges, start=1)))
        done: dict[int, dict[str, Any]] = {}
        async with TaskScope(f"upload {self._key}") as scope:
            for _ in range(min(self._bucket.limits.parts_in_flight, len(ranges))):
                scope.spawn(self._lane(upload_id, numbered, done))
        return [done[number] for number in sorted(done)]

    async def _lane(
        self, upload_id: str, numbered: Iterator[tuple[int, tuple[int, int]]], done: dict[int, dict[str, Any]]
    ) -> None:
        for number, (start, end) in numbered:
            done[number] = await self._retried(
                f"part {number} of", partial(self._part, upload_id, number, start, end), moved=end - start
            )

    async def _part(self, upload_id: str, number: int, start: int, end: int) -> dict[str, Any]:
        checksum = await self._checksum(start, end)
        body: Any = Body(self._source, start, end)
        with body.blamed(), self._request("put_part", f"part {number} of", self._key) as call:
            call.sent = end - start
            answer = await self._bucket.client.upload_part(
                Bucket=self._bucket.name, Key=self._bucket.full(self._key), UploadId=upload_id, PartNumber=number,
                Body=body, ContentLength=end - start, **checksum,
            )  # fmt: skip
            return {"PartNumber": number, "ETag": answer["ETag"], **checksum}

    async def _complete(self, upload_id: str, parts: list[dict[str, Any]]) -> str:
        bucket = self._bucket

        async def once() -> str:
            with self._request("complete_upload", "complete", self._key):
                answer = await bucket.client.complete_multipart_upload(
                    Bucket=bucket.name, Key=bucket.full(self._key), UploadId=upload_id,
                    MultipartUpload={"Parts": parts},  # type: ignore[typeddict-item]
                )  # fmt: skip
                return answer["ETag"]

        try:
            return await self._retried("complete", once)
        except NotFound:
            # The upload is gone: an earlier attempt may have completed it and lost its answer.
            with self._request("head", "head", self._key):
                found = await bucket.client.head_object(Bucket=bucket.name, Key=bucket.full(self._key))
            if found["ContentLength"] != self._source.size:
                raise
            return found["ETag"]

    async def _abort(self, upload_id: str) -> None:
        with suppress(HotlogError, TimeoutError):
            async with asyncio.timeout(self._bucket.retrier.policy.attempt):
                with self._request("abort_upload", "abort upload of", self._key):
                    await self._bucket.client.abort_multipart_upload(
                        Bucket=self._bucket.name, Key=self._bucket.full(self._key), UploadId=upload_id
                    )

    async def _retried(self, verb: str, call: Callable[[], Awaitable[T]], *, moved: int = 0) -> T:
        return await self._bucket.retrier.run(self._bucket.says(verb, self._key), call, moved=moved)

    async def _checksum(self, start: int, end: int) -> dict[str, Any]:
        """The CRC-32C of [start, end) as a request parameter, where the source can be read twice."""
        if not self._checks:
            return {}
        crc = 0
        for first in range(start, end, PIECE_BYTES):
            crc = crc32c(await read_exactly(self._source, first, min(first + PIECE_BYTES, end)), crc)
        return {"ChecksumCRC32C": crc_header(crc)}
