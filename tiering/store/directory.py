"""The object store as a directory: the embedded default, nothing to install.  The layout and its rules: directory_files.py.

A directory has one class of storage: the class of a put goes into the account only, as the store would bill it that has it.

Invariants: blocking work never runs on the event loop; what the operating system refuses leaves as StoreUnavailable, what no store could
take as Invalid.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from hotlog.kernel.errors import Invalid, StoreRefused, StoreUnavailable
from hotlog.kernel.limits import MiB
from hotlog.world.ports import STANDARD, Blob, Buffer, ByteSource, Clock, Entropy, ObjectInfo, PendingUpload, Purpose
from tiering.store.buffers import LARGE_BYTES_MAX, LARGE_BYTES_MIN, Buffers
from tiering.store.directory_files import Condition, Files
from tiering.store.keys import check_key, check_prefix, check_range
from tiering.store.metered import Account
from tiering.store.sources import read_exactly

COPY_BYTES = 4 * MiB  # piece in which a source is read
LIST_PAGE = 1000  # as S3 pages, so that a listing costs alike on both


class Run(Protocol):
    """`Disk.run`: a blocking function off the event loop."""

    def __call__(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Awaitable[Any]: ...


class DirectoryStore:
    """ObjectStore over a directory on a POSIX file system.  Raises what the port says; Invalid for keys no store can take."""

    def __init__(self, root: str, *, run: Run, clock: Clock, entropy: Entropy, account: Account) -> None:
        self._files = Files(root, clock, entropy)
        self._run = run
        self._account = account
        self._buffers = Buffers()

    @classmethod
    async def open(cls, root: str, *, run: Run, clock: Clock, entropy: Entropy, account: Account) -> DirectoryStore:
        """Make the directory if it is missing, prove that it keeps nanoseconds, sweep writes that were killed.

        Raises:
            Invalid: the directory cannot be used, with the reason.
        """
        store = cls(root, run=run, clock=clock, entropy=entropy, account=account)
        await run(store._files.prepare)
        return store

    def bind(self, *, topic: str | None = None, purpose: Purpose | None = None) -> DirectoryStore:
        view = object.__new__(DirectoryStore)
        view._files, view._run, view._buffers = self._files, self._run, self._buffers
        view._account = self._account.bind(topic=topic, purpose=purpose)
        return view

    async def put(
        self, key: str, body: Buffer, *, if_match: str | None = None, if_absent: bool = False, storage_class: str = STANDARD
    ) -> str:
        check_key(key)
        if if_match is not None and if_absent:
            raise Invalid(f"put of {key}: if_match and if_absent exclude each other")
        with self._account.call("put", storage_class) as call:
            call.sent = memoryview(body).nbytes
            etag: str = await self._weather(self._files.write_small, key, body, Condition(if_match, if_absent))
            return etag

    async def put_source(self, key: str, source: ByteSource, *, storage_class: str = STANDARD) -> str:
        check_key(key)
        with self._account.call("put", storage_class) as call:
            call.sent = source.size
            upload = await self._weather(self._files.begin_upload, key)
            try:
                for start in range(0, source.size, COPY_BYTES):
                    piece = await read_exactly(source, start, min(start + COPY_BYTES, source.size))
                    await self._weather(upload.write, piece)
                etag: str = await self._weather(self._files.finish_upload, upload)
                return etag
            except BaseException:
                await asyncio.shield(self._run(upload.discard))  # waits for a write of ours that is still in its thread
                raise

    async def get(self, key: str, start: int = 0, end: int | None = None) -> Blob:
        check_key(key)
        check_range(key, start, end)
        size = end - start if end is not None else 0
        with self._account.call("get") as call:
            into = self._buffers.buffer_of(size) if LARGE_BYTES_MIN <= size <= LARGE_BYTES_MAX else None
            blob: Blob = await self._weather(self._files.read, key, start, end, into)
            call.received = len(blob.data)
            return blob

    async def get_tail(self, key: str, length: int) -> Blob:
        check_key(key)
        if length <= 0:
            raise Invalid(f"get_tail of {key}: length {length}; at least 1 is allowed")
        with self._account.call("get") as call:
            blob: Blob = await self._weather(self._files.read, key, -length, None)
            call.received = len(blob.data)
            return blob

    async def head(self, key: str) -> ObjectInfo:
        check_key(key)
        with self._account.call("head"):
            info: ObjectInfo = await self._weather(self._files.info, key)
            return info

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        pages = self._files.walk(check_prefix(prefix), after)
        while True:
            with self._account.call("list"):
                page = await self._weather(_take, pages)
            for info in page:
                yield info
            if len(page) < LIST_PAGE:
                return

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            check_key(key)
        for first in range(0, len(keys), LIST_PAGE):
            with self._account.call("delete"):
                await self._weather(self._files.remove, keys[first : first + LIST_PAGE])

    async def list_uploads(self, prefix: str) -> AsyncIterator[PendingUpload]:
        check_prefix(prefix)
        with self._account.call("list_uploads"):
            pending = await self._weather(self._files.uploads)
        for upload in pending:
            if upload.key.startswith(prefix):
                yield upload

    async def abort_upload(self, upload: PendingUpload) -> None:
        with self._account.call("abort_upload"):
            await self._weather(self._files.abort, upload.upload_id)

    async def close(self) -> None:
        await self._run(self._files.close)

    async def _weather(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run off the loop; what the operating system refuses is the store being unavailable."""
        try:
            return await self._run(function, *args)
        except PermissionError as error:
            raise StoreRefused(f"directory store {self._files.root}: {error}") from error
        except OSError as error:
            raise StoreUnavailable(f"directory store {self._files.root}: {error}") from error


def _take(pages: Iterator[ObjectInfo]) -> Sequence[ObjectInfo]:
    return tuple(islice(pages, LIST_PAGE))
