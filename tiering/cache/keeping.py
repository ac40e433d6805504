"""What the chunk cache has on disk: chunks as they come by, and footers, each in a layer of its own.

Invariants: writes go on behind whoever read; no more wait than the bounds here say and chunks no faster than their rate, so that a cache
neither holds memory hostage nor takes the device from the hot log: what is above is not kept.
"""

from __future__ import annotations

from collections.abc import Awaitable

from hotlog.kernel.limits import MiB
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.world.pacing import ByteRate
from hotlog.world.ports import Buffer, Clock, Disk
from hotlog.world.tasks import TaskScope
from tiering.cache.disk import ChunkDisk

_CHUNK_WRITES_MAX = 8  # chunks waiting to be written
_FOOTER_WRITES_MAX = 32  # the same of footers, about a megabyte each; those of all partitions of a replay come at once
_WRITE_BYTES_PER_SECOND = 64 * MiB  # of chunks
_FOOTER_INDEX = 2**32 - 1  # the number under which the footers' layer has an object's footer
_FOOTER_SHARE = (
    16  # one of so many bytes on disk is for footers: chunks never push them out, and they are a thousandth of the log
)


class DiskKeeping:
    """The two layers below `cache_dir`; nothing is kept where there is none, or no bytes for it."""

    def __init__(
        self, disk: Disk, cache_dir: str | None, *, clock: Clock, settings: Settings, metrics: Metrics, scope: TaskScope
    ) -> None:
        self._metrics = metrics
        self._scope = scope
        self._rate = ByteRate(clock, _WRITE_BYTES_PER_SECOND)
        self._chunks: ChunkDisk | None = None
        self._footers: ChunkDisk | None = None
        disk_bytes = settings.number("hotlog.cache.disk.bytes")
        if cache_dir is not None and disk_bytes:
            reserve, of_footers = settings.number("hotlog.disk.reserve.bytes"), disk_bytes // _FOOTER_SHARE
            self._chunks = ChunkDisk(disk, f"{cache_dir}/chunks", disk_bytes - of_footers, reserve)
            self._footers = ChunkDisk(disk, f"{cache_dir}/footers", of_footers, reserve)
        self.chunk_writes = 0  # under way
        self.footer_writes = 0

    @property
    def has_chunks(self) -> bool:
        return self._chunks is not None

    async def load(self) -> None:
        """Take over what an earlier run left on disk."""
        for layer in (self._chunks, self._footers):
            if layer is not None:
                await layer.load()
        self._show_bytes()

    async def chunk(self, key: str, index: int) -> memoryview | None:
        return await self._chunks.read(key, index) if self._chunks is not None else None

    def keep_chunk(self, key: str, index: int, chunk: memoryview) -> None:
        if self._chunks is None or self.chunk_writes >= _CHUNK_WRITES_MAX or not self._rate.try_take(len(chunk)):
            return
        self.chunk_writes += 1
        self._scope.spawn(self._write_chunk(self._chunks.write(key, index, chunk)))

    async def _write_chunk(self, write: Awaitable[object]) -> None:
        try:
            await write
            self._show_bytes()
        finally:
            self.chunk_writes -= 1

    async def footer(self, key: str) -> memoryview | None:
        return await self._footers.read(key, _FOOTER_INDEX) if self._footers is not None else None

    def keep_footer(self, key: str, data: memoryview) -> None:
        """Keep proven footer bytes: small beside the chunks that come with them, so they do not wait for their rate."""
        if self._footers is not None and self.footer_writes < _FOOTER_WRITES_MAX:
            self.footer_writes += 1
            self._scope.spawn(self._write_footer_behind(key, data))

    async def _write_footer_behind(self, key: str, data: memoryview) -> None:
        try:
            await self.write_footer(key, data)
        finally:
            self.footer_writes -= 1

    async def write_footer(self, key: str, data: Buffer) -> None:
        """The same for one who can wait: the footer is on disk afterwards, if there is room."""
        if self._footers is not None:
            await self._footers.write(key, _FOOTER_INDEX, data)
            self._show_bytes()

    def _show_bytes(self) -> None:
        if self._chunks is not None and self._footers is not None:
            self._metrics.cache_bytes.labels("disk").set(self._chunks.bytes + self._footers.bytes)
