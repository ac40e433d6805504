"""A store in memory for tests: every GET is counted, and may be held, failed or damaged by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hotlog.kernel.errors import Corrupt, NotFound, PreconditionFailed
from hotlog.world.ports import STANDARD, Blob, Buffer, ObjectInfo, PendingUpload


@dataclass
class Call:
    key: str
    start: int
    end: int
    purpose: str | None


@dataclass
class ScriptedStore:
    """Objects in a dict.  `hold` keeps GETs waiting until it is set; `spoil(call, data)` may raise or return other bytes."""

    objects: dict[str, bytes] = field(default_factory=dict)
    gets: list[Call] = field(default_factory=list)
    puts: list[str] = field(default_factory=list)
    uploads: list[PendingUpload] = field(default_factory=list)
    hold: asyncio.Event | None = None
    spoil: Callable[[Call, bytes], bytes] | None = None
    before_put: Callable[[str], None] | None = None
    after_put: Callable[[str], None] | None = None
    purpose: str | None = None
    topic: str | None = None

    def bind(self, *, topic: str | None = None, purpose: str | None = None) -> ScriptedStore:
        return Bound(self, topic, purpose)  # type: ignore[return-value]

    async def _get(self, key: str, start: int, end: int | None, purpose: str | None) -> Blob:
        whole = self.objects.get(key)
        call = Call(key, start, len(whole or b"") if end is None else end, purpose)
        self.gets.append(call)
        if self.hold is not None:
            await self.hold.wait()
        if whole is None:
            raise NotFound(key)
        if call.end > len(whole):
            raise Corrupt(f"{key} has {len(whole)} bytes")
        data = whole[start : call.end]
        if self.spoil is not None:
            data = self.spoil(call, data)
        return Blob(data, f"etag-{hash(whole) & 0xFFFF}", len(whole))

    async def get(self, key: str, start: int = 0, end: int | None = None) -> Blob:
        return await self._get(key, start, end, self.purpose)

    async def get_tail(self, key: str, length: int) -> Blob:
        size = len(self.objects.get(key, b""))
        return await self._get(key, max(0, size - length), None, self.purpose)

    async def head(self, key: str) -> ObjectInfo:
        if key not in self.objects:
            raise NotFound(key)
        return ObjectInfo(key, len(self.objects[key]), f"etag-{hash(self.objects[key]) & 0xFFFF}", 0)

    async def put(
        self, key: str, body: Buffer, *, if_match: str | None = None, if_absent: bool = False, storage_class: str = STANDARD
    ) -> str:
        if self.before_put is not None:
            self.before_put(key)
        if if_absent and key in self.objects:
            raise PreconditionFailed(key)
        if if_match is not None and (await self.head(key)).etag != if_match:
            raise PreconditionFailed(key)
        self.objects[key] = bytes(body)
        self.puts.append(key)
        if self.after_put is not None:
            self.after_put(key)
        return f"etag-{hash(self.objects[key]) & 0xFFFF}"

    async def put_source(self, key: str, source: object, *, storage_class: str = STANDARD) -> str:
        return await self.put(key, await source.read(0, source.size), storage_class=storage_class)  # type: ignore[attr-defined]

    async def list(self, prefix: str, *, after: str = ""):  # type: ignore[no-untyped-def]
        for key in sorted(self.objects):
            if key.startswith(prefix) and key > after:
                yield ObjectInfo(key, len(self.objects[key]), "etag", 0)

    async def list_uploads(self, prefix: str):  # type: ignore[no-untyped-def]
        for upload in list(self.uploads):
            if upload.key.startswith(prefix):
                yield upload

    async def abort_upload(self, upload: PendingUpload) -> None:
        self.uploads.remove(upload)

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)

    async def close(self) -> None:
        return None


class Bound:
    """A view of a ScriptedStore under a purpose."""

    def __init__(self, store: ScriptedStore, topic: str | None, purpose: str | None) -> None:
        self._store = store
        self._topic = topic
        self._purpose = purpose

    def bind(self, *, topic: str | None = None, purpose: str | None = None) -> Bound:
        return Bound(self._store, topic or self._topic, purpose or self._purpose)

    async def get(self, key: str, start: int = 0, end: int | None = None) -> Blob:
        return await self._store._get(key, start, end, self._purpose)

    async def get_tail(self, key: str, length: int) -> Blob:
        size = len(self._store.objects.get(key, b""))
        return await self._store._get(key, max(0, size - length), None, self._purpose)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)
