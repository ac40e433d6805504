"""A store that is only read until something is known of it.

A broker whose store was away at its start serves its hot data and goes on; when the store is back, nobody has examined it yet, nor seen that
it is this cluster's.  Here is the one place that all writes of the cold tier and its workers pass.

Invariants: no write of any kind reaches the store before `may_write` says so; it is refused as by a store that is away: nothing happened,
and it may be tried again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from hotlog.kernel.errors import StoreUnavailable
from hotlog.world.ports import STANDARD, Blob, Buffer, ByteSource, ObjectInfo, ObjectStore, PendingUpload, Purpose


class GatedStore:
    """Any ObjectStore behind a gate for writes."""

    def __init__(self, store: ObjectStore, may_write: Callable[[], bool]) -> None:
        self._store = store
        self._may_write = may_write

    def _require(self, what: str) -> None:
        if not self._may_write():
            raise StoreUnavailable(f"{what}: the store was away at the start and is not examined yet; nothing is written to it")

    def bind(self, *, topic: str | None = None, purpose: Purpose | None = None) -> GatedStore:
        return GatedStore(self._store.bind(topic=topic, purpose=purpose), self._may_write)

    async def put(
        self, key: str, body: Buffer, *, if_match: str | None = None, if_absent: bool = False, storage_class: str = STANDARD
    ) -> str:
        self._require(f"put {key}")
        return await self._store.put(key, body, if_match=if_match, if_absent=if_absent, storage_class=storage_class)

    async def put_source(self, key: str, source: ByteSource, *, storage_class: str = STANDARD) -> str:
        self._require(f"put {key}")
        return await self._store.put_source(key, source, storage_class=storage_class)

    async def get(self, key: str, start: int = 0, end: int | None = None) -> Blob:
        return await self._store.get(key, start, end)

    async def get_tail(self, key: str, length: int) -> Blob:
        return await self._store.get_tail(key, length)

    async def head(self, key: str) -> ObjectInfo:
        return await self._store.head(key)

    def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        return self._store.list(prefix, after=after)

    async def delete(self, keys: Sequence[str]) -> None:
        self._require(f"delete {len(keys)} objects")
        await self._store.delete(keys)

    def list_uploads(self, prefix: str) -> AsyncIterator[PendingUpload]:
        return self._store.list_uploads(prefix)

    async def abort_upload(self, upload: PendingUpload) -> None:
        self._require(f"abort upload of {upload.key}")
        await self._store.abort_upload(upload)

    async def close(self) -> None:
        await self._store.close()
