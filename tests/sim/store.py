"""The ObjectStore port in memory, stricter than the real ones: one process life's view of a Bucket.

A request takes effect at the server at a later instant than it was sent, and its answer comes later still; a caller that was cancelled or
killed in between does not take the request back, so that very late writers exist.  Crash points: before each request is sent (by chance it
goes out all the same), and between the effect of a change and its answer.

Invariants: what the port says about errors; a view that ended raises Crashed; nothing is ever half visible.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from hotlog.kernel.errors import Corrupt, HotlogError, Invalid, OutcomeUnknown, StoreUnavailable
from hotlog.kernel.limits import KiB
from hotlog.world.ports import STANDARD, Blob, Buffer, ByteSource, ObjectInfo, ObjectStore, PendingUpload, Purpose
from tests.sim.bucket import Bucket, Stored, Violation
from tests.sim.fuse import Crashed, Fuse
from tests.sim.trace import Trace
from tiering.store.keys import check_key, check_prefix, check_range
from tiering.store.resilient import UploadLimits
from tiering.store.sources import read_exactly

T = TypeVar("T")
PART_BYTES = 256 * KiB  # small, so that ordinary segments go in parts too
LIST_KEYS_MAX = 50
CHANGES = ("put", "delete", "start", "part", "complete", "abort")


class SimStore:
    """One life's connection to `bucket`."""

    def __init__(
        self,
        bucket: Bucket,
        trace: Trace,
        fuse: Fuse,
        *,
        topic: str = "",
        purpose: Purpose = "other",
        part_bytes: int = PART_BYTES,
    ) -> None:
        self.bucket = bucket
        self._trace = trace
        self._fuse = fuse
        self._topic = topic
        self._purpose: Purpose = purpose
        self._part_bytes = part_bytes

    def bind(self, *, topic: str | None = None, purpose: Purpose | None = None) -> ObjectStore:
        return SimStore(
            self.bucket,
            self._trace,
            self._fuse,
            topic=self._topic if topic is None else topic,
            purpose=self._purpose if purpose is None else purpose,
            part_bytes=self._part_bytes,
        )

    def limited(self, limits: UploadLimits) -> ObjectStore:
        """A view that uploads in parts of another size (tiering.store.resilient.InParts)."""
        return SimStore(
            self.bucket, self._trace, self._fuse, topic=self._topic, purpose=self._purpose, part_bytes=limits.part_bytes
        )

    # -- one request

    async def _request(self, op: str, key: str, effect: Callable[[], T], *, conditional: bool = False) -> tuple[T, str]:
        """Send one request; return what the server said and the fate, which the caller applies to the body."""
        bucket, loop = self.bucket, asyncio.get_running_loop()
        label = f"store {op} {key}"
        answer: asyncio.Future[T] = loop.create_future()
        bucket.counts[op, self._purpose] += 1
        if self._fuse.tick(label):
            if op in CHANGES and bucket.random.random() < 0.5:
                loop.call_later(bucket.delay(""), self._serve, label, effect, answer)
            raise self._fuse.blow(label)
        fate = bucket.fate_of(op, key, conditional=conditional)
        if fate == "hang":
            self._trace.add("store", f"{op} {key} hangs")
            await loop.create_future()
        if fate == "unavailable":
            await asyncio.sleep(bucket.delay(""))
            self._fuse.check()
            self._trace.add("store", f"{op} {key} 503")
            raise StoreUnavailable(f"{op} {key}: 503 slow down")
        if fate == "conflict":
            await asyncio.sleep(bucket.delay(""))
            raise OutcomeUnknown(f"{op} {key}: 409 conflict")
        act: Callable[[], object] = (lambda: bucket.check_delete(key)) if fate == "kept" else effect
        loop.call_later(bucket.delay(fate), self._serve, label, act, answer)
        await asyncio.wait([answer])
        if op in CHANGES and self._fuse.tick(label + " (done)"):
            raise self._fuse.blow(label + " (done)")
        await asyncio.sleep(bucket.delay(""))
        self._fuse.check()
        if fate == "lost":
            if conditional:
                raise OutcomeUnknown(f"{op} {key}: the connection was cut before the answer")
            raise StoreUnavailable(f"{op} {key}: the connection was cut before the answer")
        return answer.result(), fate

    def _serve(self, label: str, effect: Callable[[], object], answer: asyncio.Future[Any]) -> None:
        """The instant at which the server acts, whatever became of the client."""
        outcome = "ok"
        try:
            value = effect()
        except (HotlogError, Violation) as error:
            outcome = type(error).__name__
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # noted: nobody may be left to ask
        else:
            if not answer.done():
                answer.set_result(value)
        self._trace.add("store", f"{label.removeprefix('store ')} [{self._purpose}] {outcome}")

    # -- the port

    async def put(
        self, key: str, body: Buffer, *, if_match: str | None = None, if_absent: bool = False, storage_class: str = STANDARD
    ) -> str:
        check_key(key)
        if if_match is not None and if_absent:
            raise Invalid(f"put of {key}: if_match and if_absent exclude each other")
        data = bytes(body)
        conditional = if_match is not None or if_absent
        etag, _ = await self._request(
            "put", key, lambda: self.bucket.put(key, data, if_match, if_absent), conditional=conditional
        )
        return etag

    async def put_source(self, key: str, source: ByteSource, *, storage_class: str = STANDARD) -> str:
        check_key(key)
        if source.size <= self._part_bytes:
            return await self.put(key, await read_exactly(source, 0, source.size) if source.size else b"")
        upload_id, _ = await self._request("start", key, lambda: self.bucket.start_upload(key))
        try:
            for start in range(0, source.size, self._part_bytes):
                part = bytes(await read_exactly(source, start, min(start + self._part_bytes, source.size)))
                await self._request("part", key, lambda part=part: self.bucket.put_part(key, upload_id, part))  # type: ignore[misc]
            return (await self._request("complete", key, lambda: self.bucket.complete_upload(key, upload_id)))[0]
        except Crashed:
            raise
        except BaseException:
            if not self._fuse.blown and not self.bucket.fate_of("abort", key, conditional=False):  # best effort, as everywhere
                self.bucket.abort_upload(key, upload_id)
            raise

    async def get(self, key: str, start: int = 0, end: int | None = None) -> Blob:
        check_key(key)
        if end is not None:
            check_range(key, start, end)
        stored, fate = await self._request("get", key, lambda: self.bucket.get(key))
        size = len(stored.body)
        stop = size if end is None else end
        if stop > size or (start >= size and start > 0):
            raise Corrupt(f"object {key} has {size} bytes; [{start}, {stop}) was asked for")
        return self._blob(key, stored, start, stop, fate)

    async def get_tail(self, key: str, length: int) -> Blob:
        check_key(key)
        if length <= 0:
            raise Invalid(f"tail of object {key}: a length of {length} is not above 0")
        stored, fate = await self._request("get", key, lambda: self.bucket.get(key))
        size = len(stored.body)
        return self._blob(key, stored, max(0, size - length), size, fate)

    def _blob(self, key: str, stored: Stored, start: int, end: int, fate: str) -> Blob:
        """The bytes, or the lie that was ordered: HTTP 200, right length, wrong content."""
        data = stored.body[start:end]
        if fate == "short":
            raise Corrupt(f"object {key}: {len(data) // 2} of {len(data)} bytes came")
        if fate == "stale":
            stored = self.bucket.previous(key)
            return Blob(stored.body[start:end], stored.etag, len(stored.body))
        if fate == "wrong-range":
            shift = min(start, 1) or -1
            data = (stored.body[start - shift : end - shift] + bytes(len(data)))[: len(data)]
        elif fate == "other-object":
            others = [other for other in sorted(self.bucket.objects) if other != key]
            body = self.bucket.objects[others[0]].body if others else b""
            data = (body[start:end] + bytes(len(data)))[: len(data)]
        elif fate == "flipped" and data:
            place = self.bucket.random.randrange(len(data))
            data = data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
        return Blob(data, stored.etag, len(stored.body))

    async def head(self, key: str) -> ObjectInfo:
        check_key(key)
        stored, _ = await self._request("head", key, lambda: self.bucket.get(key))
        return ObjectInfo(key, len(stored.body), stored.etag, stored.modified_ms)

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        check_prefix(prefix)
        while True:
            start = after
            page, _ = await self._request("list", prefix, lambda start=start: self.bucket.listing(prefix, start, LIST_KEYS_MAX))  # type: ignore[misc]
            for info in page:
                yield info
            if len(page) < LIST_KEYS_MAX:
                return
            after = page[-1].key

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            check_key(key)
        for key in keys:
            await self._request("delete", key, lambda key=key: self.bucket.delete(key))  # type: ignore[misc]

    async def list_uploads(self, prefix: str) -> AsyncIterator[PendingUpload]:
        uploads, _ = await self._request("list-uploads", prefix, lambda: self.bucket.pending(prefix))
        for upload in uploads:
            yield upload

    async def abort_upload(self, upload: PendingUpload) -> None:
        await self._request("abort", upload.key, lambda: self.bucket.abort_upload(upload.key, upload.upload_id))

    async def close(self) -> None:
        """Nothing is held."""
