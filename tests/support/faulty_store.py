"""A store for tests, in front of another one, whose calls fail, wait, die or lie as the test says.

Invariants: every view that `bind` gives has the same faults; without a fault a call is the inner store's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from hotlog.kernel.errors import OutcomeUnknown, StoreUnavailable
from hotlog.world.ports import STANDARD, Blob, Buffer, ByteSource, ObjectInfo, ObjectStore, PendingUpload, Purpose

T = TypeVar("T")


class Killed(BaseException):
    """The process died inside a store call."""


@dataclass
class Faults:
    """What goes wrong, shared by all views of one faulty store; `calls` counts every call that reaches the store."""

    kill_at: int = -1  # die at this call ...
    is_done_first: bool = False  # ... after it had its effect
    lose_reply_of: Callable[[str, str], bool] = lambda op, key: False  # done, but the answer is lost
    is_down: bool = False
    replaced_by: ObjectStore | None = None  # the bucket that is there now instead
    reads_fail_with: Exception | None = None
    is_damaging: bool = False  # reads give one bit that is not what was written
    hold: Callable[[str, str], bool] = lambda op, key: False  # never answers until `released`
    held: asyncio.Event = field(default_factory=asyncio.Event)  # a call is held
    released: asyncio.Event = field(default_factory=asyncio.Event)
    calls: int = 0
    log: list[tuple[str, str]] = field(default_factory=list)

    def hold_reads(self) -> None:
        """Reads wait until `let_go`."""
        self.hold = lambda op, key: op == "get"
        self.held.clear()
        self.released.clear()

    def let_go(self) -> None:
        """Who waits goes on, and so does who comes later."""
        self.hold = lambda op, key: False
        self.released.set()

    def check(self, op: str, key: str) -> None:
        if self.is_down:
            raise StoreUnavailable(f"{op} {key}: the store is down")
        if op == "get" and self.reads_fail_with is not None:
            raise self.reads_fail_with

    def count(self, op: str) -> int:
        return sum(1 for one, _ in self.log if one == op)


class FaultyStore:
    """An ObjectStore in front of a real one."""

    def __init__(self, store: ObjectStore, faults: Faults) -> None:
        self._inner = store
        self.faults = faults

    @property
    def _store(self) -> ObjectStore:
        return self.faults.replaced_by or self._inner

    def bind(self, *, topic: str | None = None, purpose: Purpose | None = None) -> ObjectStore:
        return FaultyStore(self._store.bind(topic=topic, purpose=purpose), self.faults)

    async def _do(self, op: str, key: str, work: Callable[[], Awaitable[T]], *, conditional: bool = False) -> T:
        faults = self.faults
        faults.calls += 1
        faults.log.append((op, key))
        if faults.calls == faults.kill_at and not faults.is_done_first:
            raise Killed(f"{op} {key}")
        faults.check(op, key)
        if faults.hold(op, key):
            faults.held.set()
            await faults.released.wait()
            faults.check(op, key)
        result = await work()
        if faults.calls == faults.kill_at:
            raise Killed(f"{op} {key} (done)")
        if faults.lose_reply_of(op, key):
            raise (OutcomeUnknown if conditional else StoreUnavailable)(f"{op} {key}: the answer was lost")
        return result

    async def put(
        self, key: str, body: Buffer, *, if_match: str | None = None, if_absent: bool = False, storage_class: str = STANDARD
    ) -> str:
        conditional = if_match is not None or if_absent
        return await self._do(
            "put",
            key,
            lambda: self._store.put(key, body, if_match=if_match, if_absent=if_absent, storage_class=storage_class),
            conditional=conditional,
        )

    async def put_source(self, key: str, source: ByteSource, *, storage_class: str = STANDARD) -> str:
        return await self._do("put_source", key, lambda: self._store.put_source(key, source, storage_class=storage_class))

    async def get(self, key: str, start: int = 0, end: int | None = None) -> Blob:
        return self._damaged(await self._do("get", key, lambda: self._store.get(key, start, end)))

    async def get_tail(self, key: str, length: int) -> Blob:
        return self._damaged(await self._do("get", key, lambda: self._store.get_tail(key, length)))

    def _damaged(self, blob: Blob) -> Blob:
        if not self.faults.is_damaging:
            return blob
        data = bytearray(blob.data)
        data[len(data) // 2] ^= 0x40
        return blob._replace(data=bytes(data))

    async def head(self, key: str) -> ObjectInfo:
        return await self._do("head", key, lambda: self._store.head(key))

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        self.faults.check("list", prefix)
        async for info in self._store.list(prefix, after=after):
            yield info

    async def delete(self, keys: Sequence[str]) -> None:
        await self._do("delete", keys[0], lambda: self._store.delete(keys))

    async def list_uploads(self, prefix: str) -> AsyncIterator[PendingUpload]:
        self.faults.check("list_uploads", prefix)
        async for upload in self._store.list_uploads(prefix):
            yield upload

    async def abort_upload(self, upload: PendingUpload) -> None:
        self.faults.check("abort_upload", upload.key)
        await self._store.abort_upload(upload)

    async def close(self) -> None:
        await self._store.close()
