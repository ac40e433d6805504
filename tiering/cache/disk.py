"""The disk layer of the chunk cache: one file per chunk, kept over restarts.

    <directory>/<32 hex digits>.chunk = magic "HLC1" | CRC-32C u32 | data length u32 | chunk index u32 | key length u16 | key | data

The CRC covers everything after itself.  Files are written without fsync and without a temporary name: a torn, damaged or foreign file
fails its CRC or its identity at load and is simply a miss.

Invariants: the sum of file sizes stays within `bytes_max` (room is made before a file is written); the directory is listed once, at
start; the index is changed in the event loop only, threads touch files only; a chunk that fails its check is never returned.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from hashlib import blake2b

from crc32c import crc32c

from hotlog.world.ports import Buffer, Disk

_MAGIC = b"HLC1"
_HEADER = struct.Struct(">4sIIIH")
_SUFFIX = ".chunk"
_EVICTIONS_MAX = 8  # per write: eviction is spread, never a trim that takes hours


class ChunkDisk:
    """Chunks on disk, least recently used first out."""

    def __init__(self, disk: Disk, directory: str, bytes_max: int, reserve_bytes: int = 0) -> None:
        self._disk = disk
        self._directory = directory
        self._bytes_max = bytes_max
        self._reserve_bytes = reserve_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self.bytes = 0

    async def load(self) -> None:
        """List what an earlier run left, oldest first.  A directory that cannot be read is an empty cache."""
        found = await self._disk.run(self._scan)
        for name, size in found:
            self._sizes[name] = size
        self.bytes = sum(self._sizes.values())

    def _scan(self) -> list[tuple[str, int]]:
        try:
            self._disk.make_dirs(self._directory)
            names = self._disk.listdir(self._directory)
        except OSError:
            return []
        found = []
        for name in names:
            path = f"{self._directory}/{name}"
            if name.endswith(_SUFFIX):
                found.append((self._disk.modified_ms(path), name, self._disk.size(path)))
        return [(name, size) for _, name, size in sorted(found)]

    def has(self, key: str, index: int) -> bool:
        return _name(key, index) in self._sizes

    async def read(self, key: str, index: int) -> memoryview | None:
        """The chunk, or None if it is missing or fails its check (then it is also forgotten)."""
        name = _name(key, index)
        if name not in self._sizes:
            return None
        self._sizes.move_to_end(name)
        data = await self._disk.run(self._read, name, key, index)
        if data is None:
            await self.drop(key, index)
        return data

    def _read(self, name: str, key: str, index: int) -> memoryview | None:
        try:
            raw = memoryview(self._disk.read(f"{self._directory}/{name}"))
        except OSError:
            return None
        return parse(raw, key, index)

    async def write(self, key: str, index: int, data: Buffer) -> None:
        """Keep the chunk if there is room; a full or failing disk makes this a no-op (it is only a cache)."""
        head = build_head(key, index, data)
        size = len(head) + len(data)
        name = _name(key, index)
        if name in self._sizes:
            return
        for _ in range(_EVICTIONS_MAX):
            if self.bytes + size <= self._bytes_max or not self._sizes:
                break
            victim, freed = self._sizes.popitem(last=False)
            self.bytes -= freed
            await self._disk.run(self._remove, victim)
        if self.bytes + size > self._bytes_max or name in self._sizes:
            return
        self._sizes[name] = size  # reserved before it is written, so that writers at once stay within the bound
        self.bytes += size
        if not await self._disk.run(self._write, name, head, data):
            self._forget(name)

    def _write(self, name: str, head: bytes, data: Buffer) -> bool:
        path = f"{self._directory}/{name}"
        try:
            if self._disk.free_bytes(self._directory) < self._reserve_bytes + len(data):
                return False  # the log's space comes first
            self._disk.remove(path)
            file = self._disk.open(path, create=True)
            try:
                file.append([head, data])
            finally:
                file.close()
        except OSError:
            self._remove(name)
            return False
        return True

    async def drop(self, key: str, index: int) -> None:
        """Forget a chunk, for one that proved wrong."""
        name = _name(key, index)
        if self._forget(name):
            await self._disk.run(self._remove, name)

    def _forget(self, name: str) -> bool:
        size = self._sizes.pop(name, None)
        self.bytes -= size or 0
        return size is not None

    def _remove(self, name: str) -> None:
        try:
            self._disk.remove(f"{self._directory}/{name}")
        except OSError:
            return  # it stays until the next start, which counts it again


def _name(key: str, index: int) -> str:
    return blake2b(f"{index}:{key}".encode(), digest_size=16).hexdigest() + _SUFFIX


def build_head(key: str, index: int, data: Buffer) -> bytes:
    """The bytes before the chunk's data."""
    name = key.encode()
    rest = struct.pack(">IIH", len(data), index, len(name)) + name
    return _MAGIC + struct.pack(">I", crc32c(data, crc32c(rest))) + rest


def parse(raw: memoryview, key: str, index: int) -> memoryview | None:
    """The data if `raw` is whole, sound and the chunk asked for; else None."""
    if len(raw) < _HEADER.size:
        return None
    magic, crc, length, stored_index, name_length = _HEADER.unpack_from(raw)
    data_start = _HEADER.size + name_length
    if magic != _MAGIC or len(raw) != data_start + length or crc32c(raw[8:]) != crc:
        return None
    if stored_index != index or bytes(raw[_HEADER.size : data_start]) != key.encode():
        return None
    return raw[data_start:]
